"""The host: peak memory, foreign CPU load, clocks, package energy. Also the reader of device `cpu`.

Standard library only; psutil is asked for what the system hides elsewhere, if it is installed.
"""

from __future__ import annotations

import platform
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.devices import Reading
from bench.devices.figures import Figures, Unreadable, text_of
from bench.devices.gpu.energy import SHORT_S
from bench.devices.host import load, machine, rapl


class HostReader:
    """Reads the host over windows. `judge` is false where the host only feeds an accelerator.

    A host that feeds an accelerator is called disturbed when others leave it less than one free
    core; one that computes is called disturbed above `load.foreign_limit`.
    """

    def __init__(
        self,
        *,
        computes: bool = True,
        root: Path = machine.ROOT,
        find_rapl: Callable[[], rapl.Rapl] = rapl.find,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._now = now
        self._computes = computes
        self._rapl: rapl.Rapl | None = None
        self._no_rapl = ""
        try:
            self._rapl = find_rapl()
        except Unreadable as reason:
            self._no_rapl = str(reason)
        self._opened_s = 0.0
        self._idle_w: float | None = None
        self._before: dict[str, Any] = {}
        self._peak_reset = False
        self.has_energy = self._rapl is not None

    def identity(self) -> Mapping[str, Any]:
        """What the host is; a figure that cannot be read is None."""
        return host_identity(self._root)

    def begin(self) -> None:
        """Open a window: reset the peak of memory, note every counter."""
        self._peak_reset = reset_peak(self._root)
        before = Figures()
        before.read("times", lambda: load.times(self._root))
        before.read("throttled_s", lambda: machine.cpu_throttled_s(self._root))
        before.read("throttle_count", lambda: machine.throttle_count(self._root))
        if self._rapl is not None:
            before.read("energy_uj", self._rapl.read_uj)
        self._before = before.values
        self._opened_s = self._now()

    def end(self) -> Reading:
        """Close the window."""
        closed_s = self._now()
        energy = Figures()
        energy.read("energy_j", lambda: self._energy_j(closed_s - self._opened_s))
        device, memory = self._device(), self._memory()
        if energy.values:
            energy.absent["systematic_error"] = "no published figure for this CPU's RAPL counters"
        return Reading(
            energy=self._energy(energy, closed_s - self._opened_s),
            memory=memory.values,
            device=device.values,
            reasons=self._reasons(device.values),
            absent=energy.absent | memory.absent | device.absent,
        )

    def _reasons(self, device: Mapping[str, Any]) -> tuple[str, ...]:
        reasons = []
        if "host_foreign_cores" in device:
            cores = machine.cores()
            limit = load.foreign_limit(cores) if self._computes else max(cores - 1, 1)
            if device["host_foreign_cores"] + device["host_steal_cores"] > limit:
                reasons.append("FOREIGN_PROCESS")
        if self._computes and device.get("cpu_throttle_events", 0) > 0:
            reasons.append("THERMAL_THROTTLE")
        return tuple(reasons)

    def idle(self, seconds: float) -> None:
        """Measure the package's power at rest; later windows carry it."""
        if self._rapl is None:
            return
        self.begin()
        time.sleep(seconds)
        power = self.end().energy.get("mean_power_w")
        self._idle_w = None if power is None else float(power)

    def close(self) -> None:
        """Nothing is held."""

    def _energy(self, read: Figures, window_s: float) -> dict[str, Any]:
        if "energy_j" not in read.values:
            return {}
        joules = read.values["energy_j"]
        return {
            "energy_j": joules,
            "window_s": window_s,
            "mean_power_w": joules / window_s,
            "idle_power_w": self._idle_w,
            "scope": "cpu-package",
            "counter": "rapl",
            "systematic_error": None,
            "short_window": window_s < SHORT_S,
        }

    def _energy_j(self, window_s: float) -> float:
        if self._rapl is None:
            raise Unreadable(self._no_rapl)
        if "energy_uj" not in self._before:
            raise Unreadable("RAPL could not be read at the start of the window")
        ranges = self._rapl.ranges_uj()
        if window_s > (most := rapl.most_s(ranges)):
            raise Unreadable(f"RAPL's counter may wrap around twice in a window above {most:.0f} s")
        after = self._rapl.read_uj()
        pairs = zip(self._before["energy_uj"], after, ranges, strict=True)
        joules = sum(rapl.unwrap(*pair) for pair in pairs) / 1e6
        if joules <= 0 or window_s <= 0:
            raise Unreadable("the RAPL counter did not move in the window")
        return joules

    def _memory(self) -> Figures:
        memory = Figures()
        memory.read("peak_host_bytes", lambda: peak_bytes(self._root))
        if "peak_host_bytes" in memory.values and not self._peak_reset:
            memory.values["peak_host_scope"] = "process"
            memory.absent["peak_host_window_bytes"] = (
                "the system cannot reset the peak, so it covers the whole process"
            )
        elif self._peak_reset:
            memory.values["peak_host_scope"] = "window"
        return memory

    def _device(self) -> Figures:
        device = Figures()
        try:
            seen = self._load()
        except Unreadable as reason:
            device.absent["host_foreign_cores"] = str(reason)
        else:
            device.values["host_own_cores"] = round(seen.own_cores, 4)
            device.values["host_foreign_cores"] = round(seen.foreign_cores, 4)
            device.values["host_steal_cores"] = round(seen.steal_cores, 4)
        device.read("governor", lambda: machine.governors(self._root))
        device.read("cpu_mhz", lambda: machine.frequency_mhz(self._root))
        device.read("cpu_temperature_c", lambda: machine.temperature_c(self._root))
        for name, key, get in (
            ("cgroup_throttled_s", "throttled_s", machine.cpu_throttled_s),
            ("cpu_throttle_events", "throttle_count", machine.throttle_count),
        ):
            device.read(name, lambda key=key, get=get: self._rise(key, get))  # type: ignore[misc]  # mypy cannot infer a lambda with bound defaults
        return device

    def _rise(self, key: str, get: Callable[[Path], float]) -> float:
        after = get(self._root)
        if key not in self._before:
            raise Unreadable("could not be read at the start of the window")
        rise: float = after - self._before[key]
        return rise

    def _load(self) -> load.Load:
        after = load.times(self._root)
        if "times" not in self._before:
            raise Unreadable("could not be read at the start of the window")
        return load.between(self._before["times"], after)


def host_identity(root: Path = machine.ROOT) -> dict[str, Any]:
    """Host, CPU, cores, memory, limits, system: what figures of the CPU depend on."""
    found = Figures()
    found.read("host", lambda: machine.host_id(root))
    found.read("cpu", lambda: machine.cpu_model(root))
    found.read("cpu_extensions", lambda: machine.cpu_extensions(root))
    found.read("cpu_cores", machine.cores)
    found.read("cpu_limit_cores", lambda: machine.cpu_limit(root))
    found.read("memory_bytes", lambda: machine.memory_bytes(root))
    found.read("memory_limit_bytes", lambda: machine.memory_limit(root))
    found.read("os", machine.system)
    found.read("architecture", platform.machine)
    found.read("python", platform.python_version)
    return found.values | dict.fromkeys(found.absent)


def reset_peak(root: Path = machine.ROOT) -> bool:
    """Make the kernel forget this process's peak of memory; whether it could (proc(5))."""
    try:
        (root / "proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_bytes(root: Path = machine.ROOT) -> int:
    """Most memory this process has held: since `reset_peak`, or since it started."""
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", text_of(root / "proc/self/status"), re.MULTILINE)
    except Unreadable:
        found = None
    if found:
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:
        return _psutil_peak()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS: getrusage(2) of each.
    return peak if sys.platform == "darwin" else peak * 1024


def _psutil_peak() -> int:
    """Peak working set, where psutil is installed (Windows)."""
    try:
        import psutil
    except ImportError:
        raise Unreadable("neither /proc, getrusage nor psutil is available") from None
    peak = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if peak is None:
        raise Unreadable("psutil gives no peak of memory on this system")
    return int(peak)
