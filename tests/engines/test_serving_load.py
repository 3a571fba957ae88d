"""The closed loop in time that is made up, so that its rates can be asserted exactly."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bench.engines.endpoint.client import Answer
from bench.engines.endpoint.load import ClosedLoop, Window


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

        loop = ClosedLoop(
            ask, concurrency, rounds=rounds, seconds=seconds, allow_failed=allow_failed
        )
        return await loop.run()

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
