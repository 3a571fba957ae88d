"""The simulation of docs/method.md, a part of it: seeded, so the same numbers every time."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    loader = SourceFileLoader("simulation", str(ROOT / "scripts" / "simulate-coverage"))
    spec = importlib.util.spec_from_loader("simulation", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def held(simulation: ModuleType, n: int, *, interleaved: bool) -> float:
    draw = np.random.default_rng(n)
    count = 0
    for _ in range(500):
        a, b = simulation.speeds(draw, n, 1.1, interleaved=interleaved)
        low, high = simulation.signed_rank(a, b, draw)
        count += low <= 1.1 <= high
    return count / 500


@pytest.mark.parametrize("n", [6, 8, 12])
def test_the_interval_covers_what_it_says(simulation: ModuleType, n: int) -> None:
    assert 0.93 <= held(simulation, n, interleaved=True) <= 0.985


def test_all_a_then_all_b_does_not(simulation: ModuleType) -> None:
    assert held(simulation, 12, interleaved=False) < 0.5


def test_a_against_a_is_seldom_called_different_and_three_percent_mostly(
    simulation: ModuleType,
) -> None:
    assert simulation.verdicts(500, 1.0, 8, 1)[0] <= 0.06
    assert simulation.verdicts(60, 1.0, 12, 10)[0] <= 0.01
    assert simulation.verdicts(300, 1.03, 12, 1)[0] >= 0.8


def test_the_table_in_the_documentation_is_whole(simulation: ModuleType) -> None:
    text = (ROOT / "docs" / "method.md").read_text()
    for name, *_ in (*simulation.DESIGNS, *simulation.FLEETS, *simulation.CALLED):
        assert f"| {name} |" in text


def test_between_machines_the_interval_covers_what_it_says(simulation: ModuleType) -> None:
    shares = {
        name: simulation.covered(300, 8, what, of) for name, what, of in simulation.FLEETS[:9]
    }
    left_in = shares.pop("the same, the drift left in")
    assert left_in > 0.985, "an unpaired test takes the drift for scatter"
    for name, share in shares.items():
        assert 0.92 <= share <= 0.99, name  # 300 runs: 93% to 98% and their chance


def test_machines_of_one_card_taken_for_one_are_covered_far_too_seldom(
    simulation: ModuleType,
) -> None:
    name, what, of = simulation.FLEETS[-1]
    assert simulation.covered(200, 8, what, of) < 0.7, name


def test_a_machine_against_itself_is_seldom_called_different(simulation: ModuleType) -> None:
    for name, n, what, truth, n_metrics in simulation.CALLED:
        if truth == 1.0:
            different, _ = simulation.called(200 // n_metrics, n, what, truth, n_metrics)
            assert different <= 0.08, name  # 200 runs: 5% and their chance
    for name, n, what, truth, _ in simulation.CALLED:
        if truth >= 1.3:
            assert simulation.called(40, n, what, truth)[0] == 1.0, name
