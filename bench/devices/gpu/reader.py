"""The reader of an accelerator, whoever made it: host, torch's memory, and a `Card`.

A `Card` is what a vendor's library shows of one accelerator; this file turns it into windows,
figures and reasons. The replay of a recorded trace is a `Card` too, so tests run this code.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

from bench.devices import Reading
from bench.devices.figures import Figures, Unreadable
from bench.devices.gpu.energy import (
    CROSS_CHECK_LIMIT,
    SHORT_S,
    Edge,
    Energy,
    Sample,
    energy_between,
    has_gap,
    integral,
    is_reset,
)
from bench.devices.gpu.meter import SAMPLE_S, LivePace, Meter, Pace
from bench.devices.gpu.torch_memory import TorchMemory
from bench.devices.host import HostReader

HELD_LIMIT = 0.001
"""Share of a window that a cause may hold the clocks down before the figure is invalid: less is
below what any of the compared ratios could show."""

THOROUGH_EVERY = 10
"""Every so many samples the slow-moving figures (temperature, clocks, memory) are read too, and
the counter, to see whether it went back. Each look costs the timed loop a hand-over of the
interpreter's lock."""

REST_LIMIT = 0.05
"""Share of the time in which a card that is left alone may be busy: a desktop's drawing is less, a
game, another container or a video is more, whether or not the driver lists its process."""
SETTLING_S = 1.0
"""NVML's utilization is of up to a second before it is asked (NVML API reference)."""

THERMAL = frozenset({"sw_thermal_slowdown", "hw_thermal_slowdown"})
BRAKE = frozenset({"hw_power_brake_slowdown"})
SLOWDOWN = "hw_slowdown"


class Card(Protocol):
    """One accelerator as its vendor's library shows it. Only `sample` never raises Unreadable."""

    counter: str
    """Name of the energy counter."""
    scope: str
    """What the counter counts."""
    systematic_error: float | None
    no_energy: str | None
    """Why there is no usable energy counter; None if there is one."""

    def identity(self) -> Mapping[str, Any]:
        """What must not differ between pooled records."""

    def state(self) -> Mapping[str, Any]:
        """What may differ between them, and is worth keeping."""

    def counter_mj(self) -> int:
        """The energy counter, millijoule."""

    def sample(self, at_s: float, *, thorough: bool) -> Sample:
        """Look once; `thorough` also reads what moves slowly."""

    def held_s(self) -> Mapping[str, float]:
        """Seconds so far that each cause has held the clocks down."""

    def foreign(self) -> Sequence[int]:
        """Process ids of others that compute on it."""

    def held_by(self, pids: Sequence[int]) -> int:
        """Bytes of its memory that these processes hold."""

    def missing(self) -> Mapping[str, str]:
        """Figures that `sample` cannot read, and why."""

    def close(self) -> None:
        """Give back the library."""


class GpuReader:
    """Reads one accelerator over windows."""

    def __init__(
        self,
        card: Card,
        *,
        pace: Pace | None = None,
        host: HostReader | None = None,
        memory: TorchMemory | None = None,
        align: bool = True,
    ) -> None:
        self._card = card
        self._pace = pace or LivePace()
        self._host = host
        self._memory = memory
        self._meter = Meter(card.counter_mj, self._pace, align=align)
        self.has_energy = card.no_energy is None
        self._idle_w: float | None = None
        self._no_idle = "idle power was not measured"
        self._busy: float | None = None
        self._no_rest = "the idle card was not sampled"
        self._samples: Sequence[Sample] = ()
        """Of the last window."""
        self._opened: Edge | None = None
        self._opened_s = 0.0
        self._held: Mapping[str, float] | None = None
        self._before = Figures()
        self._looks = 0

    def identity(self) -> Mapping[str, Any]:
        """Host and card."""
        host = self._host.identity() if self._host else {}
        return {**host, **self._card.identity()}

    def begin(self) -> None:
        """Open a window; waits for the counter's tick, at most two limits long."""
        self._pace.stop()  # of a window that failed work left open
        self._before = Figures()
        self._opened, self._looks = None, 0
        self._held = self._before.read("held_s", self._card.held_s)
        self._before.read("foreign_processes", self._card.foreign)
        if self._memory:
            self._memory.begin()
        if self._host:
            self._host.begin()
        if self._card.no_energy is None:
            self._opened = self._before.read("energy_j", self._meter.open)
        self._opened_s = self._opened.at_s if self._opened else self._pace.now()
        self._pace.start(self._take)

    def _take(self) -> Sample:
        thorough = self._looks % THOROUGH_EVERY == 0
        self._looks += 1
        return self._card.sample(self._pace.now(), thorough=thorough)

    def end(self) -> Reading:
        """Close the window; waits for the counter's next tick."""
        closing = Figures()
        closed_s = self._pace.now()
        closed = closing.read("energy_j", self._meter.close) if self._opened else None
        if closed is not None:
            closed_s = closed.at_s
        samples = [s for s in self._pace.stop() if s.at_s <= closed_s]
        self._samples = samples
        last = self._card.sample(self._pace.now(), thorough=True)
        host = self._host.end() if self._host else Reading()
        memory = self._memory.end() if self._memory else Figures()
        used = [s.used_bytes for s in [*samples, last] if s.used_bytes is not None]
        if used:
            memory.values["device_used_bytes"] = max(used)
        device = self._device(samples, last, closed_s)
        energy, reasons = self._energy(samples, closed, closed_s, closing)
        reasons |= self._reasons(samples, closed_s, device)
        host_absent = {name: why for name, why in host.absent.items() if name != "energy_j"}
        if host.energy:
            energy["host"] = dict(host.energy)
        missing = {_FIGURES.get(name, name): why for name, why in self._card.missing().items()}
        missing.pop("busy_at_rest", None)  # told once, with what was seen at rest
        absent = {**host_absent, **missing, **memory.absent, **device.absent}
        shown = {**host.device, **device.values}
        return Reading(
            energy=energy,
            memory={**host.memory, **memory.values},
            device=shown,
            reasons=tuple(sorted(reasons | set(host.reasons))),
            # A look that failed once is no loss if the others did not.
            absent={
                name: why
                for name, why in (absent | closing.absent).items()
                if name not in shown and name not in memory.values
            },
        )

    def idle(self, seconds: float) -> None:
        """Measure the power at rest, with whatever is loaded, and look whether others keep the
        card busy; later windows carry both."""
        self.begin()
        self._pace.sleep(seconds if self.has_energy else min(seconds, 3 * SETTLING_S))
        read = self.end()
        from_s = self._opened_s + SETTLING_S
        busy = _column([s for s in self._samples if s.at_s >= from_s], lambda s: s.busy)
        self._busy = statistics.median(busy) if busy else None
        why = self._card.missing().get("busy", "the idle time was too short to sample")
        self._no_rest = f"at rest: {why}"
        if not self.has_energy:
            return
        power = read.energy.get("mean_power_w")
        self._idle_w = None if power is None else float(power)
        self._no_idle = f"at rest: {read.absent.get('energy_j', 'no energy was read')}"

    def close(self) -> None:
        self._pace.stop()
        self._card.close()
        if self._host:
            self._host.close()

    def _energy(
        self, samples: Sequence[Sample], closed: Edge | None, closed_s: float, absent: Figures
    ) -> tuple[dict[str, Any], set[str]]:
        """The energy figures and the reasons that go with them."""
        check = Figures()
        check.read("cross_check_j", lambda: integral(samples, self._opened_s, closed_s))
        if self._card.no_energy is not None:
            absent.absent["energy_j"] = self._card.no_energy
            return {}, set()
        if self._opened is None:
            absent.absent["energy_j"] = self._before.absent["energy_j"]
        if self._opened is None or closed is None:
            return {}, set()
        opened = self._opened
        # A sample near the edge may have been taken just after it, with the counter a tick on.
        before = [s for s in samples if s.at_s < closed_s - SAMPLE_S]
        seen = [s.counter_mj for s in before if s.counter_mj is not None]
        reasons = set()
        if is_reset([opened.counter_mj, *seen, closed.counter_mj]):
            absent.absent["energy_j"] = "the energy counter went backwards"
            return {}, {"COUNTER_RESET"}
        energy = absent.read(
            "energy_j", lambda: energy_between(opened, closed, self._meter.period_s)
        )
        if not (opened.aligned and closed.aligned):
            reasons.add("CLOCK_NOT_BRACKETED")
        absent.absent.update(check.absent)
        if energy is None:
            return {}, reasons
        if self._idle_w is None:
            absent.absent["idle_power_w"] = self._no_idle
        return self._energy_figures(energy, check.values.get("cross_check_j")), reasons

    def _energy_figures(self, energy: Energy, check_j: float | None) -> dict[str, Any]:
        ratio = None if check_j is None else check_j / energy.energy_j
        return {
            "energy_j": energy.energy_j,
            "window_s": energy.window_s,
            "mean_power_w": energy.mean_power_w,
            "idle_power_w": self._idle_w,
            "scope": self._card.scope,
            "counter": self._card.counter,
            "systematic_error": self._card.systematic_error,
            "edge_error": energy.edge_error,
            "tick_s": self._meter.period_s,
            "cross_check_j": check_j,
            "cross_check_ratio": ratio,
            "cross_check_agrees": None if ratio is None else abs(ratio - 1) <= CROSS_CHECK_LIMIT,
            "short_window": energy.window_s < SHORT_S,
        }

    def _device(self, samples: Sequence[Sample], last: Sample, closed_s: float) -> Figures:
        """Temperatures, clocks, power and events over the window; `last` was taken after it."""
        figures = Figures()
        values = figures.values
        seen = _column([*samples, last], lambda s: s.temperature_c)
        if seen:
            values["temperature_start_c"], values["temperature_c"] = seen[0], seen[-1]
            values["temperature_max_c"] = max(seen)
        for name, get in _MEDIANS.items():
            if column := _column(samples, get):
                values[name] = statistics.median(column)
        if column := _column(samples, lambda s: s.sm_mhz):
            values["sm_mhz_min"] = min(column)
        events = [s.events for s in samples if s.events is not None]
        if events:
            values["events"] = sorted(frozenset().union(*events))
            values["sw_power_cap_share"] = _share(events, "sw_power_cap")
        values["samples"] = len(samples)
        figures.read("busy_at_rest", self._rest)
        self._held_in(closed_s - self._opened_s, figures)
        after = figures.read("foreign_processes", self._card.foreign)
        before = self._before.values.get("foreign_processes", ())
        if after is not None:
            # The ids are of this machine and of no use to a reader: only how many.
            values["foreign_processes"] = len({*before, *after})
        return figures

    def _rest(self) -> float:
        if self._busy is None:
            raise Unreadable(self._no_rest)
        return self._busy

    def _held_in(self, window_s: float, figures: Figures) -> None:
        """Share of the window in which each cause held the clocks down, by the card's counters."""
        after = figures.read("held_s", self._card.held_s)
        figures.values.pop("held_s", None)
        if after is None or self._held is None or window_s <= 0:
            why = self._before.absent.get("held_s", "the window is empty")
            figures.absent.setdefault("held_share", figures.absent.pop("held_s", why))
            return
        risen = {cause: after[cause] - self._held[cause] for cause in after if cause in self._held}
        if any(seconds < 0 for seconds in risen.values()):
            figures.absent["held_share"] = "the card's counters of throttling went backwards"
            return
        figures.values["held_share"] = {cause: s / window_s for cause, s in risen.items()}

    def _reasons(self, samples: Sequence[Sample], closed_s: float, device: Figures) -> set[str]:
        reasons = set()
        events = [s.events for s in samples if s.events is not None]
        held = device.values.get("held_share", {})
        if any(THERMAL & seen for seen in events) or _held(held, THERMAL) or _slowed(events):
            reasons.add("THERMAL_THROTTLE")
        if any(BRAKE & seen for seen in events) or _held(held, BRAKE):
            reasons.add("POWER_BRAKE")
        busy = device.values.get("busy_at_rest", 0.0) > REST_LIMIT
        if busy or device.values.get("foreign_processes", 0) > 0:
            reasons.add("FOREIGN_PROCESS")
        if has_gap(samples, self._opened_s, closed_s):
            reasons.add("SAMPLE_GAP")
        return reasons


_FIGURES: Mapping[str, str] = {
    "counter_mj": "energy_samples",
    "used_bytes": "device_used_bytes",
    "busy": "busy_at_rest",
}
"""Names of samples whose figures over a window are called otherwise."""

_MEDIANS: Mapping[str, Callable[[Sample], float | None]] = {
    "sm_mhz": lambda s: s.sm_mhz,
    "memory_mhz": lambda s: s.memory_mhz,
    "power_w": lambda s: s.power_w,
}


def _column(samples: Sequence[Sample], get: Callable[[Sample], float | None]) -> list[float]:
    return [value for sample in samples if (value := get(sample)) is not None]


def _share(events: Sequence[frozenset[str]], name: str) -> float:
    return sum(name in seen for seen in events) / len(events)


def _held(shares: Mapping[str, float], causes: frozenset[str]) -> bool:
    return any(shares.get(cause, 0.0) > HELD_LIMIT for cause in causes)


def _slowed(events: Sequence[frozenset[str]]) -> bool:
    """Whether the hardware slowed down without saying more, in two samples in a row.

    In one alone it may be a change of clocks (NVIDIA's documentation of HW Slowdown says that it
    "may be also reported during PState or clock change"); with the brake it is the brake.
    """
    alone = [SLOWDOWN in seen and not (BRAKE & seen) for seen in events]
    return any(a and b for a, b in pairwise(alone))
