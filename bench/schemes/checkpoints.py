"""Schemes of folders that were quantized before they were published (`quantization_config`).

Bytes were read in compressed-tensors 0.18, transformers 5.23's quantizers and published
checkpoints; scales are in 16 bits unless said. A name may state another group: `gptq-int4-g32`.
"""

from __future__ import annotations

from typing import Final

from bench.schemes.applied import FP8_CARDS
from bench.schemes.row import Compute, Layout, Package, Part, Scheme

COMPRESSED: Final = Package(name="compressed-tensors", least="0.15")
GPTQMODEL: Final = Package(name="gptqmodel", least="5.0")
KERNELS: Final = Package(name="kernels", least="0.12", kinds=("cuda",))

LOADED: Final = {"transformers": "", "vllm": ""}
EXPERTS_ONLY: Final[frozenset[Part]] = frozenset({"attention", "head", "router", "mlp"})
ROUTED: Final[frozenset[Part]] = frozenset({"head", "router"})
"""What makers of checkpoints leave in floats: the head, and the routers of experts."""

POINTERS: Final = (
    "its loader compares addresses of tensors while it computes, which torch.compile cannot trace"
)


def _compressed(
    name: str, summary: str, layout: Layout | None, capability: tuple[int, int] | None, why: str
) -> Scheme:
    dynamic = "dynamic" in name
    return Scheme(
        name=f"compressed-tensors/{name}",
        summary=f"compressed-tensors: {summary}",
        dynamic="activations" if dynamic else None,
        source="checkpoint",
        engines=LOADED,
        aliases=(name,) if name.startswith("w") else (),
        layout=layout,
        packages=(COMPRESSED,),
        capability=capability,
        why_capability=why,
        refused_modes=dict.fromkeys(("compiled", "cuda-graph"), POINTERS),
        kernel="transformers: dequantized to float, then a float matmul",
    )


def _grouped(bits: float, group: int, group_bytes: float, compute: Compute = "float") -> Layout:
    return Layout(bits=bits, group=group, group_bytes=group_bytes, leaves=ROUTED, compute=compute)


def _rows8(compute: Compute) -> Layout:
    return Layout(bits=8, row_bytes=2, leaves=ROUTED, compute=compute)


def _matrix8(compute: Compute) -> Layout:
    return Layout(bits=8, matrix_bytes=4, leaves=ROUTED, compute=compute)


COMPRESSED_ROWS: Final = (
    _compressed(
        "fp8-dynamic", "fp8 weights per row, fp8 activations per token", _rows8("fp8"), None, ""
    ),
    _compressed(
        "fp8-block-dynamic",
        "fp8 weights, a scale each 128 x 128, fp8 activations each 128",
        _grouped(8, 128 * 128, 2, "fp8"),
        None,
        "",
    ),
    _compressed(
        "fp8", "fp8 weights and activations, scales fixed by calibration", _matrix8("fp8"), None, ""
    ),
    _compressed(
        "fp8-weight-only", "fp8 weights per row, activations as they are", _rows8("float"), None, ""
    ),
    _compressed(
        "w8a8-dynamic", "int8 weights per row, int8 activations per token", _rows8("int8"), None, ""
    ),
    _compressed(
        "w8a8",
        "int8 weights and activations, scales fixed by calibration",
        _rows8("int8"),
        None,
        "",
    ),
    _compressed(
        "w8a16", "int8 weights per row, activations as they are", _rows8("float"), None, ""
    ),
    _compressed(
        "w4a16",
        "int4 weights in groups of 128, activations as they are",
        _grouped(4, 128, 2),
        None,
        "",
    ),
    _compressed(
        "w4a8-dynamic",
        "int4 weights in groups of 128, int8 activations per token",
        _grouped(4, 128, 2, "int8"),
        None,
        "",
    ),
    _compressed(
        "w4afp8-dynamic",
        "int4 weights in groups of 128, fp8 activations per token",
        _grouped(4, 128, 2, "fp8"),
        None,
        "",
    ),
    _compressed(
        "nvfp4-dynamic",
        "fp4 weights and activations in groups of 16, fp8 scales",
        _grouped(4, 16, 1, "fp8"),
        None,
        "",
    ),
    _compressed(
        "nvfp4a16",
        "fp4 weights in groups of 16, fp8 scales, activations as they are",
        _grouped(4, 16, 1),
        None,
        "",
    ),
    _compressed(
        "mxfp4-dynamic",
        "fp4 weights and activations in groups of 32, power-of-two scales",
        _grouped(4, 32, 1, "fp8"),
        None,
        "",
    ),
    _compressed(
        "mxfp4a16", "fp4 weights in groups of 32, power-of-two scales", _grouped(4, 32, 1), None, ""
    ),
)

NVFP4: Final = Scheme(
    name="nvfp4",
    summary="NVIDIA ModelOpt: fp4 weights and activations in groups of 16, fp8 scales",
    dynamic="activations",
    source="checkpoint",
    engines={"vllm": ""},
    layout=_grouped(4, 16, 1, "fp8"),
    kinds=("cuda",),
    kernel="fp4 tensor cores from Blackwell on, 16-bit matmul before",
)

FP8_BLOCK: Final = Scheme(
    name="fp8-block128",
    summary="fp8 weights, a float32 scale each 128 x 128, fp8 activations each 128",
    dynamic="activations",
    source="checkpoint",
    engines=LOADED,
    aliases=("fp8-block", "fp8_block", "block-fp8"),
    layout=_grouped(8, 128 * 128, 4, "fp8"),
    kinds=("cuda",),
    packages=(KERNELS,),
    capability=(8, 9),
    why_capability=FP8_CARDS,
    kernel="Triton or DeepGEMM, by the package kernels",
)

FP8_TENSOR: Final = Scheme(
    name="fp8-per-tensor",
    summary="fp8 weights, one scale a tensor, as published",
    dynamic="activations",
    source="checkpoint",
    engines=LOADED,
    layout=_matrix8("fp8"),
    kinds=("cuda",),
    packages=(KERNELS,),
    capability=(8, 9),
    why_capability=FP8_CARDS,
    kernel="torch._scaled_mm, or the package kernels",
)

MXFP4: Final = Scheme(
    name="mxfp4",
    summary="experts in fp4 with a power-of-two scale each 32, as gpt-oss is published",
    source="checkpoint",
    engines=LOADED,
    layout=Layout(bits=4, group=32, group_bytes=1, leaves=EXPERTS_ONLY, compute="float"),
    kinds=("cuda",),
    packages=(KERNELS,),
    capability=(7, 5),
    why_capability="Triton's mxfp4 kernels",
    kernel="Triton's mxfp4 matmul, 16-bit activations",
)


def _packed(method: str, bits: int, why: str, aliases: tuple[str, ...]) -> Scheme:
    """Groups of 128, each with a 16-bit scale and a zero point of as many bits as a weight."""
    return Scheme(
        name=f"{method}-int{bits}",
        summary=f"{method.upper()}: int{bits} weights in groups of 128, {why}",
        source="checkpoint",
        engines=LOADED,
        aliases=aliases,
        family="mean-bits" if bits == 4 else "",
        layout=_grouped(bits, 128, 3 if (method, bits) == ("gptq", 4) else 2 + bits / 8),
        packages=(GPTQMODEL,),
        kernel="a kernel of gptqmodel, 16-bit activations",
    )


BY_ERROR: Final = "rounded to keep each layer's error low"
BY_SCALE: Final = "columns scaled by their activations first"

PACKED_ROWS: Final = (
    *(_packed("gptq", bits, BY_ERROR, ("gptq",) if bits == 4 else ()) for bits in (2, 3, 4, 8)),
    _packed("awq", 4, BY_SCALE, ("awq",)),
)

ROWS: Final = (*COMPRESSED_ROWS, NVFP4, FP8_BLOCK, FP8_TENSOR, MXFP4, *PACKED_ROWS)
