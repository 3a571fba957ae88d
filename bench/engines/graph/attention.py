"""Attention over a static cache, under a name that transformers knows.

A prompt attends causally to itself. A step's query token attends to what the cache holds, which is
told by a mask over all of its places, or by the last place that counts: then the cache is read by a
kernel of our own (`bench.engines.graph.attention_kernels`), made for that, and only as far as it is
filled. Imports torch when it is imported, so it is imported only inside functions.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from bench.engines.graph.narrow import Codes, widened
from bench.errors import InputError, UnsupportedError, unknown

NAME: Final = "grouped_static"
"""Under which transformers knows this attention."""

WAYS: Final = ("split", "sdpa")
"""Of reading the cache at a step: our kernel, or torch's attention under a mask."""
UNKNOWN: Final = ("softcap", "s_aux", "position_bias")
"""Arguments of other attentions that this one does not have."""
KINDS: Final = ("cpu", "cuda")
"""Of devices that our kernel, or its reference, is registered for."""

_REGISTRY: Any = torch.library  # it has no types
_LIBRARY = _REGISTRY.Library("gpu_cost_bench", "FRAGMENT")
_LIBRARY.define(
    "attend(Tensor query, Tensor keys, Tensor values, Tensor last, float scale) -> Tensor"
)
_LIBRARY.define(
    "attend_narrow(Tensor query, Tensor keys, Tensor values, Tensor? key_scales, "
    "Tensor? value_scales, Tensor last, float scale) -> Tensor"
)


def way_of(asked: Any, kind: str) -> str:
    """How steps read the cache on this kind of device, where option `attention` may say so."""
    if asked is None:
        return "split" if kind == "cuda" and importlib.util.find_spec("triton") else "sdpa"
    if asked not in WAYS:
        raise InputError(unknown("option attention", str(asked), WAYS))
    if asked == "split" and kind not in KINDS:
        raise InputError(f"option attention = 'split' is for {' and '.join(KINDS)}, not for {kind}")
    return str(asked)


def register() -> None:
    """Make it known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention)


def attention(
    _module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[Any, None]:
    """Attention [batch, length, heads, dimension].

    `attention_mask` belongs to a single query token: booleans [1, 1, 1, places], or the last place
    that counts, an integer [1, 1, 1, 1]. A prompt has none and is causal over itself. Keys and
    values of a cache in 8 bits are `Codes`.
    """
    for name in UNKNOWN:
        if rest.get(name) is not None:
            raise UnsupportedError(
                f"the static cache's attention has no {name}: use -e transformers"
            )
    mask = attention_mask
    if mask is None:
        gqa = key.shape[1] != query.shape[1]
        causal = query.shape[2] > 1
        made = sdpa(query, key, value, is_causal=causal, scale=scaling, enable_gqa=gqa)
        return made.transpose(1, 2).contiguous(), None
    if mask.dtype == torch.bool:
        if isinstance(key, Codes):
            key, value = widened(key, query.dtype), widened(value, query.dtype)
        return grouped(query, key, value, mask, scaling), None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if isinstance(key, Codes):
        numbers, scales = (key.numbers, value.numbers), (key.scales, value.scales)
        return torch.ops.gpu_cost_bench.attend_narrow(query, *numbers, *scales, mask, scale), None
    return torch.ops.gpu_cost_bench.attend(query, key, value, mask, scale), None


def grouped(query: Any, keys: Any, values: Any, mask: Any, scale: float | None) -> Any:
    """One query token's attention [batch, 1, heads, dimension] under a mask.

    The heads that share keys are taken as the queries of one head, so that the cache is read once
    and never repeated.
    """
    batch, heads, _, dim = query.shape
    shared = keys.shape[1]
    together = query.reshape(batch, shared, heads // shared, dim)
    made = sdpa(together, keys, values, attn_mask=mask, scale=scale)
    return made.reshape(batch, 1, heads, values.shape[-1])


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, last: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention [batch, 1, heads, dimension] of one query token to places 0 to `last`."""
    places = torch.arange(keys.shape[2], device=keys.device)
    mask = (places <= last).reshape(1, 1, 1, -1)
    made: torch.Tensor = grouped(query, keys, values, mask, scale)
    return made


def attend_narrow(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    key_scales: torch.Tensor | None,
    value_scales: torch.Tensor | None,
    last: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """As `attend`, of a cache in 8 bits (`bench.engines.graph.narrow.Codes`)."""
    keys = widened(Codes(keys, key_scales), query.dtype)
    values = widened(Codes(values, value_scales), query.dtype)
    return attend(query, keys, values, last, scale)


def _attend_narrow_cuda(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    key_scales: torch.Tensor | None,
    value_scales: torch.Tensor | None,
    last: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    from bench.engines.graph import attention_kernels

    if key_scales is None:
        keys, values = keys.view(torch.float8_e4m3fn), values.view(torch.float8_e4m3fn)
    return attention_kernels.attend(query, keys, values, last, scale, key_scales, value_scales)


def _attend_narrow_fake(
    query: torch.Tensor,
    keys: torch.Tensor,  # noqa: ARG001  # only shape and dtype follow from the arguments here
    values: torch.Tensor,
    key_scales: torch.Tensor | None,  # noqa: ARG001
    value_scales: torch.Tensor | None,  # noqa: ARG001
    last: torch.Tensor,  # noqa: ARG001
    scale: float,  # noqa: ARG001
) -> torch.Tensor:
    return query.new_empty((query.shape[0], 1, query.shape[1], values.shape[-1]))


def _attend_cuda(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, last: torch.Tensor, scale: float
) -> torch.Tensor:
    from bench.engines.graph import attention_kernels

    return attention_kernels.attend(query, keys, values, last, scale)


def _attend_fake(
    query: torch.Tensor,
    keys: torch.Tensor,  # noqa: ARG001  # only shape and dtype follow from the arguments here
    values: torch.Tensor,
    last: torch.Tensor,  # noqa: ARG001
    scale: float,  # noqa: ARG001
) -> torch.Tensor:
    return query.new_empty((query.shape[0], 1, query.shape[1], values.shape[-1]))


_LIBRARY.impl("attend", attend, "CPU")
_LIBRARY.impl("attend", _attend_cuda, "CUDA")
_LIBRARY.impl("attend", _attend_fake, "Meta")
_LIBRARY.impl("attend_narrow", attend_narrow, "CPU")
_LIBRARY.impl("attend_narrow", _attend_narrow_cuda, "CUDA")
_LIBRARY.impl("attend_narrow", _attend_narrow_fake, "Meta")
