"""How a scheme holds a model in memory: bytes of each matrix, and what it leaves unquantized.

Read in torchao 0.18, bitsandbytes 0.50, optimum-quanto and torch 2.13; tests hold the schemes that
run on a CPU against the bytes really held. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from bench.errors import InputError, unknown
from bench.models.shapes import Matrix, Part, Shape
from bench.schemes import allocation

Compute = Literal["float", "fp16", "fp8", "int8"]
"""Fastest arithmetic that a scheme's matmul may use; `float` is the weights' own dtype."""

FLOAT_BYTES: Final[Mapping[str, int]] = {"float32": 4, "bfloat16": 2, "float16": 2}
SHORT: Final[Mapping[str, str]] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

ALWAYS_FLOAT: Final[frozenset[Part]] = frozenset({"embedding", "small"})
FUSED: Final[frozenset[Part]] = frozenset({"expert", "router"})
"""transformers 5 holds the experts of a layer as one parameter, which schemes that look for
`nn.Linear` never see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Bytes of a quantized matrix; what is left keeps the model's float dtype."""

    bits: float | None
    """Bits of one weight without scales; None leaves everything as it is."""
    row_bytes: int = 0
    """Scales and zero points of each output row."""
    matrix_bytes: int = 0
    """Scale and zero point of a whole matrix."""
    group: int | None = None
    """Weights that share a scale."""
    group_bytes: int = 0
    pad_in: int = 1
    """Rows are padded to a multiple of this."""
    pad_out: int = 1
    leaves: frozenset[Part] = frozenset()
    """Parts that are not touched, beyond ALWAYS_FLOAT."""
    compute: Compute = "float"


ON_MODULES: Final = ("transformers", "graph")
"""Engines whose schemes are applied to torch modules (`Spec.schemes` is None)."""

HEAD: Final[frozenset[Part]] = frozenset({"head"})

LAYOUTS: Final[Mapping[str, Layout]] = {
    "none": Layout(bits=None),
    # One double and one 64-bit integer a matrix; `nn.Linear` includes the head.
    "torch-dynamic-int8": Layout(bits=8, matrix_bytes=16, leaves=FUSED, compute="int8"),
    # A float32 scale and an int8 zero point a row; raw `quantize_` converts the head too.
    "int8-dynamic": Layout(bits=8, row_bytes=5, leaves=FUSED, compute="int8"),
    # A float32 scale a row and, on a CPU, a 32-bit sum of the row.
    "int8-dynamic-fused": Layout(bits=8, row_bytes=4, leaves=FUSED, compute="int8"),
    "int8-weight-only": Layout(bits=8, row_bytes=5, leaves=FUSED),
    # Online schemes of vLLM, which leaves the head alone.
    "fp8_per_tensor": Layout(bits=8, matrix_bytes=4, leaves=FUSED | HEAD, compute="fp8"),
    "fp8_per_block": Layout(
        bits=8, group=128 * 128, group_bytes=4, leaves=FUSED | HEAD, compute="fp8"
    ),
    "mxfp8": Layout(bits=8, group=32, group_bytes=1, leaves=FUSED | HEAD, compute="fp8"),
    "fp8-dynamic-tensor": Layout(bits=8, matrix_bytes=4, leaves=FUSED, compute="fp8"),
    "fp8-dynamic": Layout(bits=8, row_bytes=4, leaves=FUSED, compute="fp8"),
    "fp8-weight-only": Layout(bits=8, row_bytes=4, leaves=FUSED),
    # tile_packed_to_4d: bfloat16 scale and zero point a group, padded to the kernel's tiles.
    "int4-weight-only": Layout(
        bits=4, group=64, group_bytes=4, pad_in=1024, pad_out=8, leaves=FUSED
    ),
    "int4-weight-only-g32": Layout(
        bits=4, group=32, group_bytes=4, pad_in=1024, pad_out=8, leaves=FUSED
    ),
    # Loaded through transformers, which leaves the head alone.
    "bnb-int8": Layout(bits=8, row_bytes=4, leaves=FUSED | HEAD, compute="int8"),
    "bnb-nf4": Layout(bits=4, group=64, group_bytes=4, leaves=FUSED | HEAD),
    "quanto-int8": Layout(bits=8, row_bytes=2, leaves=FUSED | HEAD),
    # Groups of 128 with a 16-bit scale and a zero point.
    "gptq-int4": Layout(bits=4, group=128, group_bytes=3, leaves=FUSED | HEAD),
}

FILE_BITS: Final[Mapping[str, float]] = {
    "iq1_s": 2.0042,
    "iq1_m": 2.1460,
    "iq2_xxs": 2.3824,
    "iq2_xs": 2.5882,
    "iq2_s": 2.7403,
    "iq2_m": 2.9294,
    "q2_k_s": 2.9697,
    "q2_k": 3.1593,
    "iq3_xxs": 3.2548,
    "iq3_xs": 3.4977,
    "q3_k_s": 3.6429,
    "iq3_s": 3.6606,
    "iq3_m": 3.7628,
    "q3_k_l": 4.2979,
    "iq4_xs": 4.4597,
    "q4_0": 4.61,
    "q4_k_s": 4.6672,
    "iq4_nl": 4.6818,
    "q4_k_m": 4.8944,
    "q4_1": 5.1,
    "q5_0": 5.57,
    "q5_k_s": 5.5704,
    "q5_k_m": 5.7036,
    "q5_1": 6.04,
    "q6_k": 6.5633,
    "q8_0": 8.5008,
    "f16": 16.0005,
    "ud-iq1_s": 1.677,
}
"""GGUF type -> mean bits a weight, scales included, embeddings among them.

For an 8B Llama 3.1: ggml-org/llama.cpp tools/quantize/README.md at 311c2c9f0ebd. `q4_0`: 4.66 GB
for 8.03B parameters in public llama-bench rows. `q4_1`, `q5_0`, `q5_1`: blocks of 32 weights in 20,
22 and 24 bytes, and the head in q6_k (GGML_QUANT_SIZES of the package gguf 0.19). `ud-iq1_s`:
131 GiB for the 671.03B parameters of DeepSeek R1 (unsloth.ai/blog/deepseekr1-dynamic, 2025-01-27).
"""


MEAN_BITS: Final = re.compile(r"(?:[a-z0-9]+-)?(\d+(?:\.\d+)?)bpw")
"""`4.0bpw`, `exl2-4.0bpw`: any file by its mean bits a weight."""


def quants() -> list[str]:
    """Names of every scheme with a known size."""
    return [*LAYOUTS, *FILE_BITS, "Nbpw"]


def file_bits(quant: str) -> float | None:
    """Mean bits a weight of a scheme that is a file's, None for one that an engine applies."""
    name = quant.lower()
    if found := MEAN_BITS.fullmatch(name):
        return float(found[1])
    return FILE_BITS.get(name)


def check_quant(quant: str) -> None:
    """InputError for a scheme without a known size."""
    if quant.startswith(allocation.PREFIX):
        allocation.parse(quant)  # says what is wrong with the target
    elif quant not in LAYOUTS and not file_bits(quant):
        raise InputError(unknown("scheme", quant, quants()))


def has_layout(quant: str) -> bool:
    """Whether the bytes of a scheme are known beforehand."""
    known = quant in LAYOUTS or file_bits(quant) is not None
    return known or quant.startswith(allocation.PREFIX)


def layout(quant: str, engine: str = "transformers") -> Layout:
    """Layout of a scheme. Engines that do not quantize torch's modules do quantize experts."""
    check_quant(quant)
    if quant.startswith(allocation.PREFIX):
        # Numbers of fewer bits are held in 8 too; layers left as they are come on top of this.
        quant = "int8-weight-only"
    if quant not in LAYOUTS:
        return Layout(bits=None, compute="fp16" if quant.lower() == "f16" else "int8")
    found = LAYOUTS[quant]
    return found if engine in ON_MODULES else replace(found, leaves=found.leaves - FUSED)


def float_bytes(dtype: str) -> int:
    """Bytes of one number of a float dtype; `auto` is bfloat16."""
    name = "bfloat16" if dtype == "auto" else SHORT.get(dtype, dtype)
    if name not in FLOAT_BYTES:
        raise InputError(unknown("dtype", dtype, [*FLOAT_BYTES, *SHORT]))
    return FLOAT_BYTES[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Bytes of a model's weights in one scheme."""

    weights_bytes: int
    """All of them, as held in memory."""
    step_bytes: float
    """Read by every step: all but the input embedding and the routed experts; the head once."""
    expert_bytes: float
    """All routed experts; a step reads the share that its tokens touch."""
    quantized_fraction: float
    """Share of the parameters that is held in the scheme's low precision."""


def held(shape: Shape, quant: str, dtype: str = "auto", engine: str = "transformers") -> Held:
    """Bytes of a model in a scheme. InputError for an unknown scheme or dtype."""
    check_quant(quant)
    if bits := file_bits(quant):
        return _held_file(shape, bits / 8)
    how, width = layout(quant, engine), float_bytes(dtype)
    total = step = experts = 0.0
    quantized = 0
    for matrix in shape.matrices:
        low = _is_quantized(matrix, how)
        size = _matrix_bytes(matrix, how) if low else matrix.n_params * width
        shared = shape.tied and matrix.part == "head" and not low
        total += 0 if shared else size
        quantized += matrix.n_params if low else 0
        if matrix.part == "expert":
            experts += size
        elif matrix.part != "embedding":
            step += size
    # A tied head that is quantized stands beside the embedding: one more matrix in memory.
    extra = sum(m.n_params for m in shape.matrices if m.part == "head" and shape.tied)
    counted = shape.n_params + (extra if _head_low(how) else 0)
    return Held(
        weights_bytes=round(total),
        step_bytes=step,
        expert_bytes=experts,
        quantized_fraction=quantized / counted,
    )


def _held_file(shape: Shape, width: float) -> Held:
    read = sum(m.n_params for m in shape.matrices if m.part not in ("embedding", "expert"))
    experts = sum(m.n_params for m in shape.matrices if m.part == "expert")
    low = width < 2
    small = sum(m.n_params for m in shape.matrices if m.part == "small")
    return Held(
        weights_bytes=round(shape.n_params * width),
        step_bytes=read * width,
        expert_bytes=experts * width,
        quantized_fraction=1 - small / shape.n_params if low else 0.0,
    )


def _head_low(how: Layout) -> bool:
    return how.bits is not None and "head" not in how.leaves


def _is_quantized(matrix: Matrix, how: Layout) -> bool:
    return (
        how.bits is not None
        and matrix.n_in > 1
        and matrix.part not in ALWAYS_FLOAT
        and matrix.part not in how.leaves
    )


def _matrix_bytes(matrix: Matrix, how: Layout) -> float:
    assert how.bits is not None
    n_in = -(-matrix.n_in // how.pad_in) * how.pad_in
    n_out = -(-matrix.n_out // how.pad_out) * how.pad_out
    one = n_out * n_in * how.bits / 8 + n_out * how.row_bytes + how.matrix_bytes
    if how.group is not None:
        one += n_out * -(-n_in // how.group) * how.group_bytes
    return one * matrix.count
