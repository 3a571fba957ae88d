"""The doctor's checks of software, CPU, memory and container."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from bench import programs
from bench.devices.figures import Unreadable
from bench.devices.host import load, machine, rapl
from bench.doctor import Check, State

GIB = 1 << 30

PACKAGES: tuple[tuple[str, tuple[int, ...], State], ...] = (
    ("torch", (2, 11), "bad"),
    ("transformers", (5, 17), "bad"),
    ("torchao", (0, 17), "warn"),
)
"""Name, least version (as in pyproject.toml), and how bad it is to lack it."""
CARD_PACKAGES: tuple[tuple[str, tuple[int, ...], State], ...] = (("gemlite", (0, 6, 0), "ok"),)
"""The same of what only a card can use, and nobody must have."""


INDEXES: Final[Mapping[str, str]] = {
    "hip": "https://download.pytorch.org/whl/rocmX.Y (X.Y: your ROCm, as pytorch.org lists it)",
    "xpu": "https://download.pytorch.org/whl/xpu",
}
"""Where builds of torch come from that PyPI's would replace: it is for NVIDIA."""


def software_checks(build: str | None = None) -> Iterator[Check]:
    """Python, packages, and room for what is downloaded. `build`: what torch was built for."""
    yield Check(check="python", state="ok", found=platform.python_version())
    for name, least, lacking in PACKAGES:
        found = package_check(name, least, lacking)
        if name == "torch" and found.advice and (index := INDEXES.get(build or "")):
            found = replace(found, advice=f"{found.advice} --index-url {index}")
        yield found
    yield disk_check()


def compiler_check(device: str, line: str | None = None) -> Check:
    """Whether a line of Triton can be built and run on a card, by doing it."""
    found = built(device) if line is None else line
    if found == "ok":
        return Check(check="triton", state="ok", found="builds and runs a test line")
    return Check(
        check="triton",
        state="bad",
        found=found.partition(";")[0],
        meaning="modes compiled and cuda-graph, and schemes with kernels of their own, fail",
        advice=found.partition("; ")[2],
    )


def built(device: str, limit_s: float = 180.0) -> str:
    """What `bench.doctor.triton_line` answers, in a process of its own."""
    try:
        done = subprocess.run(
            programs.own("bench.doctor.triton_line", device),
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer after {limit_s:.0f} s"
    said = (done.stdout or done.stderr).strip().splitlines()
    return said[-1] if said else f"ended with exit code {done.returncode}"


def package_check(name: str, least: tuple[int, ...], lacking: State) -> Check:
    """Whether a package is there and new enough, without importing it."""
    wanted = ".".join(map(str, least))
    advice = f"pip install -U '{name}>={wanted}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        meaning = "nothing can be measured" if lacking == "bad" else "its schemes are left out"
        return Check(check=name, state=lacking, found="-", meaning=meaning, advice=advice)
    if version_of(version) < least:
        meaning = "older than what was tested; results may differ"
        return Check(check=name, state="warn", found=version, meaning=meaning, advice=advice)
    return Check(check=name, state="ok", found=version)


def version_of(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.13.0+cpu is (2, 13, 0)."""
    numbers: list[int] = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def disk_check() -> Check:
    """Room where model weights are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(os.environ.get("HF_HOME") or f"{home}/huggingface")
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / GIB:.1f} GiB free at {folder}"
    if free > 10 * GIB:
        return Check(check="disk", state="ok", found=found)
    return Check(
        check="disk",
        state="bad" if free < GIB else "warn",
        found=found,
        meaning="larger models will not fit",
        advice="free some space, or set HF_HOME to a larger disk",
    )


def host_checks(*, computes: bool) -> Iterator[Check]:
    """CPU, memory, container; `computes` where the CPU itself is measured."""
    yield from cpu_limit_check()
    if computes:
        yield from int8_check()
    yield from memory_checks()
    yield load_check(computes=computes)
    yield shown("governor", machine.governors, governor_check)
    if computes:
        yield shown("turbo", machine.turbo, turbo_check)
        yield shown("cpu temperature", machine.temperature_c, temperature_check)
        yield rapl_check()


def shown(name: str, read: Callable[[], Any], judge: Callable[[Any], Check]) -> Check:
    """Judge what the system shows; what it hides is a warning, for it may be anything."""
    try:
        return judge(read())
    except Unreadable as reason:
        return Check(
            check=name,
            state="warn",
            found="not shown",
            meaning=str(reason),
            advice="nothing to do inside a virtual machine; expect more spread"
            if sys.platform == "linux"
            else "",
        )


def cpu_limit_check() -> Iterator[Check]:
    """Cores, and whether a container's quota allows fewer."""
    cores = machine.cores()
    try:
        limit = machine.cpu_limit()
    except Unreadable:
        limit = None
    if limit is not None and limit < cores:
        yield Check(
            check="cpu",
            state="warn",
            found=f"{limit:g} of {cores} cores allowed",
            meaning="the quota stops the process in bursts, which shows as uneven steps",
            advice="give the container whole cores (--cpuset-cpus), not a quota (--cpus)",
        )
        return
    try:
        model = machine.cpu_model()
    except Unreadable:
        model = "model not shown"
    yield Check(check="cpu", state="ok", found=f"{model}, {cores} cores")


INT8 = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Extensions that multiply int8 and add in 32 bits in one instruction."""


def int8_check(root: Path = machine.ROOT) -> Iterator[Check]:
    """Whether the CPU has instructions for int8 products; nothing where it does not say."""
    try:
        extensions = machine.cpu_extensions(root)
    except Unreadable:
        return
    if not set(extensions.split()) & {*INT8}:
        yield Check(
            check="int8",
            state="warn",
            found=f"no int8 instructions (has {extensions or 'none'})",
            meaning="int8 schemes are slower than none on this CPU",
            advice="compare schemes on a CPU with AVX-512 VNNI, AVX-VNNI, AMX or ARM's dot product",
        )


def memory_checks() -> Iterator[Check]:
    """Free memory, within the container's limit."""
    free = machine.memory_info("MemAvailable") if Path("/proc/meminfo").exists() else None
    try:
        limit = machine.memory_limit()
    except Unreadable:
        limit = None
    if free is None:
        yield Check(
            check="memory",
            state="warn",
            found="not shown",
            meaning="only loading a model shows whether it fits",
        )
        return
    least = min(free, limit) if limit is not None else free
    found = f"{least / GIB:.1f} GiB free" + (" (container's limit)" if least == limit else "")
    state: State = "ok" if least > 4 * GIB else "warn" if least > 2 * GIB else "bad"
    meaning = "" if state == "ok" else "a model that does not fit is killed or swapped"
    advice = "" if state == "ok" else "close other programs, or measure a smaller model"
    yield Check(check="memory", state=state, found=found, meaning=meaning, advice=advice)


def load_check(*, computes: bool, seconds: float = 1.0) -> Check:
    """How much CPU others use right now."""
    try:
        before = load.times()
        time.sleep(seconds)
        seen = load.between(before, load.times())
    except Unreadable as reason:
        return Check(check="other load", state="warn", found="not shown", meaning=str(reason))
    cores = machine.cores()
    used = seen.foreign_cores + seen.steal_cores
    found = f"{used:.2f} of {cores} cores"
    limit = load.foreign_limit(cores) if computes else max(cores - 1, 1)
    if used <= limit:
        return Check(check="other load", state="ok", found=found)
    return Check(
        check="other load",
        state="bad" if computes and used > cores / 2 else "warn",
        found=found,
        meaning="figures measured now would be marked FOREIGN_PROCESS",
        advice="stop other programs (top shows them) and look again",
    )


def governor_check(governor: str) -> Check:
    """Whether the clock is held up between bursts of work."""
    if governor == "performance":
        return Check(check="governor", state="ok", found=governor)
    return Check(
        check="governor",
        state="warn",
        found=governor,
        meaning="the CPU's clock follows the load: short steps are slower and spread more",
        advice="sudo cpupower frequency-set -g performance",
    )


def turbo_check(on: bool) -> Check:
    """Whether the clock depends on heat and on how many cores are busy."""
    if not on:
        return Check(check="turbo", state="ok", found="off")
    return Check(
        check="turbo",
        state="warn",
        found="on",
        meaning="the clock falls as the CPU warms up; pairs in ABBA order cancel most of it",
        advice="for the least spread: echo 1 | sudo tee "
        "/sys/devices/system/cpu/intel_pstate/no_turbo (Intel), "
        "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost (AMD)",
    )


def temperature_check(temperature_c: float) -> Check:
    """Thermal headroom of the CPU; most slow down at 95 to 100 C."""
    found = f"{temperature_c:.0f} C"
    if temperature_c < 70:
        return Check(check="cpu temperature", state="ok", found=found)
    return Check(
        check="cpu temperature",
        state="bad" if temperature_c > 90 else "warn",
        found=found,
        meaning="little headroom before it slows itself down",
        advice="let it cool, clean the fan",
    )


def rapl_check() -> Check:
    """Whether the CPU's energy can be read."""
    try:
        zones = rapl.find().zones
    except Unreadable as reason:
        advice = "run as root" if "root only" in str(reason) else ""
        return Check(
            check="energy counter",
            state="warn",
            found="none",
            meaning=f"no energy per token: {reason}",
            advice=advice,
        )
    return Check(check="energy counter", state="ok", found=f"RAPL, {len(zones)} packages")
