"""A step's new token: rotated, put into the cache and attended to by one kernel.

Where transformers' layer is compiled as it is, two launches stand between the product of q, k, v
and attention: one rotates q, one rotates k and writes k and v to the cache. Here the attention
kernel takes the product itself. Its programs rotate their own queries, and those of a key head's
last split write its new key and value.

A layer takes part if its attention does nothing else: its modules say so, and a trial with random
numbers. Imports torch when it is imported, so it is imported only inside functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from types import MethodType
from typing import Any, Final

import torch

from bench.engines.graph.attention import UNKNOWN, attend
from bench.engines.graph.merging import Merged
from bench.engines.graph.slots import SlotMemory, Slots

TAKEN: Final = "rotation+cache+attention"
"""Under which it is told what was merged."""
PROJECTIONS: Final = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
NORMS: Final = frozenset({"q_norm", "k_norm"})
"""Of each query and key, before they are rotated."""
WATCHED: Final = "gpu_cost_bench_watched"
"""Under which transformers knows the attention of a layer that is tried."""

_REGISTRY: Any = torch.library  # it has no types
_LIBRARY = _REGISTRY.Library("gpu_cost_bench", "FRAGMENT")
_LIBRARY.define(
    "attend_new(Tensor projected, Tensor cos, Tensor sin, Tensor? q_norm, Tensor? k_norm, "
    "float epsilon, Tensor(a!) keys, Tensor(b!) values, Tensor last, float scale) -> Tensor"
)


def attend_new(
    projected: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    epsilon: float,
    keys: torch.Tensor,
    values: torch.Tensor,
    last: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Attention [batch, 1, heads, dimension] of a token to itself, at `last`, and those before it.

    `projected` [batch, 1, all queries, keys and values] is the product of the layer's input. Key
    and value are put at place `last` of `keys` and `values` [batch, shared heads, places,
    dimension]. `cos` and `sin` hold one number a dimension of a key; the norms' weights too.
    """
    query, key, value = parts_of(projected, keys.shape[1], keys.shape[3], values.shape[3])
    query, key = turned(query, cos, sin, q_norm, epsilon), turned(key, cos, sin, k_norm, epsilon)
    keys.index_copy_(2, last.reshape(1), key)
    values.index_copy_(2, last.reshape(1), value)
    return attend(query, keys, values, last, scale)


def parts_of(
    projected: torch.Tensor, shared: int, dim_k: int, dim_v: int
) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values [batch, heads, 1, dimension] of what was projected."""
    others = (shared * dim_k, shared * dim_v)
    parts = torch.split(projected, [projected.shape[-1] - sum(others), *others], -1)
    dims = (dim_k, dim_k, dim_v)
    return tuple(
        part.reshape(part.shape[0], -1, 1, dim) for part, dim in zip(parts, dims, strict=True)
    )


def turned(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    norm: torch.Tensor | None,
    epsilon: float,
) -> torch.Tensor:
    """Vectors [..., dimension] after an RMS norm, if it has a weight, and a rotation by halves."""
    wide = x.float()
    if norm is not None:
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon) * norm.float()
    first, second = wide.chunk(2, -1)
    other = torch.cat([-second, first], -1)
    return (wide * cos.float().reshape(-1) + other * sin.float().reshape(-1)).to(x.dtype)


def _attend_new_cuda(
    projected: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    epsilon: float,
    keys: torch.Tensor,
    values: torch.Tensor,
    last: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    from bench.engines.graph import attention_kernels

    new = attention_kernels.NewToken(cos.contiguous(), sin.contiguous(), q_norm, k_norm, epsilon)
    return attention_kernels.attend_new(projected, keys, values, last, scale, new)


def _attend_new_fake(
    projected: torch.Tensor,
    cos: torch.Tensor,  # noqa: ARG001  # only shape and dtype follow from the arguments here
    sin: torch.Tensor,  # noqa: ARG001
    q_norm: torch.Tensor | None,  # noqa: ARG001
    k_norm: torch.Tensor | None,  # noqa: ARG001
    epsilon: float,  # noqa: ARG001
    keys: torch.Tensor,
    values: torch.Tensor,
    last: torch.Tensor,  # noqa: ARG001
    scale: float,  # noqa: ARG001
) -> torch.Tensor:
    shared, dim_v = values.shape[1], values.shape[3]
    heads = (projected.shape[-1] - shared * dim_v) // keys.shape[3] - shared
    return projected.new_empty((projected.shape[0], 1, heads, dim_v))


_LIBRARY.impl("attend_new", attend_new, "CPU")
_LIBRARY.impl("attend_new", _attend_new_cuda, "CUDA")
_LIBRARY.impl("attend_new", _attend_new_fake, "Meta")


def take(layers: Iterable[Any], dtype: torch.dtype) -> list[str]:
    """Let the attention of decoder layers step so, if that of all can; what was merged, by name.

    Their products of q, k, v are merged already. `dtype` is that of their input.
    """
    attending = [layer.self_attn for layer in layers]
    if not all(plain(one) and agrees(one, dtype) for one in attending):
        return []
    for one in attending:
        one.forward = MethodType(forward, one)
    return [TAKEN]


def forward(self: Any, *args: Any, **options: Any) -> Any:
    """In the place of an attention module's: at a step over a static cache that tells its last
    place one kernel, else what the model does."""
    slots = slots_of(self, options.get("past_key_values"))
    hidden, rotation = options.get("hidden_states"), options.get("position_embeddings")
    last = options.get("attention_mask")
    if (
        slots is None
        or hidden is None
        or rotation is None
        or last is None
        or last.dtype == torch.bool
        or hidden.shape[1] > 1
        or rotation[0].numel() != self.head_dim
    ):
        return type(self).forward(self, *args, **options)
    return step(self, hidden, rotation, slots, last), None


def slots_of(attends: Any, held: Any) -> Slots | None:
    """The layer's part of a static cache in the model's dtype, once it is made."""
    if isinstance(held, SlotMemory):
        held = held.layers[attends.layer_idx]
    return held if type(held) is Slots and held.keys is not None else None


def step(attends: Any, hidden: Any, rotation: Any, slots: Slots, last: Any) -> Any:
    """What a layer's attention makes of one token [batch, 1, width]."""
    made = torch.ops.gpu_cost_bench.attend_new(
        attends.q_proj.merged.product(hidden),
        *rotation,
        *norms_of(attends),
        slots.keys,
        slots.values,
        last,
        attends.scaling,
    )
    return attends.o_proj(made.reshape(*hidden.shape[:-1], -1))


def norms_of(attends: Any) -> tuple[Any, Any, float]:
    """The weights of the norms of queries and keys, if there are any, and their epsilon."""
    if not hasattr(attends, "q_norm"):
        return None, None, 0.0
    q_norm, k_norm = attends.q_norm, attends.k_norm
    return q_norm.weight, k_norm.weight, q_norm.variance_epsilon


def plain(attends: Any) -> bool:
    """Whether a module has the parts of which `step` makes use, and no others."""
    parts = {name for name, _ in attends.named_children()}
    dim = getattr(attends, "head_dim", None)
    norms = [getattr(attends, name) for name in parts & NORMS]
    epsilons = {getattr(norm, "variance_epsilon", None) for norm in norms}
    return (
        parts in (PROJECTIONS, PROJECTIONS | NORMS)
        and isinstance(getattr(attends.q_proj, "merged", None), Merged)
        and hasattr(attends, "scaling")
        and dim is not None
        and all(weight_shape(norm) == (dim,) for norm in norms)
        and None not in epsilons
        and len(epsilons) <= 1
        and not (attends._forward_hooks or attends._forward_pre_hooks or "forward" in vars(attends))
    )


def weight_shape(module: Any) -> tuple[int, ...] | None:
    """Of the weight that it has, or None."""
    weight = getattr(module, "weight", None)
    return None if weight is None else tuple(weight.shape)


def agrees(attends: Any, dtype: torch.dtype) -> bool:
    """Whether `step` does what the module does, with numbers drawn at random; not if that cannot be
    tried, as it is called in another way."""
    try:
        return tried(attends, dtype)
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return False


def tried(attends: Any, dtype: torch.dtype) -> bool:
    """Whether queries, keys and values before attention are the module's own, and what comes after
    it as well."""
    draw = torch.Generator().manual_seed(0)
    device = next(chain(attends.parameters(), attends.buffers())).device
    dim, shared = attends.head_dim, attends.k_proj.out_features // attends.head_dim

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(device, dtype)

    hidden, rotation = some(1, 1, attends.q_proj.in_features), (some(1, 1, dim), some(1, 1, dim))
    made = some(1, 1, attends.q_proj.out_features // dim, dim)
    seen, wanted = watched(attends, hidden, rotation, made)
    projected = attends.q_proj.merged.product(hidden)
    query, key, value = parts_of(projected, shared, dim, dim)
    *norms, epsilon = norms_of(attends)
    query, key = (
        turned(x, *rotation, norm, epsilon) for x, norm in zip((query, key), norms, strict=True)
    )
    found = attends.o_proj(made.reshape(1, 1, -1))
    pairs = [(query, seen["query"]), (key, seen["key"]), (value, seen["value"]), (found, wanted)]
    return (
        seen.get("scaling") == attends.scaling
        and all(seen.get(name) is None for name in UNKNOWN)
        and all(near(one, other) for one, other in pairs)
    )


class Passing:
    """A cache that keeps nothing."""

    def update(self, key: Any, value: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        return key, value


def watched(
    attends: Any, hidden: torch.Tensor, rotation: Any, made: torch.Tensor
) -> tuple[dict[str, Any], torch.Tensor]:
    """What a module hands to attention, by name, and what it makes of `made` by attention."""
    from transformers import AttentionInterface

    seen: dict[str, Any] = {}

    def watch(
        _module: Any, query: Any, key: Any, value: Any, _mask: Any, **rest: Any
    ) -> tuple[Any, None]:
        seen.update(query=query, key=key, value=value, **rest)
        return made, None

    AttentionInterface.register(WATCHED, watch)
    config, before = attends.config, attends.config._attn_implementation
    config._attn_implementation = WATCHED
    try:
        wanted, *_ = type(attends).forward(
            attends,
            hidden_states=hidden,
            position_embeddings=rotation,
            attention_mask=None,
            past_key_values=Passing(),
        )
    finally:
        config._attn_implementation = before
        attends.q_proj.merged.made = None
    return seen, wanted


def near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether they differ by no more than roundings, of which some follow each other."""
    if found.shape != wanted.shape:
        return False
    worst = (found.float() - wanted.float()).abs().max()
    return bool(worst <= 16 * torch.finfo(wanted.dtype).eps * wanted.float().abs().max())
