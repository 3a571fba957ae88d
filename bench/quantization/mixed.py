"""Scheme `mixed`: each linear layer with its own number of bits, chosen by measured sensitivity.

This is the meaning of "dynamic quantization" in "dynamic GGUF": nothing changes at run time. A
layer's sensitivity is the divergence of the model's predictions when that layer alone is quantized,
measured on bench/data/calibration.txt, which quality is never measured on. Sensitivities are kept
in the cache by weights, text and versions. Weights only: activations stay as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.data import DATA
from bench.errors import InputError, UnsupportedError
from bench.fields import read_json
from bench.quality.store import divergence, normalised
from bench.quantization.layers import linear_layers
from bench.schemes.allocation import (
    Option,
    Target,
    total_bytes,
    total_kld,
    within_bytes,
    within_kld,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

VERSION: Final = 1
TEXT: Final = DATA / "calibration.txt"
TOKENS: Final = 128
GROUP: Final = 32
GROUPED: Final[Mapping[str, int]] = {"int4": 4, "int5": 5, "int6": 6}
"""Levels in groups of `GROUP` weights, and their bits."""
LEVELS: Final = (*GROUPED, "int8", "none")
ATTEMPTS: Final = 6
"""How often a bound on the divergence is tried again where the prediction was too good."""

Tokenize = Callable[[str], list[int]]
Layers = Mapping[str, "nn.Linear"]


def quantize(target: Target, model: nn.Module, tokenize: Tokenize, cache: Path) -> dict[str, Any]:
    """Quantize the model in place; returns what was chosen, and what it was chosen by."""
    import torch

    text = TEXT.read_text(encoding="utf-8")
    with torch.inference_mode():
        tokens = torch.tensor([tokenize(text)[:TOKENS]], device=next(model.parameters()).device)
        layers = linear_layers(model)
        base = predict(model, tokens)
        options = sensitivities(model, layers, tokens, base, cache, text)
        n_weights = sum(layer.weight.numel() for layer in layers.values())
        chosen, kld = allocate(
            target, options, n_weights, lambda pick: measured(model, layers, pick, tokens, base)
        )
    levels = {name: chosen[group].level for group, has in groups_of(layers).items() for name in has}
    packed = packed_model_bytes(model, layers, levels)
    apply(model, levels)
    return {
        "levels": levels,
        "bits": total_bytes(chosen) * 8 / n_weights,
        "predicted_kld": total_kld(chosen),
        "calibration_kld": kld,
        "calibration_tokens": tokens.shape[1],
        "packed_bytes": packed,
    }


def packed_model_bytes(model: nn.Module, layers: Layers, levels: Mapping[str, str]) -> int:
    """Bytes of the weights as their numbers need them, were the layers held at these levels.

    Weights that are shared count once; a quantized head no longer shares the embedding.
    """
    low = {id(layers[name].weight) for name, level in levels.items() if level != "none"}
    shared = {
        id(module.weight)
        for module in model.modules()
        if module not in layers.values() and hasattr(module, "weight")
    }
    size = sum(packed_bytes(layers[name], at) for name, at in levels.items() if at != "none")
    return size + sum(
        weight.numel() * weight.element_size()
        for weight in model.parameters()
        if id(weight) not in low or id(weight) in shared
    )


def predict(model: nn.Module, tokens: Tensor) -> Tensor:
    """Log-probabilities [position, vocabulary]; UnsupportedError (NONFINITE) if not numbers."""
    import torch

    logits = model(input_ids=tokens, use_cache=False).logits[0]
    if not bool(torch.isfinite(logits).all()):
        raise UnsupportedError("the model's logits are not finite", "NONFINITE")
    return normalised(logits)


def config_of(level: str) -> Any:
    """torchao's configuration for a level; None leaves the layer as it is."""
    import torch
    from torchao import quantization
    from torchao.quantization.granularity import PerGroup

    if level == "none":
        return None
    if level == "int8":
        return quantization.Int8WeightOnlyConfig()
    return quantization.IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, level),
        granularity=PerGroup(GROUP),
        scale_dtype=torch.bfloat16,
        # The zero point is stored in any case; using it takes off 30% of the squared error.
        mapping_type=quantization.MappingType.ASYMMETRIC,
    )


def packed_bytes(layer: nn.Linear, level: str) -> int:
    """Bytes of a layer's weight as its numbers need them, scales and zero points included.

    int4 to int6: so many bits, and a bfloat16 scale and int8 zero point a group. int8: 8 bits, and
    a float32 scale and int8 zero point a row.
    """
    rows, columns = layer.weight.shape
    if level == "none":
        return layer.weight.numel() * layer.weight.element_size()
    if level == "int8":
        return rows * (columns + 5)
    return rows * columns * GROUPED[level] // 8 + rows * (columns // GROUP) * 3


def groups_of(layers: Layers) -> dict[str, dict[str, nn.Linear]]:
    """Layers by the module that holds them: an attention, an MLP; the head is alone.

    They share their number of bits. One measurement for each of 30 x 7 matrices of a small model
    took 7 minutes on a CPU; for each of 30 x 2 modules it takes 2.
    """
    groups: dict[str, dict[str, nn.Linear]] = {}
    for name, layer in layers.items():
        parent, _, _ = name.rpartition(".")
        groups.setdefault(parent or name, {})[name] = layer
    return groups


def levels_of(members: Layers) -> tuple[str, ...]:
    """What the members' shapes allow: groups of numbers must fill a row."""
    whole = all(layer.in_features % GROUP == 0 for layer in members.values())
    return LEVELS if whole else LEVELS[len(GROUPED) :]


def rounded(members: Layers, level: str) -> dict[str, Tensor]:
    """Weights after a round trip through a level: what a weight-only matmul multiplies by."""
    from torch import nn
    from torchao.quantization import quantize_

    result: dict[str, Tensor] = {}
    for name, layer in members.items():
        alone = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        alone.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        quantize_(alone, config_of(level))
        result[name] = alone.weight.dequantize().to(layer.weight.dtype)
    return result


@contextlib.contextmanager
def replaced(layers: Layers, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Other weights for a while. A tied weight is replaced in the named layer only."""
    from torch import nn

    before = {name: layers[name].weight for name in weights}
    try:
        for name, weight in weights.items():
            layers[name].weight = nn.Parameter(weight, requires_grad=False)
        yield
    finally:
        for name, kept in before.items():
            layers[name].weight = kept


def measured(
    model: nn.Module,
    layers: Layers,
    chosen: Mapping[str, Option],
    tokens: Tensor,
    base: Tensor,
) -> float:
    """Mean divergence of an allocation on the calibration tokens."""
    weights: dict[str, Tensor] = {}
    for group, members in groups_of(layers).items():
        if chosen[group].level != "none":
            weights |= rounded(members, chosen[group].level)
    with replaced(layers, weights):
        return float(divergence(base, predict(model, tokens)).mean())


def sensitivities(
    model: nn.Module, layers: Layers, tokens: Tensor, base: Tensor, cache: Path, text: str
) -> dict[str, list[Option]]:
    """The options of each group, from the cache if they were measured before."""
    file = cache / f"{identity(model, layers, text)}.json"
    groups = groups_of(layers)
    with contextlib.suppress(InputError, KeyError, TypeError):  # no cache, or a broken one
        kept = read_json(file)
        return {name: [_option(*option) for option in kept[name]] for name in groups}
    found = {name: options_of(model, members, tokens, base) for name, members in groups.items()}
    _keep(file, {name: [astuple(option) for option in has] for name, has in found.items()})
    return found


def _option(level: str, size_bytes: int, kld: float) -> Option:
    """An option that was kept. Raises TypeError for what is none."""
    if not (type(level) is str and type(size_bytes) is int and type(kld) in (int, float)):
        raise TypeError("no option")
    return Option(level, size_bytes, float(kld))


def options_of(model: nn.Module, members: Layers, tokens: Tensor, base: Tensor) -> list[Option]:
    """The levels of one group: the coarsest is measured, the finer ones follow from it.

    Divergence is of second order in a small error, so a finer level's is taken in proportion to
    the squared error of its weights: a second measurement would double the time for a figure a
    hundred times below the first.
    """
    coarsest, *finer = levels_of(members)
    weights = rounded(members, coarsest)
    with replaced(members, weights):
        kld = float(divergence(base, predict(model, tokens)).mean())
    error = squared_error(members, weights)
    divergences = {coarsest: kld, "none": 0.0}
    for level in finer:
        if level != "none":
            share = squared_error(members, rounded(members, level)) / error if error else 0.0
            divergences[level] = kld * share
    return [
        Option(level, sum(packed_bytes(layer, level) for layer in members.values()), kld)
        for level, kld in divergences.items()
    ]


def squared_error(members: Layers, weights: Mapping[str, Tensor]) -> float:
    """Sum of squared differences from the members' own weights."""
    return sum(
        float((weights[name] - layer.weight).float().square().sum())
        for name, layer in members.items()
    )


def _keep(file: Path, table: Mapping[str, Any]) -> None:
    """Write a cache file, whole or not at all; a full disk only costs the time again."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(table), encoding="utf-8")
        partial.replace(file)


def identity(model: nn.Module, layers: Layers, text: str) -> str:
    """Hash of what sensitivities depend on: weights (shapes and sums), text, versions, device."""
    weights = {
        name: [
            *layer.weight.shape,
            float(layer.weight.double().sum()),
            float(layer.weight.double().abs().sum()),
        ]
        for name, layer in layers.items()
    }
    first = next(model.parameters())
    about = {
        "version": VERSION,
        "levels": LEVELS,
        "group": GROUP,
        "tokens": TOKENS,
        "text": text,
        "torch": metadata.version("torch"),
        "torchao": metadata.version("torchao"),
        "dtype": str(first.dtype),
        "device": first.device.type,
        "weights": weights,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def allocate(
    target: Target,
    options: Mapping[str, Sequence[Option]],
    n_weights: int,
    measure: Callable[[Mapping[str, Option]], float],
) -> tuple[dict[str, Option], float]:
    """The allocation for a target, and its divergence as measured.

    Layers' divergences only nearly add up; where the whole is worse than a bound, a smaller sum is
    asked for.
    """
    if target.bits is not None:
        chosen = within_bytes(options, int(target.bits / 8 * n_weights))
        return chosen, measure(chosen)
    assert target.max_kld is not None
    asked = target.max_kld
    for _ in range(ATTEMPTS):
        chosen = within_kld(options, asked)
        found = measure(chosen)
        if found <= target.max_kld:
            return chosen, found
        asked = min(asked, total_kld(chosen)) * 0.95 * target.max_kld / found
    raise UnsupportedError(
        f"no allocation found with a divergence below {target.max_kld:g}; state a larger one"
    )


def apply(model: nn.Module, levels: Mapping[str, str]) -> None:
    """Quantize through torchao, each layer with its own configuration."""
    from torchao.quantization import FqnToConfig, quantize_

    configs = OrderedDict(
        (name, config_of(level)) for name, level in levels.items() if level != "none"
    )
    if configs:
        quantize_(model, FqnToConfig(configs), filter_fn=None)
