"""Schemes of folders that were quantized before they were published (`quantization_config`).

Bytes were read in compressed-tensors 0.18, transformers 5.23's quantizers and published
checkpoints; scales are in 16 bits unless said. A name may state another group: `gptq-int4-g32`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bench.schemes.applied import BITSANDBYTES, FP8, FP8_CARDS, INTEGERS, QUANTO, TORCH, TORCHAO
from bench.schemes.row import HEAD, Compute, Dynamic, Layout, Least, Package, Part, Scheme

COMPRESSED: Final = Package(name="compressed-tensors", least="0.20")
GPTQMODEL: Final = Package(name="gptqmodel", least="5.0")
KERNELS: Final = Package(name="kernels", least="0.12", kinds=("cuda",))

LOADED: Final = {"transformers": "", "graph": "", "vllm": ""}
EXPERTS_ONLY: Final[frozenset[Part]] = frozenset({"attention", "head", "router", "mlp"})
ROUTED: Final[frozenset[Part]] = frozenset({"head", "router"})
"""What makers of checkpoints leave in floats: the head, and the routers of experts."""

EXPERTS: Final[frozenset[Part]] = frozenset({"expert"})

UNTRACED: Final = "torch.compile cannot trace how its library decompresses a layer"
UNCAPTURED: Final = "its layers have not been captured in a CUDA graph yet"


def _compressed(
    name: str,
    summary: str,
    layout: Layout | None,
    *,
    dynamic: Dynamic | None = None,
    compiles: bool = True,
) -> Scheme:
    return Scheme(
        name=f"compressed-tensors/{name}",
        summary=f"compressed-tensors: {summary}",
        dynamic=dynamic,
        source="checkpoint",
        engines=LOADED,
        aliases=(name,) if name.startswith("w") else (),
        layout=layout,
        packages=(COMPRESSED,),
        refused_modes={"cuda-graph": UNCAPTURED} | ({} if compiles else {"compiled": UNTRACED}),
        kernel="transformers: each layer decompressed to floats, then a float matmul",
    )


def _grouped(bits: float, group: int, group_bytes: float, compute: Compute = "float") -> Layout:
    return Layout(bits=bits, group=group, group_bytes=group_bytes, leaves=ROUTED, compute=compute)


def _blocks(size: int) -> Layout:
    return Layout(bits=8, block=128, block_bytes=size, leaves=ROUTED, compute="fp8")


def _rows8(compute: Compute) -> Layout:
    return Layout(bits=8, row_bytes=2, leaves=ROUTED, compute=compute)


def _matrix8(compute: Compute) -> Layout:
    return Layout(bits=8, matrix_bytes=4, leaves=ROUTED, compute=compute)


COMPRESSED_ROWS: Final = (
    _compressed(
        "fp8-dynamic",
        "fp8 weights per row, fp8 activations per token",
        _rows8("fp8"),
        dynamic="activations",
    ),
    _compressed(
        "fp8-block-dynamic",
        "fp8 weights, a scale each 128 x 128, fp8 activations each 128",
        _blocks(2),
        dynamic="activations",
        compiles=False,
    ),
    _compressed("fp8", "fp8 weights and activations, fixed scales", _matrix8("fp8")),
    _compressed("fp8-weight-only", "fp8 weights per row, float activations", _rows8("float")),
    _compressed(
        "w8a8-dynamic",
        "int8 weights per row, int8 activations per token",
        _rows8("int8"),
        dynamic="activations",
    ),
    _compressed("w8a8", "int8 weights and activations, fixed scales", _rows8("int8")),
    _compressed("w8a16", "int8 weights per row, float activations", _rows8("float")),
    _compressed("w4a16", "int4 weights in groups of 128, float activations", _grouped(4, 128, 2)),
    _compressed(
        "w4a8-dynamic",
        "int4 weights in groups of 128, int8 activations per token",
        _grouped(4, 128, 2, "int8"),
        dynamic="activations",
    ),
    _compressed(
        "w4afp8-dynamic",
        "int4 weights in groups of 128, fp8 activations per token",
        _grouped(4, 128, 2, "fp8"),
        dynamic="activations",
    ),
    _compressed(
        "nvfp4",
        "fp4 weights and activations in groups of 16, fp8 scales",
        _grouped(4, 16, 1, "fp8"),
        dynamic="activations",
        compiles=False,
    ),
    _compressed(
        "nvfp4a16",
        "fp4 weights in groups of 16, fp8 scales, float activations",
        _grouped(4, 16, 1),
        compiles=False,
    ),
    _compressed(
        "mxfp4",
        "fp4 weights and activations in groups of 32, power-of-two scales",
        _grouped(4, 32, 1, "fp8"),
        dynamic="activations",
        compiles=False,
    ),
    _compressed(
        "mxfp4a16",
        "fp4 weights in groups of 32, power-of-two scales, float activations",
        _grouped(4, 32, 1),
        compiles=False,
    ),
    _compressed(
        "mixed",
        "a scheme of its own for some layers",
        None,
        dynamic="bit-allocation",
        compiles=False,
    ),
)

ALSO_GROUPS: Final = frozenset({"compressed-tensors/w8a16"})
"""Schemes of one scale a row that are published in groups too: `w8a16-g32`."""

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
    layout=_blocks(4),
    kinds=("cuda",),
    packages=(KERNELS,),
    least=Least(capability=(8, 9), why=FP8_CARDS),
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
    least=Least(capability=(8, 9), why=FP8_CARDS),
    kernel="torch._scaled_mm, or the package kernels",
)

FP8_STATIC: Final = replace(
    FP8_TENSOR,
    name="fp8-per-tensor-static",
    summary="fp8 weights and activations, one fixed scale a tensor",
    dynamic=None,
)

MXFP4: Final = Scheme(
    name="mxfp4",
    summary="experts in fp4 with a power-of-two scale each 32, as gpt-oss is published",
    source="checkpoint",
    engines=LOADED,
    layout=Layout(bits=4, group=32, group_bytes=1, leaves=EXPERTS_ONLY, compute="float"),
    kinds=("cuda",),
    packages=(KERNELS,),
    least=Least(capability=(7, 5), why="Triton's mxfp4 kernels"),
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


def _by_torchao(row: Scheme) -> Scheme:
    """The same scheme as stored by transformers, which leaves the head alone."""
    assert row.layout is not None
    return replace(
        row,
        name=f"torchao/{row.name}",
        source="checkpoint",
        aliases=(),
        layout=replace(row.layout, leaves=HEAD),
        engines=LOADED,
        convert="",
        fits="",
    )


OTHER_TORCHAO: Final[tuple[tuple[str, str, Dynamic | None], ...]] = (
    ("int8-dynamic-intx", "weights of 1 to 8 bits, int8 activations", "activations"),
    ("intx-weight-only", "weights of 1 to 8 bits, float activations", None),
    ("mixed", "a scheme of its own for some layers", "bit-allocation"),
)

TORCHAO_ROWS: Final = (
    *(_by_torchao(row) for row in (*INTEGERS, *FP8) if row.packages == (TORCHAO,)),
    *(
        Scheme(
            name=f"torchao/{name}",
            summary=f"torchao: {summary}",
            dynamic=dynamic,
            source="checkpoint",
            engines=LOADED,
            packages=(TORCHAO,),
        )
        for name, summary, dynamic in OTHER_TORCHAO
    ),
)


def _fours(kind: str, nested: bool) -> Scheme:
    """4 bits of bitsandbytes; nested: the scales of blocks are in 8 bits, each 256 with one."""
    return Scheme(
        name=f"bnb-{kind}" + ("-nested" if nested else ""),
        summary=f"bitsandbytes: {kind} weights in blocks of 64" + ", scales in 8 bits" * nested,
        source="checkpoint",
        engines=LOADED,
        layout=Layout(
            bits=4, group=64, group_bytes=1 + 4 / 256 if nested else 4, leaves=ROUTED | EXPERTS
        ),
        packages=(BITSANDBYTES,),
        kernel="bitsandbytes 4-bit matmul",
    )


BNB_ROWS: Final = (_fours("nf4", True), _fours("fp4", False), _fours("fp4", True))

QUANTO_ROWS: Final = tuple(
    Scheme(
        name=f"quanto-{name}",
        summary=f"optimum-quanto: {name} weights, activations as they are",
        source="checkpoint",
        engines=TORCH,
        layout=_rows8("float") if bits == 8 else _grouped(bits, 128, 4),
        packages=(QUANTO,),
    )
    for name, bits in (("int4", 4), ("int2", 2), ("float8", 8))
)

ROWS: Final = (
    *COMPRESSED_ROWS,
    *TORCHAO_ROWS,
    *BNB_ROWS,
    *QUANTO_ROWS,
    NVFP4,
    FP8_BLOCK,
    FP8_TENSOR,
    FP8_STATIC,
    MXFP4,
    *PACKED_ROWS,
)
