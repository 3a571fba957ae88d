"""How a scheme holds a model in memory: bytes of each matrix, and what it leaves unquantized.

Read in torchao 0.18, bitsandbytes 0.50, optimum-quanto and torch 2.13; tests hold the schemes that
run on a CPU against the bytes really held. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from bench import schemes
from bench.errors import InputError, unknown
from bench.schemes.row import FUSED, Layout, Part

FLOAT_BYTES: Final[Mapping[str, int]] = {"float32": 4, "bfloat16": 2, "float16": 2}
SHORT: Final[Mapping[str, str]] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

ALWAYS_FLOAT: Final[frozenset[Part]] = frozenset({"embedding", "small"})


class HeldWeights(Protocol):
    """`count` weights of shape [n_out, n_in], as `bench.models.shapes.Matrix`."""

    @property
    def part(self) -> Part: ...
    @property
    def n_out(self) -> int: ...
    @property
    def n_in(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def n_params(self) -> int: ...


ON_MODULES: Final = ("transformers", "graph")
"""Engines whose schemes are applied to torch modules (`Spec.applies`)."""


class Sized(Protocol):
    """A model as its matrices, as `bench.models.shapes.Shape`."""

    @property
    def matrices(self) -> Sequence[HeldWeights]: ...
    @property
    def tied(self) -> bool: ...
    @property
    def n_params(self) -> int: ...
    @property
    def left(self) -> Mapping[Part, float]: ...


def sized() -> list[str]:
    """Names of the schemes whose bytes follow from the shapes of a model's matrices."""
    return [name for name, row in schemes.SCHEMES.items() if row.layout is not None]


def file_bits(quant: str) -> float | None:
    """Mean bits a weight of a scheme that is a file's, None for one that an engine applies."""
    found = schemes.find(quant)
    return found.bits if found is not None else None


def check_quant(quant: str) -> None:
    """InputError for a scheme that does not exist, or whose bytes are not known beforehand."""
    row = schemes.scheme(quant)
    if row.layout is None and row.bits is None:
        raise InputError(
            f"scheme '{quant}': its bytes depend on the file; state its mean bits, such as 4.9bpw"
        )


def has_layout(quant: str) -> bool:
    """Whether the bytes of a scheme are known beforehand."""
    row = schemes.find(quant)
    return row is not None and (row.layout is not None or row.bits is not None)


def layout(quant: str, engine: str = "transformers") -> Layout:
    """Layout of a scheme. Engines that do not quantize torch's modules do quantize experts."""
    check_quant(quant)
    row = schemes.scheme(quant)
    if row.layout is None:
        return Layout(bits=None, compute="fp16" if row.family == "float" else "int8")
    if engine in ON_MODULES or row.source != "float":
        return row.layout
    return replace(row.layout, leaves=row.layout.leaves - FUSED)


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


def held(shape: Sized, quant: str, dtype: str = "auto", engine: str = "transformers") -> Held:
    """Bytes of a model in a scheme. InputError for an unknown scheme or dtype."""
    check_quant(quant)
    row = schemes.scheme(quant)
    if row.bits:
        return _held_file(shape, row.bits / 8, (row.expert_bits or row.bits) / 8)
    how, width = layout(quant, engine), float_bytes(dtype)
    stored = schemes.scheme(quant).source == "checkpoint" or quant.startswith("bnb-")
    listed = shape.left if stored else {}
    total = step = experts = quantized = 0.0
    for matrix in shape.matrices:
        low = _share(matrix, how, listed)
        size = (1 - low) * matrix.n_params * width
        size += low * _matrix_bytes(matrix, how) if low else 0
        shared = shape.tied and matrix.part == "head" and not low
        total += 0 if shared else size
        quantized += low * matrix.n_params
        if matrix.part == "expert":
            experts += size
        elif matrix.part != "embedding":
            step += size
    # A tied head that is quantized stands beside the embedding: one more matrix in memory.
    extra = sum(m.n_params for m in shape.matrices if m.part == "head" and shape.tied)
    head_low = any(_share(m, how, listed) for m in shape.matrices if m.part == "head")
    counted = shape.n_params + (extra if head_low else 0)
    return Held(
        weights_bytes=round(total),
        step_bytes=step,
        expert_bytes=experts,
        quantized_fraction=quantized / counted,
    )


def _held_file(shape: Sized, width: float, expert_width: float) -> Held:
    read = sum(m.n_params for m in shape.matrices if m.part not in ("embedding", "expert"))
    experts = sum(m.n_params for m in shape.matrices if m.part == "expert")
    low = width < 2
    small = sum(m.n_params for m in shape.matrices if m.part == "small")
    return Held(
        weights_bytes=round((shape.n_params - experts) * width + experts * expert_width),
        step_bytes=read * width,
        expert_bytes=experts * expert_width,
        quantized_fraction=1 - small / shape.n_params if low else 0.0,
    )


def _share(matrix: HeldWeights, how: Layout, listed: Mapping[Part, float]) -> float:
    """Share of a matrix's weights that is quantized; a checkpoint's own list goes first."""
    if how.bits is None or matrix.n_in == 1 or matrix.part in ALWAYS_FLOAT:
        return 0.0
    if matrix.part in listed:
        return 1 - listed[matrix.part]
    return 0.0 if matrix.part in how.leaves else 1.0


def _matrix_bytes(matrix: HeldWeights, how: Layout) -> float:
    assert how.bits is not None
    n_in = -(-matrix.n_in // how.pad_in) * how.pad_in
    n_out = -(-matrix.n_out // how.pad_out) * how.pad_out
    one = n_out * n_in * how.bits / 8 + n_out * how.row_bytes + how.matrix_bytes
    if how.group is not None:
        one += n_out * -(-n_in // how.group) * how.group_bytes
    if how.block is not None:
        one += -(-n_out // how.block) * -(-n_in // how.block) * how.block_bytes
    return one * matrix.count
