"""Which records may be evidence in a comparison, and which only carry a mark. docs/method.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from types import MappingProxyType
from typing import Final

from bench.records import Record
from bench.summary import replicate_figures
from bench.validity import DRIFT_LIMIT

EXCLUDING: Final = frozenset(
    {
        "THERMAL_THROTTLE", "POWER_BRAKE", "FOREIGN_PROCESS", "START_TEMPERATURE", "TOKEN_COUNT",
        "NO_STEADY_STATE", "DRIFT", "NONFINITE", "ABOVE_BOUND",
    }
)  # fmt: skip
"""A record with one of these is no evidence of time: its pair is left out."""

ENERGY_ONLY: Final = frozenset({"CLOCK_NOT_BRACKETED", "COUNTER_RESET", "SAMPLE_GAP"})
"""Spoil the energy of a record and nothing else."""

MARKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "CV": "pairs bear what replicates differ by, and the interval shows it",
        "CONFIG_DIFFERS": "only where pooling was asked for; else it is refused",
    }
)
"""Listed with the verdict, which they do not change, and why not."""

CV_LIMIT: Final = 0.05
TEMPERATURE_LIMIT_C: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A replicate of each arm, measured side by side."""

    baseline: Record
    candidate: Record

    @property
    def reasons(self) -> set[str]:
        """Codes of both, and those that only the two together show."""
        found = _codes(self.baseline) | _codes(self.candidate)
        one = self.baseline.device.get("temperature_start_c")
        other = self.candidate.device.get("temperature_start_c")
        if one is not None and other is not None and abs(one - other) > TEMPERATURE_LIMIT_C:
            found.add("START_TEMPERATURE")
        return found


def _codes(record: Record) -> set[str]:
    return {*record.reasons, *(["DRIFT"] if drifts(record) else [])}


def drifts(record: Record) -> bool:
    """Whether speed changed within the measured window, beyond noise.

    The requests of one half must all be slower than all of the other half (1 in 35 for 4 + 4 by
    chance), and the medians differ by more than `DRIFT_LIMIT`. Fewer than 8 requests show nothing.
    """
    times = record.samples.get("e2e_s", [])
    half = len(times) // 2
    if half < 4:
        return False
    first, second = times[:half], times[-half:]
    apart = max(first) < min(second) or max(second) < min(first)
    change: float = median(second) / median(first) - 1
    return apart and abs(change) > DRIFT_LIMIT


def pairs_of(baseline: Sequence[Record], candidate: Sequence[Record]) -> list[Pair]:
    """Good replicates of equal index, in their order."""
    by_index = {record.replicate: record for record in baseline if record.status == "ok"}
    return [
        Pair(baseline=by_index[record.replicate], candidate=record)
        for record in sorted(candidate, key=lambda r: r.replicate)
        if record.status == "ok" and record.replicate in by_index
    ]


def varies(records: Sequence[Record]) -> bool:
    """Whether the replicates' decode rates (or prefill, for one new token) differ too much: CV."""
    each = [replicate_figures(record) for record in records if record.status == "ok"]
    rates = [figures["decode_tok_s"] or figures["prefill_tok_s"] for figures in each]
    known = [rate for rate in rates if rate is not None]
    return len(known) > 1 and stdev(known) / fmean(known) > CV_LIMIT
