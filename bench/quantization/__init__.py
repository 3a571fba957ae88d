"""Carries schemes out with torch, layer by layer; what a scheme is and needs: `bench.schemes`.

layers   which layers, and why not the others     ao, bnb, quanto,     what a scheme's row names
seen     what really computes a layer             own, int8_layer,     as `convert` and `fits`
                                                  gemlite_layer
holding  what is held in memory                   mixed                bits by measured layers
streaming   a layer at a time from files to the device
ready    models that were quantized before        compressed           their layers, kept so
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench import schemes
from bench.errors import UnsupportedError
from bench.quantization.holding import WeightCount, held
from bench.schemes import allocation
from bench.schemes.row import Device, Scheme

if TYPE_CHECKING:
    import torch

    from bench.quantization.layers import Choice

__all__ = ["Applied", "Device", "Scheme", "WeightCount", "apply", "held", "refusal"]


def refusal(name: str, device: Device, mode: str = "eager", dtype: str = "auto") -> str | None:
    """Why this scheme cannot be applied on this device in this mode, or None. Loads nothing."""
    wanted = schemes.scheme(name)
    if not wanted.convert:
        return f"scheme '{name}' is not applied to a model in floats: {whose(wanted)}"
    return wanted.refusal(device, mode, dtype)


def whose(wanted: Scheme) -> str:
    """Where a scheme that torch does not apply comes from."""
    if wanted.source == "checkpoint":
        return "it needs a quantized folder; name it with -m"
    if wanted.source == "file":
        return "it needs a GGUF file; name it with -m and use -e llama.cpp"
    engines = " or ".join(wanted.engines)
    return f"it is run by {engines}" if engines else "it is known for predictions only"


@dataclass(frozen=True, slots=True)
class Applied:
    """A quantized model, and what the scheme has to say about it."""

    model: torch.nn.Module
    details: Mapping[str, Any]
    """`layers`: how many were quantized, and which not, with the reason. `computed_by`: the
    operations seen in one quantized layer. `allocation`: of a mixed scheme."""
    kernel: str
    """What computes a quantized layer, in one line: as seen, in eager mode."""


def apply(
    name: str, model: torch.nn.Module, device: Device, tokenize: Callable[[str], list[int]]
) -> Applied:
    """Quantize the model in place where the scheme can.

    `tokenize` is asked only by schemes that measure the model before they quantize it.
    """
    wanted = schemes.scheme(name)
    if wanted.source == "checkpoint" or getattr(model, "hf_quantizer", None) is not None:
        from bench.quantization import ready

        return ready.found(wanted, model)
    if reason := refusal(name, device):
        raise UnsupportedError(reason)
    if name.startswith(allocation.PREFIX):
        from bench.models import weights
        from bench.quantization import mixed

        cache = weights.cache_folder() / "mixed"
        chosen = mixed.quantize(allocation.parse(name), model, tokenize, cache)
        return Applied(model, {"allocation": chosen}, wanted.kernel)
    if name == "none":
        return Applied(model, {}, wanted.kernel)
    return _quantized(wanted, model)


def _quantized(wanted: Scheme, model: torch.nn.Module) -> Applied:
    """Quantize every layer that fits."""
    from bench.quantization import layers

    choice = layers.choose(wanted, model)
    shapes = {
        name: (layer.in_features, layer.out_features)
        for name, layer in layers.linear_layers(model).items()
        if name in choice.names
    }
    return watched(layers.convert(wanted, model, choice.names), choice, shapes)


TILED: Final = ("int8_kernels", "gemlite_layer")
"""Modules that choose tiles, where they were imported."""


def tiles() -> dict[str, str]:
    """Tile sizes that kernels chose here by time: this project's, and gemlite's; {} where none was
    run."""
    rooms = (sys.modules.get(f"bench.quantization.{name}") for name in TILED)
    return {name: tile for room in rooms if room is not None for name, tile in room.tiles().items()}


def watched(
    model: torch.nn.Module, choice: Choice, shapes: Mapping[str, tuple[int, int]]
) -> Applied:
    """A quantized model, whose largest quantized layer but the head is run once to see what
    computes it. `shapes`: quantized layer -> (n_in, n_out)."""
    from bench.quantization import seen, streaming

    head = getattr(model, "get_output_embeddings", lambda: None)()
    within = [name for name in shapes if model.get_submodule(name) is not head] or list(shapes)
    largest = max(within, key=lambda name: shapes[name][0] * shapes[name][1])
    computed_by = seen.watch(model, largest, *shapes[largest])
    streaming.give_back_all()  # so that the largest batch is not measured beside it
    details = {"layers": choice.record(), "computed_by": computed_by}
    return Applied(model, details, seen.in_words(computed_by))
