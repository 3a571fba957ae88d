"""Which layers a folder that was quantized before it was published leaves in floats."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.errors import UnsupportedError
from bench.models.checkpoint import Checkpoint, stated
from bench.schemes.row import Part

PROBES: Final[Mapping[Part, tuple[str, ...]]] = {
    "head": ("lm_head",),
    "mlp": tuple(
        f"mlp.{name}_proj|mlp.shared_expert.{name}_proj|mlp.shared_experts.{name}_proj"
        for name in ("gate", "up", "down")
    ),
    "expert": tuple(f"mlp.experts.0.{name}_proj" for name in ("gate", "up", "down")),
    "router": ("mlp.gate",),
}
"""Names that transformers' modules have in a layer, by the part of a model that they are; `|` is
between names of one module in several models."""

SELF: Final = tuple(f"self_attn.{name}_proj" for name in "qkvo")
MIXING: Final[Mapping[str, tuple[str, ...]]] = {
    "full": SELF,
    "sliding": SELF,
    "latent": (
        "self_attn.q_b_proj|self_attn.q_proj",
        "self_attn.kv_a_proj_with_mqa",
        "self_attn.kv_b_proj",
        "self_attn.o_proj",
    ),
    "delta": (
        "linear_attn.in_proj_qkv|linear_attn.in_proj_qkvz",
        "linear_attn.in_proj_z|linear_attn.in_proj_qkvz",
        "linear_attn.out_proj",
    ),
    "mamba": tuple(f"mamba.{name}_proj|mixer.{name}_proj" for name in ("in", "out")),
    "conv": tuple(f"conv.{name}_proj" for name in ("in", "out")),
}
"""The same of what mixes tokens."""


def left_in_floats(
    config: Mapping[str, Any], n_layers: int, mixers: Sequence[tuple[str, int]] = ()
) -> dict[Part, float]:
    """Share of each part that a checkpoint leaves in floats, where its config tells.

    compressed-tensors lists every linear layer that is left; what other methods list comes on top
    of what their loaders leave anyway. `mixers`: what mixes tokens in each layer, and its weights.
    """
    try:
        found = stated(config)
    except UnsupportedError:
        found = None
    if found is None:
        return {}
    told = _Told(found, nested=isinstance(config.get("text_config"), Mapping))
    shares: dict[Part, float] = {"head": told.share(PROBES["head"], None)}
    for part in ("mlp", "expert", "router"):
        each = [told.share(PROBES[part], i) for i in range(n_layers)]
        shares[part] = sum(each) / max(n_layers, 1)
    shares["attention"] = _of_mixers(told, mixers or [("full", 1)] * n_layers)
    every = found.method == "compressed-tensors"
    return {part: share for part, share in shares.items() if share or every}


def _of_mixers(told: _Told, mixers: Sequence[tuple[str, int]]) -> float:
    """Share of the weights of all layers that mix tokens."""
    left = sum(
        size * told.share(MIXING[kind], i)
        for i, (kind, size) in enumerate(mixers)
        if kind in MIXING
    )
    return left / max(sum(size for _, size in mixers), 1)


class _Told:
    """Which modules a checkpoint leaves in floats, by name."""

    def __init__(self, found: Checkpoint, *, nested: bool) -> None:
        self._left = [_pattern(name) for name in found.left]
        self._only = [_pattern(name) for name in found.only]
        self._places = PLACES if nested else PLACES[:1]

    def share(self, probes: Sequence[str], layer: int | None) -> float:
        """Share of these modules of a layer; None: of the whole model."""
        return sum(self._is_left(probe, layer) for probe in probes) / len(probes)

    def _is_left(self, probe: str, layer: int | None) -> bool:
        names = probe.split("|")
        if layer is not None:
            names = [f"{place}.layers.{layer}.{name}" for place in self._places for name in names]
        elif len(self._places) > 1:
            names = [*names, *(f"language_model.{name}" for name in names)]
        if self._only and not _any(self._only, names):
            return True
        return _any(self._left, names)


PLACES: Final = ("model", "model.language_model", "language_model.model")
"""Where the layers are; the further ones where a model also sees or hears."""


def _any(patterns: Sequence[re.Pattern[str]], names: Sequence[str]) -> bool:
    return any(pattern.search(name) for pattern in patterns for name in names)


def _pattern(name: str) -> re.Pattern[str]:
    """`re:...` from the beginning; another name as a module, or what holds it, with `*` in it."""
    try:
        if name.startswith("re:"):
            return re.compile("^(?:" + name[3:] + ")")
    except re.error:
        return re.compile("(?!)")
    whole = re.escape(name).replace(r"\*", r"[^.]+")
    return re.compile(rf"(^|\.){whole}(\.|$)")
