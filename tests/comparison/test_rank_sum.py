"""The unpaired ratio against scipy, brute force and a worked example."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, ttest_ind, wilcoxon

from bench.errors import InputError
from bench.statistics import unpaired
from bench.statistics.paired import paired_ratio, rank_sum_counts
from bench.statistics.unpaired import (
    card_ratio,
    drifts,
    overlap,
    rank_sum_p,
    unpaired_ratio,
    without_drift,
)


def still(values: list[float]) -> list[tuple[float, float]]:
    return [(value, 0.0) for value in values]


def drawn(seed: int, n: int, shift: float = 0.0, scale: float = 0.02) -> list[float]:
    draw = np.random.default_rng(seed)
    return [float(v) for v in np.exp(shift + scale * draw.standard_normal(n))]


@pytest.mark.parametrize(("n", "m"), [(4, 4), (6, 8), (8, 6), (12, 12), (35, 40)])
def test_the_p_value_is_scipys(n: int, m: int) -> None:
    x, y = np.log(drawn(1, n)), np.log(drawn(2, m, 0.02))
    method = "exact" if n + m <= 60 else "asymptotic"
    assert rank_sum_p(list(x), list(y)) == pytest.approx(mannwhitneyu(x, y, method=method).pvalue)


def test_the_p_value_of_many_with_equal_figures_is_scipys() -> None:
    x, y = np.round(drawn(1, 40), 2), np.round(drawn(2, 33, 0.01), 2)
    assert len(set(x) | set(y)) < 20
    for one, other in ((x, y), (y, x)):
        expected = mannwhitneyu(one, other, method="asymptotic").pvalue
        assert rank_sum_p(one.tolist(), other.tolist()) == pytest.approx(expected)


def test_equal_figures_share_their_rank_by_counting_every_choice() -> None:
    x, y = [1.0, 1.0, 2.0], [2.0, 2.0, 3.0, 4.0]
    ranks = [1.5, 1.5, 4, 4, 4, 6, 7]
    sums = [sum(each) for each in combinations(ranks, 3)]
    below = sum(one <= 7.0 for one in sums) / math.comb(7, 3)
    assert rank_sum_p(x, y) == pytest.approx(2 * below)
    assert rank_sum_p([1.0] * 4, [1.0] * 4) == 1.0


@pytest.mark.parametrize("n", [4, 6, 8])
def test_the_interval_holds_what_the_test_does_not_reject(n: int) -> None:
    """The exact interval is the shifts at which the exact test has p above 5%."""
    x, y = drawn(3, n), drawn(4, n, 0.05)
    found = unpaired_ratio(still(x), still(y))
    logs = np.log(x), np.log(y)
    shifts = sorted(float(b - a) for a in logs[0] for b in logs[1])
    kept = [
        (low + high) / 2
        for low, high in pairwise(shifts)
        if mannwhitneyu(logs[0], logs[1] - (low + high) / 2, method="exact").pvalue > 0.05
    ]
    inside = [s for s in shifts if min(kept) <= s <= max(kept)]
    ends = shifts[shifts.index(inside[0]) - 1], shifts[shifts.index(inside[-1]) + 1]
    assert found.ci_low == pytest.approx(math.exp(ends[0]))
    assert found.ci_high == pytest.approx(math.exp(ends[1]))
    assert found.ratio == pytest.approx(math.exp(float(np.median(shifts))))
    assert found.coverage is not None
    assert 0.95 <= found.coverage < 0.98


@pytest.mark.parametrize(("n", "m"), [(31, 31), (6, 60)])
def test_beyond_the_exact_law_the_interval_is_as_wide(
    n: int, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = still(drawn(1, n)), still(drawn(2, m))
    normal = unpaired._depth(n, m, 0.95)[0]
    monkeypatch.setattr(unpaired, "EXACT_UP_TO", n + m)
    exact = unpaired._depth.__wrapped__(n, m, 0.95)[0]
    assert abs(normal - exact) <= 1
    assert unpaired_ratio(x, y).enough


def test_three_and_three_have_no_interval() -> None:
    found = unpaired_ratio(still(drawn(1, 3)), still(drawn(2, 3)))
    assert found.ci_low is found.coverage is None
    assert not found.enough
    assert found.floor == pytest.approx(2 / 20)


def test_welch_stands_beside_it_and_widens_it_where_the_machines_scatter_unalike() -> None:
    x, y = drawn(1, 8), drawn(2, 8, 0.1, 0.08)
    found = unpaired_ratio(still(x), still(y))
    t = ttest_ind(np.log(y), np.log(x), equal_var=False)
    ends = t.confidence_interval(0.95)
    assert found.t_p_value == pytest.approx(t.pvalue)
    assert (found.t_low, found.t_high) == pytest.approx((math.exp(ends.low), math.exp(ends.high)))
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low <= math.exp(ends.low)
    assert found.ci_high >= math.exp(ends.high)
    rank_p = mannwhitneyu(np.log(x), np.log(y), method="exact").pvalue
    assert found.p_value == pytest.approx(t.pvalue)
    assert t.pvalue > 2 * rank_p


def test_constant_figures_have_a_ratio_and_no_spread() -> None:
    found = unpaired_ratio(still([2.0] * 6), still([3.0] * 6))
    assert (found.ratio, found.ci_low, found.ci_high) == pytest.approx((1.5, 1.5, 1.5))
    assert found.t_p_value == 0.0
    assert found.p_value == pytest.approx(2 / math.comb(12, 6))


def test_a_shared_drift_goes_and_one_that_nobody_can_see_stays() -> None:
    x = [(math.exp(0.01 * t), float(t)) for t in range(8)]
    y = [(2 * math.exp(0.01 * t), float(t)) for t in range(1, 9)]
    assert unpaired_ratio(x, y).ratio == pytest.approx(2.0)
    later = [(value, time + 100) for value, time in y]
    logs = [[(math.log(value), time) for value, time in side] for side in (x, later)]
    assert without_drift(*logs) == tuple([v for v, _ in side] for side in logs)


def test_times_overlap_by_half_of_the_shorter() -> None:
    assert overlap([0, 10], [5, 15])
    assert overlap([0, 100], [20, 30])
    assert not overlap([0, 10], [6, 16])
    assert not overlap([0, 0], [0, 0]), "no time passed: nothing says that they ran side by side"


def test_a_drift_over_a_run_is_seen_and_noise_is_not() -> None:
    noise = drawn(5, 8, 0, 0.005)
    assert not drifts([(v, 600.0 * i) for i, v in enumerate(noise)])
    assert drifts([(v * (1 - 0.01 * i), 600.0 * i) for i, v in enumerate(noise)])
    assert not drifts([(1 - 0.001 * i, 600.0 * i) for i in range(8)]), "below 1%: no matter"
    assert drifts([(1 - 0.01 * i, 600.0 * i) for i in range(6)])
    assert not drifts([(1 - 0.01 * i, 600.0 * (i // 2)) for i in range(8)]), "four moments only"


def test_a_random_effect_is_the_t_test_of_the_machines_centres() -> None:
    base = [still([v] * 8) for v in (1.0, 1.1, 0.9)]
    other = [still([v * math.exp(-0.01), v * math.exp(0.01)]) for v in (2.0, 2.3, 1.9)]
    found = card_ratio(base, other)
    t = ttest_ind(np.log([2.0, 2.3, 1.9]), np.log([1.0, 1.1, 0.9]), equal_var=False)
    ends = t.confidence_interval(0.95)
    assert (found.ci_low, found.ci_high) == pytest.approx((math.exp(ends.low), math.exp(ends.high)))
    assert found.machine_sd_baseline == pytest.approx(np.std(np.log([1.0, 1.1, 0.9]), ddof=1))
    assert found.restart_sd_baseline == 0.0
    assert found.restart_sd_candidate == pytest.approx(0.01 * math.sqrt(2))
    centres = np.var(np.log([2.0, 2.3, 1.9]), ddof=1)
    assert found.machine_sd_candidate == pytest.approx(math.sqrt(centres - 0.01**2))
    assert (found.n_baseline, found.n_candidate) == (24, 6)
    assert found.enough


def test_restart_scatter_of_machines_is_pooled_by_their_degrees_of_freedom() -> None:
    few, many = [1.0, 1.1], drawn(6, 5)
    found = card_ratio([still(few), still(many), still([1.05])], [still([2.0] * 6)])
    squares = [np.var(np.log(each), ddof=1) for each in (few, many)]
    assert found.restart_sd_baseline == pytest.approx(math.sqrt((squares[0] + 4 * squares[1]) / 5))
    assert found.restart_sd_candidate == 0.0
    assert found.machine_sd_candidate is None
    alone = card_ratio([still([v]) for v in (1.0, 1.1, 0.9)], [still([2.0] * 6)])
    assert alone.restart_sd_baseline is None


def test_what_has_no_logarithm_is_refused_with_its_place() -> None:
    with pytest.raises(InputError, match=r"candidate\[1\]: 0\.0 is not a finite number above 0"):
        unpaired_ratio(still([1.0]), still([1.0, 0.0]))
    with pytest.raises(InputError, match="baseline: there are no figures"):
        unpaired_ratio([], still([1.0]))


def test_of_many_pairs_the_law_is_normal() -> None:
    draw = np.random.default_rng(6)
    base = [float(v) for v in np.exp(0.02 * draw.standard_normal(80))]
    other = [float(v) * 1.01 for v in np.exp(0.02 * draw.standard_normal(80))]
    found = paired_ratio(base, other)
    d = np.log(other) - np.log(base)
    assert found.p_value == pytest.approx(wilcoxon(d, method="exact").pvalue, rel=0.03)
    walsh = sorted((d[i] + d[j]) / 2 for i in range(80) for j in range(i, 80))
    assert found.ratio == pytest.approx(math.exp(float(np.median(walsh))))
    counts, tail, k = rank_sum_counts(range(1, 81)), 0, -1
    while (tail + counts[k + 1]) / 2**80 <= 0.025:
        k += 1
        tail += counts[k]
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low == pytest.approx(math.exp(walsh[k]), rel=2e-4)
    assert found.ci_high == pytest.approx(math.exp(walsh[-1 - k]), rel=2e-4)
