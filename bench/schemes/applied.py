"""Schemes that are applied to a model in floats: by torch, layer by layer, or by an engine."""

from __future__ import annotations

from typing import Final

from bench.schemes.row import FUSED, HEAD, TRITONS, Layout, Least, Package, Scheme

TORCHAO: Final = Package(name="torchao", least="0.17")
BITSANDBYTES: Final = Package(name="bitsandbytes", least="0.50")
QUANTO: Final = Package(name="optimum-quanto", least="0.2.7")
TRITON: Final = Package(name=TRITONS[0], least="3.0", kinds=("cuda",), also=TRITONS[1:])
GEMLITE: Final = Package(name="gemlite", least="0.6.0")
TORCH_UNSIGNED: Final = Package(name="torch", least="2.12", kinds=("cpu",))
"""The first whose torch._int_mm takes unsigned integers on a CPU; on a GPU they are signed."""

TORCH: Final = {"transformers": "", "graph": ""}
AO, BNB, OWN = "bench.quantization.ao", "bench.quantization.bnb", "bench.quantization.own"
GEM: Final = "bench.quantization.gemlite_layer"
FP8_CARDS: Final = "fp8 tensor cores: Ada, Hopper and newer"
CONVERTED: Final = (
    "eager: all converted to float, then a float matmul; compiled: converted in the matmul"
)
SEARCHED_ON_HOST: Final = (
    "columns of outliers are looked for at each call, and the host waits for their number"
)
SCALED: Final = {"split_reductions": False}
"""A row's scale is found in one launch; the compiler would take up to four at one row."""
INTEGERS_BY_TRITON: Final = {**SCALED, "max_autotune_gemm": True}
"""Else the compiler calls cuBLAS for products of integers, which stops at 16 rows or fewer."""
TEMPLATES: Final = Least(
    n_sm=68,
    why="torch's compiler writes no integer product for fewer, and cuBLAS refuses one of 16 rows "
    "or fewer: int8-dynamic-fused has one for each card",
    amd=("gfx9", "gfx11", "gfx12"),
    amd_why="torch's compiler writes no integer product for others",
)
"""`is_big_gpu` of torch._inductor.utils."""
FP8_PRODUCTS: Final = Least(
    capability=(8, 9),
    why=FP8_CARDS,
    amd=("gfx94", "gfx950"),
    amd_why="torchao multiplies in fp8 on MI300 and newer alone",
)
"""torchao 0.18 asserts it. Its fp8 is e4m3fnuz on gfx942, else e4m3fn (torchao.float8.config)."""
FP8_NUMBERS: Final = Least(capability=(8, 9), why="Triton has no fp8e4nv before Ada")
UNTRACEABLE: Final = (
    "bitsandbytes 0.50 gives its matmul on a CPU a shape that torch.compile cannot read"
)
PACKED: Final = "torch's packed weights are objects that torch.compile cannot trace"

NONE: Final = Scheme(
    name="none",
    summary="not quantized",
    engines={"transformers": "", "graph": "", "onnxruntime": "", "vllm": "", "llama.cpp": ""},
    aliases=("fp16", "bf16"),
    family="float",
    layout=Layout(bits=None),
    kinds=("cpu", "cuda", "mps", "xpu"),
    launches=5,
    convert=f"{OWN}:nothing",
    kernel="float matmul",
)

INTEGERS: Final = (
    Scheme(
        name="torch-dynamic-int8",
        summary="torch.ao quantize_dynamic: int8 weights per tensor, int8 activations per tensor",
        dynamic="activations",
        engines=TORCH,
        # One double and one 64-bit integer a matrix; `nn.Linear` includes the head.
        layout=Layout(bits=8, matrix_bytes=16, leaves=FUSED, compute="int8"),
        kinds=("cpu",),
        dtypes=("float32",),
        refused_modes={"compiled": PACKED},
        convert=f"{OWN}:dynamic_int8",
        fits=f"{OWN}:fits_dynamic_int8",
        kernel="quantized::linear_dynamic",
    ),
    Scheme(
        name="int8-dynamic",
        summary="torchao: int8 weights per channel, int8 activations scaled per token",
        dynamic="activations",
        engines=TORCH | {"onnxruntime": "dynamic"},
        # A float32 scale and an int8 zero point a row; raw `quantize_` converts the head too.
        layout=Layout(bits=8, row_bytes=5, leaves=FUSED, compute="int8"),
        packages=(TORCHAO,),
        inductor=INTEGERS_BY_TRITON,
        least_compiled=TEMPLATES,
        launches=9,
        convert=f"{AO}:int8_dynamic",
        fits=f"{AO}:fits_int8",
        # kernel/intmm.py: cuBLAS' integer matmul needs more than 16 rows, so decoding at a small
        # batch is a float32 matmul, after a copy of the transposed weight and its conversion.
        # Compiled, that branch is not taken, and `max_autotune_gemm` lets inductor write an integer
        # matmul for few rows (without, it calls cuBLAS, which stops).
        kernel="CPU: torch._int_mm, weights summed again at each call where it has VNNI; GPU, "
        "eager: torch._int_mm above 16 rows, float32 matmul at or below; compiled: integer matmul "
        "of Triton, or torch._int_mm above 16 rows",
    ),
    Scheme(
        name="int8-dynamic-fused",
        summary="this project: the arithmetic of int8-dynamic, the weight read once",
        dynamic="activations",
        engines=TORCH,
        # A float32 scale a row and, on a CPU, a 32-bit sum of the row.
        layout=Layout(bits=8, row_bytes=4, leaves=FUSED, compute="int8"),
        packages=(TORCH_UNSIGNED, TRITON),
        least=Least(capability=(8, 0), why="Triton's integer matmul"),
        inductor=SCALED,
        launches=10,
        convert=f"{OWN}:fused_int8",
        fits=f"{OWN}:fits_fused_int8",
        kernel="CPU: torch._int_mm, unsigned activations, sums of the weights taken once; GPU: "
        "int8 tensor cores through Triton to 64 rows, torch._int_mm above",
    ),
    Scheme(
        name="int8-weight-only",
        summary="torchao: int8 weights per channel, activations as they are",
        engines=TORCH,
        aliases=("int8",),
        layout=Layout(bits=8, row_bytes=5, leaves=FUSED),
        packages=(TORCHAO,),
        launches=6,
        convert=f"{AO}:int8_weight_only",
        kernel=CONVERTED,
    ),
    Scheme(
        name="int4-weight-only",
        summary="torchao: int4 weights in groups of 64, bfloat16 activations",
        engines=TORCH,
        aliases=("int4",),
        # tile_packed_to_4d: bfloat16 scale and zero point a group, padded to the kernel's tiles.
        layout=Layout(bits=4, group=64, group_bytes=4, pad_in=1024, pad_out=8, leaves=FUSED),
        kinds=("cuda",),
        packages=(TORCHAO,),
        least=Least(
            capability=(8, 0),
            why="the tile-packed kernel's bfloat16 tensor cores",
            amd=("gfx90a", "gfx94", "gfx950"),
            amd_why="torch's packed int4 product, from CDNA2 on",
        ),
        dtypes=("bfloat16",),
        convert=f"{AO}:int4_weight_only",
        fits=f"{AO}:fits_int4",
        kernel="torch._weight_int4pack_mm (tinygemm), bfloat16 activations",
    ),
    Scheme(
        name="gemlite-int4",
        summary="gemlite: int4 weights in groups of 64, bfloat16 activations",
        engines=TORCH,
        # A scale and what code 0 stands for, in bfloat16.
        layout=Layout(bits=4, group=64, group_bytes=4, leaves=FUSED),
        kinds=("cuda",),
        packages=(GEMLITE,),
        least=Least(capability=(8, 0), why="bfloat16 tensor cores"),
        dtypes=("bfloat16",),
        convert=f"{GEM}:convert",
        fits=f"{GEM}:fits",
        kernel="gemlite::forward_functional: a Triton kernel for few rows, for some and for many",
    ),
    Scheme(
        name="bnb-int8",
        summary="bitsandbytes LLM.int8(): int8 weights and activations, outliers in 16 bits",
        dynamic="activations",
        engines=TORCH,
        aliases=("llm.int8", "bitsandbytes-int8"),
        # Loaded through transformers, which leaves the head alone.
        layout=Layout(bits=8, row_bytes=4, leaves=FUSED | HEAD, compute="int8"),
        packages=(BITSANDBYTES,),
        least=Least(capability=(7, 5), why="integer tensor cores"),
        refused_modes={"cuda-graph": SEARCHED_ON_HOST, "compiled@cpu": UNTRACEABLE},
        convert=f"{BNB}:int8",
        kernel="bitsandbytes::int8_mixed_scaled_mm, outlier columns in 16 bits",
    ),
    Scheme(
        name="bnb-nf4",
        summary="bitsandbytes: 4-bit normal-float weights in blocks of 64",
        engines=TORCH,
        aliases=("nf4", "bitsandbytes-nf4"),
        layout=Layout(bits=4, group=64, group_bytes=4, leaves=FUSED | HEAD),
        packages=(BITSANDBYTES,),
        convert=f"{BNB}:nf4",
        fits=f"{BNB}:fits_nf4",
        kernel="bitsandbytes 4-bit matmul",
    ),
    Scheme(
        name="quanto-int8",
        summary="optimum-quanto: int8 weights per row, activations as they are",
        engines=TORCH,
        layout=Layout(bits=8, row_bytes=2, leaves=FUSED | HEAD),
        packages=(QUANTO,),
        convert="bench.quantization.quanto:int8",
        # library/qbytes_mm.py: only bfloat16 on a CPU has a kernel that reads int8.
        kernel="CPU in bfloat16: torch._weight_int8pack_mm; else converted to float whole, then a "
        "float matmul",
    ),
)

FP8: Final = (
    Scheme(
        name="fp8-dynamic",
        summary="torchao: fp8 weights per row, fp8 activations scaled per row",
        dynamic="activations",
        engines=TORCH,
        aliases=("fp8",),
        layout=Layout(bits=8, row_bytes=4, leaves=FUSED, compute="fp8"),
        kinds=("cuda",),
        packages=(TORCHAO,),
        least=FP8_PRODUCTS,
        dtypes=("bfloat16",),
        inductor=SCALED,
        launches=10,
        convert=f"{AO}:fp8_dynamic_row",
        fits=f"{AO}:fits_fp8_row",
        kernel="torch._scaled_mm, activations scaled before it",
    ),
    Scheme(
        name="fp8-dynamic-tensor",
        summary="torchao: fp8 weights and activations, one scale a tensor",
        dynamic="activations",
        engines=TORCH,
        layout=Layout(bits=8, matrix_bytes=4, leaves=FUSED, compute="fp8"),
        kinds=("cuda",),
        packages=(TORCHAO,),
        least=FP8_PRODUCTS,
        inductor=SCALED,
        launches=16,
        convert=f"{AO}:fp8_dynamic_tensor",
        fits=f"{AO}:fits_fp8",
        kernel="torch._scaled_mm, activations scaled before it",
    ),
    Scheme(
        name="fp8-weight-only",
        summary="torchao: fp8 weights per row, activations as they are",
        engines=TORCH,
        layout=Layout(bits=8, row_bytes=4, leaves=FUSED),
        packages=(TORCHAO,),
        least_compiled=FP8_NUMBERS,
        launches=5,
        convert=f"{AO}:fp8_weight_only",
        kernel=CONVERTED,
    ),
)

VLLM_ONLINE: Final = (
    # docs.vllm.ai, Features, Quantization, Online Quantization and FP8 W8A8 (v0.20.0, stable and
    # main), read 2026-11-23. Which kernel vLLM took is in its log only. It leaves the head alone.
    Scheme(
        name="fp8_per_tensor",
        summary="vLLM: fp8 weights and activations, one scale a tensor, cast while loading",
        dynamic="online",
        engines={"vllm": "fp8_per_tensor"},
        layout=Layout(bits=8, matrix_bytes=4, leaves=FUSED | HEAD, compute="fp8"),
        kinds=("cuda",),
        kernel="fp8 weights, one scale a tensor; activations in fp8, scaled at run time, from Ada "
        "on, in 16 bits before",
    ),
    Scheme(
        name="fp8_per_block",
        summary="vLLM: fp8 weights, a scale each 128 x 128, cast while loading",
        dynamic="online",
        engines={"vllm": "fp8_per_block"},
        layout=Layout(bits=8, block=128, block_bytes=4, leaves=FUSED | HEAD, compute="fp8"),
        kinds=("cuda",),
        kernel="fp8 weights, a scale each 128 x 128; activations in fp8, a scale each 128, from "
        "Ada on, in 16 bits before",
    ),
    Scheme(
        name="mxfp8",
        summary="vLLM: fp8 weights, a power-of-two scale each 32, cast while loading",
        dynamic="online",
        engines={"vllm": "mxfp8"},
        layout=Layout(bits=8, group=32, group_bytes=1, leaves=FUSED | HEAD, compute="fp8"),
        kinds=("cuda",),
        kernel="fp8 weights, a power-of-two scale each 32; activations likewise from Blackwell on, "
        "in 16 bits before",
    ),
    # vLLM's class TorchAOConfig (0.32.0, read 2026-11-29) has torchao quantize each linear layer
    # once its weights are loaded; what torchao's own script stores is loaded into the same layers.
    Scheme(
        name="torchao_fp8_per_row",
        summary="vLLM by torchao: fp8 weights per row, fp8 activations scaled per row, cast while "
        "loading",
        dynamic="activations",
        engines={"vllm": "torchao"},
        layout=Layout(bits=8, row_bytes=4, leaves=FUSED | HEAD, compute="fp8"),
        kinds=("cuda",),
        least=Least(capability=(8, 9), why=FP8_CARDS),
        dtypes=("bfloat16",),
        kernel="torch._scaled_mm, activations scaled before it",
    ),
)

ROWS: Final = (NONE, *INTEGERS, *FP8, *VLLM_ONLINE)
