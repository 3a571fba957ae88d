"""The same arm on different machines: unpaired, with what may and may not be said of it.

A side is one machine, or all machines of one card where there are three or more. Each figure is of
replicates (`bench.statistics.unpaired`); what else differs between the sides is refused or named.
docs/method.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

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
from bench.summary import Metric, Replicate, Row, Sizes, Summary, summarise
from bench.summary.metrics import compared

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
    imported = not_paired((*base.replicates, *other.replicates))
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
    times = [
        [one.started.timestamp() for one in side.replicates if one.ok] for side in (base, other)
    ]
    return all(times) and overlap(*times)


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
    memories = {one.on_device for side in sides for _, one in side.known}
    there = all(side.known for side in sides) and not (metric.one_memory and len(memories) > 1)
    short = any(side.short for side in sides)
    drifted = "APART_IN_TIME" in marks and any(map(drifts, _timed(sides, valid=True)))
    x, y = (list(side.timed(valid=not short)) for side in sides)
    found = _ratio(x, y, confidence) if there else None
    left_out = sum(len(side.known) - len(side.good) for side in sides)
    reasons = marks.union(*(side.codes for side in sides), {"RUN_DRIFT"} if drifted else ())
    error = _counter_error(metric, sides)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SideEvidence:
    """A metric's figures of one side, a list a machine."""

    machines: list[list[tuple[float, Replicate]]]
    """All that have it."""
    left_out: frozenset[int]
    """Those that are no evidence, by identity."""
    codes: frozenset[str]

    @property
    def known(self) -> list[tuple[float, Replicate]]:
        return [each for machine in self.machines for each in machine]

    @property
    def good(self) -> list[tuple[float, Replicate]]:
        return [each for each in self.known if id(each[1]) not in self.left_out]

    @property
    def short(self) -> bool:
        """Whether too little of it is evidence."""
        return len(self.good) < min(MIN_EACH, len(self.known))

    def timed(self, *, valid: bool) -> Iterator[Timed]:
        """Figures of each machine with their starts, s; `valid`: only what is evidence."""
        for machine in self.machines:
            kept = [
                (value, one.started.timestamp())
                for value, one in machine
                if not valid or id(one) not in self.left_out
            ]
            if kept:
                yield kept


def _timed(sides: Sequence[SideEvidence], *, valid: bool) -> Iterator[Timed]:
    return (machine for side in sides for machine in side.timed(valid=valid))


def _evidence(metric: Metric, side: Side, factor: float) -> SideEvidence:
    machines, codes, left_out = [], set(), set()
    for rows in side.machines:
        machine = []
        for one in (one for row in rows for one in row.replicates):
            value = one.figures.get(metric.name)
            against = _codes(metric, one) if one.ok else set(one.reasons)
            # A figure of 0 was not measured (a counter that did not move): it has no ratio.
            if value is not None and value > 0:
                machine.append((value * factor, one))
                left_out |= {id(one)} if any(map(excludes, against)) else set()
            elif one.ok:
                continue
            codes |= against
        machines.append(machine)
    return SideEvidence(machines=machines, left_out=frozenset(left_out), codes=frozenset(codes))


def _codes(metric: Metric, one: Replicate) -> set[str]:
    """The codes against a figure, the drift within its window among them."""
    found = {doubt.code for doubt in one.doubts if doubt.touches(metric.parts)}
    drifting = one.drifts and not TIME.isdisjoint(metric.parts)
    return found | ({"DRIFT"} if drifting else set())


def _counter_error(metric: Metric, sides: Sequence[SideEvidence]) -> float:
    """Share by which the energy counters may be off, and not alike."""
    if metric.window is None:
        return 0.0
    windows = [getattr(one.energy, metric.window) for side in sides for _, one in side.known]
    return max((max(w.systematic_error, w.disagreement or 0.0) for w in windows), default=0.0)
