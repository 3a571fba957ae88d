"""Opening and closing a window at the ticks of an energy counter, and sampling in between.

A `Pace` is where time comes from: the machine's clock and a thread, or a recorded trace.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from bench.devices.figures import Unreadable
from bench.devices.gpu.energy import Edge, Sample

POLL_S = 0.002
"""Time between looks at the counter while waiting for a tick; nothing is being timed then."""

TICK_LIMIT_S = 0.5
"""A counter that has not ticked for so long is not waited for: edges stay unaligned."""

STOPPED_TICKS = 3
"""A counter that misses so many ticks in `TICK_LIMIT_S` has stopped."""

SAMPLE_S = 0.1
"""Time between samples inside a window, near the fastest that NVML updates its figures."""


class Pace(Protocol):
    """Time, and something that samples while it passes."""

    def now(self) -> float:
        """Monotonic seconds."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""

    def start(self, take: Callable[[], Sample]) -> None:
        """Call `take` about every `SAMPLE_S` until `stop`."""

    def stop(self) -> list[Sample]:
        """What was taken since `start`."""


class LivePace:
    """The machine's clock and one thread.

    The thread sleeps between samples, and the vendors' libraries release the interpreter's lock
    while they look: the timed loop waits only for the few microseconds in which a sample is put
    together (tests/perf/test_sampler_perf.py measures it).
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._samples: list[Sample] = []

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def start(self, take: Callable[[], Sample]) -> None:
        assert self._thread is None, "windows do not nest"
        self._stop.clear()
        self._samples = []
        self._thread = threading.Thread(target=self._run, args=(take,), daemon=True)
        self._thread.start()

    def _run(self, take: Callable[[], Sample]) -> None:
        while True:
            self._samples.append(take())
            if self._stop.wait(SAMPLE_S):
                return

    def stop(self) -> list[Sample]:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
        return self._samples


class Meter:
    """Finds the edges of windows on one counter."""

    def __init__(self, read_mj: Callable[[], int], pace: Pace, *, align: bool = True) -> None:
        self._read_mj = read_mj
        self._pace = pace
        self._align = align
        self.period_s: float | None = None
        """Time between two ticks, as seen when the window was opened."""

    def open(self) -> Edge:
        """Open a window at a tick; the tick before it tells the period. Raises Unreadable."""
        self.period_s = None
        value, now = self._read_mj(), self._pace.now()
        if not self._align:
            return _unaligned(now, value)
        first = self._next_tick(value)
        second = first and self._next_tick(first.counter_mj)
        if first is None or second is None:
            return _unaligned(self._pace.now(), self._read_mj())
        self.period_s = second.tick_s - first.tick_s
        return second

    def close(self) -> Edge:
        """Close the window now, then wait for the next tick to know when the last one was.

        Raises Unreadable if the counter stopped in between: when, and what it missed, is unknown.
        """
        closed_s, value = self._pace.now(), self._read_mj()
        if not self._align or self.period_s is None:
            return _unaligned(closed_s, value)
        following = self._next_tick(value)
        if following is None:
            if STOPPED_TICKS * self.period_s < TICK_LIMIT_S:
                raise Unreadable(
                    f"the energy counter ticked every {self.period_s:.2f} s, then stopped ticking "
                    "within the window"
                )
            return _unaligned(closed_s, value)
        tick_s = following.tick_s - self.period_s
        # The tick was seen at most a poll late at each of the three looks that this rests on.
        if tick_s > closed_s + 2 * POLL_S + following.uncertain_s:
            return _unaligned(closed_s, value)
        return Edge(
            at_s=closed_s,
            counter_mj=value,
            tick_s=min(tick_s, closed_s),
            uncertain_s=2 * following.uncertain_s,
            aligned=True,
        )

    def _next_tick(self, value: int) -> Edge | None:
        """Wait until the counter changes; None if it does not within the limit."""
        limit = self._pace.now() + TICK_LIMIT_S
        before = self._pace.now()
        while before < limit:
            self._pace.sleep(POLL_S)
            after, changed = self._pace.now(), self._read_mj()
            if changed != value:
                return Edge(
                    at_s=after,
                    counter_mj=changed,
                    tick_s=after,
                    uncertain_s=after - before,
                    aligned=True,
                )
            before = after
        return None


def _unaligned(at_s: float, value: int) -> Edge:
    """An edge without a tick: the value may be as old as the slowest counter's period."""
    return Edge(at_s=at_s, counter_mj=value, tick_s=at_s, uncertain_s=0.1, aligned=False)
