"""The largest batch that fits: found without ever trying what would not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.worker.fitting import FINENESS, SAFE, largest_batch, predicted


class Machine:
    """Memory that `base + n * each` bytes of `room` are taken of; beyond `room` it is dead."""

    def __init__(self, base: int, each: int, room: int, *, dies: bool) -> None:
        self.base, self.each, self.room, self.dies = base, each, room, dies
        self.tried: list[int] = []

    def __call__(self, n_batch: int) -> int | None:
        self.tried.append(n_batch)
        peak = self.base + n_batch * self.each
        if peak > self.room:
            assert not self.dies, f"batch {n_batch} killed the process"
            return None
        return peak


@given(st.integers(0, 1000), st.integers(1, 500), st.integers(1100, 100_000))
def test_it_finds_the_largest_and_never_runs_out(base: int, each: int, room: int) -> None:
    machine = Machine(base, each, room, dies=base + 2 * each <= room)
    found = largest_batch(machine, room)
    most = int((SAFE * room - base) // each)
    assert found.n_batch <= max(0, most)
    if 1 <= most < 4096:
        assert found.n_batch >= most - max(1, most // FINENESS)
    assert len(machine.tried) < 40
    assert found.peaks == {n: base + n * each for n in found.peaks}


def test_running_out_without_warning_ends_the_search_there() -> None:
    def attempt(n_batch: int) -> int | None:
        return 100 if n_batch <= 5 else None  # memory that does not show in the peak

    assert largest_batch(attempt, 10**9).n_batch == 5


def test_not_even_one() -> None:
    assert largest_batch(lambda _: None, 100).n_batch == 0
    assert largest_batch(lambda _: 99, 100).n_batch == 0  # nothing would be left


def test_the_limit_is_said_to_be_one() -> None:
    found = largest_batch(lambda _: 1, 10**9, most=48)
    assert (found.n_batch, found.limited_by) == (48, "limit")


def test_the_prediction_is_the_line_through_the_last_two() -> None:
    assert predicted({1: 10}, 2) == 0
    assert predicted({1: 50, 2: 12, 4: 16}, 8) == pytest.approx(24)
    assert predicted({2: 16, 4: 12}, 8) == 12  # it never falls
