"""Clocks for the timed loop: `start`, a `mark` after each step, `stop` for the durations between.

On an accelerator a mark is an event in the device's own queue, so that marking never waits for
the device; elsewhere it is the host's monotonic clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

from bench.experiment.devices import kind_of, on_cpu


class Clock(Protocol):
    """Durations between marks, in seconds."""

    name: str

    def start(self) -> None:
        """Begin; the first duration counts from here."""

    def mark(self) -> None:
        """The end of one step and the start of the next."""

    def stop(self) -> list[float]:
        """The duration of each step; waits for the device where it must."""


def suspended_s() -> float:
    """Seconds that this machine has slept since it was started; 0 where the system does not tell.

    The clock that durations are measured by stands still meanwhile, and what is measured does not
    go on where it was: caches, clocks and temperatures are others.
    """
    # Linux' monotonic clock stands still while it sleeps, macOS' goes on (clock_gettime(3)).
    for going, standing in (
        ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"),
        ("CLOCK_MONOTONIC", "CLOCK_UPTIME_RAW"),
    ):
        if hasattr(time, going) and hasattr(time, standing):
            now = [time.clock_gettime(getattr(time, name)) for name in (going, standing)]
            return now[0] - now[1]
    return 0.0


class HostClock:
    """The host's monotonic clock, for work that is done when its call returns."""

    name = "host"

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        self._times: list[int] = []
        self._synchronize = synchronize
        if synchronize is not None:
            self.name = "host, device synchronised at each step"

    def start(self) -> None:
        self._times.clear()
        self.mark()

    def mark(self) -> None:
        if self._synchronize is not None:
            self._synchronize()
        self._times.append(time.perf_counter_ns())

    def stop(self) -> list[float]:
        times = self._times
        return [(after - before) / 1e9 for before, after in pairwise(times)]


class EventClock:
    """Events in the device's queue (CUDA, ROCm, XPU)."""

    name = "device events"

    def __init__(self, make_event: Callable[[], Any], synchronize: Callable[[], None]) -> None:
        self._make_event = make_event
        self._synchronize = synchronize
        self._pool: list[Any] = []
        self._used = 0

    def start(self) -> None:
        self._synchronize()
        self._used = 0
        self.mark()

    def mark(self) -> None:
        if self._used == len(self._pool):
            self._pool.append(self._make_event())
        self._pool[self._used].record()
        self._used += 1

    def stop(self) -> list[float]:
        self._synchronize()
        events = self._pool[: self._used]
        return [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]


def clock_for(device: str) -> Clock:
    """The clock that disturbs this device least; of several, of the one that is torch's current."""
    kind = kind_of(device)
    if on_cpu(device):
        return HostClock()
    import torch

    module = getattr(torch, kind, None)
    if kind in ("cuda", "xpu") and module is not None:
        return EventClock(lambda: module.Event(enable_timing=True), module.synchronize)
    return HostClock(torch.accelerator.synchronize)
