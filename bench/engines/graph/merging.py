"""Fewer launches a layer: linear layers that read the same vector become one product.

At one row a layer's time is that of reading its weights, and every launch adds a pause: q, k, v are
computed as one matrix, gate and up as another, and where a scheme quantizes activations they are
quantized once for each. Rows of the weight stay what they are, with their own scales.

A norm before such a product is a launch of a single program. Its factor, one number for the row, is
left to the product: sum(w * x * g) / rms(x), where the compiler writes the product itself and sums
the squares beside it. Attention's output keeps a launch for its quantization: the scale is the
largest value of all heads, which no program of the attention has.

Imports torch when it is imported: import it only inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

GROUPS: Final[Mapping[str, Sequence[str]]] = {
    "self_attn": ("q_proj", "k_proj", "v_proj"),
    "mlp": ("gate_proj", "up_proj"),
}
"""Module of a decoder layer -> its linear layers that read the same vector, in their order."""
NORMS: Final = {"self_attn": "input_layernorm", "mlp": "post_attention_layernorm"}
"""Module of a decoder layer -> the norm before it, in a layer of `PLAIN` parts alone."""
PLAIN: Final = frozenset({*NORMS, *NORMS.values()})
PLAIN_MLP: Final = frozenset({"gate_proj", "up_proj", "down_proj", "act_fn"})


class Merged(nn.Module):
    """One product for several linear layers; with `norm`, of what the norm makes of its input."""

    def __init__(self, linear: nn.Module, sizes: Sequence[int]) -> None:
        super().__init__()
        self.linear = linear
        self.norm: Any = None
        self.sizes = tuple(sizes)
        self.made: tuple[torch.Tensor, ...] | None = None
        """Parts of the product, until the last of them is taken."""

    def make(self, x: torch.Tensor) -> None:
        self.made = torch.split(self.product(x), list(self.sizes), -1)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, length, all outputs]."""
        norm, linear = self.norm, self.linear
        one_row = x.numel() == x.shape[-1]
        if norm is None or not one_row or not torch.compiler.is_compiling():
            y: torch.Tensor = linear(x if norm is None else norm(x))
            return y
        squares = x.float().pow(2).unsqueeze(-2)
        wide = squares.expand(*x.shape[:-1], sum(self.sizes), x.shape[-1])
        factor = torch.rsqrt(wide.mean(-1) + norm.variance_epsilon)
        bare: torch.Tensor = linear(x * norm.weight)
        return (bare.float() * factor).to(x.dtype)


class MergedPart(nn.Module):
    """In the place of one of the linear layers; they are called in their order with one input."""

    def __init__(self, merged: Merged, index: int, in_features: int) -> None:
        super().__init__()
        self.merged = merged
        self.index = index
        self.in_features, self.out_features = in_features, merged.sizes[index]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        merged = self.merged
        if self.index == 0:
            merged.make(x)
        assert merged.made is not None, "parts of a product are asked for in another order"
        part = merged.made[self.index]
        if self.index + 1 == len(merged.sizes):
            merged.made = None
        return part


def merge(layers: Sequence[nn.Module], *, norms: bool) -> list[str]:
    """Merge what can be in every decoder layer; what was, by name, with what it took in.

    `norms`: whether products that the compiler writes itself take in the norm before them. Layers
    are merged alike or not at all, as all run the code of one.
    """
    done = []
    for module, names in GROUPS.items():
        if not all(mergeable(layer, module, names) for layer in layers):
            continue
        takes_norm = norms and all(plain(one, module) and written(one, module) for one in layers)
        for layer in layers:
            merged = put(layer.get_submodule(module), names)
            if takes_norm:
                merged.norm = layer.get_submodule(NORMS[module])
                layer.set_submodule(NORMS[module], nn.Identity())
        done.append("+".join([*([NORMS[module]] if takes_norm else []), *names]))
    return done


def mergeable(layer: nn.Module, module: str, names: Sequence[str]) -> bool:
    """Whether those linear layers are there, of one kind, without hooks, their weights by rows."""
    holder: Any = getattr(layer, module, None)
    parts: list[Any] = [getattr(holder, name, None) for name in names]
    kinds = {
        (type(one), type(getattr(one, "weight", None)), getattr(one, "bias", None) is None)
        for one in parts
        if one is not None
    }
    if (
        None in parts
        or len(kinds) > 1
        or not (type(parts[0]) is nn.Linear or hasattr(parts[0], "joined"))
    ):
        return False
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in parts)
    return not hooked and all(by_rows(part.weight) for part in parts)


def plain(layer: nn.Module, module: str) -> bool:
    """Whether the norm before a module is a plain RMS norm whose result nothing else reads."""
    parts = {name for name, _ in layer.named_children()}
    mlp = {name for name, _ in getattr(layer, "mlp", nn.Module()).named_children()}
    if parts != PLAIN or mlp != PLAIN_MLP:
        return False
    norm: Any = layer.get_submodule(NORMS[module])
    weight, epsilon = getattr(norm, "weight", None), getattr(norm, "variance_epsilon", None)
    return not (weight is None or epsilon is None or norm._forward_hooks) and is_rms(norm)


def is_rms(norm: Any) -> bool:
    """Whether a norm computes x * weight / rms(x), as its names promise."""
    weight, epsilon = norm.weight, norm.variance_epsilon
    x = torch.linspace(-2.0, 3.0, weight.shape[0], device=weight.device).to(weight.dtype)
    mine = x.float() * torch.rsqrt(x.float().pow(2).mean() + epsilon) * weight.float()
    return torch.allclose(norm(x[None, None])[0, 0].float(), mine, rtol=2e-2, atol=1e-3)


def written(layer: nn.Module, module: str) -> bool:
    """Whether the compiler writes the products of a module itself, at one row on a GPU."""
    first: Any = layer.get_submodule(module).get_submodule(GROUPS[module][0])
    as_they_are = getattr(first.weight, "act_quant_kwargs", "other") is None
    return type(first) is nn.Linear and (as_they_are or not consists_of_others(first.weight))


def put(holder: nn.Module, names: Sequence[str]) -> Merged:
    """Put parts of one product in the place of linear layers, and let those go."""
    parts: list[Any] = [holder.get_submodule(name) for name in names]
    merged = Merged(joined(parts), [part.out_features for part in parts])
    for index, name in enumerate(names):
        holder.set_submodule(name, MergedPart(merged, index, parts[0].in_features))
    return merged


def joined(parts: Sequence[Any]) -> nn.Module:
    """One linear layer with the outputs of all."""
    first = parts[0]
    bias = None if first.bias is None else torch.cat([part.bias for part in parts])
    if hasattr(first, "joined"):
        own: nn.Module = first.joined(parts, bias)
        return own
    with torch.device("meta"):
        linear = nn.Linear(first.in_features, sum(part.out_features for part in parts), bias=False)
    weight = joined_weights([part.weight for part in parts])
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def joined_weights(weights: Sequence[Any]) -> Any:
    """Their rows, one below the other; of a tensor that consists of others, those of each."""
    first = weights[0]
    if not consists_of_others(first):
        return torch.cat([weight.detach() for weight in weights])
    names, context = first.__tensor_flatten__()
    inner = {name: torch.cat([getattr(one, name) for one in weights]) for name in names}
    size = (sum(one.shape[0] for one in weights), first.shape[1])
    return type(first).__tensor_unflatten__(inner, context, size, (size[1], 1))


def by_rows(weight: Any) -> bool:
    """Whether a weight can be cut between any two rows: all it consists of has one entry a row."""
    if not consists_of_others(weight):
        return bool(weight.dim() == 2)
    names, _ = weight.__tensor_flatten__()
    inner = [getattr(weight, name) for name in names]
    return all(one.dim() == 2 and one.shape[0] == weight.shape[0] for one in inner)


def consists_of_others(weight: Any) -> bool:
    """Whether a tensor is made of others, as torchao's are."""
    return hasattr(weight, "__tensor_flatten__")
