"""Pairs -> a tested ratio of each metric -> verdicts over the whole table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.comparison.judging import Pairs
from bench.comparison.row import Compared, RowHead, Verdict
from bench.statistics.paired import MIN_PAIRS, PairedRatio, paired_ratio
from bench.statistics.ratio import JudgedRatio, adjustable_p, holm
from bench.statistics.unpaired import UnpairedRatio
from bench.summary import Metric
from bench.summary.pooling import known as known_of

if TYPE_CHECKING:
    from bench.comparison.judging import Flags

Test = tuple[str, str, object, str]
"""Candidate, its machine if that is compared, workload and question: what counts once for Holm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """One metric of two arms at one workload, before its verdict, which needs the whole table."""

    metric: Metric
    head: RowHead
    found: JudgedRatio | None
    """None where no pair has the figure in both arms."""
    n_left_out: int
    reasons: frozenset[str]
    missing: bool
    """Whether there are pairs, and none of them has the figure."""
    invalid: bool
    """Whether too little evidence is left: the figures of all are then shown, and not believed."""
    error: float
    """Share by which the figures may be off, and not alike in both arms: a smaller difference is
    none."""
    error_code: str = "SYSTEMATIC_ERROR"

    @property
    def test(self) -> Test:
        across = self.head.across
        machine = "" if across is None else across.candidate_machine
        return self.head.candidate, machine, self.head.sizes, self.metric.question

    @property
    def n_pairs(self) -> int:
        return self.found.n_pairs if isinstance(self.found, PairedRatio) else 0


def row_of(
    metric: Metric, pairs: Pairs, head: RowHead, marks: set[str], confidence: float
) -> Tested:
    """The ratio of a metric over the pairs that are evidence for it."""
    import numpy as np

    one, other = pairs.baseline.figure(metric.name), pairs.candidate.figure(metric.name)
    # A figure of 0 was not measured (a counter that did not move): it has no ratio. Nor has nan.
    known = (one > 0) & (other > 0)
    alike = np.ones(len(pairs), dtype=bool)
    if metric.one_memory:
        alike = pairs.baseline.flag("on_device") == pairs.candidate.flag("on_device")
        known &= alike
    good = known & pairs.counts(metric.parts)
    n_known, n_good = int(known.sum()), int(good.sum())
    invalid = n_good < min(MIN_PAIRS, n_known) or not n_known
    shown = known if invalid else good
    seen = marks | pairs.codes(known, metric.parts)
    error = 0.0
    if metric.window is not None:
        error, disagrees = _energy_error(pairs, alike, metric.window)
        seen |= {"ENERGY_DISAGREES"} if disagrees else set()
    found = None
    if n_known:
        found = paired_ratio(one[shown].tolist(), other[shown].tolist(), confidence)
    return Tested(
        metric=metric,
        head=head,
        found=found,
        n_left_out=n_known - int(shown.sum()),
        reasons=frozenset(seen),
        missing=not n_known and len(pairs) > 0,
        invalid=invalid,
        error=error,
    )


def _energy_error(pairs: Pairs, which: Flags, phase: str) -> tuple[float, bool]:
    """Share by which the counter may be off, and not by the same share in both arms.

    It is what is published of such counters, or what the card's own power samples say against it
    in one of the windows, if that is more; then the second value is True.
    """
    sides = (pairs.baseline, pairs.candidate)
    stated, off = (
        [share for side in sides for share in known_of(side.window(phase, name)[which])]
        for name in ("systematic_error", "disagreement")
    )
    return max([0.0, *stated, *off]), bool(off)


def judge(rows: Sequence[Tested | Compared], margin: float, confidence: float) -> list[Compared]:
    """Add significance and verdict to what was tested. Metrics that nothing measures are dropped,
    unless all replicates failed: that is a result."""
    tested = [row for row in rows if isinstance(row, Tested)]
    adjusted = _adjusted([row for row in tested if not row.missing])
    return [
        row if isinstance(row, Compared) else _judged(row, adjusted, margin, confidence)
        for row in rows
        if isinstance(row, Compared) or not row.missing
    ]


def _adjusted(rows: Sequence[Tested]) -> dict[Test, float]:
    """Holm's p-value of each test; metrics that ask one question in two units are one test."""
    tests = {row.test: row.found for row in rows if row.found is not None}
    p = {test: adjustable_p(found, len(tests)) for test, found in tests.items()}
    known = {test: value for test, value in p.items() if value is not None}
    return dict(zip(known, holm(list(known.values())), strict=True))


def _judged(row: Tested, adjusted: dict[Test, float], margin: float, confidence: float) -> Compared:
    found, p, reasons = row.found, adjusted.get(row.test), set(row.reasons)
    clear = found is not None and found.excludes_one and found.t_agrees
    significant = clear and p is not None and p <= 1 - confidence and not row.invalid
    if found is None or not found.enough:
        reasons.add("TOO_FEW_PAIRS" if row.head.across is None else "TOO_FEW_REPLICATES")
    verdict: Verdict = "invalid" if row.invalid else _verdict(found, significant, margin)
    if found is not None and verdict in ("higher", "lower") and near(found, row.error):
        verdict, significant = "ambiguous", False
        reasons.add(row.error_code)
    return Compared(
        metric=row.metric.compared,
        sizes=row.head.sizes,
        baseline=row.head.baseline,
        candidate=row.head.candidate,
        equal_quality=row.head.equal_quality,
        ratio=found.ratio if found else None,
        ci_low=found.ci_low if found else None,
        ci_high=found.ci_high if found else None,
        n_pairs=row.n_pairs,
        n_left_out=row.n_left_out,
        better=row.metric.better,
        p_value=found.p_value if found else None,
        t_p_value=found.t_p_value if found else None,
        t_agrees=found.t_agrees if found else None,
        reasons=tuple(sorted(reasons)),
        p_adjusted=p,
        significant=significant,
        verdict=verdict,
        across=row.head.across,
        unpaired=found if isinstance(found, UnpairedRatio) else None,
    )


def _verdict(found: JudgedRatio | None, significant: bool, margin: float) -> Verdict:
    if found is None or not found.enough or found.ci_low is None or found.ci_high is None:
        return "ambiguous"
    if found.ci_low >= 1 / (1 + margin) and found.ci_high <= 1 + margin:
        return "same"
    if not significant:
        return "ambiguous"
    return "higher" if found.ratio > 1 else "lower"


def near(found: JudgedRatio, error: float) -> bool:
    """Whether a ratio is nearer to 1 than figures may be off."""
    return 1 / (1 + error) < found.ratio < 1 + error
