"""Which layers of a model a scheme converts, and why it leaves the others as they are.

Libraries skip layers silently. Here the choice is made before, by the shapes that each library's
source asks for, and checked after: what was to be quantized and is not is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bench.errors import UnsupportedError
from bench.schemes.row import Scheme

if TYPE_CHECKING:
    from torch import nn

HEAD = "the output head is left as it is, as transformers does with this scheme"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Names of the layers to quantize, and reason -> names of those that are not."""

    names: tuple[str, ...]
    skipped: Mapping[str, tuple[str, ...]]

    def record(self) -> dict[str, Any]:
        """For the record: how many, and of the skipped a few names."""
        return {
            "quantized": len(self.names),
            "skipped": [
                {"count": len(names), "reason": reason, "layers": list(names[:3])}
                for reason, names in self.skipped.items()
            ],
        }


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Every linear layer by name, the output head among them."""
    from torch import nn

    return {name: module for name, module in model.named_modules() if type(module) is nn.Linear}


EXPERTS = "the experts of a layer are one tensor, and the scheme converts linear layers"
LEAST = 0.001
"""Share of the model's weights below which one that is no linear layer is not named."""


def other_weights(model: nn.Module) -> dict[str, list[str]]:
    """Reason -> names of the weights that no scheme for linear layers reaches: fused experts,
    GPT-2's `Conv1D`, convolutions; embeddings, which are looked up, and small ones are left out."""
    from torch import nn

    total = sum(parameter.numel() for parameter in model.parameters())
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            continue
        for own, weight in module.named_parameters(recurse=False):
            if weight.dim() < 2 or weight.numel() < LEAST * total:
                continue
            kind = type(module).__name__
            reason = EXPERTS if weight.dim() == 3 and "xpert" in kind else f"{kind} is no nn.Linear"
            found.setdefault(reason, []).append(f"{name}.{own}")
    return found


def fits(scheme: Scheme, layer: nn.Linear) -> str | None:
    """Why the scheme leaves a layer as it is, or None."""
    found: str | None = named(scheme.fits)(layer) if scheme.fits else None
    return found


def convert(scheme: Scheme, model: nn.Module, names: Sequence[str]) -> nn.Module:
    """Quantize the linear layers of these names, in place."""
    made: nn.Module = named(scheme.convert)(model, names)
    return made


def named(where: str) -> Callable[..., Any]:
    """The function that `module:function` names; its library is imported only now."""
    module, _, name = where.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def choose(scheme: Scheme, model: nn.Module) -> Choice:
    """What the scheme would convert. UnsupportedError if it would leave every layer."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    names: list[str] = []
    skipped: dict[str, list[str]] = {}
    for name, layer in linear_layers(model).items():
        reason = HEAD if scheme.keeps_head and layer is head else fits(scheme, layer)
        if reason is None:
            names.append(name)
        else:
            skipped.setdefault(reason, []).append(name)
    for reason, others in other_weights(model).items():
        skipped.setdefault(reason, []).extend(others)
    return chosen(scheme, names, skipped)


def chosen(scheme: Scheme, names: Sequence[str], skipped: Mapping[str, Sequence[str]]) -> Choice:
    """A choice that was made. UnsupportedError if it leaves every layer."""
    if not names:
        why = "; ".join(skipped) or "the model has no linear layers"
        raise UnsupportedError(f"scheme '{scheme.name}' would quantize no layer: {why}")
    return Choice(
        names=tuple(names), skipped={reason: tuple(found) for reason, found in skipped.items()}
    )


def replace(
    model: nn.Module, names: Sequence[str], make: Callable[[nn.Linear], nn.Module]
) -> nn.Module:
    """Put another module in the place of each layer, one at a time.

    Never more than one layer is held twice: the float weight is freed before the next is made.
    """
    for name in names:
        old: Any = model.get_submodule(name)
        new = make(old)
        new.train(old.training)  # new modules train, and bitsandbytes computes otherwise then
        model.set_submodule(name, new)
        # The caller of the scheme may hold the old module; its weight must not outlive this.
        old.weight = None
        del old
    return model


def dims(layer: nn.Linear, *, n_in: int = 1, n_out: int = 1, who: str) -> str | None:
    """Why a layer's shape does not fit a kernel that needs these multiples."""
    if layer.in_features % n_in == 0 and layer.out_features % n_out == 0:
        return None
    needs = f"multiples of {n_in}" if n_in == n_out else f"n_in a multiple of {n_in}"
    return f"{who} needs {needs}"


def dtype_of(layer: nn.Linear, wanted: str, who: str) -> str | None:
    """Why a layer's dtype does not fit."""
    here = str(layer.weight.dtype).removeprefix("torch.")
    return None if here == wanted else f"{who} starts from {wanted}, the layer is {here}"
