"""The interval of a ratio: properties that hold whatever the figures, and known answers."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from bench.errors import InputError
from bench.statistics.paired import (
    MIN_PAIRS,
    log_ratios,
    paired_ratio,
    pairs_for,
    rank_sum_counts,
    signed_rank_p,
)
from bench.statistics.ratio import adjustable_p, holm

FIGURE = st.floats(min_value=1e-6, max_value=1e9, allow_nan=False)
PAIRS = st.lists(st.tuples(FIGURE, FIGURE), min_size=1, max_size=14)
MANY = st.lists(st.tuples(FIGURE, FIGURE), min_size=MIN_PAIRS, max_size=14)
SCALE = st.floats(min_value=1e-3, max_value=1e3)


def split(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in pairs], [b for _, b in pairs]


@given(PAIRS, SCALE, SCALE)
def test_units_do_not_matter(pairs: list[tuple[float, float]], one: float, other: float) -> None:
    a, b = split(pairs)
    plain = paired_ratio(a, b)
    scaled = paired_ratio([one * x for x in a], [other * x for x in b])
    assert scaled.ratio == pytest.approx(plain.ratio * other / one, rel=1e-6)
    if plain.ci_low is not None and scaled.ci_low is not None:
        assert scaled.ci_low == pytest.approx(plain.ci_low * other / one, rel=1e-6)


@given(MANY)
def test_swapping_the_arms_gives_the_reciprocal(pairs: list[tuple[float, float]]) -> None:
    a, b = split(pairs)
    there, back = paired_ratio(a, b), paired_ratio(b, a)
    assert there.ci_low is not None
    assert there.ci_high is not None
    assert back.ratio == pytest.approx(1 / there.ratio, rel=1e-9)
    assert back.ci_low == pytest.approx(1 / there.ci_high, rel=1e-9)
    assert back.ci_high == pytest.approx(1 / there.ci_low, rel=1e-9)
    assert back.p_value == pytest.approx(there.p_value)


@given(MANY, st.randoms())
def test_the_order_of_pairs_does_not_matter(
    pairs: list[tuple[float, float]], draw: random.Random
) -> None:
    mixed = draw.sample(pairs, len(pairs))
    one, other = paired_ratio(*split(pairs)), paired_ratio(*split(mixed))
    assert one.ratio == pytest.approx(other.ratio)
    assert (one.ci_low, one.ci_high) == pytest.approx((other.ci_low, other.ci_high))


@given(MANY)
def test_more_confidence_is_never_narrower(pairs: list[tuple[float, float]]) -> None:
    a, b = split(pairs)
    narrow, wide = paired_ratio(a, b, 0.8), paired_ratio(a, b, 0.95)
    assert narrow.ci_low is not None
    assert wide.ci_low is not None
    assert narrow.ci_high is not None
    assert wide.ci_high is not None
    assert wide.ci_low <= narrow.ci_low <= narrow.ratio * (1 + 1e-12)
    assert narrow.ratio * (1 - 1e-12) <= narrow.ci_high <= wide.ci_high
    assert wide.coverage is not None
    assert wide.coverage >= 0.95


@given(st.lists(FIGURE, min_size=1, max_size=12), SCALE)
def test_pairs_that_are_all_alike_give_that_ratio(values: list[float], factor: float) -> None:
    found = paired_ratio(values, [factor * value for value in values])
    assert found.ratio == pytest.approx(factor, rel=1e-9)
    if found.ci_low is not None:
        assert found.ci_low == pytest.approx(factor, rel=1e-9)
        assert found.ci_high == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize("n", range(1, 13))
def test_too_few_pairs_have_no_exact_interval(n: int) -> None:
    found = paired_ratio([1.0] * n, [1.0 + i / 100 for i in range(n)])
    assert (found.ci_low is None) == (n < MIN_PAIRS)
    assert (found.ci_high is None) == (found.coverage is None) == (n < MIN_PAIRS)
    assert found.n_pairs == n


def test_a_known_answer() -> None:
    # Logs 1..6: Walsh averages from 1 to 6, median 3.5; for n = 6 the exact interval is the range.
    found = paired_ratio([1.0] * 6, [math.exp(i) for i in range(1, 7)])
    assert math.log(found.ratio) == pytest.approx(3.5)
    assert math.log(found.ci_low or 0) == pytest.approx(1)
    assert math.log(found.ci_high or 0) == pytest.approx(6)
    assert found.coverage == pytest.approx(1 - 2 / 64)
    assert found.p_value == pytest.approx(2 / 64)


@pytest.mark.parametrize("seed", range(20))
def test_p_values_are_those_of_an_independent_implementation(seed: int) -> None:
    draw = random.Random(seed)
    d = [draw.gauss(0.3, 1) for _ in range(draw.randint(2, 15))]
    assert signed_rank_p(d) == pytest.approx(wilcoxon(d, method="exact").pvalue)


def test_p_values_with_ties_are_those_of_counting() -> None:
    d = [1.0, 1.0, -1.0, 2.0, 2.0, 0.0, 3.0]
    sizes = sorted(abs(x) for x in d if x)
    ranks = [sum(s < abs(x) for s in sizes) + (sizes.count(abs(x)) + 1) / 2 for x in d if x]
    seen = sum(r for r, x in zip(ranks, [x for x in d if x], strict=True) if x > 0)
    sums = [
        sum(r for r, sign in zip(ranks, signs, strict=True) if sign)
        for signs in product([0, 1], repeat=len(ranks))
    ]
    below, above = sum(s <= seen for s in sums), sum(s >= seen for s in sums)
    assert signed_rank_p(d) == pytest.approx(min(1, 2 * min(below, above) / len(sums)))


def test_no_difference_at_all() -> None:
    found = paired_ratio([2.0] * 8, [2.0] * 8)
    assert (found.ratio, found.ci_low, found.ci_high, found.p_value) == (1, 1, 1, 1)
    assert found.t_agrees


@given(st.integers(1, 12))
def test_every_signing_is_counted(n: int) -> None:
    assert sum(rank_sum_counts(range(1, n + 1))) == 2**n


@pytest.mark.parametrize(
    ("baseline", "candidate", "words"),
    [
        ([], [], "there are none"),
        ([1.0], [1.0, 2.0], "1 figures of the baseline and 2"),
        ([1.0, 0.0], [1.0, 1.0], r"baseline\[1\]: 0.0"),
        ([1.0], [-1.0], r"candidate\[0\]: -1.0"),
        ([float("nan")], [1.0], r"baseline\[0\]: nan"),
        ([1.0], [float("inf")], r"candidate\[0\]: inf"),
    ],
)
def test_what_has_no_logarithm_is_refused(
    baseline: list[float], candidate: list[float], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        paired_ratio(baseline, candidate)


@pytest.mark.parametrize("confidence", [0, 1, -1, 95])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    with pytest.raises(InputError, match="not between 0 and 1"):
        paired_ratio([1.0], [1.0], confidence)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_and_keeps_order(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(a >= b for a, b in zip(adjusted, p, strict=True))
    assert [adjusted[i] for i in sorted(range(len(p)), key=p.__getitem__)] == sorted(adjusted)


def test_pairs_from_a_pilot() -> None:
    pilot = [0.01, -0.01, 0.02, -0.02]
    few, many = pairs_for(0.05, pilot), pairs_for(0.01, pilot)
    assert MIN_PAIRS <= few < many
    # The half-width falls with the root of n: a fifth of it takes 25 times as many.
    assert many == pytest.approx(pairs_for(0.02, pilot) * 4, rel=0.1)
    with pytest.raises(InputError, match="at least 3"):
        pairs_for(0.01, [0.1, 0.2])
    with pytest.raises(InputError, match="must be above 0"):
        pairs_for(0, pilot)


def test_one_outlier_does_not_move_the_point() -> None:
    draw = random.Random(1)
    b = [draw.uniform(1, 2) for _ in range(10)]
    c = [1.5 * x * math.exp(draw.gauss(0, 0.005)) for x in b]
    c[3] /= 2
    assert paired_ratio(b, c).ratio == pytest.approx(1.5, rel=0.01)
    assert log_ratios(b, c)[3] < 0


def test_rounding_of_floats_makes_no_ties_and_breaks_none() -> None:
    a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    b = [x * f for x, f in zip(a, (1.1, 1 / 1.1, 1.1, 1.1, 1.2, 1.3), strict=True)]
    p = {paired_ratio([s * x for x in a], [s * x for x in b]).p_value for s in (1, 0.3, 7, 1e6)}
    assert len(p) == 1


def test_the_t_test_disagrees_where_a_few_pairs_pull_the_other_way() -> None:
    gains = [1.01, 1.011, 1.012, 1.013, 1.014, 1.015, 1.016, 1.017, 1.018, 1.019, 1.02]
    clear = paired_ratio([1.0] * 12, [*gains, 1.015])
    assert clear.excludes_one
    assert clear.t_agrees
    pulled = paired_ratio([1.0] * 12, [*gains, 0.5])
    assert pulled.excludes_one
    assert not pulled.t_agrees


def test_which_p_value_is_adjusted_hangs_on_numbers_alone() -> None:
    eight = paired_ratio([1.0] * 8, [1.01 + i / 1000 for i in range(8)])
    assert adjustable_p(eight, 6) == eight.p_value
    assert adjustable_p(eight, 7) == eight.t_p_value  # 7 x 2 / 2^8 is above 0.05
