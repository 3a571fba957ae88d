"""How many requests at once, and when: a closed loop, or arrivals at random.

Both return the answers as they ended and the edges of the window.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from bench.engines.endpoint.client import Answer

Ask = Callable[[], Awaitable[Answer]]
"""Makes the next request and sends it."""

FAILED_PAUSE_S = 0.1
"""After a failure a closed loop waits: a server that refuses at once is not to be hammered."""

BEAT_S = 0.01
"""How often the event loop's lag is looked at."""


@dataclass(slots=True)
class Window:
    """What a load pattern saw. Times are of `time.perf_counter_ns`."""

    answers: list[Answer] = field(default_factory=list)
    """Those that ended within the window, in that order."""
    begin_ns: int = 0
    end_ns: int = 0
    delays_s: list[float] = field(default_factory=list)
    """How late each request was begun: against its plan, or after the one before it had ended."""
    lags_s: list[float] = field(default_factory=list)
    """How late the event loop woke up, at each beat."""
    stamps_late_s: list[float] = field(default_factory=list)
    """How late the stamp of each arrival may be at most."""
    n_ramp: int = 0
    """Requests that were answered before the window began: the loop was filling."""
    last_ns: int = 0
    """When the last of `answers` ended."""
    cut_short: bool = False
    """Whether so many requests were beyond their limits that the rest was not waited for."""
    served_share: float | None = None
    """Requests that ended while the judged ones arrived, as a share of those; None where a request
    takes too long to tell."""

    @property
    def wall_s(self) -> float:
        return (self.end_ns - self.begin_ns) / 1e9

    @property
    def n_failed(self) -> int:
        return sum(answer.failure is not None for answer in self.answers)

    def fails(self, planned: int, allowed: float) -> bool:
        """Whether a larger share failed than may, of those planned or ended, whichever is more."""
        return self.n_failed > allowed * max(planned, len(self.answers))


class ClosedLoop:
    """Keeps `concurrency` requests in flight, and measures a window in the midst of them.

    The window begins when the first `concurrency` requests have been answered and ends with the
    last answer of a whole number of such rounds: requests of equal length tend to stay in step, and
    a window that cut a round would count more or less of it than of its time. Where more requests
    fail than may, no more are sent, and those in flight are waited for, to be counted.
    """

    def __init__(
        self, ask: Ask, concurrency: int, *, rounds: int, seconds: float, allow_failed: float
    ) -> None:
        self._ask, self._concurrency = ask, concurrency
        self._least, self._seconds = rounds * concurrency, seconds
        self._allow_failed = allow_failed
        self._window = Window()
        self._tasks: list[asyncio.Task[None]] = []
        self._full = self._failing = False

    async def run(self) -> Window:
        async with heartbeat(self._window), asyncio.TaskGroup() as group:
            self._tasks = [group.create_task(self._repeat()) for _ in range(self._concurrency)]
        return self._window

    async def _repeat(self) -> None:
        before: Answer | None = None
        while not self._full and not self._failing:
            answer = await self._ask()
            if before is not None and self._window.begin_ns:
                self._window.delays_s.append((answer.begun_ns - before.ended_ns) / 1e9)
            self._ended(answer)
            before = answer
            if answer.failure is not None:
                await asyncio.sleep(FAILED_PAUSE_S)
                before = None

    def _ended(self, answer: Answer) -> None:
        window = self._window
        if self._full:
            return
        if not window.begin_ns and answer.failure is None:
            window.n_ramp += 1
            if window.n_ramp == self._concurrency:
                window.begin_ns = answer.ended_ns
            return
        window.answers.append(answer)
        window.end_ns = answer.ended_ns
        self._failing = window.fails(self._least, self._allow_failed)
        answered = len(window.answers) - window.n_failed
        whole = answered >= self._least and answered % self._concurrency == 0
        if window.begin_ns and whole and window.wall_s >= self._seconds and not self._failing:
            self._full = True
            for task in self._tasks:  # what is still in flight is no longer of use
                task.cancel()


def arrivals(rate: float, count: int, seed: str) -> list[float]:
    """Seconds at which `count` requests of a Poisson process arrive; the first at 0."""
    draw = random.Random(seed)
    times = [0.0]
    while len(times) < count:
        times.append(times[-1] + draw.expovariate(rate))
    return times


async def open_loop(ask: Ask, times: Sequence[float], *, allow_failed: float) -> Window:
    """Send a request at each of `times` (seconds), however many are in flight; wait for all.

    The window is from the first arrival to the last answer, as vLLM's benchmark has it. Where more
    fail than may, no more are sent.
    """
    window = Window(begin_ns=time.perf_counter_ns())

    async def one(planned_ns: int) -> None:
        answer = await ask()
        window.delays_s.append((answer.begun_ns - planned_ns) / 1e9)
        window.answers.append(answer)
        window.end_ns = answer.ended_ns

    async with heartbeat(window), asyncio.TaskGroup() as group:
        for at in times:
            planned_ns = window.begin_ns + round(at * 1e9)
            await asyncio.sleep(max(0.0, (planned_ns - time.perf_counter_ns()) / 1e9))
            if window.fails(len(times), allow_failed):
                break
            group.create_task(one(planned_ns))
    return window


@contextlib.asynccontextmanager
async def heartbeat(window: Window) -> AsyncIterator[None]:
    """Note how late the event loop wakes up: as late are the stamps of what arrives."""

    async def beat() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(BEAT_S)
            window.lags_s.append(max(0.0, time.perf_counter() - before - BEAT_S))

    watch = getattr(asyncio.get_running_loop(), "watch", None)
    if watch is not None:
        watch.lates_ns.clear()
    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        if watch is not None:
            window.stamps_late_s = [late / 1e9 for late in watch.lates_ns]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
