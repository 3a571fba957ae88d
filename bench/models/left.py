"""Which layers a folder that was quantized before it was published leaves in floats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from bench.errors import UnsupportedError
from bench.models.checkpoint import stated
from bench.schemes.row import Part

PROBES: Final[Mapping[Part, tuple[str, ...]]] = {
    "head": ("lm_head",),
    "attention": tuple(f"model.layers.N.self_attn.{name}_proj" for name in "qkvo"),
    "mlp": tuple(f"model.layers.N.mlp.{name}_proj" for name in ("gate", "up", "down")),
    "expert": tuple(f"model.layers.N.mlp.experts.0.{name}_proj" for name in ("gate", "up", "down")),
    "router": ("model.layers.N.mlp.gate",),
}
"""Names that transformers' modules have, by the part of a model that they are."""


def left_in_floats(config: Mapping[str, Any], n_layers: int) -> dict[Part, float]:
    """Share of each part that a checkpoint leaves in floats, where its config tells.

    compressed-tensors lists every linear layer that is left; what other methods list comes on top
    of what their loaders leave anyway.
    """
    try:
        found = stated(config)
    except UnsupportedError:
        found = None
    if found is None:
        return {}
    patterns = [_pattern(name) for name in found.left]
    shares: dict[Part, float] = {}
    for part, probes in PROBES.items():
        layers = range(n_layers) if "N" in probes[0] else range(1)
        names = [probe.replace("N", str(i)) for probe in probes for i in layers]
        left = sum(any(p.search(name) for p in patterns) for name in names)
        if left or found.method == "compressed-tensors":
            shares[part] = left / max(len(names), 1)
    return shares


def _pattern(name: str) -> re.Pattern[str]:
    """`re:...` from the beginning; another name as a module, or what holds it, with `*` in it."""
    try:
        if name.startswith("re:"):
            return re.compile("^(?:" + name[3:] + ")")
    except re.error:
        return re.compile("(?!)")
    whole = re.escape(name).replace(r"\*", r"[^.]+")
    return re.compile(rf"(^|\.){whole}(\.|$)")
