"""Feed-forward parts of layers: dense, routed experts, shared experts. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.models.families import FAMILIES
from bench.models.layers import Matrix, first
from bench.schemes.row import Part


def n_experts(a: Mapping[str, Any]) -> int:
    """Routed experts of a layer; 0 for a dense model."""
    if a["model_type"].startswith("gemma4") and not a.get("enable_moe_block"):
        return 0
    keys = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return int(first(a, *keys) or 0)


def n_active(a: Mapping[str, Any]) -> int:
    """Experts that one token goes through."""
    return int(first(a, "top_k_experts", "num_experts_per_tok", "moe_k") or 0)


def inner_size(a: Mapping[str, Any]) -> int:
    """Width of a dense layer, in the forms that configs give it."""
    size = first(a, "block_ff_dim", "intermediate_size_mlp", "intermediate_size")
    if isinstance(size, list):
        size = size[0]
    size = int(size)
    if a["model_type"] == "lfm2" and a.get("block_auto_adjust_ff_dim"):
        size = int(2 * size / 3)
        if (factor := a.get("block_ffn_dim_multiplier")) is not None:
            size = int(factor * size)
        step = int(a["block_multiple_of"])
        size = step * -(-size // step)
    return size


def feed_forward(hidden: int, inner: int, part: Part, count: int, gated: bool) -> Iterator[Matrix]:
    """Up and down, and a gate beside up."""
    yield Matrix(part=part, n_out=inner, n_in=hidden, count=(2 if gated else 1) * count)
    yield Matrix(part=part, n_out=hidden, n_in=inner, count=count)


def dense_matrices(a: Mapping[str, Any], n: int, *, double: int = 0) -> Iterator[Matrix]:
    """`n` dense layers, `double` of them twice as wide (Gemma 4's with shared keys)."""
    family, hidden, inner = FAMILIES[a["model_type"]], int(a["hidden_size"]), inner_size(a)
    for count, width in ((n - double, inner), (double, 2 * inner)):
        if count:
            yield from feed_forward(hidden, width, "mlp", count, family.gated_mlp)
            if family.mlp_bias or a.get("mlp_bias") or a["model_type"] == "starcoder2":
                wide = width * (2 if family.gated_mlp else 1) + hidden
                yield Matrix(part="small", n_out=wide, count=count)


def expert_matrices(a: Mapping[str, Any], n: int) -> Iterator[Matrix]:
    """Router, routed experts and shared experts of `n` layers."""
    family, hidden, many = FAMILIES[a["model_type"]], int(a["hidden_size"]), n_experts(a)
    inner = int(first(a, "moe_intermediate_size", "intermediate_size"))
    latent = int(a.get("moe_latent_size") or 0)
    yield Matrix(part="router", n_out=many, n_in=hidden, count=n)
    yield from feed_forward(latent or hidden, inner, "expert", n * many, family.gated_mlp)
    if latent:
        yield Matrix(part="mlp", n_out=latent, n_in=hidden, count=2 * n)
    if shared := shared_size(a, inner):
        yield from feed_forward(hidden, shared, "mlp", n, family.gated_mlp)
        if family.shared_gate:
            yield Matrix(part="small", n_out=hidden, count=n)
    if family.router_bias:
        yield Matrix(part="small", n_out=many, count=n)
    if family.expert_bias:
        yield Matrix(part="small", n_out=many, count=n)
        yield Matrix(part="expert", n_out=2 * inner + hidden, count=n * many)
    if a["model_type"].startswith("gemma4"):
        yield Matrix(part="small", n_out=4 * hidden + many, count=n)


def shared_size(a: Mapping[str, Any], inner: int) -> int:
    """Width of the shared experts together, 0 without."""
    own = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size")
    if size := first(a, *own, "shared_intermediate_size"):
        return int(size)
    keys = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
    return inner * int(first(a, *keys) or FAMILIES[a["model_type"]].shared_expert)
