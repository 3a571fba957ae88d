"""The highest rate of arrivals that keeps every limit: which rate to try next, and the answer.

Pure: the probes so far decide the next one, so a search that was interrupted goes on from its
records. Rates lie on a lattice of `STEPS` to an octave, so that replicates and arms meet at equal
rates. Within a replicate every probe has the same pattern of arrivals, only faster, so what is kept
falls with the rate and bisection ends.

A window holds long queues or none, and one percentile of it is far from the server's: the roots of
single windows are too high in the mean. So the answer is the root of the mean share within the
limits over all replicates, and the jackknife over replicates (Quenouille 1956, Tukey 1958) gives
its interval and takes what bias is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Final

STEPS: Final = 16
"""Rates in an octave: neighbours differ by 4.4%, between which the answer is interpolated."""
LEAP: Final = 2 * STEPS
"""Steps of a search that knows nothing yet: a factor of 4."""
HOP: Final = 2
"""First steps of one that begins at another replicate's answer; doubled until it is held."""
RAMP_SHARE: Final = 0.5
"""Requests of a probe before those that are judged, as a share of them: the queue fills. As many as
are judged may come after them."""
LOWEST, HIGHEST = -10 * STEPS, 20 * STEPS
"""About a request in 17 minutes, and a million a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One rate that was tried, in one replicate."""

    rate: float
    """Requests a second."""
    n: int
    """Requests that were judged; failed ones among them."""
    kept: tuple[int, ...]
    """Of each limit, how many requests were within it."""

    def keeps(self, shares: Sequence[float]) -> bool:
        """Whether at least the share that each limit asks for was within it."""
        return all(
            kept >= math.ceil(round(share * self.n, 9))
            for kept, share in zip(self.kept, shares, strict=True)
        )

    @property
    def place(self) -> int:
        """On the lattice."""
        return round(math.log2(self.rate) * STEPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """What one replicate's probes hold the answer between, requests a second."""

    below: float | None
    """Highest rate that kept the limits; None if none did."""
    above: float | None
    """Lowest that did not."""

    @property
    def steps(self) -> float:
        """Of the lattice, between the two; infinite where one is missing."""
        if self.below is None or self.above is None:
            return math.inf
        return place_of(self.above) - place_of(self.below)

    @property
    def done(self) -> bool:
        return self.steps == 1


def rate_at(place: int) -> float:
    """Requests a second at a place of the lattice."""
    return float(2 ** (place / STEPS))


def place_of(rate: float) -> int:
    """The place of the lattice that is nearest to a rate."""
    return min(max(round(math.log2(rate) * STEPS), LOWEST), HIGHEST)


def bracket(probes: Sequence[Probe], shares: Sequence[float]) -> Bracket:
    """The lowest rate that does not keep the limits, and the highest below it that does."""
    above = min((one.rate for one in probes if not one.keeps(shares)), default=None)
    kept = [o.rate for o in probes if o.keeps(shares) and (above is None or o.rate < above)]
    return Bracket(below=max(kept, default=None), above=above)


def next_rate(
    probes: Sequence[Probe], shares: Sequence[float], *, first: float, near: bool
) -> float | None:
    """The rate to try next; None when the answer is held between neighbours or cannot be.

    `first`: where to begin. `near`: whether it is another replicate's answer.
    """
    if not probes:
        return rate_at(place_of(first) if near else LEAP * round(place_of(first) / LEAP))
    held = bracket(probes, shares)
    if held.done:
        return None
    if held.below is not None and held.above is not None:
        return rate_at((place_of(held.below) + place_of(held.above)) // 2)
    tried = [one.place for one in probes]
    step = min(HOP * 2 ** (len(probes) - 1), LEAP) if near else LEAP
    following = max(tried) + step if held.above is None else min(tried) - step
    return rate_at(following) if LOWEST <= following <= HIGHEST else None


def crossing(replicates: Sequence[Sequence[Probe]], shares: Sequence[float]) -> float | None:
    """The rate at which the mean share within some limit falls to what it asks for.

    Each inner sequence: the probes of one replicate. Between them the logarithm of the odds is
    taken for a straight line over that of the rate. None if no rate that was tried is on each side.
    """
    roots = [
        _root([_odds(probes, limit) for probes in replicates], share)
        for limit, share in enumerate(shares)
    ]
    places = [one for one in roots if one is not None]
    return 2 ** (min(places) / STEPS) if places else None


Line = list[tuple[float, float]]
"""Places and the logarithm of the odds of being within a limit there, by place."""


def _odds(probes: Sequence[Probe], limit: int) -> Line:
    return sorted(
        (float(one.place), math.log((one.kept[limit] + 0.5) / (one.n - one.kept[limit] + 0.5)))
        for one in probes
    )


def _root(lines: Sequence[Line], share: float) -> float | None:
    """Where the lines' mean share is `share`, by bisection; it falls from left to right."""
    low = min(line[0][0] for line in lines)
    high = max(line[-1][0] for line in lines)
    if not _mean_share(lines, low) >= share > _mean_share(lines, high):
        return None
    while high - low > 1e-6:
        middle = (low + high) / 2
        if _mean_share(lines, middle) >= share:
            low = middle
        else:
            high = middle
    return low


def _mean_share(lines: Sequence[Line], place: float) -> float:
    return fmean(1 / (1 + math.exp(-_at(line, place))) for line in lines)


def _at(line: Line, place: float) -> float:
    """A line at a place; beyond its ends as there."""
    if place <= line[0][0]:
        return line[0][1]
    for (left, low), (right, high) in pairwise(line):
        if place <= right:
            return low + (high - low) * (place - left) / (right - left)
    return line[-1][1]


def pseudo_values(
    replicates: Sequence[Sequence[Probe]], shares: Sequence[float]
) -> list[float] | None:
    """One rate for each replicate, whose geometric mean is the jackknife's answer and whose spread
    its interval's; of one replicate its own crossing. None where some crossing is not held."""
    whole = crossing(replicates, shares)
    if whole is None:
        return None
    count = len(replicates)
    if count == 1:
        return [whole]
    found = []
    for left_out in range(count):
        rest = crossing([*replicates[:left_out], *replicates[left_out + 1 :]], shares)
        if rest is None:
            return None
        found.append(math.exp(count * math.log(whole) - (count - 1) * math.log(rest)))
    return found
