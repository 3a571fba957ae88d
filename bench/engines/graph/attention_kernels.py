"""Triton kernels of attention over a static cache at decode: one query token, keys in splits.

Torch's fused attention takes a mask only in kernels that give each key head of a sequence to one
program, whatever the length: eight programs for an 8B model at batch 1, on a card of 132 SMs. Here
a long cache is split among programs enough for all SMs, each reads its rows once for all query
heads that share them, and a second launch joins their sums (Flash-Decoding: Dao et al., 2023).
What is not filled is not read. Imports triton: import it only inside functions.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

ROWS_A_SPLIT = 256
"""Rows of the cache worth a program of its own, and the launch that joins them: by estimate, to be
set by what `scripts/time-attention` shows on a card."""
MOST_SPLITS = 64


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def attend_kernel(  # type: ignore[no-untyped-def]  # a kernel's arguments have no Python types
    q_ptr,
    k_ptr,
    v_ptr,
    last_ptr,
    out_ptr,
    top_ptr,
    sum_ptr,
    scale,
    length,
    k_scale_ptr,
    v_scale_ptr,
    GROUP: tl.constexpr,
    DIM_K: tl.constexpr,
    DIM_V: tl.constexpr,
    SPLITS: tl.constexpr,  # constants of a kernel
    BLOCK_G: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program: a sequence's GROUP query heads that share keys, over one split of the rows.

    q [pairs, GROUP, DIM_K], k [pairs, length, DIM_K], v [pairs, length, DIM_V]; a pair is a
    sequence and a key head. With one split `out` is [pairs, GROUP, DIM_V], done; else it holds
    sums in float32 [pairs, SPLITS, GROUP, DIM_V], to be joined by `top` and `sum`
    [pairs, SPLITS, GROUP]. Scales [pairs, length] belong to keys and values in int8; None is no
    argument at all of what is built.
    """
    pair = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    filled = (tl.load(last_ptr) + 1).to(tl.int32)
    share = tl.cdiv(tl.cdiv(filled, SPLITS), BLOCK_N) * BLOCK_N
    end = tl.minimum((split + 1) * share, filled)
    heads, at = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_N)
    in_k, in_v = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_V)
    head_there, k_there, v_there = heads < GROUP, in_k < DIM_K, in_v < DIM_V
    q_at = q_ptr + pair * GROUP * DIM_K + heads[:, None] * DIM_K + in_k[None, :]
    q = tl.load(q_at, mask=head_there[:, None] & k_there[None, :], other=0.0)
    top = tl.full((BLOCK_G,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_G,), tl.float32)
    sums = tl.zeros((BLOCK_G, BLOCK_V), tl.float32)
    for begin in range(split * share, end, BLOCK_N):
        rows = begin + at
        there = rows < end
        k_at = k_ptr + (pair * length + rows)[None, :] * DIM_K + in_k[:, None]
        k = tl.load(k_at, mask=k_there[:, None] & there[None, :], other=0.0).to(q.dtype)
        score = tl.dot(q, k, input_precision="ieee") * scale
        if k_scale_ptr is not None:
            k_scale = tl.load(k_scale_ptr + pair * length + rows, mask=there, other=0.0)
            score = score * k_scale[None, :]
        score = tl.where(there[None, :], score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, axis=1))
        weight = tl.exp(score - higher[:, None])
        before = tl.exp(top - higher)
        v_at = v_ptr + (pair * length + rows)[:, None] * DIM_V + in_v[None, :]
        v = tl.load(v_at, mask=there[:, None] & v_there[None, :], other=0.0).to(q.dtype)
        total = total * before + tl.sum(weight, axis=1)
        if v_scale_ptr is not None:
            v_scale = tl.load(v_scale_ptr + pair * length + rows, mask=there, other=0.0)
            weight = weight * v_scale[None, :]
        sums = sums * before[:, None]
        sums += tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        top = higher
    if SPLITS == 1:
        sums = sums / total[:, None]
    place = (pair * SPLITS + split) * GROUP + heads
    if SPLITS > 1:
        tl.store(top_ptr + place, top, mask=head_there)
        tl.store(sum_ptr + place, total, mask=head_there)
    out_at = out_ptr + place[:, None] * DIM_V + in_v[None, :]
    sums = sums.to(out_ptr.dtype.element_ty)
    tl.store(out_at, sums, mask=head_there[:, None] & v_there[None, :])


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def join_kernel(  # type: ignore[no-untyped-def]  # a kernel's arguments have no Python types
    parts_ptr,
    top_ptr,
    sum_ptr,
    out_ptr,
    GROUP: tl.constexpr,
    DIM_V: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_V: tl.constexpr,  # constants of a kernel
):
    """One program: one query head of a pair, its splits weighed by their largest scores."""
    pair, head = (tl.program_id(0) // GROUP).to(tl.int64), tl.program_id(0) % GROUP
    splits, in_v = tl.arange(0, SPLITS), tl.arange(0, BLOCK_V)
    place = (pair * SPLITS + splits) * GROUP + head
    top = tl.load(top_ptr + place)
    weight = tl.exp(top - tl.max(top, axis=0))  # 0 for a split that had no rows
    total = tl.sum(tl.load(sum_ptr + place) * weight, axis=0)
    parts_at = parts_ptr + place[:, None] * DIM_V + in_v[None, :]
    parts = tl.load(parts_at, mask=(in_v < DIM_V)[None, :], other=0.0)
    joined = tl.sum(parts * weight[:, None], axis=0) / total
    out_at = out_ptr + (pair * GROUP + head) * DIM_V + in_v
    tl.store(out_at, joined.to(out_ptr.dtype.element_ty), mask=in_v < DIM_V)


def splits_for(pairs: int, length: int, n_sm: int) -> int:
    """Programs for each pair: a power of two, twice the SMs in all if the rows are worth it."""
    useful: int = min(triton.cdiv(2 * n_sm, pairs), triton.cdiv(length, ROWS_A_SPLIT), MOST_SPLITS)
    return 1 << (max(useful, 1).bit_length() - 1)


def blocks(
    group: int, dim_k: int, dim_v: int, dtype: torch.dtype, *, rdna: bool = False
) -> dict[str, Any]:
    """Tile sizes: what is short is padded to what the tensor cores need, or to a power of two."""
    # Longer rows leave room for fewer in shared memory and registers; AMD's chips for graphics,
    # whose programs have half as many threads, spill registers with as many rows as others.
    bytes_a_row = dtype.itemsize * max(dim_k, dim_v) * (2 if rdna else 1)
    return {
        "BLOCK_G": max(16, triton.next_power_of_2(group)),
        "BLOCK_K": max(16, triton.next_power_of_2(dim_k)),
        "BLOCK_V": max(16, triton.next_power_of_2(dim_v)),
        "BLOCK_N": 64 if bytes_a_row <= 256 else 32 if bytes_a_row <= 512 else 16,
    }


@cache
def n_sm(device: torch.device) -> int:
    """Streaming multiprocessors of a card."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def is_rdna(device: torch.device) -> bool:
    """Whether a device is an AMD chip of 32 threads a wavefront (CDNA has 64)."""
    if torch.version.hip is None or device.type != "cuda":
        return False
    return int(torch.cuda.get_device_properties(device).warp_size) == 32


Launch = tuple[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]]
"""A kernel, its grid, its arguments, and its constants."""

LAUNCH = {"num_warps": 4, "num_stages": 2}


def launches(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    last: torch.Tensor,
    scale: float,
    made: torch.Tensor,
    splits: int,
    key_scales: torch.Tensor | None = None,
    value_scales: torch.Tensor | None = None,
) -> list[Launch]:
    """What fills `made` [batch, 1, heads, dimension]; tensors are contiguous."""
    batch, heads, _, dim_k = query.shape
    shared, length, dim_v = values.shape[1:]
    pairs, group = batch * shared, heads // shared
    tiles = blocks(group, dim_k, dim_v, query.dtype, rdna=is_rdna(query.device))
    shape = {"GROUP": group, "DIM_V": dim_v, "SPLITS": splits}
    parts = tops = sums = made  # of one split there is nothing to join
    if splits > 1:
        places = pairs * splits * group
        parts = query.new_empty((places, dim_v), dtype=torch.float32)
        tops, sums = query.new_empty((2, places), dtype=torch.float32)
    cache = (query, keys, values, last)
    arguments = (*cache, parts, tops, sums, scale, length, key_scales, value_scales)
    first: Launch = (attend_kernel, (pairs, splits), arguments, shape | tiles | {"DIM_K": dim_k})
    if splits == 1:
        return [first]
    joined = (parts, tops, sums, made)
    return [first, (join_kernel, (pairs * group,), joined, shape | {"BLOCK_V": tiles["BLOCK_V"]})]


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    last: torch.Tensor,
    scale: float,
    key_scales: torch.Tensor | None = None,
    value_scales: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `attend` of `bench.engines.graph.attention`, and with 8 bits its `attend_narrow`, which
    are the references."""
    query, keys, values = query.contiguous(), keys.contiguous(), values.contiguous()
    batch, heads = query.shape[:2]
    shared, length, dim_v = values.shape[1:]
    made = query.new_empty((batch, 1, heads, dim_v))
    splits = splits_for(batch * shared, length, n_sm(query.device))
    with torch.cuda.device(query.device):
        for kernel, grid, arguments, constants in launches(
            query, keys, values, last, scale, made, splits, key_scales, value_scales
        ):
            kernel[grid](*arguments, **constants, **LAUNCH)
    return made
