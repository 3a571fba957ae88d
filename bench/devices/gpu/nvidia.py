"""One NVIDIA card through NVML. Each figure that fails is absent with NVML's own words.

Figures: nvmlDeviceGetTotalEnergyConsumption (mJ since the driver was loaded, Volta and newer);
field 186, instant power (nvmlDeviceGetPowerUsage is a 1 s average on Ampere and newer except
GA100, so it is only the second choice); clock event reasons; cumulative counters of what held
the clocks down. Source: NVML API reference; nvidia-ml-py 13.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.devices.figures import NOT_LISTED, Figures, Unreadable, above_zero
from bench.devices.gpu.company import strangers
from bench.devices.gpu.energy import Sample
from bench.devices.gpu.nvml import Nvml, card_identity, card_state

POWER_INSTANT: Final = 186

EVENTS: Final[Mapping[int, str]] = {
    0x01: "gpu_idle",
    0x02: "applications_clocks_setting",
    0x04: "sw_power_cap",
    0x08: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons (nvmlClocksEventReason*)."""

HELD: Final[Mapping[str, int]] = {"sw_power_cap": 74, "perf_policy_thermal": 75}
"""Cumulative counters, ns, whose field numbers are the same in every driver. 75 is the time below
the application clocks, for which boosting less in warmth is enough: it is kept under its own name,
and is no slowdown."""

SLOWDOWNS: Final = ("sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
SLOWDOWNS_FROM: Final[Mapping[tuple[int, int], int]] = {(575, 51): 251, (580, 82): 269}
"""Driver -> number of the first of `SLOWDOWNS`, cumulative counters, ns, from that driver on: 251
to 253 in nvidia-ml-py 12.575.51 and 13.580.65, 269 to 271 from 13.580.82 to 13.615.71."""

SYSTEMATIC_ERROR: Final = 0.07
"""Share by which the board's sensor may be off, and not by the same share at every power: see
docs/energy.md. It does not cancel between two arms that draw different power."""

VGPU: Final = 2
"""NVML_GPU_VIRTUALIZATION_MODE_VGPU."""


class NvidiaCard:
    """One card. Raises Unreadable on making if NVML or the card is not there."""

    vendor = "nvidia"
    counter = "nvml-total-energy"
    scope = "gpu-board"
    systematic_error: float | None = SYSTEMATIC_ERROR

    def __init__(self, device: str, library: Any = None) -> None:
        self._nvml = Nvml(library)
        try:
            self._handle = self._nvml.handle_for(device)
        except Unreadable:
            self._nvml.close()
            raise
        self._missing: dict[str, str] = {}
        self._held_fields = {**HELD, **self._slowdown_fields()}
        self.no_energy = self._why_no_energy()

    def identity(self) -> Mapping[str, Any]:
        """Name, memory, driver, power limit, ECC, MIG; None where NVML does not say."""
        return card_identity(self._nvml, self._handle)

    def state(self) -> Mapping[str, Any]:
        """What may change while it is the same card; None where NVML does not say."""
        return card_state(self._nvml, self._handle)

    def counter_mj(self) -> int:
        """Energy since the driver was loaded. Raises Unreadable."""
        return int(self._ask("nvmlDeviceGetTotalEnergyConsumption"))

    def sample(self, at_s: float, *, thorough: bool) -> Sample:
        """Look once. A figure that fails is None, and `missing` says why."""
        seen = Figures()
        if thorough and self.no_energy is None:  # first, so that it belongs to `at_s`
            seen.read("counter_mj", self.counter_mj)
        seen.read("power_w", self._power_w)
        seen.read("events", self._events)
        if thorough:
            seen.read("temperature_c", self._temperature_c)
            seen.read("sm_mhz", lambda: self._clock_mhz("NVML_CLOCK_SM"))
            seen.read("memory_mhz", lambda: self._clock_mhz("NVML_CLOCK_MEM"))
            seen.read("used_bytes", self.used_bytes)
            seen.read("busy", lambda: self._ask("nvmlDeviceGetUtilizationRates").gpu / 100)
        self._missing |= seen.absent
        return Sample(at_s=at_s, **seen.values)

    def held_s(self) -> Mapping[str, float]:
        """Seconds so far that each cause has held the clocks down. Raises Unreadable."""
        figures = Figures()
        for cause, number in self._held_fields.items():
            figures.read(cause, lambda number=number: self.field(number) / 1e9)  # type: ignore[misc]  # mypy infers no lambda with defaults
        if not figures.values:
            raise Unreadable("; ".join(figures.absent.values()))
        return figures.values

    def foreign(self, *, computing: bool = True) -> Sequence[int]:
        """Process ids of others that compute on the card. Raises Unreadable."""
        listed = self._ask("nvmlDeviceGetComputeRunningProcesses")
        return strangers((int(process.pid) for process in listed), computing=computing)

    def used_bytes(self) -> int:
        """Bytes that all programs hold on the card. Raises Unreadable."""
        return int(self._ask("nvmlDeviceGetMemoryInfo").used)

    def held_by(self, pids: Sequence[int]) -> int:
        """Bytes of the card's memory that these processes hold, contexts and all.

        Raises Unreadable, also where a driver does not report the memory of processes: WSL2, WDDM.
        """
        found = [*self._ask("nvmlDeviceGetComputeRunningProcesses")]
        with contextlib.suppress(Unreadable):  # one that computes by Vulkan stands there alone
            found += self._ask("nvmlDeviceGetGraphicsRunningProcesses")
        listed = {int(one.pid): one.usedGpuMemory for one in found}
        held = [listed[pid] for pid in pids if pid in listed]
        if not held:
            raise Unreadable(NOT_LISTED)
        if None in held:
            raise Unreadable(
                "the driver does not report the memory of processes (WSL2, or WDDM on Windows)"
            )
        return sum(map(int, held))

    def missing(self) -> Mapping[str, str]:
        """Figures that could not be read, and why."""
        return self._missing

    def health(self) -> dict[str, float]:
        """Default power limit and slowdown temperature, where NVML shows them (`bench doctor`)."""
        figures = Figures()
        slowdown = self._constant("NVML_TEMPERATURE_THRESHOLD_SLOWDOWN")
        figures.read(
            "default_power_limit_w",
            lambda: float(self._ask("nvmlDeviceGetPowerManagementDefaultLimit")) / 1e3,
        )
        figures.read(
            "slowdown_c",
            lambda: float(self._ask("nvmlDeviceGetTemperatureThreshold", slowdown)),
        )
        return figures.values

    def close(self) -> None:
        self._nvml.close()

    def _ask(self, name: str, *arguments: Any) -> Any:
        return self._nvml.call(name, self._handle, *arguments)

    def field(self, number: int) -> float:
        """One of NVML's numbered fields. Raises Unreadable."""
        return self._nvml.field(self._handle, number)

    def _constant(self, name: str) -> int:
        return int(getattr(self._nvml.library, name))

    def _power_w(self) -> float:
        try:
            return above_zero("instant power", self.field(POWER_INSTANT)) / 1e3
        except Unreadable:
            return above_zero("power", self._ask("nvmlDeviceGetPowerUsage")) / 1e3

    def _clock_mhz(self, name: str) -> float:
        return above_zero("clock", self._ask("nvmlDeviceGetClockInfo", self._constant(name)))

    def _temperature_c(self) -> float:
        sensor = self._constant("NVML_TEMPERATURE_GPU")
        try:
            return float(self._ask("nvmlDeviceGetTemperatureV", sensor))
        except Unreadable:  # the older call, for older drivers
            return float(self._ask("nvmlDeviceGetTemperature", sensor))

    def _events(self) -> frozenset[str]:
        try:
            bits = int(self._ask("nvmlDeviceGetCurrentClocksEventReasons"))
        except Unreadable:  # its name before driver 535
            bits = int(self._ask("nvmlDeviceGetCurrentClocksThrottleReasons"))
        return frozenset(name for bit, name in EVENTS.items() if bits & bit)

    def _slowdown_fields(self) -> dict[str, int]:
        """Numbers of `SLOWDOWNS` in this driver; none of one that does not tell its version."""
        try:
            driver = str(self._nvml.call("nvmlSystemGetDriverVersion"))
            major, minor, *_ = driver.split(".")
            here = (int(major), int(minor))
        except (Unreadable, ValueError):
            return {}
        known = [first for least, first in SLOWDOWNS_FROM.items() if here >= least]
        return {cause: known[-1] + i for i, cause in enumerate(SLOWDOWNS)} if known else {}

    def _why_no_energy(self) -> str | None:
        """Why the counter is not usable; None if it is."""
        try:
            # A handle by the UUID of an instance need not answer what is asked of whole cards.
            if self._ask("nvmlDeviceIsMigDeviceHandle"):
                return "a MIG instance: the counter is the whole card's"
        except Unreadable:  # a driver older than MIG
            pass
        try:
            if self._ask("nvmlDeviceGetMigMode")[0]:
                return "MIG is on: the counter is the whole card's, not this instance's"
        except Unreadable:  # a card without MIG
            pass
        try:
            if self._ask("nvmlDeviceGetVirtualizationMode") == VGPU:
                return "a vGPU: any counter is that of the shared card"
        except Unreadable:  # a driver that does not say is not a vGPU's
            pass
        try:
            name = str(self._ask("nvmlDeviceGetName"))
        except Unreadable:
            name = ""
        if any(module in name for module in ("GH200", "GB200", "GB300")):
            return f"{name}: the counter's scope may be the module, CPU included; it is not used"
        try:
            self.counter_mj()
        except Unreadable as reason:
            return f"no energy counter ({reason})"
        return None
