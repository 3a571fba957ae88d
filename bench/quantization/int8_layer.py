"""A linear layer with int8 weights by row and int8 activations by token, multiplied as integers.

The arithmetic is that of `int8-dynamic`; the difference is what is read. torchao 0.18 reads the
weight again at each call beside the product itself: on a CPU with VNNI to sum its columns, on a GPU
below 17 rows to copy it, make float32 of it and multiply that. Here the sums are taken once, and a
GPU multiplies int8 at any number of rows (`bench.quantization.int8_kernels`).

    q = floor(x / top * 127 + 0.5)     top: the largest |x| of each row
    y = (q @ weight.T) * top * scale   the product exact, in 32-bit integers

Imports torch when it is imported, so it is imported only inside functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cache
from typing import Any

import torch
from torch import nn

from bench.errors import UnsupportedError
from bench.quantization.layers import replace

LEVELS = 127
"""Largest int8 of a symmetric scale."""
LEVELS_16_BIT = 63
"""The same where a CPU adds products of pairs in 16 bits: 2 * 127 * 127 < 2^15."""
TINY = 1e-12
"""Stands for the largest value of a row of zeros."""
FEW_ROWS = 64
"""Up to here a GPU runs the kernel made for reading weights, above cuBLAS."""

_REGISTRY: Any = torch.library  # it has no types
_LIBRARY = _REGISTRY.Library("gpu_cost_bench", "DEF")
_LIBRARY.define(
    "int8_matmul(Tensor x, Tensor top, Tensor weight, Tensor scale, Tensor? shifted, "
    "Tensor? bias, ScalarType dtype) -> Tensor"
)


def int8_matmul(
    x: torch.Tensor,
    top: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    shifted: torch.Tensor | None,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """y [rows, n_out] from quantized x [rows, n_in] and weight [n_out, n_in]; top [rows, 1].

    `scale` [n_out] is what 1 is worth in a product of a row whose largest value is 1. `shifted`
    [n_out] is what an x that is shifted to unsigned numbers adds to each product.
    """
    product = torch._int_mm(x, weight.t())
    if shifted is not None:
        product.sub_(shifted)
    y = torch.mul(product, scale).mul_(top)
    if bias is not None:
        y.add_(bias)
    return y.to(dtype)


def _int8_matmul_cuda(
    x: torch.Tensor,
    top: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    shifted: torch.Tensor | None,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    if x.shape[0] > FEW_ROWS:
        return int8_matmul(x, top, weight, scale, shifted, bias, dtype)
    from bench.quantization import int8_kernels

    return int8_kernels.int8_matmul(x, top, weight, scale, bias, dtype)


def _int8_matmul_fake(
    x: torch.Tensor,
    top: torch.Tensor,  # noqa: ARG001  # only shape and dtype follow from the arguments here
    weight: torch.Tensor,
    scale: torch.Tensor,  # noqa: ARG001
    shifted: torch.Tensor | None,  # noqa: ARG001
    bias: torch.Tensor | None,  # noqa: ARG001
    dtype: torch.dtype,
) -> torch.Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=dtype)


_LIBRARY.impl("int8_matmul", int8_matmul, "CPU")
_LIBRARY.impl("int8_matmul", _int8_matmul_cuda, "CUDA")
_LIBRARY.impl("int8_matmul", _int8_matmul_fake, "Meta")


def quantize_rows(x: torch.Tensor, shift: int, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers of x [rows, n_in], and the largest value [rows, 1] of each row in float32.

    With a shift the integers are unsigned, from 1; without, int8 from -levels to levels.
    """
    x = x.float()
    top = x.abs().amax(-1, keepdim=True).clamp_(min=TINY)
    scaled = (x / top).mul_(levels)
    if shift:  # all positive, so cutting off what stands after the point is the floor
        return scaled.add_(shift + 0.5).to(torch.uint8), top
    return scaled.add_(0.5).floor_().to(torch.int8), top


class Int8Linear(nn.Module):
    """In the place of a linear layer; see this file's head."""

    weight: torch.Tensor
    scale: torch.Tensor
    shifted: torch.Tensor | None

    def __init__(self, old: nn.Linear) -> None:
        super().__init__()
        source = old.weight.detach()
        self.in_features, self.out_features = old.in_features, old.out_features
        self.dtype = source.dtype
        on_cpu = source.device.type == "cpu"
        self.levels = cpu_levels() if on_cpu else LEVELS
        # oneDNN multiplies unsigned by signed numbers fastest: torchao's source, and measured.
        self.shift = self.levels + 1 if on_cpu else 0
        rows, top = quantize_rows(source, 0, LEVELS)
        self.register_buffer("weight", rows)
        self.register_buffer("scale", top[:, 0] / LEVELS / self.levels)
        sums = rows.sum(1, dtype=torch.int32) * self.shift if self.shift else None
        self.register_buffer("shifted", sums)
        self.bias = old.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self.in_features)
        multiply: Any = torch.ops.gpu_cost_bench.int8_matmul
        if torch.compiler.is_compiling():  # merges these steps with the layer before
            q, top = quantize_rows(rows, self.shift, self.levels)
        elif rows.is_cuda:
            from bench.quantization import int8_kernels

            q, top = int8_kernels.quantize_rows(rows)
        else:
            q, top = quantize_rows(rows, self.shift, self.levels)
            multiply = int8_matmul  # the dispatcher's way to Python takes as long as small layers
        y: torch.Tensor = multiply(
            q, top, self.weight, self.scale, self.shifted, self.bias, x.dtype
        )
        return y.reshape(*x.shape[:-1], self.out_features)

    def joined(self, parts: Sequence[Int8Linear], bias: torch.Tensor | None) -> Int8Linear:
        """One layer with the outputs of all, of which this one is the first."""
        made = copy(self)
        made._buffers = dict(self._buffers)
        made._parameters = dict(self._parameters)
        made.out_features = sum(part.out_features for part in parts)
        made.weight = torch.cat([part.weight for part in parts])
        made.scale = torch.cat([part.scale for part in parts])
        sums = [part.shifted for part in parts if part.shifted is not None]
        made.shifted = torch.cat(sums) if sums else None
        if bias is not None:
            made.bias = nn.Parameter(bias, requires_grad=False)
        return made

    def quantized_parts(self) -> tuple[int, list[torch.Tensor]]:
        """Number of weights, and the tensors that hold them (`bench.quantization.holding`)."""
        parts = [self.weight, self.scale, self.shifted]
        return self.weight.numel(), [part for part in parts if part is not None]


def convert(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """Replace the layers, then hold each shape's product against exact arithmetic."""
    replace(model, names, Int8Linear)
    seen: set[tuple[int, int]] = set()
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, Int8Linear)
        if (shape := (layer.out_features, layer.in_features)) not in seen:
            seen.add(shape)
            check(layer, name)
    return model


def check(layer: Int8Linear, name: str) -> None:
    """UnsupportedError if this device's product is not that of exact integers.

    Also what makes the GPU kernel choose its tile sizes, before anything is timed or captured. They
    are chosen for each dtype of the result: so there it is the model's, and exact but for rounding.
    """
    dtype = torch.float32 if layer.weight.device.type == "cpu" else layer.dtype
    draw = torch.Generator().manual_seed(0)
    some = torch.randint(0, layer.out_features, (64,), generator=draw)
    weight = layer.weight[some.to(layer.weight.device)].double()
    for n_rows in (1, FEW_ROWS // 2 + 1, FEW_ROWS + 1):
        size = (n_rows, layer.in_features)
        q = torch.randint(-layer.levels, layer.levels + 1, size, generator=draw)
        q = q.to(weight.device)
        one = torch.ones(1, device=weight.device)
        shifted = (q + layer.shift).to(torch.uint8 if layer.shift else torch.int8)
        found = torch.ops.gpu_cost_bench.int8_matmul(
            shifted,
            one.expand(n_rows, 1).contiguous(),
            layer.weight,
            one.expand(layer.out_features).contiguous(),
            layer.shifted,
            None,
            dtype,
        )[:, some.to(weight.device)]
        if not torch.equal(found, (q.double() @ weight.t()).float().to(dtype)):
            raise UnsupportedError(
                f"int8-dynamic-fused: layer {name} at {n_rows} rows is not the exact product on "
                f"{weight.device}; use int8-dynamic"
            )


@cache
def cpu_levels() -> int:
    """127, or 63 on a CPU whose integer matmul saturates at 16 bits (AVX2 without VNNI)."""
    for levels in (LEVELS, LEVELS_16_BIT):
        x = torch.full((4, 64), 2 * levels + 1, dtype=torch.uint8)
        weight = torch.full((16, 64), LEVELS, dtype=torch.int8)
        if bool((torch._int_mm(x, weight.t()) == (2 * levels + 1) * LEVELS * 64).all()):
            return levels
    raise UnsupportedError("int8-dynamic-fused: this CPU's integer matmul is not exact")
