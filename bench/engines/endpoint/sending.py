"""Sending what a load asks for, as one client process does it: alone, or as one of several.

A load says which requests there are and when they go; `share` is the part of it that one of several
processes sends, and the parts together are the whole. So the same requests go at the same times,
however many processes there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby
from pathlib import Path
from typing import Any, Final, Protocol

from bench.demand import Asked, arrival_times, demand
from bench.engines.endpoint.client import Answer
from bench.engines.endpoint.load import ClientLoad, Command, Ended, Judge, Sent, Window
from bench.engines.endpoint.source import Source

FAILED_PAUSE_S: Final = 0.1
"""After a failure a closed loop waits: a server that refuses at once is not to be hammered."""

BEAT_S: Final = 0.01
"""How often the event loop's lag is looked at."""

STATUS: Final = Path("/proc/self/status")


class Asks(Protocol):
    """Makes requests and sends them."""

    async def ask(self, place: int, asked: Asked | None) -> Answer:
        """Request `place` of a workload whose requests are alike, or one that says its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """A closed loop: each of `n` streams sends its next request when the last one has ended.

    Stream s sends requests s, s + n, s + 2n, ... (sessions, where requests differ).
    """

    n: int
    first: int
    """Place of the first request; those before it were sent earlier."""
    spec: str = ""
    """What is asked for, as `bench.demand` reads it; empty: all requests alike."""
    seed: str = ""
    mine: range

    def share(self, client: int, n_clients: int) -> Streams:
        return replace(self, mine=self.mine[client::n_clients])


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that arrives by a plan, or a session of them."""

    at_s: float
    place: int
    turns: tuple[Asked, ...] = ()
    """Empty: one request of a workload whose requests are alike."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """An open loop: requests that go by a plan, however many are in flight."""

    each: tuple[Arrival, ...]

    def share(self, client: int, n_clients: int) -> Arrivals:
        return Arrivals(self.each[client::n_clients])


Load = Streams | Arrivals


def at_once(first: int, n: int) -> Arrivals:
    """A round of requests that are sent together."""
    return Arrivals(tuple(Arrival(0.0, first + number) for number in range(n)))


def planned(times: Sequence[float], first: int) -> Arrivals:
    """Requests that are alike, at given seconds."""
    return Arrivals(tuple(Arrival(at_s, first + n) for n, at_s in enumerate(times)))


def of_sessions(asked: Sequence[Asked], rate: float, over: int | None = None) -> Arrivals:
    """Requests that differ, at a rate: see `bench.demand.arrival_times`."""
    times, found, place = arrival_times(asked, rate, over), list[Arrival](), 0
    for _, turns in groupby(asked, key=lambda one: one.session):
        session, at_s = tuple(turns), times[place]
        assert at_s is not None
        found.append(Arrival(at_s, place, session))
        place += len(session)
    return Arrivals(tuple(found))


class Sender:
    """Sends a load's requests, and tells of each."""

    def __init__(self, asks: Asks, tell: Callable[[Sent | Ended], None]) -> None:
        self._asks, self._tell = asks, tell
        self._tasks: list[asyncio.Task[None]] = []
        self.command: Command = "go"

    def obey(self, command: Command) -> None:
        self.command = command
        if command == "stop":
            for task in self._tasks:  # what is still in flight is no longer of use
                task.cancel()

    async def run(self, load: Load, begin_ns: int) -> None:
        """Until everything has ended, or was left. `begin_ns`: when a plan begins."""
        async with asyncio.TaskGroup() as group:
            if isinstance(load, Arrivals):
                self._start(group, self._by_plan(group, load, begin_ns))
                return
            source = Source(demand(load.spec), load.seed) if load.spec else None
            for stream in load.mine:
                self._start(group, self._stream(load, stream, source))

    def _start(self, group: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(group.create_task(work))

    async def _stream(self, load: Streams, stream: int, source: Source | None) -> None:
        before: Answer | None = None
        for lap in count():
            number = lap * load.n + stream
            for asked in (None,) if source is None else source.session(number):
                if self.command != "go":
                    return
                answer = await self._asks.ask(load.first + number, asked)
                late = None if before is None else (answer.begun_ns - before.ended_ns) / 1e9
                self._tell(Ended(number, answer, late))
                before = answer
                if answer.failure is not None:
                    await asyncio.sleep(FAILED_PAUSE_S)
                    before = None

    async def _by_plan(self, group: asyncio.TaskGroup, load: Arrivals, begin_ns: int) -> None:
        for one in load.each:
            due_ns = begin_ns + round(one.at_s * 1e9)
            await asyncio.sleep(max(0.0, (due_ns - time.perf_counter_ns()) / 1e9))
            if self.command != "go":
                return
            self._start(group, self._session(one, due_ns))

    async def _session(self, arrival: Arrival, due_ns: int) -> None:
        for turn, asked in enumerate(arrival.turns or (None,)):
            if asked is not None and asked.turn:
                due_ns = time.perf_counter_ns() + round(asked.think_s * 1e9)
                await asyncio.sleep(asked.think_s)
            if self.command != "go":
                return
            place = arrival.place + turn
            self._tell(Sent(place, time.perf_counter_ns()))
            answer = await self._asks.ask(place, asked)
            self._tell(Ended(place, answer, (answer.begun_ns - due_ns) / 1e9))
            if answer.failure is not None:
                return


async def run_here(load: Load, judge: Judge, asks: Asks) -> Window:
    """A whole load sent by this process."""

    def tell(happened: Sent | Ended) -> None:
        judge.take(happened)
        if judge.command != sender.command:
            sender.obey(judge.command)

    sender = Sender(asks, tell)
    begin_ns = time.perf_counter_ns()
    judge.begin(begin_ns)
    async with watched() as client:
        await sender.run(load, begin_ns)
    return judge.closed([client])


@contextlib.asynccontextmanager
async def watched() -> AsyncIterator[ClientLoad]:
    """How late the event loop is meanwhile, as late are the stamps of what arrives; and what this
    process takes."""
    load = ClientLoad()
    watch = getattr(asyncio.get_running_loop(), "watch", None)
    if watch is not None:
        watch.lates_ns.clear()
    begin_s, cpu_s = time.perf_counter(), time.process_time()
    task = asyncio.create_task(_beat(load))
    try:
        yield load
    finally:
        load.wall_s, load.cpu_s = time.perf_counter() - begin_s, time.process_time() - cpu_s
        load.peak_bytes = peak_bytes()
        if watch is not None:
            load.stamps_late_s = [late / 1e9 for late in watch.lates_ns]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _beat(load: ClientLoad) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(BEAT_S)
        load.lags_s.append(max(0.0, time.perf_counter() - before - BEAT_S))


def peak_bytes() -> int | None:
    """Most memory that this process has held; None where there is no /proc."""
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
