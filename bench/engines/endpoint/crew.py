"""Client processes of one load: this one alone, or several where one core cannot read all streams.

The engine's process leads the several: it deals out the load, is told of each request as it is sent
and as it ends, and judges the window by all of them, as one process would. Each member is met, warm
and set before a window begins; all take times from one clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from bench.engines.endpoint.asking import Asker, Asking
from bench.engines.endpoint.client import Client
from bench.engines.endpoint.load import ClientLoad, Command, Ended, Judge, Sent, Window
from bench.engines.endpoint.sending import Load, run_here
from bench.engines.endpoint.settings import EndpointSettings
from bench.engines.endpoint.wire import Begin, Meet, Set, Wire
from bench.errors import UnsupportedError
from bench.models.weights import import_root
from bench.programs import own

CHUNKS_S: Final = 10_000
"""Chunks a second for which `auto` adds a process: half of what one core was seen to read in time
(docs/serving.md)."""
LEAD_NS: Final = 20_000_000
"""From the word to begin until a plan begins: every member has heard it by then."""
END_S: Final = 5.0
"""A member whose socket is closed ends at once; it is waited for so long to say how."""


def clients_for(chunks_s: float) -> int:
    """How many processes so many chunks a second need; one core is left to all else."""
    return max(1, min(math.ceil(chunks_s / CHUNKS_S), cores() - 1))


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Alone:
    """This process is the only client."""

    n = 1

    def __init__(self, client: Client) -> None:
        self._client = client

    async def prepare(self, asking: Asking) -> None:
        """Be ready to send such requests."""
        self._asks = Asker(self._client, asking)

    async def run(self, load: Load, judge: Judge) -> Window:
        """Send a load until its judge has enough."""
        return await run_here(load, judge, self._asks)

    def close(self) -> None:
        """Nothing was started."""


class Crew:
    """`n` client processes; as `Alone`. Raises UnsupportedError (CRASH) if one of them dies."""

    def __init__(self, n: int, settings: EndpointSettings, model: str) -> None:
        self.n = n
        self._meet = Meet(settings, model)
        self._members: list[MemberProcess] = []
        self._command: Command = "go"

    async def prepare(self, asking: Asking) -> None:
        """Start them unless they are there, and have each be ready to send such requests."""
        with self._all_or_none():
            if not self._members:
                for number in range(self.n):
                    self._members.append(MemberProcess(f"{number + 1} of {self.n}"))
                await self._set([self._meet] * self.n)
            await self._set([asking] * self.n)

    async def run(self, load: Load, judge: Judge) -> Window:
        with self._all_or_none():
            await self._set([load.share(number, self.n) for number in range(self.n)])
            self._command, begin_ns = "go", time.perf_counter_ns() + LEAD_NS
            judge.begin(begin_ns)
            self._tell_all(Begin(begin_ns))
            heeding = (self._heed(member, judge) for member in self._members)
            return judge.closed(await asyncio.gather(*heeding))

    async def _heed(self, member: MemberProcess, judge: Judge) -> ClientLoad:
        """Tell the judge what a member says, and all members what the judge says, until it ends."""
        while isinstance(said := await member.hear(), Sent | Ended):
            judge.take(said)
            if judge.command != self._command:
                self._command = judge.command
                self._tell_all(self._command)
        assert isinstance(said, ClientLoad)
        return said

    async def _set(self, orders: Sequence[Any]) -> None:
        """Give each member its order, and wait until all have done it."""
        before_ns = time.perf_counter_ns()
        for member, order in zip(self._members, orders, strict=True):
            await member.tell(order)
        for member in self._members:
            said = await member.hear()
            assert isinstance(said, Set)
            if not before_ns <= said.clock_ns <= time.perf_counter_ns():
                raise UnsupportedError(
                    "options.clients: processes have no common clock here; use clients = 1"
                )

    def _tell_all(self, order: Begin | Command) -> None:
        for member in self._members:
            member.send(order)

    @contextlib.contextmanager
    def _all_or_none(self) -> Iterator[None]:
        """Whatever goes wrong ends all of them."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End them."""
        for member in self._members:
            member.end()
        self._members = []


class MemberProcess:
    """The leader's hold on one process (`bench.engines.endpoint.member`)."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._end, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                own("bench.engines.endpoint.member"),
                cwd=import_root(),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
            )
        self._wire: Wire | None = None

    async def tell(self, message: Any) -> None:
        """The first message, or another."""
        if self._wire is None:
            self._wire = await Wire.on(self._end)
        self._wire.send(message)

    def send(self, message: Any) -> None:
        assert self._wire is not None, "it was told something before"
        self._wire.send(message)

    async def hear(self) -> Any:
        """Its next message. Raises UnsupportedError if it has died."""
        assert self._wire is not None, "it was told something before"
        if (said := await self._wire.hear()) is not None:
            return said
        code = await asyncio.to_thread(self._process.wait, END_S)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise UnsupportedError(f"client process {self._name} {how}", "CRASH")

    def end(self) -> None:
        if self._wire is not None:
            self._wire.close()
        else:
            self._end.close()
        self._process.kill()
        self._process.wait()
