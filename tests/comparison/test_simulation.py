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
    for name, *_ in simulation.DESIGNS:
        assert f"| {name} |" in text
