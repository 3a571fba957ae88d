"""What inductor writes for a card, without one: tensors of shapes alone, nothing runs.

    python -m tests.pretend_cuda CARD SCHEME[:BATCH[:CACHE]] ... [NAME=VALUE ...]

A line of JSON for each SCHEME: a step of a decoder layer, or of what follows the last one where
SCHEME is `choose`, or why it failed. CARD is one of `CARDS` or `AMD_CARDS`, CACHE a
`kv_cache_dtype`, NAME an option of the compiler, or `merge`.

A process of its own, because torch is told that there is a card. Much of what it is told it by is
private to torch, so that this belongs to the versions of constraints.txt.
"""

from __future__ import annotations

import ctypes
import functools
import json
import math
import os
import subprocess
import sys
import tempfile
import traceback
import types
from pathlib import Path
from typing import Any

import torch

LLAMA_8B = {
    "vocab_size": 1024,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}
"""With a small vocabulary, as only a layer is looked at."""

CARDS = {
    # compute capability, SMs, GiB, MiB of L2, bytes of shared memory for one program
    "h200": (90, 132, 141, 50, 232448),
    "rtx-4080": (89, 76, 16, 64, 101376),
    "rtx-4070-ti-super": (89, 66, 16, 48, 101376),
    "rtx-5080": (120, 84, 16, 64, 101376),
    "rtx-3080": (86, 68, 10, 5, 101376),
    "a100": (80, 108, 80, 40, 166912),
}
"""NVIDIA's CUDA programming guide (technical specifications) and data sheets."""

AMD_CARDS = {
    # chip, capability as torch makes it of that, compute units, GiB, MiB of L2, wavefront
    "mi300x": ("gfx942", 94, 304, 192, 4, 64),
    "rx-7900-xtx": ("gfx1100", 110, 96, 24, 6, 32),
}
"""ROCm's table of GPU hardware specifications. Local memory is 64 KB everywhere."""


def properties(name: str) -> Any:
    """What `torch.cuda.get_device_properties` would say."""
    chip, wavefront, shared = "", 32, 65536
    if name in AMD_CARDS:
        chip, capability, sms, gib, l2, wavefront = AMD_CARDS[name]
    else:
        capability, sms, gib, l2, shared = CARDS[name]
    return types.SimpleNamespace(
        name=f"AMD {name}" if chip else f"NVIDIA {name}",
        major=capability // 10,
        minor=capability % 10,
        total_memory=gib << 30,
        multi_processor_count=sms,
        max_threads_per_multi_processor=2048 if chip or capability in (80, 90) else 1536,
        max_threads_per_block=1024,
        warp_size=wavefront,
        regs_per_multiprocessor=65536,
        gcnArchName=chip,
        L2_cache_size=l2 << 20,
        is_integrated=0,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=shared,
    )


WRITTEN: list[str] = []
"""Code of inductor, one module a graph."""


class SeenError(Exception):
    """Raised where the code would be run."""


def build_for(card: Any) -> None:
    """Let this torch be one for the card's vendor, before inductor asks."""
    torch.version.cuda, torch.version.hip = (None, "7.0") if card.gcnArchName else ("13.0", None)


def pretend(name: str = "h200") -> None:
    """Let torch, inductor and triton take this machine for one with that card."""
    card = properties(name)
    build_for(card)
    import torch._inductor.config
    import torch._inductor.fx_passes.fuse_attention as patterns
    import triton
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor.graph import GraphLowering
    from torch._inductor.select_algorithm import AlgorithmSelectorCache
    from torch._subclasses import fake_tensor
    from triton.backends.compiler import GPUTarget

    def answer(value: Any) -> Any:
        return lambda *_, **__: value

    guard()
    capability = card.major * 10 + card.minor
    for call, value in (
        ("is_available", True),
        ("is_initialized", True),
        ("device_count", 1),
        ("current_device", 0),
        ("get_device_properties", card),
        ("get_device_capability", (card.major, card.minor)),
        ("get_device_name", card.name),
        ("synchronize", None),
        ("is_current_stream_capturing", False),
        ("_lazy_init", None),
        ("_exchange_device", 0),
        ("_maybe_exchange_device", 0),
        ("set_rng_state", None),
    ):
        setattr(torch.cuda, call, answer(value))
        if hasattr(CudaInterface, call):  # names bound before
            setattr(CudaInterface, call, staticmethod(answer(value)))
    CudaInterface.get_compute_capability = staticmethod(answer(capability))
    torch.cuda.get_rng_state = lambda *_, **__: torch.zeros(16, dtype=torch.uint8)
    fake_tensor.init_gpu_context = answer(None)
    patterns._sfdp_init = answer(None)  # makes real tensors on the card, to find patterns by
    torch._inductor.config.joint_graph_constant_folding = False  # computes on the card
    torch._inductor.config.benchmark_epilogue_fusion = False  # by running both
    torch._inductor.config.shape_padding = False  # by running both
    torch._inductor.config.force_disable_caches = True
    driver = types.SimpleNamespace(
        get_current_target=answer(
            GPUTarget("hip", card.gcnArchName, card.warp_size)
            if card.gcnArchName
            else GPUTarget("cuda", capability, 32)
        ),
        get_current_device=answer(0),
        get_active_torch_device=answer(torch.device("cuda:0")),
        is_active=answer(True),
    )
    triton.runtime.driver.set_active(driver)

    def keep(graph: Any) -> Any:
        code, _ = graph.codegen()
        WRITTEN.append(getattr(code, "value", code))
        raise SeenError

    GraphLowering.compile_to_module = keep
    AlgorithmSelectorCache.benchmark = timed


GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
using Nothing = c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>;
static c10::impl::DeviceGuardImplRegistrar made(c10::DeviceType::CUDA, new Nothing());
"""
"""What a torch without CUDA lacks to hold shapes on a card: a guard that does nothing."""


def guard() -> None:
    """Let this torch take `cuda` for a device, with a driver or without, with CUDA or without."""
    if torch.backends.cuda.is_built():
        torch._C._ensureCUDADeviceGuardSet()
        return
    home = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "guard.cpp"), Path(folder, "guard.so")
        source.write_text(GUARD)
        command = [
            "g++",
            "-std=c++20",
            "-shared",
            "-fPIC",
            f"-I{home}/include",
            str(source),
            "-o",
            str(library),
            f"-L{home}/lib",
            "-lc10",
        ]
        subprocess.run(command, check=True)
        ctypes.CDLL(str(library))


def timed(_: Any, choices: Any, *__: Any, **___: Any) -> dict[Any, float]:
    """For the tuner: cuBLAS refuses integer products of 16 rows or fewer, as on a card."""
    from torch._inductor.select_algorithm import ExternKernelCaller

    return {one: math.inf if isinstance(one, ExternKernelCaller) else 1.0 for one in choices}


def layer_of(scheme: str) -> Any:
    """One layer of Llama 8B in bfloat16 or in a scheme, without numbers."""
    import transformers
    from torch import nn

    from bench import schemes
    from bench.engines.graph import merging, new_token
    from bench.quantization import int8_layer, layers

    int8_layer.check = lambda *_: None  # holds results against exact ones
    merging.is_rms = lambda _: True  # computes
    new_token.agrees = lambda *_: True  # computes
    for kind in (nn.Linear, nn.Embedding):
        kind.reset_parameters = lambda _: None
    transformers.PreTrainedModel.post_init = lambda _: None  # would draw numbers
    config = transformers.AutoConfig.for_model("llama", **LLAMA_8B)
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = model.eval().requires_grad_(False)
    chosen = schemes.scheme(scheme)
    if scheme != "none":
        model = layers.convert(chosen, model, layers.choose(chosen, model).names)
    return model


def choose(n_batch: int, options: dict[str, Any]) -> str:
    """The code of what follows the last layer: norm, head of Llama 8B's vocabulary, argmax."""
    from torch import nn
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    from bench.engines.graph import compiling, static

    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        with torch.device("cuda"):
            norm = LlamaRMSNorm(4096)
            norm.weight.data = torch.empty(4096, dtype=torch.bfloat16)
            head = nn.Linear(4096, 128256, bias=False, dtype=torch.bfloat16)
            hidden = torch.empty(n_batch, 1, 4096, dtype=torch.bfloat16)
            position = torch.zeros(1, dtype=torch.long)
            token = torch.zeros(n_batch, 1, dtype=torch.long)
            out = torch.zeros(n_batch, 257, dtype=torch.long)
        how = compiling.compiling(options, graph=True, kind="cuda")
        return seen(lambda: how(static.choose)(norm, head, hidden, position, token, out))


def seen(call: Any) -> str:
    """The code of the one graph that a call compiles."""
    try:
        call()
    except torch._inductor.exc.InductorError as error:
        if "SeenError" not in str(error):
            raise
    (code,) = WRITTEN
    return code


def step(
    scheme: str, n_batch: int, options: dict[str, Any], length: int = 32768, cache: str = ""
) -> str:
    """The code of a step of one layer, over a cache of that length; `cache`: of 8 bits."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from bench import schemes
    from bench.engines.graph import attention, compiling, merging, narrow, new_token, static

    merges = compiling.merging_of(options, "cuda")
    compiling.leave_out_slow_products()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        model = layer_of(scheme)
        merging.merge(list(model.get_decoder().layers), norms=True)
        if merges == "rotation" and not cache:
            new_token.take(model.get_decoder().layers, torch.bfloat16)
        attention.register()
        model.set_attn_implementation(attention.NAME)
        layer = model.get_decoder().layers[0]
        layer.self_attn.layer_idx = 0
        position = torch.zeros(1, dtype=torch.long, device="cuda")
        slots = (
            narrow.NarrowSlots(length, position, cache) if cache else static.Slots(length, position)
        )
        key = torch.empty(n_batch, 8, 1, 128, dtype=torch.bfloat16, device="cuda")
        slots.make(key, key)
        hidden = torch.empty(n_batch, 1, 4096, dtype=torch.bfloat16, device="cuda")
        turned = torch.empty(1, 1, 128, dtype=torch.bfloat16, device="cuda")
        needs = schemes.scheme(scheme).inductor
        how = compiling.compiling(options, graph=True, kind="cuda", needs=needs)
        compiled = how(static.run_layer)
        return seen(
            lambda: compiled(
                layer,
                slots,
                hidden,
                attention_mask=position.view(1, 1, 1, 1),
                position_ids=position.view(1, 1),
                position_embeddings=(turned, turned),
            )
        )


def told_in_a_fork(case: str, options: dict[str, Any]) -> None:
    """Print what is said of a case; what its scheme sets in torch is not there for the next."""
    from bench.engines.graph.written import told

    sys.stdout.flush()
    if child := os.fork():
        if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.stdout.write(json.dumps({"failed": f"it ended with {code}"}) + "\n")
        return
    scheme, rows, cache = [*case.split(":"), "", ""][:3]
    make = choose if scheme == "choose" else functools.partial(step, scheme, cache=cache)
    try:
        said = told(make(int(rows or 1), options))
    except Exception:
        said = {"failed": traceback.format_exc()}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    pretend(name)
    # Once for all cases.
    import torchao.quantization  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    asked: dict[str, Any] = {}
    for key, mark, value in (word.partition("=") for word in rest):
        if mark:
            asked |= {key: value} if key == "merge" else {f"inductor.{key}": value == "true"}
    for case in rest:
        if "=" not in case:
            told_in_a_fork(case, asked)
