"""Results, a machine at a time: what was measured on one environment, cut down to what is shown.

Records of different environments are never pooled; each machine has its own rows, comparisons and
charts. Large inputs are summarised: `MOST_ROWS` arms and workloads are shown, and the first
replicates of each, by index, which was fixed before anything was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.comparison import Rules, compare
from bench.comparison.row import Compared
from bench.cost.hour import as_scenario
from bench.cost.pricing import Terms, price
from bench.cost.row import CostRow
from bench.cost.throughput import Throughput, throughputs
from bench.errors import InputError
from bench.experiment import CostAssumption, Experiment
from bench.experiment.kept import asked_baseline
from bench.experiment.selectors import short_names
from bench.records.file import Results
from bench.report.tables.row import Shown, shown
from bench.statistics import Interval, log_interval
from bench.summary import Host, Row, Sizes, Summary, summarise
from bench.summary.pooling import pooled

MOST_ROWS: Final = 160
MOST_RECORDS: Final = 2000
LEAST_REPLICATES, MOST_REPLICATES = 12, 40
"""So many of each arm and workload, as `MOST_RECORDS` in all allow: the exact interval of a ratio
takes time with the cube of its pairs."""

Work = tuple[str, Sizes]
"""An arm's name and its workload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What one environment gave."""

    id: str
    label: str
    host: Host
    origin: str
    summary: Summary
    """Of the rows shown."""
    rows: tuple[Shown, ...]
    every: tuple[Row, ...]
    """All arms and workloads that were measured, shown or not."""
    n_records: int
    n_replicates: int
    """Most that an arm and workload has, used or not."""
    names: Mapping[str, str]
    """Variant -> its name without what all share."""
    costs: Mapping[Work, CostRow]
    assumed: tuple[CostAssumption, ...]
    """What `costs` rest on."""
    compared: tuple[Compared, ...]
    not_compared: str

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in their order."""
        return list(self.names.values())

    @property
    def n_rows(self) -> int:
        return len(self.every)

    def name(self, row: Shown) -> str:
        """The arm of a row, short."""
        return self.names[row.arm.name]

    def interval(self, row: Shown, figure: str) -> Interval | None:
        """A figure over the replicates of a row; None where nothing measured it."""
        values = [value for value in row.row.each(figure) if value]
        return log_interval(values) if values else None

    def anchor(self, arm: str, sizes: Sizes | None) -> str | None:
        """Where the records of an arm and workload stand in the page; None if they do not."""
        works = [(row.arm.name, row.sizes) for row in self.rows]
        if sizes is None or (arm, sizes) not in works:
            return None
        return f"{self.id}-g{works.index((arm, sizes))}"


def work_of(sizes: Sizes) -> str:
    """`128+24 ×4`: prompt and new tokens, batch; imported records may not know theirs."""
    if sizes.slo:
        return f"{sizes.n_prompt}+{sizes.n_gen}, {sizes.slo}"
    return f"{sizes.n_prompt}+{sizes.n_gen} ×{sizes.n_batch or '?'}"


def batch(sizes: Sizes | None) -> int:
    """The batch to sort by; 0 where it is not known."""
    return 0 if sizes is None else sizes.n_batch or 0


def machines(
    results: Results | Summary,
    experiments: Mapping[str, Experiment],
    baseline: str | None = None,
    assumed: CostAssumption | None = None,
) -> list[Machine]:
    """One for each environment and origin, in order of first appearance. InputError without any."""
    summary = summarise(results)
    if not summary.rows:
        there = "quality, but no timed record" if summary.qualities else "no measurements"
        raise InputError(f"nothing to report: {there} in the results; `bench run` makes them")
    return [
        _machine(f"m{number}", summary.at(place), experiments, baseline, assumed)
        for number, place in enumerate(summary.places, start=1)
    ]


def _machine(
    name: str,
    summary: Summary,
    experiments: Mapping[str, Experiment],
    baseline: str | None,
    assumed: CostAssumption | None,
) -> Machine:
    first, every = summary.rows[0], summary.rows
    kept = _shown(every)
    each = max(LEAST_REPLICATES, min(MOST_REPLICATES, MOST_RECORDS // len(kept)))
    small = replace(summary, rows=tuple(_first_replicates(row, each) for row in kept))
    compared, why = _compared(small, experiments, baseline)
    return Machine(
        id=name,
        label=first.label,
        host=first.host,
        origin=first.origin,
        summary=small,
        rows=tuple(shown(small)),
        every=every,
        n_records=sum(len(row.replicates) for row in every),
        n_replicates=max(len(row.replicates) for row in every),
        names=short_names(list(dict.fromkeys(row.arm.name for row in kept))),
        costs=dict(_costs(small, experiments, assumed)),
        assumed=tuple(dict.fromkeys(_assumed(small, experiments, assumed).values())),
        compared=tuple(compared),
        not_compared=why,
    )


def _first_replicates(row: Row, most: int) -> Row:
    """The row with its first replicates, by index, which was fixed before anything was measured."""
    import numpy as np

    every = pooled(row.replicates)
    in_order = np.argsort(every.whole("index"), kind="stable")
    return replace(row, replicates=tuple(every.part(in_order[:most])))


def _shown(rows: Sequence[Row]) -> list[Row]:
    """At most `MOST_ROWS` rows: whole workloads, so that arms can be compared."""
    kept: set[Sizes] = set()
    count = 0
    for sizes in dict.fromkeys(row.sizes for row in rows):
        of_work = sum(row.sizes == sizes for row in rows)
        if kept and count + of_work > MOST_ROWS:
            break
        kept.add(sizes)
        count += of_work
    found = [row for row in rows if row.sizes in kept]
    return found if len(kept) > 1 else found[:MOST_ROWS]


def _compared(
    summary: Summary, experiments: Mapping[str, Experiment], baseline: str | None
) -> tuple[list[Compared], str]:
    """Rows of the comparison, or why there are none."""
    names = {one.experiment for one in summary.replicates}
    gates = [experiments[name].gate for name in names if name in experiments]
    rules = Rules(gate=gates[0]) if len(gates) == 1 else Rules()
    base = baseline or asked_baseline(experiments, names)
    for selector in dict.fromkeys((base, baseline)):
        try:
            return compare(summary, rules, selector), ""
        except InputError as error:
            why = str(error)
    if baseline is not None:
        raise InputError(f"--baseline: {why}")
    return [], why


def _costs(
    summary: Summary, experiments: Mapping[str, Experiment], assumed: CostAssumption | None
) -> Iterator[tuple[Work, CostRow]]:
    """What each row costs under --rent, or under its experiment's own assumption."""
    experiment_of = {(row.arm.name, row.sizes): row.replicates[0].experiment for row in summary}
    items = throughputs(summary)
    for name, cost in _assumed(summary, experiments, assumed).items():
        mine = [one for one in items if experiment_of[work_of_throughput(one)] == name]
        for row in price(mine, as_scenario(cost), Terms()):
            yield (row.variant, priced_sizes(row)), row


def _assumed(
    summary: Summary, experiments: Mapping[str, Experiment], assumed: CostAssumption | None
) -> dict[str, CostAssumption]:
    """Experiment -> the price of an hour that counts for its records, where there is one."""
    names = dict.fromkeys(one.experiment for one in summary.replicates)
    own = {name: experiments[name].cost for name in names if name in experiments}
    prices = {name: assumed or own.get(name) for name in names}
    return {name: price for name, price in prices.items() if price is not None}


def work_of_throughput(one: Throughput) -> Work:
    return one.variant, priced_sizes(one)


def priced_sizes(one: Throughput | CostRow) -> Sizes:
    """The sizes of the row that a price is of."""
    return Sizes(one.n_prompt, one.n_gen, one.n_batch, one.requests or "", one.slo or "")
