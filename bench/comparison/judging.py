"""Which records may be evidence in a comparison, and which only carry a mark. docs/method.md."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import fmean, median, median_low, stdev
from types import MappingProxyType
from typing import Final

from bench.records import Record
from bench.records.codes import DRIFT_LIMIT
from bench.summary import replicate_figures

EXCLUDING: Final = frozenset(
    {
        "THERMAL_THROTTLE",
        "POWER_BRAKE",
        "FOREIGN_PROCESS",
        "START_TEMPERATURE",
        "TOKEN_COUNT",
        "NO_STEADY_STATE",
        "DRIFT",
        "NONFINITE",
        "ABOVE_BOUND",
        "REQUESTS_FAILED",
        "CLIENT_BOUND",
        "PREFIX_CACHED",
        "OUT_OF_TURN",
    }
)
"""A record or pair with one of these is no evidence of time: the pair is left out."""

ENERGY_ONLY: Final = frozenset({"CLOCK_NOT_BRACKETED", "COUNTER_RESET", "SAMPLE_GAP"})
"""Spoil the energy of a record and nothing else."""

MARKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "CV": "pairs bear what replicates differ by, and the interval shows it",
        "POWER_CAP_DIFFERS": "the limit is part of the card as set; another may change the ratio",
        "ENERGY_DISAGREES": "the disagreement is taken for the counter's error, if it is larger",
        "CONFIG_DIFFERS": "only where pooling was asked for; else it is refused",
        "STORED_BASELINE": "only where another run was asked for as the baseline",
    }
)
"""Listed with the verdict, which they do not change, and why not."""

CV_LIMIT: Final = 0.05
DRIFT_Z: Final = 2.3
"""By chance 1 window in 50 is beyond this; for 4 + 4 requests it means wholly apart (1 in 35)."""
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

    baseline: Record
    candidate: Record
    out_of_turn: bool = False
    """Whether they were not side by side in time: `in_turns` says so of a run's pairs."""

    @property
    def reasons(self) -> set[str]:
        """Codes of both, and those that only the two together show."""
        found = _codes(self.baseline) | _codes(self.candidate)
        one = self.baseline.device.get("temperature_start_c")
        other = self.candidate.device.get("temperature_start_c")
        if one is not None and other is not None and abs(one - other) > TEMPERATURE_LIMIT_C:
            found.add("START_TEMPERATURE")
        one = self.baseline.device.get("sw_power_cap_share")
        other = self.candidate.device.get("sw_power_cap_share")
        if one is not None and other is not None and abs(one - other) > POWER_CAP_LIMIT:
            found.add("POWER_CAP_DIFFERS")
        if self.out_of_turn:
            found.add("OUT_OF_TURN")
        return found

    @property
    def times(self) -> tuple[datetime, datetime]:
        """When the first and the second of the two started."""
        one, other = (datetime.fromisoformat(r.started_at) for r in (self.baseline, self.candidate))
        return (one, other) if one <= other else (other, one)


def _codes(record: Record) -> set[str]:
    return {*record.reasons, *(["DRIFT"] if drifts(record) else [])}


def drifts(record: Record) -> bool:
    """Whether speed changed within the measured window, beyond noise.

    The medians of the window's halves differ by more than `DRIFT_LIMIT`, and the rank sum of the
    halves (Wilcoxon, normal) is beyond `DRIFT_Z`: 4 + 4 requests must be wholly apart, more need
    not be. Fewer than 8 requests show nothing.
    """
    times = record.samples.get("e2e_s", [])
    half = len(times) // 2
    if half < 4:
        return False
    first, second = times[:half], times[-half:]
    change: float = median(second) / median(first) - 1
    return abs(change) > DRIFT_LIMIT and abs(_rank_sum_z(first, second)) > DRIFT_Z


def _rank_sum_z(first: Sequence[float], second: Sequence[float]) -> float:
    """Standard deviations by which the rank sum of `second` is from that of no difference."""
    n, m = len(first), len(second)
    ranked = sorted(first)
    wins = sum(bisect_left(ranked, v) + bisect_right(ranked, v) for v in second) / 2
    return (wins - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)


def pairs_of(baseline: Sequence[Record], candidate: Sequence[Record]) -> list[Pair]:
    """Good replicates of equal index, in their order; of several runs, those side by side.

    Each record stands in one pair at most. Where an index was measured more than once (two runs,
    two machines), records of one machine, of one experiment, and near in time go together.
    """
    free: dict[int, tuple[list[Record], list[Record]]] = {}
    for side, records in enumerate((baseline, candidate)):
        for record in records:
            if record.status == "ok":
                free.setdefault(record.replicate, ([], []))[side].append(record)
    pairs: list[Pair] = []
    for index in sorted(free):
        pairs += _side_by_side(*free[index])
    return pairs


def _side_by_side(baseline: list[Record], candidate: list[Record]) -> Iterator[Pair]:
    if len(baseline) == len(candidate) == 1:
        yield Pair(baseline=baseline[0], candidate=candidate[0])
        return
    ways = sorted(
        (_distance(b, c), i, j) for i, b in enumerate(baseline) for j, c in enumerate(candidate)
    )
    used: tuple[set[int], set[int]] = (set(), set())
    for _, i, j in ways:
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            yield Pair(baseline=baseline[i], candidate=candidate[j])


def in_turns(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs of two arms at one workload; those that were not side by side are marked.

    So is a pair between whose two another replicate of these arms started on this machine (all A
    then all B, a replicate made up for later), and one with a break between (a run resumed later):
    drift is then in its ratio. Pairs across machines have a code of their own.
    """
    starts: dict[str, list[datetime]] = {}
    for pair in pairs:
        for record in (pair.baseline, pair.candidate):
            start = datetime.fromisoformat(record.started_at)
            starts.setdefault(record.environment, []).append(start)
    for each in starts.values():
        each.sort()
    apart = [(b - a).total_seconds() for a, b in (pair.times for pair in pairs)]
    limit = max(BREAK_S, BREAK_TIMES * median_low(apart)) if apart else BREAK_S

    def is_out(pair: Pair, seconds: float) -> bool:
        if pair.baseline.environment != pair.candidate.environment:
            return False
        here, (first, second) = starts[pair.baseline.environment], pair.times
        return bisect_left(here, second) > bisect_right(here, first) or seconds > limit

    return [replace(p, out_of_turn=is_out(p, s)) for p, s in zip(pairs, apart, strict=True)]


def _distance(one: Record, other: Record) -> tuple[bool, bool, float]:
    first, second = Pair(baseline=one, candidate=other).times
    return (
        one.environment != other.environment,
        one.experiment != other.experiment,
        (second - first).total_seconds(),
    )


def varies(records: Sequence[Record]) -> bool:
    """Whether the replicates' decode rates (or prefill, for one new token) differ too much: CV."""
    each = [replicate_figures(record) for record in records if record.status == "ok"]
    rates = [figures["decode_tok_s"] or figures["prefill_tok_s"] for figures in each]
    known = [rate for rate in rates if rate is not None]
    return len(known) > 1 and stdev(known) / fmean(known) > CV_LIMIT
