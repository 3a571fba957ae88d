"""Which replicates are pairs, and what speaks against a pair. docs/method.md."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import fmean, median_low, stdev
from typing import Final

from bench.records.codes import Part, excludes, touches
from bench.summary import Doubt, Replicate
from bench.summary.replicate import against

CV_LIMIT: Final = 0.05
TEMPERATURE_LIMIT_C: Final = 5.0
BREAK_S: Final = 3600.0
"""Arms that started further apart than this, and than `BREAK_TIMES` the usual, had a break
between them."""
BREAK_TIMES: Final = 3.0
POWER_CAP_LIMIT: Final = 0.1
"""Share of the samples; one sample in ten of a short window is chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A replicate of each arm, measured side by side."""

    baseline: Replicate
    candidate: Replicate
    doubts: tuple[Doubt, ...]
    """Of both, and those that only the two together show."""

    @property
    def times(self) -> tuple[datetime, datetime]:
        """When the first and the second of the two started."""
        return _times(self.baseline, self.candidate)

    def against(self, parts: frozenset[Part]) -> tuple[str, ...]:
        """The codes that touch figures made of these parts."""
        return against(self.doubts, parts)

    def counts(self, parts: frozenset[Part]) -> bool:
        """Whether the pair is evidence for figures made of these parts."""
        return not any(excludes(code) for code in self.against(parts))


def _times(one: Replicate, other: Replicate) -> tuple[datetime, datetime]:
    first, second = one.started, other.started
    return (first, second) if first <= second else (second, first)


def _pair(baseline: Replicate, candidate: Replicate) -> Pair:
    both = (baseline, candidate)
    codes = ["DRIFT"] if any(one.drifts for one in both) else []
    if _apart(baseline.temperature_start_c, candidate.temperature_start_c, TEMPERATURE_LIMIT_C):
        codes.append("START_TEMPERATURE")
    if _apart(baseline.power_cap_share, candidate.power_cap_share, POWER_CAP_LIMIT):
        codes.append("POWER_CAP_DIFFERS")
    own = (doubt for one in both for doubt in one.doubts)
    return Pair(baseline=baseline, candidate=candidate, doubts=(*own, *map(_doubt, codes)))


def _apart(one: float | None, other: float | None, limit: float) -> bool:
    return one is not None and other is not None and abs(one - other) > limit


def _doubt(code: str) -> Doubt:
    return Doubt(code, touches(code))


def pairs_of(baseline: Sequence[Replicate], candidate: Sequence[Replicate]) -> list[Pair]:
    """Good replicates of equal index, in their order; of several runs, those side by side.

    Each replicate stands in one pair at most. Where an index was measured more than once (two runs,
    two machines), those of one machine, of one experiment, and near in time go together.
    """
    free: dict[int, tuple[list[Replicate], list[Replicate]]] = {}
    for side, replicates in enumerate((baseline, candidate)):
        for one in replicates:
            if one.ok:
                free.setdefault(one.index, ([], []))[side].append(one)
    pairs: list[Pair] = []
    for index in sorted(free):
        pairs += _side_by_side(*free[index])
    return pairs


def _side_by_side(baseline: list[Replicate], candidate: list[Replicate]) -> Iterator[Pair]:
    if len(baseline) == len(candidate) == 1:
        yield _pair(baseline[0], candidate[0])
        return
    ways = sorted(
        (_distance(b, c), i, j) for i, b in enumerate(baseline) for j, c in enumerate(candidate)
    )
    used: tuple[set[int], set[int]] = (set(), set())
    for _, i, j in ways:
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            yield _pair(baseline[i], candidate[j])


def in_turns(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of two arms at one workload; those that were not side by side are marked.

    So is a pair between whose two another replicate of these arms started on this machine (all A
    then all B, a replicate made up for later), and one with a break between (a run resumed later):
    drift is then in its ratio. Pairs across machines have a code of their own.
    """
    starts: dict[str, list[datetime]] = {}
    for pair in pairs:
        for one in (pair.baseline, pair.candidate):
            starts.setdefault(one.environment, []).append(one.started)
    for each in starts.values():
        each.sort()
    times = [pair.times for pair in pairs]
    apart = [(second - first).total_seconds() for first, second in times]
    limit = max(BREAK_S, BREAK_TIMES * median_low(apart)) if apart else BREAK_S

    def is_out(pair: Pair, time: tuple[datetime, datetime], seconds: float) -> bool:
        if pair.baseline.environment != pair.candidate.environment:
            return False
        here = starts[pair.baseline.environment]
        return bisect_left(here, time[1]) > bisect_right(here, time[0]) or seconds > limit

    late = _doubt("OUT_OF_TURN")
    return [
        replace(pair, doubts=(*pair.doubts, late)) if is_out(pair, time, seconds) else pair
        for pair, time, seconds in zip(pairs, times, apart, strict=True)
    ]


def _distance(one: Replicate, other: Replicate) -> tuple[bool, bool, float]:
    first, second = _times(one, other)
    return (
        one.environment != other.environment,
        one.experiment != other.experiment,
        (second - first).total_seconds(),
    )


def varies(replicates: Sequence[Replicate]) -> bool:
    """Whether the decode rates (or prefill, for one new token) differ too much: CV."""
    good = [one.figures for one in replicates if one.ok]
    rates = [figures["decode_tok_s"] or figures["prefill_tok_s"] for figures in good]
    known = [rate for rate in rates if rate is not None]
    return len(known) > 1 and stdev(known) / fmean(known) > CV_LIMIT
