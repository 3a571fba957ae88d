"""Ratios of arms that were not measured in pairs: shown, and never judged.

Other tools repeat inside one process, or run one arm today and the other tomorrow. Such repeats say
how steady a process was, not what a fresh one would have shown, and pairing them by their index
would make an interval out of nothing (docs/method.md). So there is a ratio and a reason, and no
interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import geometric_mean

from bench.comparison.row import Compared, RowHead
from bench.records import OWN
from bench.summary import Metric, Replicate
from bench.summary.pooling import once, pooled
from bench.summary.replicate import against

REASON = "NOT_PAIRED"


def not_paired(replicates: Iterable[Replicate]) -> bool:
    """Whether any of the replicates comes from another tool."""
    return any(origin not in OWN for origin in once(pooled(replicates), "origin"))


def ratio_row(
    metric: Metric,
    head: RowHead,
    baseline: Sequence[Replicate],
    candidate: Sequence[Replicate],
    marks: set[str],
    factor: float = 1.0,
) -> Compared | None:
    """A row without interval or verdict; None where an arm lacks the figure.

    The ratio is that of the arms' geometric means. It is `invalid` where a rate is above what the
    device allows: that is no figure, whoever measured it. `factor`: of the machines' prices.
    """
    both = pooled(baseline), pooled(candidate)
    sides = [[value for value in side.each(metric.name) if value > 0] for side in both]
    if not all(sides):
        return None
    codes = against(both[0].all_doubts() | both[1].all_doubts(), metric.parts)
    return Compared(
        metric=metric.compared,
        sizes=head.sizes,
        baseline=head.baseline,
        candidate=head.candidate,
        equal_quality=head.equal_quality,
        better=metric.better,
        ratio=factor * geometric_mean(sides[1]) / geometric_mean(sides[0]),
        reasons=tuple(sorted({REASON, *marks, *codes})),
        verdict="invalid" if "ABOVE_BOUND" in codes else "ambiguous",
        across=head.across,
    )
