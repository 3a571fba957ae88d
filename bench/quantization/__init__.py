"""Quantization schemes by name: what they need, which meaning of "dynamic" they have, how to apply.

Three things are called dynamic quantization (docs/quantization.md): `activations`, whose scales are
computed at run time; `online`, weights cast while loading; `bit-allocation`, each layer with its
own number of bits. A scheme says which it is. torch is imported only by `apply` and what it calls.

    table       the schemes                     layers    which layers, and why not the others
    scheme      what a scheme is and needs      seen      what really computes a layer
    ao, bnb, quanto, own, int8_layer            holding   what is held in memory
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.errors import InputError, UnsupportedError, unknown
from bench.quantization.holding import Held, held
from bench.quantization.table import SCHEMES, mixed_scheme
from bench.schemes import allocation
from bench.schemes.scheme import Device, Scheme, refusal_of

if TYPE_CHECKING:
    import torch

__all__ = [
    "MIXED",
    "SCHEMES",
    "Applied",
    "Device",
    "Held",
    "Scheme",
    "apply",
    "held",
    "refusal",
    "scheme",
]

MIXED: Final = ("mixed:5.0bit", "mixed:kld<0.02")
"""Examples of the schemes whose names state a target (`bench.quantization.mixed`)."""


def scheme(name: str) -> Scheme:
    """The scheme of that name; InputError for an unknown one."""
    if name.startswith(allocation.PREFIX):
        allocation.parse(name)
        return mixed_scheme(name)
    if name not in SCHEMES:
        raise InputError(unknown("scheme", name, [*SCHEMES, *MIXED]))
    return SCHEMES[name]


def refusal(name: str, device: Device, mode: str = "eager", dtype: str = "auto") -> str | None:
    """Why this scheme cannot run on this device in this mode, or None. Loads nothing."""
    return refusal_of(scheme(name), device, mode, dtype)


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
    wanted = scheme(name)
    if reason := refusal(name, device):
        raise UnsupportedError(reason)
    if name.startswith(allocation.PREFIX):
        from bench.models import weights
        from bench.quantization import mixed

        cache = weights.cache_folder() / "mixed"
        chosen = mixed.quantize(allocation.parse(name), model, tokenize, cache)
        return Applied(model, {"allocation": chosen}, wanted.kernel(device))
    if name == "none":
        return Applied(model, {}, wanted.kernel(device))
    return _watched(wanted, model)


def _watched(wanted: Scheme, model: torch.nn.Module) -> Applied:
    """Quantize, then run the largest quantized layer but the head once to see what computes it."""
    from bench.quantization import layers, seen

    choice = layers.choose(wanted, model)
    shapes = {
        name: (layer.in_features, layer.out_features)
        for name, layer in layers.linear_layers(model).items()
        if name in choice.names
    }
    model = wanted.convert(model, choice.names)
    head = getattr(model, "get_output_embeddings", lambda: None)()
    within = [name for name in shapes if model.get_submodule(name) is not head] or list(shapes)
    largest = max(within, key=lambda name: shapes[name][0] * shapes[name][1])
    computed_by = seen.watch(model, largest, *shapes[largest])
    _give_back()
    details = {"layers": choice.record(), "computed_by": computed_by}
    return Applied(model, details, seen.in_words(computed_by))


def _give_back() -> None:
    """Memory that only quantizing needed, so that the largest batch is not measured beside it."""
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
