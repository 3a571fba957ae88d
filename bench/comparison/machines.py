"""The same arm on different machines: unpaired, with what may and may not be said of it.

A side is one machine, or all machines of one card where there are three or more. Each figure is of
replicates (`bench.statistics.unpaired`); what else differs between the sides is refused or named.
docs/method.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.comparison import QUALITY, Rules
from bench.comparison.row import Across, Compared, RowHead
from bench.comparison.sides import Prices, Side, card_of, differences, scope_of, sides_of
from bench.comparison.testing import Tested, judge
from bench.comparison.unpaired import not_paired, ratio_row
from bench.errors import InputError, unknown
from bench.records.codes import TIME, excludes
from bench.records.file import Results
from bench.statistics.unpaired import (
    MIN_EACH,
    Timed,
    UnpairedRatio,
    card_ratio,
    drifts,
    overlap,
    unpaired_ratio,
)
from bench.summary import Metric, Row, Sizes, Summary, summarise
from bench.summary.metrics import compared
from bench.summary.pooling import Pooling, known
from bench.summary.replicate import against

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Flags = NDArray[np.bool_]
    Floats = NDArray[np.float64]

COST: Final = "cost"

DRIFT_APART: Final = 0.05
"""Share by which machines may drift from one day to the next: a smaller difference between machines
that were not measured at the same time is no verdict."""


def across(
    results: Results | Summary,
    rules: Rules,
    baseline: str | None = None,
    candidate: str | None = None,
    prices: Prices | None = None,
) -> list[Compared]:
    """Rows for every arm and workload that the baseline's machine and another have in common.

    `baseline`, `candidate`: a card, a machine's label or host, or the start of an environment's id;
    without them the first machine of the records, and all others. Raises InputError.
    """
    summary = summarise(results)
    if not summary.rows:
        raise InputError("there are no records to compare")
    machines = {row.host.hardware for row in summary}
    if len(machines) < 2:
        raise InputError(
            f"--across machine: all records are of one machine, {summary.rows[0].label}"
        )
    first = summary.rows[0].host.hardware
    chosen = [compared()[name] for name in rules.metrics if name != QUALITY]
    tested: list[Tested | Compared] = []
    for (_, sizes), rows in _arms(summary).items():
        sides = sides_of(rows, (baseline, candidate), pool=rules.pool)
        base = _base(sides, baseline, first)
        if base is None:
            continue
        for other in sides:
            if other is not base and (candidate is None or other.named(candidate)):
                tested += _compare(base, other, sizes, chosen, rules, prices or Prices())
    if not tested:
        raise InputError(_nothing(summary, baseline, candidate))
    return judge(tested, rules.margin, rules.confidence)


def between_cards(
    results: Results | Summary, metric: Metric, baseline: str, candidate: str
) -> list[Compared]:
    """One metric of a card over another: a row for every arm, workload and pair of sides that
    measured it. Records that may not be compared give none.
    """
    rules, tested = Rules(), list[Tested | Compared]()
    for (_, sizes), rows in _arms(summarise(results)).items():
        sides = sides_of(rows, (), pool=True)
        for base in (side for side in sides if side.card == baseline):
            for other in (side for side in sides if side.card == candidate):
                tested += _compare(base, other, sizes, [metric], rules, Prices())
    return judge(tested, rules.margin, rules.confidence)


def _arms(summary: Summary) -> dict[tuple[str, Sizes], list[Row]]:
    found: dict[tuple[str, Sizes], list[Row]] = {}
    for row in summary:
        found.setdefault((row.arm.name, row.sizes), []).append(row)
    return found


def _base(sides: Sequence[Side], baseline: str | None, first: tuple[Any, ...]) -> Side | None:
    if baseline is None:
        found = [s for s in sides if first in {row.host.hardware for row in s.rows}]
    else:
        found = [side for side in sides if side.named(baseline)]
    if len(found) > 1:
        labels = ", ".join(side.label for side in found)
        raise InputError(f"baseline '{baseline}' means several machines: {labels}; name one")
    return found[0] if found else None


def _nothing(summary: Summary, baseline: str | None, candidate: str | None) -> str:
    """Why no row came of it."""
    known = {row.label for row in summary} | {card_of(row.host) for row in summary}
    known |= {row.host.id for row in summary}
    for what, name in (("baseline", baseline), ("candidate", candidate)):
        if name is not None and not any(id_.startswith(name) for id_ in known):
            return unknown(f"{what} machine", name, known)
    return "no arm was measured at the same workload on the baseline's machine and on another"


def _compare(
    base: Side,
    other: Side,
    sizes: Sizes,
    metrics: Sequence[Metric],
    rules: Rules,
    prices: Prices,
) -> Iterator[Tested | Compared]:
    if {row.origin for row in base.rows} != {row.origin for row in other.rows}:
        origins = {row.origin for row in (*base.rows, *other.rows)}
        raise InputError(f"records of different origin are not mixed: {', '.join(sorted(origins))}")
    must, named = differences(base, other)
    if must and not rules.pool:
        raise InputError(
            f"{base.arm.name} differs between {base.label} and {other.label} "
            f"({'; '.join(must)}); --pool compares anyway and lists the differences"
        )
    beside = _beside(base, other)
    marks = {"CONFIG_DIFFERS"} if must or named else set()
    marks |= set() if beside else {"APART_IN_TIME"}
    usd = prices.of(base), prices.of(other)
    head = RowHead(
        sizes=sizes,
        baseline=base.arm.name,
        candidate=other.arm.name,
        across=Across(
            baseline_machine=base.label,
            candidate_machine=other.label,
            baseline_card=base.card,
            candidate_card=other.card,
            interleaved=beside,
            differs=(*must, *named),
            baseline_usd_per_hour=usd[0],
            candidate_usd_per_hour=usd[1],
            price_source=prices.source if None not in usd else "",
            scope=scope_of(base, other),
        ),
    )
    imported = not_paired(base.replicates) or not_paired(other.replicates)
    for metric in metrics:
        factor = 1.0
        if metric.compared == COST:
            if usd[0] is None or usd[1] is None:
                continue
            factor = usd[1] / usd[0]
        if not imported:
            yield _row(metric, base, other, head, marks, rules.confidence, factor)
        elif row := ratio_row(metric, head, base.replicates, other.replicates, marks, factor):
            yield row


def _beside(base: Side, other: Side) -> bool:
    times = [side.replicates.good.whole("started_us") for side in (base, other)]
    return all(map(len, times)) and overlap(*times)


def _row(
    metric: Metric,
    base: Side,
    other: Side,
    head: RowHead,
    marks: set[str],
    confidence: float,
    factor: float,
) -> Tested:
    sides = [_evidence(metric, side, scale) for side, scale in ((base, 1.0), (other, factor))]
    memories = {one for side in sides for one in side.memories}
    there = all(side.n_known for side in sides) and not (metric.one_memory and len(memories) > 1)
    short = any(side.short for side in sides)
    drifted = "APART_IN_TIME" in marks and any(map(drifts, _timed(sides, valid=True)))
    x, y = (list(side.timed(valid=not short)) for side in sides)
    found = _ratio(x, y, confidence) if there else None
    left_out = sum(side.n_known - side.n_good for side in sides)
    reasons = marks.union(*(side.codes for side in sides), {"RUN_DRIFT"} if drifted else ())
    error = max(side.counter_error for side in sides)
    drift = 0.0 if "APART_IN_TIME" not in marks or TIME.isdisjoint(metric.parts) else DRIFT_APART
    return Tested(
        metric=metric,
        head=head,
        found=found,
        n_left_out=left_out if there and not short else 0,
        reasons=frozenset(reasons),
        missing=not there and bool(base.replicates or other.replicates),
        invalid=not there or short or drifted,
        error=max(error, drift),
        error_code="SYSTEMATIC_ERROR" if error > drift else "APART_IN_TIME",
    )


def _ratio(x: Sequence[Timed], y: Sequence[Timed], confidence: float) -> UnpairedRatio:
    if len(x) == len(y) == 1:
        return unpaired_ratio(x[0], y[0], confidence)
    return card_ratio(x, y, confidence)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MachineEvidence:
    """A metric's figures of one machine, as columns of the replicates that have it."""

    timed: Floats
    """[replicates, 2]: figures above 0 and starts, s."""
    good: Flags
    """Which of them are evidence."""
    memories: frozenset[bool]
    """Whether their peaks of memory are the device's own."""
    codes: frozenset[str]
    """Against any of them, and of the replicates that failed."""
    counter_error: float
    """Share by which the energy counter may be off, and not alike on another machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideEvidence:
    """A metric's figures of one side."""

    machines: tuple[MachineEvidence, ...]

    @property
    def n_known(self) -> int:
        return sum(len(one.good) for one in self.machines)

    @property
    def n_good(self) -> int:
        return sum(int(one.good.sum()) for one in self.machines)

    @property
    def short(self) -> bool:
        """Whether too little of it is evidence."""
        return self.n_good < min(MIN_EACH, self.n_known)

    @property
    def memories(self) -> set[bool]:
        return {each for one in self.machines for each in one.memories}

    @property
    def codes(self) -> set[str]:
        return {code for one in self.machines for code in one.codes}

    @property
    def counter_error(self) -> float:
        return max(one.counter_error for one in self.machines)

    def timed(self, *, valid: bool) -> Iterator[Timed]:
        """Figures of each machine with their starts, s; `valid`: only what is evidence."""
        for one in self.machines:
            kept = one.timed[one.good] if valid else one.timed
            if len(kept):
                yield kept


def _timed(sides: Sequence[SideEvidence], *, valid: bool) -> Iterator[Timed]:
    return (machine for side in sides for machine in side.timed(valid=valid))


def _evidence(metric: Metric, side: Side, factor: float) -> SideEvidence:
    return SideEvidence(
        machines=tuple(_of_machine(metric, each, factor) for each in side.of_machines)
    )


def _of_machine(metric: Metric, each: Pooling, factor: float) -> MachineEvidence:
    import numpy as np

    values = each.figure(metric.name)
    # A figure of 0 was not measured (a counter that did not move): it has no ratio. Nor has nan.
    there = values > 0
    good, codes = _judged(metric, each, there)
    starts = each.whole("started_us")[there] / 1e6
    return MachineEvidence(
        timed=np.column_stack([values[there] * factor, starts]),
        good=good[there],
        memories=frozenset(each.flag("on_device")[there].tolist()),
        codes=frozenset(codes),
        counter_error=_counter_error(metric, each, there),
    )


def _judged(metric: Metric, each: Pooling, there: Flags) -> tuple[Flags, set[str]]:
    """Which replicates have no code that makes a figure no evidence, and the codes against those
    that are `there`, the drift within their windows among them; of failures every code."""
    import numpy as np

    which, doubts = each.doubts_of()
    touching = [against(one, metric.parts) for one in doubts]
    good: Flags = np.array([not any(map(excludes, one)) for one in touching], dtype=bool)[which]
    codes = {code for at in np.unique(which[there]).tolist() for code in touching[at]}
    failed = np.unique(which[~each.flag("ok")]).tolist()
    codes |= {doubt.code for at in failed for doubt in doubts[at]}
    if TIME.isdisjoint(metric.parts):
        return good, codes
    drifting = each.flag("drifts")
    return good & ~drifting, codes | ({"DRIFT"} if drifting[there].any() else set())


def _counter_error(metric: Metric, each: Pooling, there: Flags) -> float:
    if metric.window is None:
        return 0.0
    shares = (each.window(metric.window, name) for name in ("systematic_error", "disagreement"))
    return max((value for one in shares for value in known(one[there])), default=0.0)
