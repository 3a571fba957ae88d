"""What the operating system says about this machine: CPU, memory, governor, container limits.

Linux is read from /proc and /sys; elsewhere most figures are absent with that reason. Every
function raises Unreadable where a figure is missing. `root` is for tests. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

from bench.devices.figures import Unreadable, number_of, text_of

ROOT = Path("/")
UNLIMITED = 1 << 60
"""cgroup v1 writes a number near 2**63 where there is no memory limit."""


def cores() -> int:
    """Logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    count = os.cpu_count()
    if count is None:
        raise Unreadable("the system does not say how many cores it has")
    return count


def cpu_model(root: Path = ROOT) -> str:
    """The processor's name."""
    try:
        info = text_of(root / "proc/cpuinfo")
    except Unreadable:
        # macOS says `arm` of every Mac there.
        if name := _brand() or platform.processor():
            return name
        raise
    # x86 says `model name`; many ARM kernels give only the numbers of implementer and part.
    for pattern in (r"^model name\s*:\s*(.+)$", r"^Model\s*:\s*(.+)$", r"^CPU part\s*:\s*(.+)$"):
        if found := re.search(pattern, info, re.MULTILINE):
            return found[1].strip()
    raise Unreadable("/proc/cpuinfo names no model")


def _brand() -> str | None:
    """The chip's name as macOS has it: `Apple M3 Max`."""
    if sys.platform != "darwin":
        return None
    done = subprocess.run(
        ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


EXTENSIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "avx10",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "sme",
)
"""Instruction sets by which kernels of inference choose their code, as Linux names them."""


def cpu_extensions(root: Path = ROOT) -> str:
    """Those of `EXTENSIONS` that this CPU has, joined by spaces.

    Two virtual machines may give one name to CPUs that differ in them, and int8 products are
    many times as fast with `avx512_vnni` as without.
    """
    info = text_of(root / "proc/cpuinfo")
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    if not found:
        raise Unreadable("/proc/cpuinfo lists no instruction sets")
    flags = set(found[1].split())
    return " ".join(name for name in EXTENSIONS if name in flags)


def memory_info(name: str, root: Path = ROOT) -> int:
    """A line of /proc/meminfo (`MemTotal`, `MemAvailable`), in bytes."""
    found = re.search(rf"^{name}:\s*(\d+) kB", text_of(root / "proc/meminfo"), re.MULTILINE)
    if not found:
        raise Unreadable(f"/proc/meminfo has no {name}")
    return int(found[1]) * 1024


def memory_bytes(root: Path = ROOT) -> int:
    """Memory of the whole machine."""
    try:
        return memory_info("MemTotal", root)
    except Unreadable:
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        raise


def governors(root: Path = ROOT) -> str:
    """The cores' frequency governor; several, joined with `+`, where they differ."""
    files = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    if not files:
        raise Unreadable(
            "no /sys/devices/system/cpu/*/cpufreq: the system (often a virtual "
            "machine) does not show its governor"
        )
    return "+".join(sorted({text_of(file) for file in files}))


def frequency_mhz(root: Path = ROOT) -> float:
    """Mean clock of the cores now."""
    files = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    if files:
        values = [number_of(file) / 1e3 for file in files]
    else:  # where cpufreq is hidden x86 still gives a figure, in a virtual machine a fixed one
        info = text_of(root / "proc/cpuinfo")
        values = [float(mhz) for mhz in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", info, re.MULTILINE)]
    if not values or not sum(values):
        raise Unreadable("neither cpufreq nor /proc/cpuinfo shows a clock")
    return sum(values) / len(values)


def turbo(root: Path = ROOT) -> bool:
    """Whether the CPU may exceed its base clock."""
    cpu = root / "sys/devices/system/cpu"
    if (file := cpu / "intel_pstate/no_turbo").exists():
        return number_of(file) == 0
    if (file := cpu / "cpufreq/boost").exists():
        return number_of(file) == 1
    raise Unreadable("neither intel_pstate/no_turbo nor cpufreq/boost is there")


def load_average() -> float:
    """Mean number of running or waiting tasks over the last minute."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        raise Unreadable("this system has no load average") from None


def temperature_c(root: Path = ROOT) -> float:
    """Hottest sensor of the CPU."""
    names = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
    found = [
        number_of(sensor) / 1e3
        for chip in sorted((root / "sys/class/hwmon").glob("hwmon*"))
        if (chip / "name").exists() and text_of(chip / "name") in names
        for sensor in chip.glob("temp*_input")
    ]
    if not found:
        raise Unreadable("no CPU temperature sensor under /sys/class/hwmon")
    return max(found)


def throttle_count(root: Path = ROOT) -> int:
    """How often cores and packages slowed down because of heat, since boot (Intel)."""
    pattern = "cpu[0-9]*/thermal_throttle/*_throttle_count"
    files = sorted((root / "sys/devices/system/cpu").glob(pattern))
    if not files:
        raise Unreadable("the CPU has no thermal_throttle counters (only Intel's have)")
    return sum(number_of(file) for file in files)


def cgroup_folder(controller: str, root: Path = ROOT) -> Path:
    """The folder of this process's cgroup for `cpu` or `memory`, version 2 or 1."""
    base = root / "sys/fs/cgroup"
    version2: Path | None = None
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        relative = path.lstrip("/")
        if controller in controllers.split(","):
            folder = base / controller / relative
            # Inside a container the path is the host's, and the own group is mounted at the top.
            return folder if folder.is_dir() else base / controller
        if not controllers:
            version2 = base / relative
    if version2 is None:
        raise Unreadable("/proc/self/cgroup names no group")
    return version2 if version2.is_dir() else base


def cpu_limit(root: Path = ROOT) -> float | None:
    """Cores that the container's quota allows; None where there is no limit."""
    folder = cgroup_folder("cpu", root)
    limits: list[float] = []
    for group in _upward(folder, root):
        if (file := group / "cpu.max").exists():
            quota, _, period = text_of(file).partition(" ")
            if quota != "max":
                limits.append(int(quota) / int(period or 100_000))
        elif (file := group / "cpu.cfs_quota_us").exists() and (quota_us := number_of(file)) > 0:
            limits.append(quota_us / number_of(group / "cpu.cfs_period_us"))
    return min(limits, default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that the container may use; None where there is no limit."""
    files = [
        group / name
        for group in _upward(cgroup_folder("memory", root), root)
        for name in ("memory.max", "memory.limit_in_bytes")
    ]
    texts = [text_of(file) for file in files if file.exists()]
    limits = [int(text) for text in texts if text != "max"]
    return min((limit for limit in limits if limit < UNLIMITED), default=None)


def cpu_throttled_s(root: Path = ROOT) -> float:
    """Seconds in which the container's quota held this process's group back, so far."""
    text = text_of(cgroup_folder("cpu", root) / "cpu.stat")
    if found := re.search(r"^throttled_usec (\d+)", text, re.MULTILINE):
        return int(found[1]) / 1e6
    if found := re.search(r"^throttled_time (\d+)", text, re.MULTILINE):
        return int(found[1]) / 1e9
    raise Unreadable("cpu.stat of the cgroup counts no throttling")


def host_id(root: Path = ROOT) -> str:
    """A short, stable name of this machine that does not tell which it is."""
    try:
        source = text_of(root / "etc/machine-id")  # 128 random bits: nobody guesses them
    except Unreadable:
        source = ""
    source = source or f"{_salt()}:{socket.gethostname()}"
    return hashlib.sha256(f"gpu-cost-bench:{source}".encode()).hexdigest()[:12]


@cache
def _salt() -> str:
    """Random bits of this user, kept: a host's name alone is found by trying names."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    file = Path(base) / "gpu-cost-bench" / "salt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as stream:
                stream.write(os.urandom(16).hex())
        return file.read_text("ascii")[:64]
    except (OSError, ValueError):  # nothing can be kept: another name each time, and no secret told
        return os.urandom(16).hex()


def system() -> str:
    """Operating system and its release."""
    return f"{platform.system()} {platform.release()}".strip()


def _upward(folder: Path, root: Path) -> list[Path]:
    """The group and those it is inside of: the tightest limit holds."""
    base = root / "sys/fs/cgroup"
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(base))]
