"""How much one machine differs from another: a ratio of figures that cannot be paired.

A replicate is a fresh process, so what a machine's replicates differ by is its restart variance. Of
all differences ln(candidate) - ln(baseline) the point is Hodges and Lehmann's (their median), the
interval the exact one that inverts the rank-sum test (Hollander & Wolfe, Nonparametric Statistical
Methods, section 4.3; scipy has the test and not the interval). The test takes both machines'
restarts to scatter alike: where they do not, or the numbers differ, the interval is widened to hold
Welch's t interval too. Of three or more machines of one card each counts once: a random effect.

`scripts/simulate-coverage` shows what they cover; docs/method.md has its table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from statistics import fmean, median
from typing import TYPE_CHECKING, Final, TypeAlias

from bench.errors import InputError
from bench.statistics import deviation
from bench.statistics.ratio import JudgedRatio
from bench.statistics.walsh import number_of_means, ranked_means

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Law = NDArray[np.float64]
    Columns = NDArray[np.float64]
    Whole = NDArray[np.int64]

MIN_EACH: Final = 6
"""Replicates of each machine that a verdict needs."""

MIN_MACHINES: Final = 3
"""Machines of one card whose spread says something of others of that card."""

UNLIKE: Final = 1.5
"""Ratio of two machines' restart scatter from which they are not taken to be alike."""

EXACT_UP_TO: Final = 60
"""Replicates of both machines together up to which the rank-sum law is counted out; beyond it is
normal to three digits."""

TREND_P: Final = 0.01
TREND_LIMIT: Final = 0.01
"""Share by which speed may change over a machine's run before it is called a drift."""

Timed: TypeAlias = "Sequence[tuple[float, float]] | Columns"
"""Figures of one machine above 0, each with the second at which its replicate started: [n, 2]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpairedRatio(JudgedRatio):
    """Candidate over baseline, figures of different machines."""

    n_baseline: int
    """Replicates."""
    n_candidate: int
    machines_baseline: int = 1
    machines_candidate: int = 1
    restart_sd_baseline: float | None
    """Within a machine, from one fresh process to the next: standard deviation of the logarithm."""
    restart_sd_candidate: float | None
    machine_sd_baseline: float | None = None
    """Between machines of one card, beyond their restarts; None for fewer than three."""
    machine_sd_candidate: float | None = None

    @property
    def enough(self) -> bool:
        if self.ci_low is None:
            return False
        sides = (
            (self.n_baseline, self.machines_baseline),
            (self.n_candidate, self.machines_candidate),
        )
        return all(n >= MIN_EACH if m == 1 else m >= MIN_MACHINES for n, m in sides)

    @property
    def floor(self) -> float:
        if max(self.machines_baseline, self.machines_candidate) > 1:
            return 0.0  # a t-test, which has none
        return 2 / math.comb(self.n_baseline + self.n_candidate, self.n_baseline)


def unpaired_ratio(baseline: Timed, candidate: Timed, confidence: float = 0.95) -> UnpairedRatio:
    """The ratio candidate / baseline of two machines' replicates, with its interval.

    Where the times overlap, a drift that both share is taken out first (`without_drift`). Raises
    InputError for a figure that has no logarithm, or none at all.
    """
    x, y = without_drift(_logs("baseline", baseline), _logs("candidate", candidate))
    if not 0 < confidence < 1:
        raise InputError(f"confidence: {confidence} is not between 0 and 1")
    k, coverage = _depth(len(x), len(y), confidence)
    shift, low, high = _shifts(x, y, k)
    t_low, t_high, t_p = _welch(_side(x), _side(y), confidence)
    p = rank_sum_p(x, y)
    if low is not None and high is not None and t_low is not None and _unlike(x, y):
        assert t_high is not None
        assert t_p is not None
        low, high, p = min(low, t_low), max(high, t_high), max(p, t_p)
    return UnpairedRatio(
        ratio=math.exp(shift),
        ci_low=_exp(low),
        ci_high=_exp(high),
        confidence=confidence,
        coverage=coverage,
        p_value=p,
        t_low=_exp(t_low),
        t_high=_exp(t_high),
        t_p_value=t_p,
        n_baseline=len(x),
        n_candidate=len(y),
        restart_sd_baseline=_sd(x),
        restart_sd_candidate=_sd(y),
    )


def _shifts(
    x: Sequence[float], y: Sequence[float], k: int
) -> tuple[float, float | None, float | None]:
    """Median of all differences y - x, and the (k+1)-th from either end; None for a negative k."""
    import numpy as np

    every = np.subtract.outer(np.asarray(y), np.asarray(x)).ravel()
    last = len(every) - 1
    ends = [] if k < 0 else [k, last - k]
    every.partition([*ends, last // 2, last - last // 2])
    centre = float((every[last // 2] + every[last - last // 2]) / 2)
    return (centre, float(every[k]), float(every[last - k])) if ends else (centre, None, None)


def card_ratio(
    baseline: Sequence[Timed], candidate: Sequence[Timed], confidence: float = 0.95
) -> UnpairedRatio:
    """The ratio of two cards, of which one at least was measured on three or more machines.

    A random effect: each such machine gives its centre (Hodges-Lehmann), each centre counts once,
    and their variance holds what machines and restarts differ by, so that the interval speaks of
    other machines of that card too. A side of one machine gives its replicates and speaks of that
    machine alone. Welch's t interval on these.
    """
    sides = [
        [_logs(name, machine)[:, 0].tolist() for machine in machines]
        for name, machines in (("baseline", baseline), ("candidate", candidate))
    ]
    x, y = (side[0] if len(side) == 1 else [_centre(machine) for machine in side] for side in sides)
    low, high, p = _welch(_side(x), _side(y), confidence)
    return UnpairedRatio(
        ratio=math.exp(_middle(sides[1]) - _middle(sides[0])),
        ci_low=_exp(low),
        ci_high=_exp(high),
        confidence=confidence,
        coverage=None,
        p_value=1.0 if p is None else p,
        t_low=_exp(low),
        t_high=_exp(high),
        t_p_value=p,
        n_baseline=sum(map(len, sides[0])),
        n_candidate=sum(map(len, sides[1])),
        machines_baseline=len(sides[0]),
        machines_candidate=len(sides[1]),
        restart_sd_baseline=_within(sides[0]),
        restart_sd_candidate=_within(sides[1]),
        machine_sd_baseline=_between(sides[0]),
        machine_sd_candidate=_between(sides[1]),
    )


def without_drift(baseline: Timed, candidate: Timed) -> tuple[list[float], list[float]]:
    """The logarithms, less a linear drift in time that both machines share.

    Only where their times overlap: else a drift cannot be told from the machines' difference. The
    slope is Theil and Sen's over pairs within each machine, so that neither a slower machine nor a
    disturbed replicate is taken for a drift.
    """
    x, y = _columns(baseline), _columns(candidate)
    slope = _slope(x, y) if overlap(x[:, 1], y[:, 1]) else None
    if slope is None:
        return x[:, 0].tolist(), y[:, 0].tolist()
    return (x[:, 0] - slope * x[:, 1]).tolist(), (y[:, 0] - slope * y[:, 1]).tolist()


def overlap(first: ArrayLike, second: ArrayLike) -> bool:
    """Whether the times of two machines' replicates lie side by side: over half of the shorter."""
    import numpy as np

    spans = [(np.min(each), np.max(each)) for each in (first, second)]
    start, end = max(low for low, _ in spans), min(high for _, high in spans)
    shorter = min(high - low for low, high in spans)
    return bool(shorter > 0 and end - start >= shorter / 2)


def drifts(figures: Timed) -> bool:
    """Whether a machine's speed rose or fell over its own replicates, beyond chance and 1%."""
    import numpy as np

    if len(np.unique(_columns(figures)[:, 1])) < MIN_EACH:
        return False
    from scipy.stats import kendalltau

    logs = _logs("figures", figures)
    values, times = logs.T
    slope = _slope(logs)
    if slope is None or abs(slope) * np.ptp(times) <= TREND_LIMIT:
        return False
    return float(kendalltau(values, times).pvalue) <= TREND_P


def rank_sum_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value of the rank-sum test; equal figures share their mean rank.

    Exact up to `EXACT_UP_TO` figures, by counting out which ranks the first may have: scipy's exact
    one takes all figures to differ.
    """
    both = [round(value, 12) for value in (*first, *second)]
    if len(set(both)) == 1:
        return 1.0
    if len(both) > EXACT_UP_TO:
        return _normal_p(first, second)
    ranked = sorted(both)
    # Ranks are doubled, so that a mean of two ranks is whole.
    rank = {value: 2 * ranked.index(value) + 1 + ranked.count(value) for value in set(both)}
    law = _law(tuple(sorted(rank[value] for value in both)), len(first))
    at = sum(rank[value] for value in both[: len(first)])
    return min(1.0, 2 * min(float(law[: at + 1].sum()), float(law[at:].sum())))


def _normal_p(first: Sequence[float], second: Sequence[float]) -> float:
    """The normal approximation, corrected for ties and continuity, as scipy's `mannwhitneyu` has it
    at a tenth of its time."""
    import numpy as np
    from scipy.special import ndtr

    x, n, m = np.sort(first), len(first), len(second)
    wins = float(sum(np.searchsorted(x, second, side).sum() for side in ("left", "right"))) / 2
    _, counts = np.unique(np.concatenate([x, second]), return_counts=True)
    ties = float((counts**3 - counts).sum()) / ((n + m) * (n + m - 1))
    spread = math.sqrt(n * m / 12 * (n + m + 1 - ties))
    return min(1.0, 2 * float(ndtr(-(abs(wins - n * m / 2) - 0.5) / spread)))


@cache
def _law(ranks: tuple[int, ...], n: int) -> Law:
    """Probability of each sum, from 0 on, that n of these ranks have if all choices are alike."""
    import numpy as np

    ways = np.zeros((n + 1, sum(ranks) + 1))
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, :-rank].copy()
    found: Law = ways[n] / ways[n].sum()
    return found


@cache
def _depth(n: int, m: int, confidence: float) -> tuple[int, float | None]:
    """How many of the sorted differences to leave out at each end, and what is then covered; -1
    and None where even the widest interval covers less than asked."""
    allowed = (1 - confidence) / 2
    if n + m > EXACT_UP_TO:
        from scipy.stats import norm

        half = float(norm.ppf(1 - allowed)) * math.sqrt(n * m * (n + m + 1) / 12)
        return math.floor(n * m / 2 - half - 0.5), confidence
    law = _law(tuple(range(1, n + m + 1)), n)[n * (n + 1) // 2 :]
    tail, k = 0.0, -1
    while tail + float(law[k + 1]) <= allowed:
        k += 1
        tail += float(law[k])
    return (k, 1 - 2 * tail) if k >= 0 else (k, None)


Moments = tuple[float, float, int]
"""Mean, variance of the mean, and number of figures; the variance of one alone is nan."""


def _side(values: Sequence[float]) -> Moments:
    n = len(values)
    return fmean(values), deviation(values) ** 2 / n if n > 1 else math.nan, n


def _welch(
    base: Moments, other: Moments, confidence: float
) -> tuple[float | None, float | None, float | None]:
    """Welch's t interval of a difference of means, and its p-value."""
    from scipy.special import stdtr, stdtrit

    shift, squared = other[0] - base[0], base[1] + other[1]
    if math.isnan(squared):
        return None, None, None
    if squared < 1e-24:  # all alike: no spread to judge by but their being alike
        return shift, shift, 1.0 if abs(shift) < 1e-12 else 0.0
    freedom = squared**2 / sum(v**2 / (n - 1) for _, v, n in (base, other))
    error = math.sqrt(squared)
    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    return shift - half, shift + half, 2 * float(stdtr(freedom, -abs(shift) / error))


def _columns(figures: Timed) -> Columns:
    import numpy as np

    return np.asarray(figures, dtype=np.float64).reshape(-1, 2)


def _logs(name: str, figures: Timed) -> Columns:
    """[n, 2]: logarithms and times. Raises InputError."""
    import numpy as np

    values, times = _columns(figures).T
    if not len(values):
        raise InputError(f"{name}: there are no figures")
    for index in np.flatnonzero(~(np.isfinite(values) & (values > 0))):
        raise InputError(f"{name}[{index}]: {values[index]} is not a finite number above 0")
    return np.column_stack([np.log(values), times])


def _slope(*machines: Columns) -> float | None:
    """Theil and Sen's slope over pairs within each machine; None where all started at once."""
    import numpy as np

    slopes = []
    for figures in machines:
        value, time = figures.T
        one, other = _pairs(len(figures))
        apart = time[other] - time[one]
        there = apart != 0
        slopes.append((value[other] - value[one])[there] / apart[there])
    every = np.concatenate(slopes)
    return float(np.median(every)) if len(every) else None


@lru_cache(maxsize=8)
def _pairs(n: int) -> tuple[Whole, Whole]:
    import numpy as np

    return np.triu_indices(n, 1)


def _unlike(x: Sequence[float], y: Sequence[float]) -> bool:
    """Whether the rank-sum test alone would not cover what it says."""
    if len(x) != len(y):
        return True
    small, large = sorted((_scatter(x), _scatter(y)))
    return large > UNLIKE * small


def _scatter(values: Sequence[float]) -> float:
    """Median distance from the median: a disturbed replicate does not move it."""
    at = median(values)
    return median(abs(value - at) for value in values)


def _sd(values: Sequence[float]) -> float | None:
    return deviation(values) if len(values) > 1 else None


def _centre(values: Sequence[float]) -> float:
    """Hodges and Lehmann's: the median of all pairwise means."""
    last = number_of_means(len(values)) - 1
    return fmean(ranked_means(values, [last // 2, last - last // 2]))


def _middle(machines: Sequence[Sequence[float]]) -> float:
    return fmean(map(_centre, machines))


def _within(machines: Sequence[Sequence[float]]) -> float | None:
    """Restart scatter, pooled over machines."""
    known = [(deviation(each) ** 2, len(each) - 1) for each in machines if len(each) > 1]
    freedom = sum(n for _, n in known)
    return math.sqrt(sum(v * n for v, n in known) / freedom) if freedom else None


def _between(machines: Sequence[Sequence[float]]) -> float | None:
    """What machines differ by beyond their restarts: the variance of centres less the restarts'
    share of it, at least 0."""
    if len(machines) < MIN_MACHINES:
        return None
    restarts = fmean(
        deviation(each) ** 2 / len(each) if len(each) > 1 else 0.0 for each in machines
    )
    return math.sqrt(max(deviation(list(map(_centre, machines))) ** 2 - restarts, 0.0))


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)
