"""Schemes of quantization: what each is called, needs and weighs; no torch.

One row a scheme, whatever it is applied by. To add one is to add a row (docs/quantization.md).

    row           what a scheme is            bytes        how it holds a model in memory
    applied       to floats, by torch or an   allocation   which layer gets how many bits
    checkpoints   engine; of folders; of
    gguf          GGUF files
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from bench.errors import InputError, unknown
from bench.schemes import allocation, applied, checkpoints, gguf
from bench.schemes.row import Device, Dynamic, Layout, Package, Scheme

__all__ = [
    "DEQUANTIZED",
    "MIXED",
    "SCHEMES",
    "Device",
    "Dynamic",
    "Layout",
    "Package",
    "Scheme",
    "find",
    "meant",
    "of_engine",
    "scheme",
]

SCHEMES: Final[dict[str, Scheme]] = {
    row.name: row for row in (*applied.ROWS, *checkpoints.ROWS, *gguf.ROWS)
}
"""Every scheme that has a row, by name."""

MIXED: Final = ("mixed:5.0bit", "mixed:kld<0.02")
"""Examples of the schemes whose names state a target (`bench.quantization.mixed`)."""

GROUP: Final = re.compile(r"(.+)-g(\d+)")
"""`gptq-int4-g32`: another group than the row's."""
LLAMA_CPP: Final = {"none": "f16", "mxfp4": "mxfp4_moe", "nvfp4": "nvfp4-gguf"}
"""What words of other engines mean there."""
DEQUANTIZED: Final = "-dequantized"
"""Ends the name of a checkpoint that its loader turned into floats: it is called by what it is."""
CHANNEL: Final = "-channel"
"""`gptq-int4-channel`: one scale a row."""
BLOCK: Final = re.compile(r"fp8-block(\d+)")
MEAN_BITS: Final = re.compile(r"(?:([a-z0-9]+)-)?(\d+(?:\.\d+)?)bpw")
"""`4.0bpw`, `exl2-4.0bpw`: any file by its mean bits a weight. `q4-5.19bpw`: a GGUF mix."""


def find(name: str) -> Scheme | None:
    """The scheme of that name, also of one that states its own group, bits or target."""
    if name in SCHEMES:
        return SCHEMES[name]
    lowered = name.lower()
    if lowered in SCHEMES and SCHEMES[lowered].source == "file":
        return SCHEMES[lowered]  # GGUF's are written in capitals as often
    if name.startswith(allocation.PREFIX):
        return _mixed(name)
    if name.endswith(DEQUANTIZED):
        return _floats(find(name.removesuffix(DEQUANTIZED)), name)
    if found := MEAN_BITS.fullmatch(lowered):
        bits, family = float(found[2]), "mean-bits"
        if re.fullmatch(r"q[2-8]", found[1] or ""):
            family = "block-quant" if found[1] == "q8" else "k-quant"
        return Scheme(name=name, summary=f"{bits:g} bits a weight", source="file", bits=bits,
                      family=family)  # fmt: skip
    if (found := BLOCK.fullmatch(name)) and int(found[1]):
        squares = SCHEMES["fp8-block128"]
        assert squares.layout is not None
        sized = replace(squares.layout, block=int(found[1]))
        return replace(squares, name=name, layout=sized)
    if (found := GROUP.fullmatch(name)) and found[1] in SCHEMES and int(found[2]):
        return _in_groups(SCHEMES[found[1]], name, int(found[2]))
    if name.endswith(CHANNEL) and (row := SCHEMES.get(name.removesuffix(CHANNEL))):
        return _by_row(row, name)
    return gguf.mix(lowered)


def _in_groups(row: Scheme, name: str, group: int) -> Scheme | None:
    if row.layout is not None and row.name in checkpoints.ALSO_GROUPS:
        layout = replace(row.layout, group=group, group_bytes=row.layout.row_bytes, row_bytes=0)
        return replace(row, name=name, layout=layout)
    if row.layout is None or row.layout.group is None:
        return None
    if row.layout.group == group:
        return replace(row, name=name)
    # What applies the row's own groups does not apply others.
    engines = {} if row.convert else row.engines
    return replace(
        row, name=name, layout=replace(row.layout, group=group), engines=engines, convert=""
    )


def _by_row(row: Scheme, name: str) -> Scheme | None:
    if row.layout is None or row.layout.group is None or row.source != "checkpoint":
        return None
    wide = replace(row.layout, group=None, group_bytes=0, row_bytes=2)
    return replace(row, name=name, layout=wide)


def _floats(row: Scheme | None, name: str) -> Scheme | None:
    if row is None or row.source == "file" or row.name == "none":
        return None
    return replace(
        applied.NONE,
        name=name,
        summary=f"{row.name}, turned into floats by its loader",
        source="checkpoint",
        engines=applied.TORCH,
        aliases=(),
        convert="",
        packages=row.packages if row.packages[:1] != (checkpoints.KERNELS,) else (),
    )


def _mixed(name: str) -> Scheme:
    allocation.parse(name)  # says what is wrong with the target
    return Scheme(
        name=name,
        summary="torchao: each layer in 4 to 8 bits or unquantized, by measured sensitivity",
        dynamic="bit-allocation",
        engines=applied.TORCH,
        # Numbers of fewer bits are held in 8 too; layers left as they are come on top of this.
        layout=SCHEMES["int8-weight-only"].layout,
        packages=(applied.TORCHAO,),
        convert="bench.quantization.own:nothing",
        kernel="dequantize in the matmul; numbers of fewer bits held in 8",
    )


def scheme(name: str) -> Scheme:
    """The scheme of that name; InputError for an unknown one."""
    if (found := find(name)) is None:
        raise InputError(unknown("scheme", name, [*SCHEMES, *MIXED, "Nbpw"]))
    return found


def of_engine(engine: str) -> list[str]:
    """Names of the schemes that an engine runs by itself, or has applied to its modules."""
    return [row.name for row in SCHEMES.values() if engine in row.engines]


def meant(word: str, engine: str) -> str:
    """The name of the scheme that a user's word means: itself, or the one it is an alias of.

    llama.cpp's unquantized files are `f16`, its files of fp4 experts `mxfp4_moe`, its files of
    NVIDIA's fp4, whose other tensors differ, `nvfp4-gguf`. A word that
    nobody knows is returned in lower case.
    """
    lowered = word.lower()
    by_alias = {alias: row.name for row in SCHEMES.values() for alias in row.aliases}
    name = by_alias.get(lowered, lowered)
    return LLAMA_CPP.get(name, name) if engine == "llama.cpp" else name
