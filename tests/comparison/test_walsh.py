"""Means of all pairs by rank: the same as if all were made."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.stats import wilcoxon

from bench.statistics import deviation, paired, walsh
from bench.statistics.walsh import number_of_means, ranked_means


def every_mean(values: Sequence[float]) -> list[float]:
    ranked = sorted(values)
    return sorted((a + b) / 2 for i, a in enumerate(ranked) for b in ranked[i:])


DRAWS: dict[str, Callable[[random.Random], float]] = {
    "normal": lambda draw: draw.gauss(0.3, 0.01),
    "heavy tails": lambda draw: draw.gauss(0, 1) / max(draw.random(), 1e-3) ** 2,
    "two clusters": lambda draw: draw.choice((-1.0, 1.0)) + draw.gauss(0, 1e-3),
    "few values": lambda draw: draw.choice((-0.25, 0.0, 0.1, 0.3)),
    "nearly all alike": lambda draw: 0.0 if draw.random() < 0.95 else draw.gauss(0, 1),
    "tiny": lambda draw: 1e-300 * draw.random(),
    "almost one": lambda draw: 1 + draw.randrange(5) * 2.0**-52,
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("most", [walsh.MOST, 2000])
@pytest.mark.parametrize("n", [2, 61, 160, 301, 700])
def test_the_ranked_mean_is_that_of_all_means(
    name: str, n: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walsh, "MOST", most)
    draw = random.Random(f"{name}{n}")
    values = [DRAWS[name](draw) for _ in range(n)]
    means, last = every_mean(values), number_of_means(n) - 1
    assert len(means) == last + 1
    near = last // 2
    for ranks in ([0], [last], [near, last - near], [int(0.45 * last), near, int(0.55 * last)]):
        found = ranked_means(values, ranks)
        wanted = [means[rank] for rank in ranks]
        if most > 2000 or name not in ("few values", "nearly all alike", "almost one"):
            assert found == wanted
        else:  # more equal means than are made at once are told apart by halving alone
            assert found == pytest.approx(wanted, rel=1e-12, abs=1e-12)


def test_a_hundred_thousand_values_are_no_five_billion_means() -> None:
    draw = np.random.default_rng(1)
    values = draw.normal(0.5, 0.01, 100_000)
    (middle,) = ranked_means(values.tolist(), [number_of_means(len(values)) // 2])
    assert middle == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("n", [100, 150, 201, 900])
@pytest.mark.parametrize("digits", [3, 9])
def test_the_normal_p_value_is_scipys(n: int, digits: int) -> None:
    draw = random.Random(f"{n}{digits}")
    d = [round(draw.gauss(0.002, 0.01), digits) for _ in range(n)]
    wanted = wilcoxon([value for value in d if value], method="approx").pvalue
    assert paired.signed_rank_p(d) == pytest.approx(wanted, rel=1e-9)
    assert paired.signed_rank_p([0.0] * n) == 1.0


def test_a_deviation_of_many_is_that_of_whole_fractions() -> None:
    draw = random.Random(3)
    values = [draw.gauss(5, 1e-6) for _ in range(1000)]
    assert deviation(values) == pytest.approx(float(np.std(values, ddof=1)), rel=1e-9)
