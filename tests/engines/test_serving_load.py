"""Loops of requests in time that is made up, so that their rates can be asserted exactly."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from bench.demand import Asked, demand
from bench.engines.endpoint.client import Answer
from bench.engines.endpoint.load import ClosedWindow, Window
from bench.engines.endpoint.sending import Streams, of_sessions, run_here
from bench.engines.endpoint.steady import SteadyWindow, length_of, ramp_of


class Jump(selectors.DefaultSelector):
    """Does not wait: time jumps to when the next thing is due."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found and timeout is not None:
            self.now += timeout
        return found


def in_made_up_time(work: Callable[[Callable[[], float]], Awaitable[Window]]) -> Window:
    """Run `work(now)` on an event loop whose clock stands still while nothing is due."""
    jump = Jump()
    loop = asyncio.SelectorEventLoop(jump)
    loop.time = lambda: jump.now  # type: ignore[method-assign]  # the loop's clock is the point
    try:
        return loop.run_until_complete(work(lambda: jump.now))  # type: ignore[arg-type]  # coroutines
    finally:
        loop.close()


class Asks:
    """What a server does with a request, as the sender sees it."""

    def __init__(self, ask: Callable[[], Awaitable[Answer]]) -> None:
        self._ask = ask

    async def ask(self, place: int, asked: Asked | None) -> Answer:
        return await self._ask()


def run_loop(
    concurrency: int,
    *,
    slots: int = 99,
    rounds: int = 3,
    seconds: float = 0.0,
    allow_failed: float = 0.0,
    fails: Callable[[int], str | None] = lambda number: None,
    takes: Callable[[int], float] = lambda number: 1.0,
) -> tuple[Window, int]:
    """A closed loop against a server of so many `slots`, and how many requests it got."""
    sent = 0

    async def work(now: Callable[[], float]) -> Window:
        room = asyncio.Semaphore(slots)

        async def ask() -> Answer:
            nonlocal sent
            number, sent = sent, sent + 1
            begun = now()
            async with room:
                await asyncio.sleep(takes(number))
            return Answer(
                begun_ns=round(begun * 1e9),
                ended_ns=round(now() * 1e9),
                failure=fails(number),
                ttft_s=0.1,
                e2e_s=now() - begun,
                output_tokens=2,
            )

        judge = ClosedWindow(concurrency, rounds=rounds, seconds=seconds, allow_failed=allow_failed)
        streams = Streams(n=concurrency, first=0, mine=range(concurrency))
        return await run_here(streams, judge, Asks(ask))

    return in_made_up_time(work), sent


def rate(window: Window) -> float:
    return len(window.answers) / window.wall_s


@pytest.mark.parametrize("concurrency", [1, 2, 4, 7])
def test_requests_in_step_have_the_rate_of_whole_rounds(concurrency: int) -> None:
    window, _ = run_loop(concurrency)
    assert rate(window) == pytest.approx(concurrency)
    assert len(window.answers) == 3 * concurrency
    assert window.n_ramp == concurrency


def test_a_server_with_fewer_slots_than_requests_has_the_rate_of_its_slots() -> None:
    window, _ = run_loop(4, slots=2, rounds=5)
    assert rate(window) == pytest.approx(2.0)
    for answer in window.answers:  # one in service, one in the queue
        assert answer.e2e_s == pytest.approx(2.0)


def test_a_time_that_ends_within_a_round_does_not_cut_it() -> None:
    window, _ = run_loop(4, rounds=1, seconds=2.5, takes=lambda number: 1 + (number % 4) * 1e-6)
    assert window.wall_s == pytest.approx(3.0, rel=1e-4)
    assert rate(window) == pytest.approx(4.0, rel=1e-4)


def test_requests_out_of_step_have_the_same_rate() -> None:
    window, _ = run_loop(4, rounds=200, takes=lambda number: 0.5 + number * 0.618 % 1)
    assert rate(window) == pytest.approx(4.0, rel=0.02)


def test_what_is_in_flight_at_the_end_is_not_waited_for() -> None:
    window, sent = run_loop(2, rounds=2, takes=lambda number: 1.0 if number % 2 else 1.25)
    assert sent > len(window.answers) + window.n_ramp
    assert len(window.answers) % 2 == 0


def test_after_a_failure_no_more_are_sent_and_those_in_flight_are_counted() -> None:
    window, sent = run_loop(4, fails=lambda number: "timeout" if number >= 4 else None)
    assert sent == 8
    assert window.n_failed == 4


def test_failures_that_are_allowed_do_not_count_as_answers() -> None:
    window, _ = run_loop(
        2, rounds=10, allow_failed=0.5, fails=lambda number: "http_500" if number % 3 == 2 else None
    )
    answered = len(window.answers) - window.n_failed
    assert answered == 20
    assert window.n_failed > 5


def steady(rate: float, service: float, monkeypatch: pytest.MonkeyPatch) -> Window:
    """A probe of 100 judged requests at a server that answers one at a time."""
    asked = demand("prompt=8 gen=2").requests("s", length_of(100))

    async def work(now: Callable[[], float]) -> Window:
        clock = SimpleNamespace(
            perf_counter_ns=lambda: round(now() * 1e9), perf_counter=now, process_time=now
        )
        monkeypatch.setattr("bench.engines.endpoint.sending.time", clock)
        room = asyncio.Semaphore(1)

        async def ask() -> Answer:
            begun = now()
            async with room:
                await asyncio.sleep(service)
            return Answer(
                begun_ns=round(begun * 1e9),
                ended_ns=round(now() * 1e9),
                failure=None,
                ttft_s=now() - begun,
                e2e_s=now() - begun,
                output_tokens=1,
            )

        load = of_sessions(asked, rate, ramp_of(100) + 100)
        return await run_here(load, SteadyWindow(100, "e2e_p95=1000"), Asks(ask))

    return in_made_up_time(work)


@pytest.mark.parametrize(
    ("rate", "service", "least", "most"),
    [
        (0.5, 1.0, 0.95, 1.05),
        (1.25, 1.0, 0.7, 0.9),  # a fifth is left over, though each is answered within the limit
        (4.0, 0.01, 0.97, 1.03),
    ],
)
def test_the_share_of_arrivals_that_is_served_meanwhile(
    rate: float, service: float, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = steady(rate, service, monkeypatch)
    assert window.n_failed == 0
    assert not window.cut_short
    assert window.served_share is not None
    assert least <= window.served_share <= most


def test_requests_longer_than_the_window_do_not_tell_what_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert steady(100.0, 0.9, monkeypatch).served_share is None
