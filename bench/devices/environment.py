"""The machine and software of one run: what must be equal for figures to be pooled, and the rest.

Imports neither torch nor any other package that is measured: their versions are read from what
is installed. Standard library, and nvidia-ml-py where it is installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bench
from bench.devices.figures import Figures, Unreadable
from bench.devices.gpu import card
from bench.devices.host import host_identity, machine
from bench.devices.several import group_identity
from bench.experiment.devices import behind, is_remote, members, on_cpu
from bench.records import Environment, utc_now
from bench.schemes.row import TRITONS, installed

PACKAGES = (
    "torch",
    "transformers",
    "torchao",
    *TRITONS,
    "accelerate",
    "bitsandbytes",
    "compressed-tensors",
    "gptqmodel",
    "mslk",
    "kernels",
    "optimum-quanto",
    "gemlite",
)
"""Packages whose version can change a figure, whatever the engine; one that is not installed is
left out. torchao takes `mslk` by itself on some cards, transformers `kernels`."""

SETTINGS = (
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "MKL_NUM_THREADS",
    "KMP_AFFINITY",
    "GOMP_CPU_AFFINITY",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "NVIDIA_TF32_OVERRIDE",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "TORCH_COMPILE_DISABLE",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "MALLOC_CONF",
    "HSA_OVERRIDE_GFX_VERSION",
    "PYTORCH_HIP_ALLOC_CONF",
    "HIP_LAUNCH_BLOCKING",
    "AMD_SERIALIZE_KERNEL",
    "PYTORCH_TUNABLEOP_ENABLED",
    "TORCH_BLAS_PREFER_HIPBLASLT",
    "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL",
    "ZE_AFFINITY_MASK",
    "ZE_FLAT_DEVICE_HIERARCHY",
    "UR_L0_USE_IMMEDIATE_COMMANDLISTS",
    "PYTORCH_ENABLE_MPS_FALLBACK",
    "PYTORCH_MPS_HIGH_WATERMARK_RATIO",
    "PYTORCH_MPS_LOW_WATERMARK_RATIO",
    "PYTORCH_MPS_FAST_MATH",
    "PYTORCH_MPS_PREFER_METAL",
)
"""Environment variables that change a figure; recorded where they are set."""


def capture(device: str | None = None, packages: Iterable[str] = ()) -> Environment:
    """The environment now. `device` as torch names it; None or `auto` takes in the GPUs there are.

    `packages`: those of the engines (`bench.engines.registry.packages`), beside `PACKAGES`.

    GPU facts come from the driver, so this does not need torch, and takes well below a second;
    those of `xpu` and `mps` come from torch in a process of its own, in some seconds.
    """
    gpu, gpu_state, no_gpu = gpu_facts(device)
    identity = host_identity() | versions(packages) | gpu
    identity["bench"] = bench.__version__
    identity["settings"] = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    state = host_state() | gpu_state | commit() | {"time": utc_now()}
    if gpu.get("gpu") is not None:
        # A virtual machine may be given memory while it runs: a run would not go on with its own
        # records for a figure that no card's speed hangs on.
        state["memory_bytes"] = identity.pop("memory_bytes")
    if no_gpu is not None:
        state["absent"]["gpu"] = no_gpu
    return Environment(id=hash_of(identity), identity=identity, state=state)


def hash_of(identity: dict[str, Any]) -> str:
    """Equal identities, equal hash (16 hexadecimal digits)."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions(packages: Iterable[str] = ()) -> dict[str, str | None]:
    """Versions of what is installed, without importing it; torch and transformers always named."""
    found: dict[str, str | None] = {"torch": None, "transformers": None, "torchao": None}
    for name in (*PACKAGES, *packages):
        if (version := installed(name)) is not None:
            found[name] = version
    return found


def gpu_facts(device: str | None) -> tuple[dict[str, Any], dict[str, Any], str | None]:
    """Of the card (or cards) that will be measured: what identifies it, what may change meanwhile,
    and why there is none; none on `cpu`."""
    if device is not None and on_cpu(device):
        return {"gpu": None}, {}, "the device is the CPU"
    if device is not None and is_remote(device):
        if local := behind(device):
            return gpu_facts(local)
        return {"gpu": None}, {}, "a server's machine cannot be read from here"
    each: list[dict[str, Any]] = []
    states: list[dict[str, Any]] = []
    for name in members(card.meant(device or "auto")):
        try:
            found, state = card.describe(name)
        except Unreadable as reason:
            return {"gpu": None}, {}, str(reason)
        each.append(found)
        states.append(state)
    if len(each) == 1:
        return each[0], states[0], None
    return group_identity(each), {"gpus": states}, None


def host_state() -> dict[str, Any]:
    """Load, governor, clocks, temperature, free memory now; `absent` says what is missing."""
    state = Figures()
    state.read("load_average", machine.load_average)
    state.read("governor", machine.governors)
    state.read("turbo", machine.turbo)
    state.read("cpu_mhz", machine.frequency_mhz)
    state.read("cpu_temperature_c", machine.temperature_c)
    state.read("memory_available_bytes", lambda: machine.memory_info("MemAvailable"))
    return state.values | {"absent": state.absent, "command": Path(sys.argv[0]).name}


def commit() -> dict[str, Any]:
    """Commit of this checkout of the harness and whether it was changed; {} if not a checkout."""
    folder = Path(bench.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return {}
    head = _git(folder, "rev-parse", "HEAD")
    if head is None:
        return {}
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": head, "dirty": None if changed is None else bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
