"""The schemes. To add one: a row here, and a file for what it calls (docs/quantization.md)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from bench.quantization import ao, bnb, own, quanto
from bench.schemes.scheme import Package, Scheme

TORCHAO: Final = Package(name="torchao", least="0.17")
BITSANDBYTES: Final = Package(name="bitsandbytes", least="0.50")
QUANTO: Final = Package(name="optimum-quanto", least="0.2.7")
TRITON: Final = Package(name="triton", least="3.0", kinds=("cuda",))
TORCH_UNSIGNED: Final = Package(name="torch", least="2.12", kinds=("cpu",))
"""The first whose torch._int_mm takes unsigned integers on a CPU; on a GPU they are signed."""

SEARCHED_ON_HOST: Final = (
    "columns of outliers are looked for at each call, and the host waits for their number"
)
INTEGERS_BY_TRITON: Final = {"max_autotune_gemm": True}
"""Else the compiler calls cuBLAS for products of integers, which stops at 16 rows or fewer."""
PACKED: Final = "torch's packed weights are objects that torch.compile cannot trace"

_ROWS: Final = (
    Scheme(
        name="none",
        summary="not quantized",
        dynamic=None,
        kinds=("cpu", "cuda", "mps", "xpu"),
        convert=own.nothing,
        kernel=own.float_kernel,
    ),
    Scheme(
        name="torch-dynamic-int8",
        summary="torch.ao quantize_dynamic: int8 weights per tensor, int8 activations per tensor",
        dynamic="activations",
        kinds=("cpu",),
        convert=own.dynamic_int8,
        kernel=own.dynamic_int8_kernel,
        dtypes=("float32",),
        fits=own.fits_dynamic_int8,
        refused_modes={"compiled": PACKED},
    ),
    Scheme(
        name="int8-dynamic",
        summary="torchao: int8 weights per channel, int8 activations scaled per token",
        dynamic="activations",
        kinds=("cpu", "cuda"),
        convert=ao.converter(ao.int8_dynamic),
        kernel=ao.int8_kernel,
        packages=(TORCHAO,),
        fits=ao.fits_int8,
        inductor=INTEGERS_BY_TRITON,
    ),
    Scheme(
        name="int8-dynamic-fused",
        summary="this project: the arithmetic of int8-dynamic, the weight read once",
        dynamic="activations",
        kinds=("cpu", "cuda"),
        convert=own.fused_int8,
        kernel=own.fused_int8_kernel,
        packages=(TORCH_UNSIGNED, TRITON),
        capability=(8, 0),
        why_capability="Triton's integer matmul",
        fits=own.fits_fused_int8,
    ),
    Scheme(
        name="int8-weight-only",
        summary="torchao: int8 weights per channel, activations as they are",
        dynamic=None,
        kinds=("cpu", "cuda"),
        convert=ao.converter(ao.int8_weight_only),
        kernel=ao.weight_only_kernel,
        packages=(TORCHAO,),
    ),
    Scheme(
        name="fp8-dynamic",
        summary="torchao: fp8 weights per row, fp8 activations scaled per row",
        dynamic="activations",
        kinds=("cuda",),
        convert=ao.converter(ao.fp8_dynamic_row),
        kernel=ao.fp8_kernel,
        packages=(TORCHAO,),
        capability=(8, 9),
        why_capability="fp8 tensor cores: Ada, Hopper and newer",
        dtypes=("bfloat16",),
        fits=ao.fits_fp8_row,
    ),
    Scheme(
        name="fp8-dynamic-tensor",
        summary="torchao: fp8 weights and activations, one scale a tensor",
        dynamic="activations",
        kinds=("cuda",),
        convert=ao.converter(ao.fp8_dynamic_tensor),
        kernel=ao.fp8_kernel,
        packages=(TORCHAO,),
        capability=(8, 9),
        why_capability="fp8 tensor cores: Ada, Hopper and newer",
        fits=ao.fits_fp8,
    ),
    Scheme(
        name="fp8-weight-only",
        summary="torchao: fp8 weights per row, activations as they are",
        dynamic=None,
        kinds=("cpu", "cuda"),
        convert=ao.converter(ao.fp8_weight_only),
        kernel=ao.weight_only_kernel,
        packages=(TORCHAO,),
    ),
    Scheme(
        name="int4-weight-only",
        summary="torchao: int4 weights in groups of 64, bfloat16 activations",
        dynamic=None,
        kinds=("cuda",),
        convert=ao.converter(ao.int4_weight_only),
        kernel=ao.int4_kernel,
        packages=(TORCHAO,),
        capability=(8, 0),
        why_capability="the tile-packed kernel's bfloat16 tensor cores",
        dtypes=("bfloat16",),
        fits=ao.fits_int4,
    ),
    Scheme(
        name="bnb-int8",
        summary="bitsandbytes LLM.int8(): int8 weights and activations, outliers in 16 bits",
        dynamic="activations",
        kinds=("cpu", "cuda"),
        convert=bnb.int8,
        kernel=bnb.int8_kernel,
        packages=(BITSANDBYTES,),
        capability=(7, 5),
        why_capability="integer tensor cores",
        keeps_head=True,
        refused_modes={"cuda-graph": SEARCHED_ON_HOST},
    ),
    Scheme(
        name="bnb-nf4",
        summary="bitsandbytes: 4-bit normal-float weights in blocks of 64",
        dynamic=None,
        kinds=("cpu", "cuda"),
        convert=bnb.nf4,
        kernel=bnb.nf4_kernel,
        packages=(BITSANDBYTES,),
        fits=bnb.fits_nf4,
        keeps_head=True,
    ),
    Scheme(
        name="quanto-int8",
        summary="optimum-quanto: int8 weights per row, activations as they are",
        dynamic=None,
        kinds=("cpu", "cuda"),
        convert=quanto.int8,
        kernel=quanto.kernel,
        packages=(QUANTO,),
        keeps_head=True,
    ),
)

SCHEMES: Final[Mapping[str, Scheme]] = MappingProxyType({row.name: row for row in _ROWS})


def mixed_scheme(name: str) -> Scheme:
    """The scheme whose name states a target; `bench.quantization.mixed` carries it out."""
    return Scheme(
        name=name,
        summary="torchao: each layer in 4 to 8 bits or unquantized, by measured sensitivity",
        dynamic="bit-allocation",
        kinds=("cpu", "cuda"),
        convert=own.nothing,
        kernel=lambda _: "dequantize in the matmul; numbers of fewer bits held in 8",
        packages=(TORCHAO,),
    )
