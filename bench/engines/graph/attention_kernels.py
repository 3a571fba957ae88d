"""Triton kernels of attention over a static cache at decode: one query token, keys in splits.

Torch's fused attention takes a mask only in kernels that give each key head of a sequence to one
program, whatever the length: eight programs for an 8B model at batch 1, on a card of 132 SMs. Here
a long cache is split among programs enough for all SMs, each reads its rows once for all query
heads that share them, and a second launch joins their sums (Flash-Decoding: Dao et al., 2023).
What is not filled is not read. A token that is not in the cache yet may be rotated and put there
by the same kernel. Imports triton: import it only inside functions.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

ROWS_A_SPLIT = 256
"""Rows of the cache worth a program of its own, and the launch that joins them: by estimate, to be
set by what `scripts/time-attention` shows on a card."""
MOST_SPLITS = 64


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def turned(  # type: ignore[no-untyped-def]  # a kernel's arguments have no Python types
    x_at, there, cos_ptr, sin_ptr, weight_ptr, epsilon, DIM: tl.constexpr, BLOCK: tl.constexpr
):
    """Vectors [BLOCK_G, BLOCK] in float32 where `there`, at `x_at` [BLOCK_G, 1]: their RMS norm if
    it has a weight, then rotated by the halves of a vector."""
    at = tl.arange(0, BLOCK)[None, :]
    first, inside = at < DIM // 2, at < DIM
    other = tl.where(first, at + DIM // 2, at - DIM // 2)
    x = tl.load(x_at + at, mask=there & inside, other=0.0).to(tl.float32)
    y = tl.load(x_at + other, mask=there & inside, other=0.0).to(tl.float32)
    if weight_ptr is not None:
        factor = tl.rsqrt(tl.sum(x * x, axis=1) / DIM + epsilon)[:, None]
        x *= factor * tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32)
        y *= factor * tl.load(weight_ptr + other, mask=inside, other=0.0).to(tl.float32)
    cos = tl.load(cos_ptr + at, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + at, mask=inside, other=0.0).to(tl.float32)
    return x * cos + tl.where(first, -y, y) * sin


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
    cos_ptr,
    sin_ptr,
    q_norm_ptr,
    k_norm_ptr,
    epsilon,
    SHARED: tl.constexpr,
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

    With cos and sin [DIM_K] the token is new: q holds, of each sequence, all its queries, then its
    keys of SHARED heads, then its values, as they were projected. Queries and key are normed and
    rotated here; the programs of the last split put key and value in their row, the last, which no
    program reads, and begin with them.
    """
    pair = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    filled = tl.load(last_ptr).to(tl.int32)
    if cos_ptr is None:
        filled += 1
    share = tl.cdiv(tl.cdiv(filled, SPLITS), BLOCK_N) * BLOCK_N
    end = tl.minimum((split + 1) * share, filled)
    heads, at = tl.arange(0, BLOCK_G), tl.arange(0, BLOCK_N)
    in_k, in_v = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_V)
    head_there, k_there, v_there = heads < GROUP, in_k < DIM_K, in_v < DIM_V
    top = tl.full((BLOCK_G,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_G,), tl.float32)
    sums = tl.zeros((BLOCK_G, BLOCK_V), tl.float32)
    if cos_ptr is None:
        q_at = q_ptr + pair * GROUP * DIM_K + heads[:, None] * DIM_K + in_k[None, :]
        q = tl.load(q_at, mask=head_there[:, None] & k_there[None, :], other=0.0)
    else:
        shared = pair % SHARED
        token = q_ptr + pair // SHARED * SHARED * (GROUP * DIM_K + DIM_K + DIM_V)
        q_at = token + (shared * GROUP + heads[:, None]) * DIM_K
        q = turned(
            q_at, head_there[:, None], cos_ptr, sin_ptr, q_norm_ptr, epsilon, DIM_K, BLOCK_K
        ).to(q_ptr.dtype.element_ty)
        one = tl.arange(0, 1)[:, None]
        key_at = token + (SHARED * GROUP + shared) * DIM_K + one
        key = turned(key_at, one == 0, cos_ptr, sin_ptr, k_norm_ptr, epsilon, DIM_K, BLOCK_K).to(
            q.dtype
        )
        value_at = token + SHARED * (GROUP + 1) * DIM_K + shared * DIM_V + in_v[None, :]
        value = tl.load(value_at, mask=v_there[None, :], other=0.0)
        keeps = split == SPLITS - 1
        row = pair * length + filled
        tl.store(k_ptr + row * DIM_K + in_k[None, :], key, mask=k_there[None, :] & keeps)
        tl.store(v_ptr + row * DIM_V + in_v[None, :], value, mask=v_there[None, :] & keeps)
        own = tl.sum(q.to(tl.float32) * key.to(tl.float32), axis=1) * scale
        top = tl.where(keeps, own, top)
        total = tl.where(keeps, 1.0, total)
        sums = tl.where(keeps, value.to(tl.float32), sums)
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


class NewToken(NamedTuple):
    """What the kernel does with a token that is not in the cache yet."""

    cos: torch.Tensor
    """[.., dimension], as `sin`: of the rotation by halves."""
    sin: torch.Tensor
    q_norm: torch.Tensor | None
    """[dimension]: the weight of the RMS norm of each query before it; None if there is none."""
    k_norm: torch.Tensor | None
    epsilon: float
    """Of both norms."""


KEPT = NewToken(None, None, None, None, 0.0)  # type: ignore[arg-type]  # no arguments of the kernel
"""Of a token whose keys and values are in the cache."""


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
    new: NewToken = KEPT,
) -> list[Launch]:
    """What fills `made` [batch, 1, heads, dimension]; tensors are contiguous.

    `query` is [batch, heads, 1, dimension], of a new token what was projected
    [batch, 1, queries and keys and values].
    """
    batch, heads = made.shape[0], made.shape[2]
    shared, length, dim_v = values.shape[1:]
    dim_k = keys.shape[3]
    pairs, group = batch * shared, heads // shared
    tiles = blocks(group, dim_k, dim_v, query.dtype, rdna=is_rdna(query.device))
    shape = {"GROUP": group, "DIM_V": dim_v, "SPLITS": splits}
    of_first = tiles | {"SHARED": shared, "DIM_K": dim_k}
    parts = tops = sums = made  # of one split there is nothing to join
    if splits > 1:
        places = pairs * splits * group
        parts = query.new_empty((places, dim_v), dtype=torch.float32)
        tops, sums = query.new_empty((2, places), dtype=torch.float32)
    cache = (query, keys, values, last)
    arguments = (*cache, parts, tops, sums, scale, length, key_scales, value_scales, *new)
    first: Launch = (attend_kernel, (pairs, splits), arguments, shape | of_first)
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
    made = query.new_empty((query.shape[0], 1, query.shape[1], values.shape[-1]))
    return launched(query, keys, values, last, scale, made, key_scales, value_scales)


def attend_new(
    projected: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    last: torch.Tensor,
    scale: float,
    new: NewToken,
) -> torch.Tensor:
    """As `attend_new` of `bench.engines.graph.new_token`, which is the reference."""
    shared, dim_v = values.shape[1], values.shape[3]
    heads = (projected.shape[-1] - shared * dim_v) // keys.shape[3] - shared
    made = projected.new_empty((projected.shape[0], 1, heads, dim_v))
    return launched(projected.contiguous(), keys, values, last, scale, made, new=new)


def launched(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    last: torch.Tensor,
    scale: float,
    made: torch.Tensor,
    key_scales: torch.Tensor | None = None,
    value_scales: torch.Tensor | None = None,
    new: NewToken = KEPT,
) -> torch.Tensor:
    """`made`, filled by kernels on its device; arguments as of `launches`."""
    batch, shared, length, _ = values.shape
    splits = splits_for(batch * shared, length, n_sm(made.device))
    with torch.cuda.device(made.device):
        for kernel, grid, arguments, constants in launches(
            query, keys, values, last, scale, made, splits, key_scales, value_scales, new
        ):
            kernel[grid](*arguments, **constants, **LAUNCH)
    return made
