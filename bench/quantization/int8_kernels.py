"""Triton kernels of `int8-dynamic-fused` on a GPU. Imports triton: import it only inside functions.

Decoding multiplies a few rows by a whole weight, so its time is that of reading the weight once.
Each program streams some output rows of the weight and multiplies them on the integer tensor cores
with all rows of x, padded to 16; rows that are padding cost nothing, because arithmetic is not what
takes the time. Sums are 32-bit integers, hence exact and independent of the tile sizes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

TINY = tl.constexpr(1e-12)
"""As in `bench.quantization.int8_layer`."""


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def quantize_kernel(x_ptr, q_ptr, top_ptr, n_in, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # constants of a kernel
    """One program a row of x: its largest value, and its integers."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < n_in
    x = tl.load(x_ptr + row * n_in + at, mask=inside, other=0.0).to(tl.float32)
    top = tl.maximum(tl.max(tl.abs(x), axis=0), TINY)
    q = tl.floor(x / top * 127.0 + 0.5).to(tl.int8)
    tl.store(q_ptr + row * n_in + at, q, mask=inside)
    tl.store(top_ptr + row, top)


def _tiles() -> list[Any]:
    """(output rows, columns, warps, stages) to choose from, by time, on the card itself.

    To hide the memory's latency an SM must have some 30 KB in flight; small layers need short
    tiles so that there are programs for all SMs.
    """
    sizes = [
        (16, 256, 2, 4),
        (16, 512, 4, 4),
        (32, 256, 4, 4),
        (32, 512, 4, 3),
        (64, 256, 4, 4),
        (64, 128, 4, 5),
        (128, 128, 4, 4),
    ]
    return [
        triton.Config({"BLOCK_N": n, "BLOCK_K": k}, num_warps=warps, num_stages=stages)
        for n, k, warps, stages in sizes
    ]


# Kept on disk beside the kernels, so that replicates have the same tiles.
@triton.autotune(configs=_tiles(), key=["n_out", "n_in", "BLOCK_M"], cache_results=True)  # type: ignore[untyped-decorator]  # triton has no types
@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def matmul_kernel(  # type: ignore[no-untyped-def]  # a kernel's arguments have no Python types
    x_ptr,
    top_ptr,
    w_ptr,
    scale_ptr,
    bias_ptr,
    y_ptr,
    n_rows,
    n_out,
    n_in,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,  # constants of a kernel
):
    """One program: BLOCK_N outputs of every row. x [n_rows, n_in], w [n_out, n_in], both int8."""
    rows = tl.arange(0, BLOCK_M)
    outs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    at = tl.arange(0, BLOCK_K)
    row_there, out_there = rows < n_rows, outs < n_out
    w_at = w_ptr + outs.to(tl.int64)[:, None] * n_in + at[None, :]
    x_at = x_ptr + rows[None, :] * n_in + at[:, None]
    sums = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.int32)
    for done in range(0, n_in, BLOCK_K):
        inside = at < n_in - done
        w = tl.load(w_at, mask=out_there[:, None] & inside[None, :], other=0)
        x = tl.load(x_at, mask=inside[:, None] & row_there[None, :], other=0)
        sums = tl.dot(w, x, sums, out_dtype=tl.int32)
        w_at += BLOCK_K
        x_at += BLOCK_K
    top = tl.load(top_ptr + rows, mask=row_there, other=0.0)
    scale = tl.load(scale_ptr + outs, mask=out_there, other=0.0)
    y = sums.to(tl.float32) * scale[:, None] * top[None, :]
    if HAS_BIAS:
        bias = tl.load(bias_ptr + outs, mask=out_there, other=0.0).to(tl.float32)
        y += bias[:, None]
    y_at = y_ptr + rows.to(tl.int64)[None, :] * n_out + outs[:, None]
    tl.store(y_at, y.to(y_ptr.dtype.element_ty), mask=out_there[:, None] & row_there[None, :])


def tiles() -> dict[str, str]:
    """What was chosen in this process: matrix, padded rows and dtype of the result -> tile."""
    found = {}
    for (n_out, n_in, rows, *dtypes), tile in matmul_kernel.cache.items():
        sizes = f"{tile.kwargs['BLOCK_N']} x {tile.kwargs['BLOCK_K']}"
        chosen = f"{sizes}, {tile.num_warps} warps, {tile.num_stages} stages"
        found[f"{n_out} x {n_in}, {rows} rows, {dtypes[-1]}"] = chosen
    return found


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 of x [rows, n_in], and each row's largest value [rows, 1] in float32: one launch."""
    x = x.contiguous()
    n_rows, n_in = x.shape
    q = torch.empty_like(x, dtype=torch.int8)
    top = torch.empty((n_rows, 1), dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(n_in)
    with torch.cuda.device(x.device):
        quantize_kernel[(n_rows,)](x, q, top, n_in, BLOCK=block, num_warps=4 if block < 8192 else 8)
    return q, top


def int8_matmul(
    x: torch.Tensor,
    top: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """y [rows, n_out] for at most 64 rows; the reference is `int8_layer.int8_matmul`."""
    x, top = x.contiguous(), top.contiguous()
    n_rows, n_in = x.shape
    n_out = weight.shape[0]
    y = torch.empty((n_rows, n_out), dtype=dtype, device=x.device)
    with torch.cuda.device(x.device):
        matmul_kernel[lambda tile: (triton.cdiv(n_out, tile["BLOCK_N"]),)](
            x,
            top,
            weight,
            scale,
            scale if bias is None else bias,
            y,
            n_rows,
            n_out,
            n_in,
            HAS_BIAS=bias is not None,
            BLOCK_M=max(16, triton.next_power_of_2(n_rows)),
        )
    return y
