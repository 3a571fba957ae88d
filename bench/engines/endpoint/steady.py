"""Arrivals that go on before, during and after the requests that are judged.

The queue is as long when the window begins as it will be, and no judged request ends beside fewer
others than it began with: what is measured is the middle of a stream, not all of a short one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from statistics import median

from bench.demand import Asked, arrival_times
from bench.demand.limits import limits, within
from bench.demand.search import RAMP_SHARE
from bench.engines.endpoint.client import Answer
from bench.engines.endpoint.load import Window, heartbeat

HOPELESS = 0.5
"""Share of the judged requests beyond a limit, above which the rest is not waited for."""
LONG = 0.5
"""Of the time in which the judged requests arrive: where the median request takes longer, those
that end meanwhile say little of those that arrive."""


def length_of(judged: int) -> int:
    """How many requests a probe that judges so many may send."""
    return round(judged * (1 + RAMP_SHARE)) + judged


class SteadyStream:
    """Requests at a given rate; those from the `ramp`-th on, `judged` in number, are the window."""

    def __init__(
        self,
        ask: Callable[[Asked], Awaitable[Answer]],
        asked: Sequence[Asked],
        *,
        rate: float,
        judged: int,
        slo: str,
    ) -> None:
        self._ask, self._judged, self._slo = ask, judged, slo
        self._ramp = round(judged * RAMP_SHARE)
        self._times = arrival_times(asked, rate, self._ramp + judged)
        self._asked = asked
        self._running: list[asyncio.Task[None]] = []
        self._window = Window()
        self._n_sent = self._n_ended = 0
        self._late: dict[int, int] = {}
        self._done = asyncio.Event()

    async def run(self) -> Window:
        """Send until every judged request has ended, or too many are beyond the limits."""
        async with heartbeat(self._window), asyncio.TaskGroup() as group:
            self._running.append(group.create_task(self._send(group)))
            await self._done.wait()
            for task in self._running:  # what is in flight is no longer of use
                task.cancel()
        return self._closed()

    async def _send(self, group: asyncio.TaskGroup) -> None:
        begin_ns = time.perf_counter_ns()
        at = 0
        for _, turns in groupby(self._asked, key=lambda one: one.session):
            session = list(turns)
            planned = self._times[at]
            at += len(session)
            assert planned is not None
            planned_ns = begin_ns + round(planned * 1e9)
            await asyncio.sleep(max(0.0, (planned_ns - time.perf_counter_ns()) / 1e9))
            self._running.append(group.create_task(self._session(session, planned_ns)))
        await asyncio.wait(self._running[1:])
        self._done.set()  # sessions that failed were never asked to their end

    async def _session(self, turns: Sequence[Asked], planned_ns: int) -> None:
        for one in turns:
            if one.turn:
                planned_ns = time.perf_counter_ns() + round(one.think_s * 1e9)
                await asyncio.sleep(one.think_s)
            number, self._n_sent = self._n_sent, self._n_sent + 1
            sent_ns = time.perf_counter_ns()
            self._edge(number, sent_ns)
            answer = await self._ask(one)
            self._ended(number, answer, planned_ns)
            if answer.failure is not None:
                return

    def _edge(self, number: int, now_ns: int) -> None:
        window = self._window
        if number == self._ramp:
            window.begin_ns = now_ns
        elif number == self._ramp + self._judged:
            window.end_ns = now_ns

    def _ended(self, number: int, answer: Answer, planned_ns: int) -> None:
        window = self._window
        window.delays_s.append((answer.begun_ns - planned_ns) / 1e9)
        if window.begin_ns and not window.end_ns:
            self._n_ended += 1
        if not self._ramp <= number < self._ramp + self._judged:
            window.n_ramp += number < self._ramp
            return
        window.answers.append(answer)
        window.last_ns = answer.ended_ns
        for limit in self._beyond(answer):
            self._late[limit] = self._late.get(limit, 0) + 1
        hopeless = max(self._late.values(), default=0) > HOPELESS * self._judged
        if len(window.answers) == self._judged or hopeless:
            window.cut_short = len(window.answers) < self._judged
            self._done.set()

    def _beyond(self, answer: Answer) -> list[int]:
        """The limits that an answer passed; a failed one passed all."""
        every = list(range(len(limits(self._slo))))
        if answer.failure is not None:
            return every
        assert answer.ttft_s is not None
        assert answer.e2e_s is not None
        n = (answer.output_tokens or 1) - 1
        kept = within(
            self._slo,
            ttft_s=[answer.ttft_s],
            tpot_s=[(answer.e2e_s - answer.ttft_s) / n if n else 0.0],
            itl_s=[answer.itl_s],
            e2e_s=[answer.e2e_s],
        )
        return [limit for limit in every if not kept[limit][0]]

    def _closed(self) -> Window:
        """The window, as long as its server took for as many requests as are in it.

        From the arrival of the first judged request to that of the first after them (else the last
        answer), `_n_ended` were answered: at that pace the judged ones take so long.
        """
        window = self._window
        end_ns = window.end_ns or window.last_ns
        window.served_share = self._served_share(end_ns - window.begin_ns)
        if self._n_ended:
            pace_ns = (end_ns - window.begin_ns) / self._n_ended
            window.end_ns = window.begin_ns + round(pace_ns * max(len(window.answers), 1))
        else:
            window.end_ns = window.last_ns
        return window

    def _served_share(self, window_ns: int) -> float | None:
        window = self._window
        took = [answer.e2e_s for answer in window.answers if answer.e2e_s is not None]
        if window.cut_short or not took or median(took) * 1e9 > LONG * window_ns:
            return None
        return self._n_ended / self._judged
