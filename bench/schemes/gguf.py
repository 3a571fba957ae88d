"""Schemes of GGUF files: the types of their tensors, and the recipes that mix them.

A recipe (`q4_k_m`) says which tensor gets which type. llama.cpp numbers its own recipes in
`general.file_type`; the mixes of others carry the number of the nearest one, and a name of their
own: `UD-` (unsloth, by layer), `_L` and `_XL` (embedding and head in q8_0).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from bench.schemes.row import Scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType:
    """One type of a tensor in ggml: so many weights in a block of so many bytes."""

    number: int
    name: str
    weights: int
    block_bytes: int

    @property
    def bits(self) -> float:
        """Bits a weight, scales included."""
        return 8 * self.block_bytes / self.weights


def _types() -> Iterator[TensorType]:
    for line in TYPES.split("\n"):
        number, name, weights, size = line.split()
        yield TensorType(number=int(number), name=name, weights=int(weights), block_bytes=int(size))


TYPES: Final = """\
0 f32 1 4
1 f16 1 2
2 q4_0 32 18
3 q4_1 32 20
6 q5_0 32 22
7 q5_1 32 24
8 q8_0 32 34
9 q8_1 32 40
10 q2_k 256 84
11 q3_k 256 110
12 q4_k 256 144
13 q5_k 256 176
14 q6_k 256 210
15 q8_k 256 292
16 iq2_xxs 256 66
17 iq2_xs 256 74
18 iq3_xxs 256 98
19 iq1_s 256 50
20 iq4_nl 32 18
21 iq3_s 256 110
22 iq2_s 256 82
23 iq4_xs 256 136
24 i8 1 1
25 i16 1 2
26 i32 1 4
27 i64 1 8
28 f64 1 8
29 iq1_m 256 56
30 bf16 1 2
34 tq1_0 256 54
35 tq2_0 256 66
39 mxfp4 32 17
40 nvfp4 64 36
41 q1_0 128 18"""
"""Number, name, weights a block, bytes a block: `GGML_QUANT_SIZES` and `GGMLQuantizationType` of
the package gguf 0.19, gguf/constants.py."""

TENSOR_TYPES: Final[Mapping[int, TensorType]] = MappingProxyType(
    {made.number: made for made in _types()}
)
BY_NAME: Final[Mapping[str, TensorType]] = MappingProxyType({made.name: made for made in _types()})

FLOATS: Final[Mapping[str, str]] = MappingProxyType(
    {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
)
"""Recipes that are not quantized, and their dtypes."""

WHOLE: Final = frozenset({"f32", "f16", "bf16", "f64", "i8", "i16", "i32", "i64"})
"""Tensor types that count as not quantized."""

RECIPES: Final = """\
2 q4_0 4.61
3 q4_1 5.1
7 q8_0 8.5008
8 q5_0 5.57
9 q5_1 6.04
10 q2_k 3.1593
11 q3_k_s 3.6429
12 q3_k_m 3.996
13 q3_k_l 4.2979
14 q4_k_s 4.6672
15 q4_k_m 4.8944
16 q5_k_s 5.5704
17 q5_k_m 5.7036
18 q6_k 6.5633
19 iq2_xxs 2.3824
20 iq2_xs 2.5882
21 q2_k_s 2.9697
22 iq3_xs 3.4977
23 iq3_xxs 3.2548
24 iq1_s 2.0042
25 iq4_nl 4.6818
26 iq3_s 3.6606
27 iq3_m 3.7628
28 iq2_s 2.7403
29 iq2_m 2.9294
30 iq4_xs 4.4597
31 iq1_m 2.1460
36 tq1_0 2.19
37 tq2_0 2.516
38 mxfp4_moe 8.5
39 nvfp4 -
40 q1_0 -
- q2_k_l 3.67
- q3_k_xl 4.756
- q4_k_l 5.282
- q5_k_l 6.027
- q6_k_l 6.817
- ud-iq1_s 1.677"""
"""`LlamaFileType`'s number, recipe, mean bits a weight with scales and embeddings, of an 8B Llama
3.1: ggml-org/llama.cpp, tools/quantize/README.md at 311c2c9f0ebd. `q4_0`: 4.66 GB for 8.03B
parameters in public llama-bench rows. `q4_1`, `q5_0`, `q5_1`, `q3_k_m`, `tq1_0`, `tq2_0`:
worked out from the types that llama.cpp gives each tensor. `_l`, `_xl`: the recipe below with
embedding and head in q8_0. `ud-iq1_s`: 131 GiB for the 671.03B parameters of DeepSeek R1
(unsloth.ai/blog/deepseekr1-dynamic, 2025-01-27). `mxfp4_moe`: all but the experts is q8_0; so
gpt-oss-20b takes 11.25 GiB and gpt-oss-120b 58.9, and llama-bench prints 11.27 and 59.02. `-`: no
number, or it depends on the model."""

EXPERT_BITS: Final[Mapping[str, float]] = MappingProxyType({"mxfp4_moe": BY_NAME["mxfp4"].bits})
"""Recipes that hold routed experts in a type of their own."""

ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "ud-iq1_s": ("1.58-bit", "ud-iq1_s 1.58-bit"),
    "mxfp4_moe": ("mxfp4-moe",),
}

FAMILIES: Final = (
    ("k-quant", r"(ud-)?q\d_k.*"),
    ("block-quant", r"q\d_[01]"),
    ("i-quant", r"(ud-)?iq.*"),
)

WORDS: Final = re.compile(
    r"(?<![a-z0-9])((?:ud-)?(?:i?q\d_(?:k(?:_(?:xs|s|m|l|xl|xxl))?|[01]|xxs|xs|s|m|nl)|tq\d_\d|"
    r"mxfp4(?:_moe)?|nvfp4))(?![a-z0-9_])"
)
"""A recipe in the name of a file, in lower case: `qwen3-8b-ud-q4_k_xl.gguf`."""


def _recipes() -> Iterator[Scheme]:
    for line in RECIPES.split("\n"):
        number, name, bits = line.split()
        yield recipe(
            name, None if bits == "-" else float(bits), None if number == "-" else int(number)
        )
    yield Scheme(
        name="f16",
        summary="GGUF: 16-bit floats, norms in 32",
        source="file",
        family="float",
        bits=16.0005,
    )


def recipe(name: str, bits: float | None = None, file_type: int | None = None) -> Scheme:
    """The scheme of a file of this recipe."""
    by_layer = name.startswith("ud-")
    return Scheme(
        name=name,
        summary=f"GGUF: {name.upper()}" + (", types chosen by layer" if by_layer else ""),
        dynamic="bit-allocation" if by_layer else None,
        source="file",
        engines={"llama.cpp": name},
        aliases=ALIASES.get(name, ()),
        family=next((family for family, form in FAMILIES if re.fullmatch(form, name)), ""),
        bits=bits,
        expert_bits=EXPERT_BITS.get(name),
        file_type=file_type,
        # ggml's CPU kernels dot a block of quantized weights with a block of activations that was
        # rounded to 8 bits just before (`vec_dot_type` in ggml-cpu.c); CUDA's integer kernels do
        # too.
        kernel=f"ggml {name} matmul, activations rounded to 8 bits in blocks",
        kinds=("cpu", "cuda", "mps", "xpu"),
    )


ROWS: Final = tuple(_recipes())

FILE_TYPES: Final[Mapping[int, str]] = MappingProxyType(
    {0: "f32", 1: "f16", 32: "bf16"}
    | {row.file_type: row.name for row in ROWS if row.file_type is not None}
)
"""`general.file_type`: the recipe by which most of the weights were stored."""


def mix(name: str) -> Scheme | None:
    """The scheme of a mix that has a name and no row, as `ud-q4_k_xl`; None for no such name."""
    if name in BY_NAME and name not in WHOLE:  # a file of one type, without a recipe
        return recipe(name, BY_NAME[name].bits)
    found = WORDS.fullmatch(name)
    known = {row.name for row in ROWS}
    base = name.removeprefix("ud-")
    if found is None or not (base in known or re.fullmatch(r"q[2-8]_k_x?l", base)):
        return None
    return recipe(name)
