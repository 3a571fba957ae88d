"""The statistics of the house, each once: percentiles, centres, intervals, ranks.

`bench.statistics.paired` has the ratio of two arms over pairs. Both towers use this room, and
`bench run` prints its table where only torch is installed, so scipy is imported inside the
functions that need it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, geometric_mean, median
from typing import Final

Z: Final = 1.959964
"""Half width of a normal 95% interval in standard errors."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True, slots=True)
class Interval:
    """A geometric mean over replicates with its 95% t interval; no ends for fewer than 2."""

    value: float
    low: float | None
    high: float | None


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed (nearest rank).

    So the 99th percentile of 1..100 is 99. None of nothing.
    """
    ranked = sorted(values)
    # A share such as 0.95 is no exact number: 0.95 * 20 must not become rank 20.
    return ranked[max(math.ceil(round(share * len(ranked), 9)) - 1, 0)] if ranked else None


def middle(values: Iterable[float | None]) -> float | None:
    """Median of what is known; None of nothing."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def centre(values: Iterable[float | None]) -> float | None:
    """Geometric mean of what is known; None of nothing, 0 where one of them is 0."""
    known = [value for value in values if value is not None]
    if 0 in known:
        return 0.0
    return geometric_mean(known) if known else None


def half_range(values: Iterable[float | None]) -> float | None:
    """Half the range over the geometric mean; None for fewer than 2 values, or a mean of 0."""
    known = [value for value in values if value is not None]
    mean_of_all = centre(known) if len(known) > 1 else None
    return (max(known) - min(known)) / 2 / mean_of_all if mean_of_all else None


def mean(values: Sequence[float]) -> Estimate:
    """Arithmetic mean of at least 2 values, with its normal interval."""
    middle = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))
    half = Z * spread / math.sqrt(len(values))
    return Estimate(middle, middle - half, middle + half)


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of at least 2 values, by sums that are rounded once: `statistics.stdev`
    computes in fractions, in 50 times the time. 0 of equal values."""
    if min(values) == max(values):
        return 0.0
    middle = fmean(values)
    squares = math.fsum([(value - middle) ** 2 for value in values])
    return math.sqrt(squares / (len(values) - 1))


def wilson(successes: int, count: int) -> Estimate:
    """A share with Wilson's interval (JASA 22, 1927), which stays within 0 and 1.

    Not scipy's: `bench run` shows it where scipy is not installed. A test holds the two together.
    """
    share = successes / count
    scale = 1 + Z**2 / count
    middle = (share + Z**2 / (2 * count)) / scale
    half = Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2)) / scale
    # At the ends the formula gives 0 or 1 but for rounding.
    low = 0.0 if successes == 0 else middle - half
    return Estimate(share, low, 1.0 if successes == count else middle + half)


def log_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Geometric mean of values above 0, and the t interval on their logarithms."""
    logs = list(map(math.log, values))
    middle = fmean(logs)
    if len(logs) < 2:
        return Interval(math.exp(middle), None, None)
    from scipy.special import stdtrit

    t = float(stdtrit(len(logs) - 1, 0.5 + confidence / 2))
    half = t * deviation(logs) / math.sqrt(len(logs))
    return Interval(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def rank_sum_z(first: Sequence[float], second: Sequence[float]) -> float:
    """Standard deviations by which the rank sum of `second` is from that of no difference.

    Wilcoxon's, normal, equal values shared; `scipy.stats.ranksums` gives the same 50 times slower,
    and this is asked of every record.
    """
    n, m = len(first), len(second)
    ranked = sorted(first)
    wins = sum(bisect_left(ranked, v) + bisect_right(ranked, v) for v in second) / 2
    return (wins - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)


def percentile_interval(values: Sequence[float], share: float) -> Estimate | None:
    """A percentile (nearest rank) with the 95% interval of its order statistics.

    The ends are the narrowest ranks l, u around the median of Binomial(n, share) with
    P(B < l) <= 2.5% and P(B >= u) <= 2.5%: free of any distribution, for independent values. None
    where there are fewer than `requests_needed(share)`: some end would lie beyond all values.
    """
    n = len(values)
    if n < requests_needed(share):
        return None
    low, high = _ranks(n, share)
    ranked, point = sorted(values), percentile(values, share)
    assert point is not None
    return Estimate(point, ranked[low - 1], ranked[high - 1])


@cache
def _ranks(n: int, share: float) -> tuple[int, int]:
    """Ranks (from 1) of the interval's ends."""
    below, low, high = 0.0, 0, n
    for k in range(n + 1):
        log_p = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        below += math.exp(log_p + k * math.log(share) + (n - k) * math.log1p(-share))
        if below <= 0.025:
            low = k + 1
        if below >= 0.975:
            high = k + 1
            break
    return max(low, 1), min(high, n)


@cache
def requests_needed(share: float) -> int:
    """The fewest values of which a percentile has a two-sided 95% interval: 72 for the 95th, 368
    for the 99th."""
    rarer = min(share, 1 - share)
    return math.ceil(math.log(0.025) / math.log1p(-rarer))
