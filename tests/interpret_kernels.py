"""Run or build the Triton kernels without a GPU; `tests/triton_kernels.py` starts it.

Triton reads TRITON_INTERPRET when a kernel is defined, hence a process of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.engines.graph import attention, attention_kernels, new_token
from bench.engines.graph.narrow import Codes, narrowed
from bench.quantization import int8_kernels
from bench.quantization.int8_layer import quantize_rows


def integers(*shape: int) -> torch.Tensor:
    return torch.randint(-127, 128, shape).to(torch.int8)


def interpret() -> None:
    """Bit for bit what the reference computes, over rows and columns that tiles do not fill."""
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(5, 100).to(dtype)
        x[3] = 0
        q, top = torch.empty(5, 100, dtype=torch.int8), torch.empty(5, 1)
        int8_kernels.quantize_kernel[(5,)](x, q, top, 100, BLOCK=128)
        expected, expected_top = quantize_rows(x, 0, 127)
        assert torch.equal(q, expected), dtype
        assert torch.equal(top, expected_top), dtype
    for n_rows, n_out, n_in, block_m, block_n, block_k in (
        (1, 70, 100, 16, 16, 32),
        (5, 64, 128, 16, 32, 64),
        (16, 33, 200, 16, 32, 128),
        (17, 40, 96, 32, 16, 32),
        (64, 48, 64, 64, 16, 32),
    ):
        x, w = integers(n_rows, n_in), integers(n_out, n_in)
        top, scale, bias = torch.rand(n_rows, 1), torch.rand(n_out), torch.randn(n_out)
        product = (x.double() @ w.double().t()).float()
        for has_bias in (False, True):
            y = torch.empty(n_rows, n_out)
            # The kernel under its autotuner, which needs a card to choose by.
            int8_kernels.matmul_kernel.fn[(triton.cdiv(n_out, block_n),)](
                x,
                top,
                w,
                scale,
                bias,
                y,
                n_rows,
                n_out,
                n_in,
                HAS_BIAS=has_bias,
                BLOCK_M=block_m,
                BLOCK_N=block_n,
                BLOCK_K=block_k,
            )
            expected = product * scale * top + (bias if has_bias else 0)
            assert torch.equal(y, expected), (n_rows, n_out, n_in, has_bias)


def interpret_attention() -> None:
    """Near the reference, over heads, dimensions and rows that tiles do not fill; what lies beyond
    the filled rows is not a number."""
    torch.manual_seed(0)
    for batch, shared, group, dim_k, dim_v, length, filled, splits, dtype in (
        (1, 2, 4, 64, 64, 256, 1, 1, torch.float32),
        (1, 2, 4, 64, 64, 256, 256, 1, torch.float32),
        (2, 2, 1, 80, 80, 512, 300, 2, torch.float32),  # the second split has fewer rows
        (1, 1, 3, 24, 16, 1024, 5, 4, torch.float32),  # three splits have none
        (2, 1, 8, 128, 128, 512, 511, 2, torch.float16),  # its interpreter has no bfloat16 products
        (1, 2, 2, 32, 32, 2048, 1999, 8, torch.float16),
    ):
        heads = shared * group
        query = torch.randn(batch, heads, 1, dim_k).to(dtype)
        keys = torch.randn(batch, shared, length, dim_k).to(dtype)
        values = torch.randn(batch, shared, length, dim_v).to(dtype)
        last = torch.tensor([filled - 1])
        expected = attention.attend(query, keys, values, last, 0.2)
        keys[:, :, filled:] = values[:, :, filled:] = torch.nan
        found = torch.empty(batch, 1, heads, dim_v, dtype=dtype)
        kernels = attention_kernels.launches(query, keys, values, last, 0.2, found, splits)
        for kernel, grid, arguments, constants in kernels:
            kernel[grid](*arguments, **constants)
        near = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(found, expected, rtol=near, atol=near)


def interpret_new() -> None:
    """The same of a token that is not in the cache yet, which must hold it afterwards, and the rest
    as it was; places beyond it are not numbers."""
    torch.manual_seed(0)
    for batch, shared, group, dim, length, filled, splits, normed, dtype in (
        (1, 2, 4, 64, 256, 1, 1, False, torch.float32),  # none but itself
        (1, 2, 4, 64, 256, 256, 1, True, torch.float32),
        (2, 2, 1, 80, 512, 300, 2, False, torch.float32),
        (2, 1, 3, 24, 1024, 5, 4, True, torch.float32),  # three splits have no row of the cache
        (3, 1, 8, 128, 512, 512, 2, True, torch.float16),
        (1, 2, 2, 32, 2048, 1999, 8, False, torch.float16),
    ):
        heads, near = shared * group, 1e-5 if dtype == torch.float32 else 2e-2
        projected = torch.randn(batch, 1, (heads + 2 * shared) * dim).to(dtype)
        cos, sin = torch.randn(2, dim).to(dtype).unbind(0)
        norms = torch.randn(2, dim).to(dtype).unbind(0) if normed else (None, None)
        caches = torch.randn(2, batch, shared, length, dim).to(dtype)
        last = torch.tensor([filled - 1])
        wanted = caches.clone()
        expected = new_token.attend_new(
            projected, cos, sin, *norms, 1e-6, *wanted.unbind(0), last, 0.2
        )
        caches[:, :, :, filled - 1 :] = wanted[:, :, :, filled:] = torch.nan
        found = torch.empty(batch, 1, heads, dim, dtype=dtype)
        new = attention_kernels.NewToken(cos, sin, *norms, 1e-6)
        for kernel, grid, arguments, constants in attention_kernels.launches(
            projected, *caches.unbind(0), last, 0.2, found, splits, new=new
        ):
            kernel[grid](*arguments, **constants)
        torch.testing.assert_close(found, expected, rtol=near, atol=near)
        torch.testing.assert_close(caches, wanted, rtol=near, atol=near, equal_nan=True)
        assert torch.equal(caches[..., : filled - 1, :], wanted[..., : filled - 1, :])
        assert torch.equal(caches[1, :, :, filled - 1], wanted[1, :, :, filled - 1])


def interpret_narrow() -> None:
    """The same of a cache in 8 bits; what lies beyond the filled rows is as large as it can be."""
    torch.manual_seed(0)
    for kind, beyond, scale_beyond in (("int8", 127, torch.inf), ("fp8", 0x7F, None)):
        for batch, shared, group, dim_k, dim_v, length, filled, splits, dtype in (
            (1, 2, 4, 64, 64, 256, 1, 1, torch.float32),
            (2, 2, 1, 80, 80, 512, 300, 2, torch.float32),
            (1, 1, 3, 24, 16, 1024, 5, 4, torch.float32),
            (2, 1, 8, 128, 128, 512, 511, 2, torch.float16),
        ):
            query = torch.randn(batch, shared * group, 1, dim_k).to(dtype)
            key, value = (
                narrowed(3 * torch.randn(batch, shared, length, dim).to(dtype), kind)
                for dim in (dim_k, dim_v)
            )
            last = torch.tensor([filled - 1])
            tensors = (key.numbers, value.numbers, key.scales, value.scales)
            expected = attention.attend_narrow(query, *tensors, last, 0.2)
            for one in (key, value):
                one.numbers[:, :, filled:] = beyond
                if scale_beyond is not None:
                    one.scales[:, :, filled:] = scale_beyond
            found = torch.empty(batch, 1, shared * group, dim_v, dtype=dtype)
            numbers = (bits(one) for one in (key, value))
            scales = (key.scales, value.scales)
            kernels = attention_kernels.launches(query, *numbers, last, 0.2, found, splits, *scales)
            for kernel, grid, arguments, constants in kernels:
                kernel[grid](*arguments, **constants)
            near = 1e-5 if dtype == torch.float32 else 2e-2
            torch.testing.assert_close(found, expected, rtol=near, atol=near)


def bits(codes: Codes) -> torch.Tensor:
    """The numbers as the kernel is given them."""
    kind = torch.int8 if codes.scales is not None else torch.float8_e4m3fn
    return codes.numbers.view(kind)


def pretend_a_card() -> None:
    """gemlite asks for one while it is imported."""
    from types import SimpleNamespace

    import numpy
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.runtime import interpreter

    card = SimpleNamespace(name="NVIDIA H200", major=9, minor=0, multi_processor_count=132)
    torch.cuda.get_device_properties = lambda *_: card
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    memory = {"max_shared_mem": SHARED[90]}
    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_benchmarker=lambda: lambda *_, **__: (1.0, 1.0, 1.0),
        utils=SimpleNamespace(get_device_properties=lambda *_: memory),
    )
    triton.runtime.driver.set_active(driver)
    of_others = interpreter._implicit_cvt

    def with_truths(argument: object) -> object:
        """Triton 3.7's interpreter takes a boolean argument for a wide integer."""
        if not isinstance(argument, bool):
            return of_others(argument)
        handle = interpreter.TensorHandle(numpy.array([argument], dtype=bool), tl.int1)
        return tl.tensor(handle, tl.int1)

    interpreter._implicit_cvt = with_truths


def interpret_gemlite() -> None:
    """Our layer through gemlite's own packing and kernels, of a step's rows and of some more: in
    float16, as the interpreter has no bfloat16 products. Its kernel from 64 rows on cannot be
    interpreted."""
    pretend_a_card()
    tensor = torch.tensor
    torch.tensor = lambda *given, device=None, **rest: tensor(*given, **rest)  # type: ignore[assignment]
    import gemlite

    gemlite.set_autotune("default")  # imports its kernels again
    torch.tensor = tensor  # type: ignore[assignment]
    from bench.quantization.gemlite_layer import GemliteLinear, grouped, weight_of

    torch.manual_seed(0)
    for n_in, n_out, bias in ((256, 96, True), (576, 192, False), (128, 200, False)):
        old = torch.nn.Linear(n_in, n_out, bias=bias, dtype=torch.float16)
        weight = weight_of(grouped(old.weight.detach()))
        offset = old.bias.detach().float() if bias else torch.zeros(n_out)
        layer = GemliteLinear(old)
        for n_rows in (1, 4, 5, 33):
            x = torch.randn(n_rows, n_in).half()
            expected = x.float() @ weight.t() + offset
            found = layer(x).detach().float()
            torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3)


NAMES = (
    "x_ptr",
    "top_ptr",
    "w_ptr",
    "scale_ptr",
    "bias_ptr",
    "y_ptr",
    "n_rows",
    "n_out",
    "n_in",
    "HAS_BIAS",
    "BLOCK_M",
    "BLOCK_N",
    "BLOCK_K",
)
TYPES = ("*i8", "*fp32", "*i8", "*fp32", "*bf16", "*bf16", "i32", "i32", "i32")
SHARED = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}
"""Shared memory that one program may use, by compute capability (CUDA programming guide)."""

LOCAL = {
    # arch: threads of a wavefront, bytes of local memory (LDS) of one program
    "gfx90a": (64, 64 * 1024),
    "gfx942": (64, 64 * 1024),
    "gfx950": (64, 160 * 1024),
    "gfx1100": (32, 64 * 1024),
    "gfx1201": (32, 64 * 1024),
}
"""AMD's MI200, MI300, MI350, RX 7900 and RX 9070 (ROCm's table of GPU hardware specifications)."""


def build() -> None:
    """Machine code for an A100, a 4080 and an H200: int8 tensor cores, 16-byte loads."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import compile as build_kernel

    build_kernel(rows_source(), target=GPUTarget("cuda", 90, 32))
    kernel = int8_kernels.matmul_kernel
    for capability, shared in SHARED.items():
        fits = 0
        for block_m, tile in zip((16, 32, 64), kernel.configs[::3], strict=True):
            source, options = matmul_source(tile, block_m)
            built = build_kernel(source, target=GPUTarget("cuda", capability, 32), options=options)
            ptx = built.asm["ptx"]
            assert re.search(r"(mma\.sync|wgmma)[^;]*s32\.s8\.s8", ptx), (capability, tile)
            assert re.search(r"cp\.async\.cg[^;]*0x10", ptx), (capability, tile)
            assert len(built.asm["cubin"]) > 0
            fits += built.metadata.shared <= shared
        assert fits > 0


def rows_source() -> Any:
    """The kernel that quantizes rows."""
    from triton.compiler import ASTSource

    return ASTSource(
        fn=int8_kernels.quantize_kernel,
        signature={
            "x_ptr": "*bf16",
            "q_ptr": "*i8",
            "top_ptr": "*fp32",
            "n_in": "i32",
            "BLOCK": "constexpr",
        },
        constexprs={(4,): 4096},
    )


def matmul_source(tile: Any, block_m: int) -> tuple[Any, dict[str, int]]:
    """The product for a tile, of rows padded to `block_m`; and how it is built."""
    from triton.compiler import ASTSource

    constants = {"HAS_BIAS": True, "BLOCK_M": block_m, **tile.kwargs}
    source = ASTSource(
        fn=int8_kernels.matmul_kernel.fn,
        signature=dict(zip(NAMES, TYPES, strict=False)) | dict.fromkeys(constants, "constexpr"),
        constexprs={(NAMES.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in (0, 1, 2, 3, 4, 5, 7, 8)},
    )
    return source, {"num_warps": tile.num_warps, "num_stages": tile.num_stages}


def build_for_amd() -> None:
    """Machine code for AMD's chips: matrix instructions on integers, and a tile that fits. Larger
    tiles take turns: a third at each chip and number of rows; all with EVERY."""
    smallest, *larger = int8_kernels.matmul_kernel.configs
    for i, (arch, (_, local)) in enumerate(LOCAL.items()):
        built_for_amd(rows_source(), arch)
        for j, block_m in enumerate((16, 64)):
            sizes = []
            for tile in (smallest, *(larger if EVERY else larger[(i + j) % 3 :: 3])):
                source, options = matmul_source(tile, block_m)
                built = built_for_amd(source, arch, options)
                asm = built.asm["amdgcn"]
                assert re.search(r"v_mfma_i32_\w+i8|v_wmma_i32_\w+iu8", asm), (arch, tile)
                sizes.append(built.metadata.shared)
            # What does not fit the tuner leaves out.
            assert min(sizes) <= local, (arch, block_m, sizes)


def built_for_amd(source: Any, arch: str, options: dict[str, Any] | None = None) -> Any:
    """What LLVM makes of a kernel for a chip, linked."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import compile as build_kernel

    target = GPUTarget("hip", arch, LOCAL[arch][0])
    built = build_kernel(source, target=target, options=options)
    assert len(built.asm["hsaco"]) > 0
    return built


ATTENDS = (
    "q_ptr",
    "k_ptr",
    "v_ptr",
    "last_ptr",
    "out_ptr",
    "top_ptr",
    "sum_ptr",
    "scale",
    "length",
    "k_scale_ptr",
    "v_scale_ptr",
    "cos_ptr",
    "sin_ptr",
    "q_norm_ptr",
    "k_norm_ptr",
    "epsilon",
)


def stack_bytes(cubin: bytes) -> int:
    """What a thread keeps in memory for want of registers, by the tool that comes with Triton."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return max(int(n) for n in re.findall(r"STACK:(\d+)", said))


HEADS = (
    (torch.bfloat16, "*bf16", 128),
    (torch.float16, "*fp16", 64),
    (torch.bfloat16, "*bf16", 80),
    (torch.bfloat16, "*bf16", 256),
    (torch.float32, "*fp32", 128),
    (torch.float32, "*fp32", 256),
)
"""Types and widths of heads that kernels are built for."""
Head = tuple[torch.dtype, str, int]
EVERY = sys.argv[2:] == ["build-all"]


def spread(heads: Sequence[Head], cards: Iterable[Any], ways: Sequence[Any]) -> Iterator[Any]:
    """(head, card, way): every head for every card, in ways that take turns; in EVERY way if asked.

    Any two of the three meet if there are as many cards as ways.
    """
    for (i, head), (j, card) in product(enumerate(heads), enumerate(cards)):
        for way in ways if EVERY else [ways[(i + j) % len(ways)]]:
            yield head, card, way


def build_attention() -> None:
    """Machine code for the same cards, of a step of Llama 8B, 16-byte loads; fits shared memory."""
    for head, capability, splits in spread(HEADS, SHARED, (1, 32)):
        built_attention(capability, splits, *head)


def build_new() -> None:
    """The same of a token that is not in the cache yet, with norms and without."""
    for head, capability, way in spread(HEADS[:5], SHARED, ((1, "normed"), (32, "rotated"))):
        splits, new = way
        built_attention(capability, splits, *head, new=new)


def build_narrow() -> None:
    """The same of a cache in 8 bits, e4m3 from Ada on."""
    for head, capability, splits in spread(HEADS[:4], SHARED, (1, 32)):
        built_attention(capability, splits, *head, "*i8", scaled=True)
    for head, capability, splits in spread(HEADS[:4], (89, 90), (1, 32)):
        built_attention(capability, splits, *head, "*fp8e4nv")


def built_attention(
    capability: int,
    splits: int,
    dtype: torch.dtype,
    name: str,
    dim: int,
    cache: str = "",
    *,
    scaled: bool = False,
    new: str = "",
) -> str:
    """PTX of a kernel that fits a card; `cache`: the type of keys and values, if it is another;
    `new`: whether its token is `rotated` by it, or `normed` as well."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import compile as build_kernel

    what = (name, cache, dim, capability, splits, new)
    source = attention_source(splits, dtype, name, dim, cache, scaled=scaled, new=new)
    target = GPUTarget("cuda", capability, 32)
    built = build_kernel(source, target=target, options=attention_kernels.LAUNCH)
    ptx = str(built.asm["ptx"])
    assert built.metadata.shared <= SHARED[capability], what
    assert re.search(r"cp\.async\.c[ag][^;]*0x", ptx), what
    if not cache:
        assert re.search(r"cp\.async\.cg[^;]*0x10", ptx), what
    # Rotated in float32, heads of 128 in splits take a little more than there are registers.
    few = 320 if new and dtype == torch.float32 and dim == 128 and splits > 1 else 0
    assert stack_bytes(built.asm["cubin"]) <= few, what
    return ptx


def attention_source(
    splits: int,
    dtype: torch.dtype,
    name: str,
    dim: int,
    cache: str = "",
    *,
    scaled: bool = False,
    rdna: bool = False,
    new: str = "",
) -> Any:
    """The kernel of a step's attention; arguments as of `built_attention`."""
    from triton.compiler import ASTSource

    names = attention_kernels.attend_kernel.arg_names
    constants: dict[str, Any] = {"GROUP": 4, "DIM_K": dim, "DIM_V": dim, "SPLITS": splits}
    constants |= {"SHARED": 8} | attention_kernels.blocks(4, dim, dim, dtype, rdna=rdna)
    without = [*(() if scaled else ATTENDS[9:11]), *(() if new else ATTENDS[11:13])]
    constants |= dict.fromkeys([*without, *(() if new == "normed" else ATTENDS[13:15])])
    out = name if splits == 1 else "*fp32"
    held = cache or name
    types = (name, held, held, "*i64", out, out, out, "fp32", "i32", "*fp32", "*fp32")
    types += (name, name, name, name, "fp32")
    aligned = [i for i, kind in enumerate(types) if kind != "fp32" and ATTENDS[i] not in constants]
    return ASTSource(
        fn=attention_kernels.attend_kernel,
        signature=dict(zip(ATTENDS, types, strict=True)) | dict.fromkeys(constants, "constexpr"),
        constexprs={(names.index(key),): value for key, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )


def build_attention_for_amd() -> None:
    """Machine code for AMD's chips, where a program has 64 KB of memory; caches in 8 bits too. No
    register is spilled, but for long rows and such caches on RDNA."""
    own = [("", False, ""), ("", False, "normed")]
    narrow = [("*i8", True, ""), ("*fp8e4nv", False, "")]
    heads = [HEADS[n] for n in (0, 1, 3, 4)]
    for head, arch, way in (*spread(heads, LOCAL, own), *spread(heads[:3], LOCAL, narrow)):
        (dtype, name, dim), (cache, scaled, new) = head, way
        wavefront, local = LOCAL[arch]
        rdna = wavefront == 32
        source = attention_source(32, dtype, name, dim, cache, scaled=scaled, rdna=rdna, new=new)
        built = built_for_amd(source, arch, attention_kernels.LAUNCH)
        what = (arch, name, cache, dim, new)
        assert built.metadata.shared <= local, what
        spilled = re.search(r"\.vgpr_spill_count:\s*(\d+)", built.asm["amdgcn"])
        assert spilled is not None, what
        if not rdna or (not cache and dtype.itemsize * dim <= 256):
            assert int(spilled[1]) == 0, what


if __name__ == "__main__":
    tasks = {
        "int8": (interpret, build),
        "attention": (interpret_attention, build_attention),
        "narrow": (interpret_narrow, build_narrow),
        "new": (interpret_new, build_new),
        "gemlite": (interpret_gemlite, interpret_gemlite),
        "int8-amd": (interpret, build_for_amd),
        "attention-amd": (interpret_attention, build_attention_for_amd),
    }
    tasks[sys.argv[1]][sys.argv[2].startswith("build")]()
