"""How much one arm differs from another: the ratio over pairs, and its interval.

Of each pair the logarithm of candidate / baseline is taken. The point is Hodges and Lehmann's (the
median of all pairwise means), the interval the exact one that inverts Wilcoxon's signed-rank test
(Hollander & Wolfe, Nonparametric Statistical Methods, section 3.3), so that single outliers do not
move it and it covers what it says for few pairs. A paired t-test stands beside it as a cross-check.
`scripts/simulate-coverage` shows what both cover; docs/method.md has its table.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Final

from bench.errors import InputError
from bench.statistics import deviation
from bench.statistics.ratio import JudgedRatio
from bench.statistics.walsh import number_of_means, ranked_means

EXACT_UP_TO: Final = 60
"""Pairs up to which the signed-rank law is counted out; beyond, it is normal to three digits."""

MANY: Final = 200
"""Pairs from which figures are rounded all at once, not one by one."""

MIN_PAIRS = 6
"""Below this no exact 95% interval exists: the rarest outcome has a probability of 2 / 2^n."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRatio(JudgedRatio):
    """Candidate over baseline, figures measured in pairs."""

    n_pairs: int

    @property
    def enough(self) -> bool:
        return self.n_pairs >= MIN_PAIRS and self.ci_low is not None

    @property
    def floor(self) -> float:
        return float(2.0 ** (1 - self.n_pairs))


def paired_ratio(
    baseline: Sequence[float], candidate: Sequence[float], confidence: float = 0.95
) -> PairedRatio:
    """The ratio candidate / baseline of figures measured in pairs, with its interval.

    `baseline` and `candidate` are of equal length, in pair order, above 0. Raises InputError.
    """
    d = log_ratios(baseline, candidate)
    if not 0 < confidence < 1:
        raise InputError(f"confidence: {confidence} is not between 0 and 1")
    k, coverage = _depth(len(d), confidence)
    centre, low, high = _walsh(d, k)
    t_low, t_high, t_p = _paired_t(d, confidence)
    return PairedRatio(
        ratio=math.exp(centre),
        ci_low=None if low is None else math.exp(low),
        ci_high=None if high is None else math.exp(high),
        n_pairs=len(d),
        confidence=confidence,
        coverage=coverage,
        p_value=signed_rank_p(d),
        t_low=None if t_low is None else math.exp(t_low),
        t_high=None if t_high is None else math.exp(t_high),
        t_p_value=t_p,
    )


def log_ratios(baseline: Sequence[float], candidate: Sequence[float]) -> list[float]:
    """ln(candidate / baseline) of each pair. Raises InputError for what has no logarithm."""
    if len(baseline) != len(candidate):
        raise InputError(
            f"pairs: {len(baseline)} figures of the baseline and {len(candidate)} of the candidate"
        )
    if len(baseline) == 0:
        raise InputError("pairs: there are none")
    for name, values in (("baseline", baseline), ("candidate", candidate)):
        if min(values) > 0 and all(map(math.isfinite, values)):
            continue
        for index, value in enumerate(values):
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name}[{index}]: {value} is not a finite number above 0")
    return list(map(operator.sub, map(math.log, candidate), map(math.log, baseline)))


def rank_sum_counts(ranks: Sequence[int]) -> list[int]:
    """Of the 2^n ways to sign the ranks, how many give each sum of positive ranks, from 0 on."""
    if len(ranks) <= MOST_IN_64_BITS:
        return _counts_in_64_bits(ranks)
    counts = [1] + [0] * sum(ranks)
    reached = 0
    for rank in ranks:
        reached += rank
        for total in range(reached, rank - 1, -1):
            counts[total] += counts[total - rank]
    return counts


MOST_IN_64_BITS: Final = 62
"""Ranks whose 2^n signs 64 bits can count."""


def _counts_in_64_bits(ranks: Sequence[int]) -> list[int]:
    import numpy as np

    counts = np.zeros(sum(ranks) + 1, dtype=np.int64)
    counts[0], reached = 1, 0
    for rank in ranks:
        reached += rank
        counts[rank : reached + 1] += counts[: reached + 1 - rank].copy()
    found: list[int] = counts.tolist()
    return found


@cache
def _counts(n: int) -> list[int]:
    """`rank_sum_counts` of n sizes that all differ."""
    return rank_sum_counts(range(1, n + 1))


@cache
def _depth(n: int, confidence: float) -> tuple[int, float | None]:
    """How many of the sorted Walsh averages to leave out at each end, and what is then covered; -1
    and None where even the widest interval covers less than asked."""
    allowed = (1 - confidence) / 2
    if n > EXACT_UP_TO:
        from scipy.special import ndtri

        half = float(ndtri(1 - allowed)) * math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return math.floor(n * (n + 1) / 4 - half - 0.5), confidence
    counts, total, tail, k = _counts(n), 2**n, 0, -1
    # The limits are the (k+1)-th Walsh average from either end, k the largest sum that is rare.
    while (tail + counts[k + 1]) / total <= allowed:
        k += 1
        tail += counts[k]
    return (k, 1 - 2 * tail / total) if k >= 0 else (k, None)


def _walsh(d: Sequence[float], k: int) -> tuple[float, float | None, float | None]:
    """Median of the means of all pairs of values, each with itself too, and the (k+1)-th from
    either end; None for a negative k."""
    last = number_of_means(len(d)) - 1
    middle = (last // 2, last - last // 2)
    if k < 0:
        one, other = ranked_means(d, middle)
        return (one + other) / 2, None, None
    low, one, other, high = ranked_means(d, (k, *middle, last - k))
    return (one + other) / 2, low, high


def signed_rank_p(d: Sequence[float]) -> float:
    """Exact two-sided p-value; zeros are left out, equal sizes share their mean rank.

    Sizes that differ only by the rounding of floats are equal, or units would matter.
    """
    if len(d) > MANY:
        return _normal_p(d)
    values = [value for each in d if (value := round(each, 12)) != 0]
    if not values:
        return 1.0
    sizes = sorted(abs(value) for value in values)
    if len(values) > EXACT_UP_TO:
        return _normal_p(values)
    # Ranks are doubled, so that a mean of two ranks is whole.
    doubled = {size: 2 * sizes.index(size) + 1 + sizes.count(size) for size in set(sizes)}
    positive = sum(doubled[abs(value)] for value in values if value > 0)
    if len(set(sizes)) == len(sizes):
        counts, positive = _counts(len(sizes)), positive // 2
    else:
        counts = rank_sum_counts([doubled[abs(value)] for value in values])
    below, above = sum(counts[: positive + 1]), sum(counts[positive:])
    p: float = 2 * min(below, above) / 2 ** len(values)
    return min(1.0, p)


def _normal_p(d: Sequence[float]) -> float:
    """The p-value by the normal law, as `scipy.stats.wilcoxon(method="approx")` has it, which takes
    ten times as long."""
    import numpy as np
    from scipy.special import ndtr

    values = np.round(np.asarray(d), 12)
    values = values[values != 0]
    n = len(values)
    if n == 0:
        return 1.0
    _, group, ties = np.unique(np.abs(values), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[group]
    positive = float(ranks[values > 0].sum())
    tied = float((ties.astype(np.float64) ** 3 - ties).sum())
    variance = (n * (n + 1) * (2 * n + 1) - tied / 2) / 24
    z = (positive - n * (n + 1) / 4) / math.sqrt(variance)
    return 2 * float(ndtr(-abs(z)))


def _paired_t(
    d: Sequence[float], confidence: float
) -> tuple[float | None, float | None, float | None]:
    from scipy.special import stdtr, stdtrit  # `scipy.stats.t` gives the same in 50 times the time

    n = len(d)
    if n < 2:
        return None, None, None
    mean, error = fmean(d), deviation(d) / math.sqrt(n)
    if error == 0:  # all pairs alike: no spread to judge by but their being alike
        return mean, mean, 1.0 if mean == 0 else 0.0
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * error
    p = 2 * float(stdtr(n - 1, -abs(mean) / error))
    return mean - half, mean + half, p


def pairs_for(target: float, pilot: Sequence[float], confidence: float = 0.95) -> int:
    """How many pairs make the interval's half-width `target` (a share, such as 0.01).

    `pilot`: log ratios of a few pairs. Their spread is itself uncertain, so its upper 80% bound is
    used (chi-square), and the normal half-width is widened by the signed-rank test's efficiency of
    3 / pi. At least `MIN_PAIRS`. Raises InputError.
    """
    from scipy.stats import chi2, norm

    if not target > 0:
        raise InputError(f"target: {target} must be above 0")
    if len(pilot) < 3:
        raise InputError(f"pilot: {len(pilot)} pairs are too few to plan from; at least 3")
    n = len(pilot)
    spread = stdev(pilot) * math.sqrt((n - 1) / float(chi2.ppf(0.2, n - 1)))
    z = float(norm.ppf((1 + confidence) / 2))
    needed = (z * spread / math.log1p(target)) ** 2 * math.pi / 3
    return max(MIN_PAIRS, math.ceil(needed))
