"""Pairs -> a tested ratio of each metric -> verdicts over the whole table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.comparison.judging import Pair
from bench.comparison.row import Compared, RowHead, Verdict
from bench.statistics.paired import MIN_PAIRS, PairedRatio, paired_ratio
from bench.statistics.ratio import JudgedRatio, adjustable_p, holm
from bench.statistics.unpaired import UnpairedRatio
from bench.summary import Metric

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
    metric: Metric, pairs: Sequence[Pair], head: RowHead, marks: set[str], confidence: float
) -> Tested:
    """The ratio of a metric over the pairs that are evidence for it."""
    alike = pairs
    if metric.one_memory:
        alike = [p for p in pairs if p.baseline.on_device == p.candidate.on_device]
    values = [(p.baseline.figures[metric.name], p.candidate.figures[metric.name], p) for p in alike]
    # A figure of 0 was not measured (a counter that did not move): it has no ratio.
    known = [(b, c, p) for b, c, p in values if b and c and b > 0 and c > 0]
    good = [(b, c, p) for b, c, p in known if p.counts(metric.parts)]
    invalid = len(good) < min(MIN_PAIRS, len(known)) or not known
    shown = known if invalid else good
    seen = marks.union(*(p.against(metric.parts) for _, _, p in known))
    error = 0.0
    if metric.window is not None:
        error, disagrees = _energy_error(alike, metric.window)
        seen |= {"ENERGY_DISAGREES"} if disagrees else set()
    found = None
    if shown:
        found = paired_ratio([b for b, *_ in shown], [c for _, c, _ in shown], confidence)
    return Tested(
        metric=metric,
        head=head,
        found=found,
        n_left_out=len(known) - len(shown),
        reasons=frozenset(seen),
        missing=not known and bool(pairs),
        invalid=invalid,
        error=error,
    )


def _energy_error(pairs: Sequence[Pair], phase: str) -> tuple[float, bool]:
    """Share by which the counter may be off, and not by the same share in both arms.

    It is what is published of such counters, or what the card's own power samples say against it
    in one of the windows, if that is more; then the second value is True.
    """
    windows = [
        getattr(one.energy, phase) for pair in pairs for one in (pair.baseline, pair.candidate)
    ]
    stated = max((window.systematic_error for window in windows), default=0.0)
    off = [window.disagreement for window in windows if window.disagreement is not None]
    return max(stated, *off, 0.0), bool(off)


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
