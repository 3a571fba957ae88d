"""What the engines of llama.cpp share: settings, and what file and build say of themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from bench import fields
from bench.engines.messages import Job, Loaded
from bench.errors import InputError, UnsupportedError
from bench.experiment.devices import index_of, members, on_cpu
from bench.models import gguf
from bench.schemes import scheme
from bench.schemes.gguf import FLOATS

VECTOR: Final[Mapping[str, str]] = {
    "avx": "AVX",
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "avx_vnni": "AVX_VNNI",
    "amx_int8": "AMX_INT8",
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
}
"""Flag in /proc/cpuinfo -> the name that llama.cpp's system_info gives the same instructions."""


MOST_SEQUENCES: Final = 256
"""Sequences of one context: `LLAMA_MAX_SEQ` of llama.cpp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaSettings:
    """`options` of an arm: llama.cpp's own names."""

    n_gpu_layers: int = -1
    """Layers on the GPU; -1: all of them, or none where the device is the CPU."""
    flash_attn: Literal["auto", "on", "off"] = "auto"
    n_ubatch: int = 512
    """Tokens that are computed at once in prefill."""
    type_k: str = "f16"
    """Type of the cache's keys: `f16`, `q8_0`, ..."""
    type_v: str = "f16"
    """Type of its values."""
    split: Literal["layer", "row", "tensor"] = "layer"
    """How a model is spread over several GPUs, where the device names several."""

    def problems(self) -> Iterator[str]:
        if self.n_gpu_layers < -1:
            yield "n_gpu_layers: must be at least -1"
        if self.n_ubatch < 1:
            yield "n_ubatch: must be at least 1"


def settings_of(options: Mapping[str, Any]) -> LlamaSettings:
    """An arm's options. Raises InputError that names each wrong one."""
    problems: list[str] = []
    found = fields.build(LlamaSettings, options, "options", problems)
    if found is None or problems:
        raise InputError(*(f"engine llama.cpp: {problem}" for problem in problems))
    return found


def check_workload(n_tokens: int, limit: int | None, n_batch: int) -> None:
    """Refuse more tokens than the model's context, or more sequences than llama.cpp holds."""
    if limit is not None and n_tokens > limit:
        raise UnsupportedError(f"{n_tokens} tokens are more than the model's context of {limit}")
    if n_batch > MOST_SEQUENCES:
        raise UnsupportedError(f"llama.cpp holds {MOST_SEQUENCES} sequences at once, not {n_batch}")


def file_of(job: Job) -> gguf.GgufFile:
    """The job's file. Raises InputError if there is none, or it is in another scheme."""
    if job.gguf is None:
        raise InputError("engine llama.cpp loads a GGUF file, and this model has none")
    found = gguf.read(job.gguf)
    if found.scheme != job.quant:
        raise InputError(f"{found.path.name} is '{found.scheme}', not '{job.quant}'")
    if job.dtype not in ("auto", FLOATS.get(found.file_type)):
        raise InputError(f"{found.path.name} is run as it is ({found.file_type}): no --dtype")
    return found


def cannot_load(file: gguf.GgufFile | None) -> UnsupportedError:
    """The error for a file that is whole by its header; the packages say no more than that."""
    assert file is not None
    kind = file.keys.get("general.architecture")
    return UnsupportedError(
        f"llama.cpp cannot load {file.path.name}: this build does not know the architecture "
        f"'{kind}', the file is damaged, or memory is short"
    )


def gpu_indices(device: str) -> list[int]:
    """Numbers of the GPUs to use, as in `cuda:1` or `cuda:0+cuda:1`; none on a CPU."""
    return [] if on_cpu(device) else [index_of(one) for one in members(device)]


def split_mode(job: Job, settings: LlamaSettings) -> str:
    """The end of llama.cpp's name for how the model is spread: `NONE` on one GPU."""
    several = len(members(job.device)) > 1
    if "split" in job.options and not several:
        raise InputError(
            f"option split = '{settings.split}' needs several devices, such as -d cuda:0+cuda:1"
        )
    return settings.split.upper() if several else "NONE"


def shares(indices: Sequence[int], length: int) -> list[float]:
    """llama.cpp's `tensor_split`: equal shares for these GPUs, and none for others."""
    return [1.0 if index in indices else 0.0 for index in range(length)]


def gpu_layers(settings: LlamaSettings, device: str) -> int:
    """How many layers to put on the GPU: none on a CPU."""
    if on_cpu(device):
        if settings.n_gpu_layers > 0:
            raise InputError(
                f"n_gpu_layers = {settings.n_gpu_layers} needs a GPU, and the device is the CPU"
            )
        return 0
    return 999 if settings.n_gpu_layers < 0 else settings.n_gpu_layers


def threads_of(job: Job) -> int:
    """CPU threads: what the job says, else one for each physical core that this process may use.

    llama.cpp's libraries have defaults of their own that differ (4, half the cores, ...).
    """
    if job.threads is not None:
        return job.threads
    affinity = getattr(os, "sched_getaffinity", None)
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        import psutil
    except ImportError:
        return usable
    return min(usable, psutil.cpu_count(logical=False) or usable)


def describe(job: Job, file: gguf.GgufFile, build: Mapping[str, Any]) -> Loaded:
    """What was loaded; `build` is what the package says of itself: `package`, `system_info`."""
    missing = missing_instructions(str(build["system_info"]), cpu_flags())
    details: dict[str, Any] = {
        **build,
        "threads": threads_of(job),
        "tensor_types": file.tensor_types,
        "mean_bits": round(file.mean_bits, 4),
        "file": file.path.name,
    }
    if missing and on_cpu(job.device):
        details["warning"] = (
            f"this build of {build['package']} does not use {', '.join(missing)}, which this CPU "
            "has: it is slower than llama.cpp compiled here"
        )
    return Loaded(
        device=job.device,
        dtype=FLOATS.get(file.file_type, "float32"),
        n_params=file.n_params,
        weights_bytes=file.weights_bytes,
        quantized_fraction=file.quantized_fraction,
        dynamic=scheme(file.scheme).dynamic,
        kernel=scheme(file.scheme).kernel,
        details=details,
    )


def missing_instructions(system_info: str, flags: set[str]) -> list[str]:
    """Vector instructions that the CPU has and the build does not use, by llama.cpp's names."""
    used = {
        name.split(":")[-1].strip()
        for name, _, value in (part.partition("=") for part in system_info.split("|"))
        if value.strip() == "1"
    }
    return [name for flag, name in VECTOR.items() if flag in flags and name not in used]


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """What the CPU says it can do; empty where the system does not tell."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    named = (line.partition(":") for line in lines)
    return {
        flag
        for name, _, value in named
        if name.strip() in ("flags", "Features")
        for flag in value.split()
    }
