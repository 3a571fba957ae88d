"""Results, a machine at a time: what was measured on one environment, cut down to what is shown.

Records of different environments are never pooled; each machine has its own rows, comparisons and
charts. Large inputs are summarised: `MOST_ROWS` arms and workloads are shown, and the first
replicates of each, by index, which was fixed before anything was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.comparison import QUALITY, Rules, compare
from bench.cost.hour import as_scenario
from bench.cost.pricing import Terms, price
from bench.cost.row import CostRow
from bench.cost.throughput import interval, throughputs
from bench.errors import InputError
from bench.experiment import CostAssumption, Experiment
from bench.experiment.selectors import short_names
from bench.records import Environment, Record
from bench.records.file import Results
from bench.summary import peak_memory, quality_of, replicate_figures, summarise
from bench.summary.limits import with_limits
from bench.summary.quality import Figures

MOST_ROWS: Final = 160
MOST_RECORDS: Final = 2000
LEAST_REPLICATES, MOST_REPLICATES = 12, 40
"""So many of each arm and workload, as `MOST_RECORDS` in all allow: the exact interval of a ratio
takes time with the cube of its pairs."""

TELLING: Final = ("host", "gpu_driver", "torch")
"""Facts of an environment that tell a reader which of two equal machines is meant."""

Row = dict[str, Any]
Key = tuple[str, int, int, int]
"""Variant, n_prompt, n_gen, n_batch."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Geometric mean over replicates and its 95% t interval; no ends for fewer than 2."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What one environment gave."""

    id: str
    label: str
    environment: Environment | None
    origin: str
    results: Results
    """Of the rows shown."""
    rows: tuple[Row, ...]
    n_rows: int
    """Arms and workloads that were measured, shown or not."""
    n_records: int
    n_replicates: int
    """Most that an arm and workload has, used or not."""
    names: Mapping[str, str]
    """Variant -> its name without what all share."""
    groups: Mapping[Key, tuple[Record, ...]]
    quality: Mapping[str, Figures]
    costs: Mapping[Key, CostRow]
    assumed: tuple[CostAssumption, ...]
    """What `costs` rest on."""
    compared: tuple[Row, ...]
    not_compared: str

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in their order."""
        return list(self.names.values())

    def interval(self, row: Row, figure: str) -> Interval | None:
        """A figure over the replicates of a row; None where nothing measured it."""
        values = [
            value
            for record in self.groups[key_of(row)]
            if record.status == "ok" and (value := _figure(record, figure))
        ]
        return Interval(*interval(values)[:3]) if values else None

    def anchor(self, row: Row) -> str:
        """Where the records of a row stand in the page."""
        return f"{self.id}-g{list(self.groups).index(key_of(row))}"


def key_of(row: Mapping[str, Any]) -> Key:
    return row["variant"], row["n_prompt"], row["n_gen"], row["n_batch"]


def work_of(row: Mapping[str, Any]) -> str:
    """`128+24 ×4`: prompt and new tokens, batch; imported records may not know theirs."""
    return f"{row['n_prompt']}+{row['n_gen']} ×{row['n_batch'] or '?'}"


def batch(row: Mapping[str, Any]) -> int:
    """The batch to sort by; 0 where it is not known."""
    return row["n_batch"] or 0


def _figure(record: Record, name: str) -> float | None:
    if name == "peak_memory_bytes":
        return peak_memory(record)
    if name == "energy_per_output_token_j":
        window = record.energy.get("decode") or {}
        joules = window.get("energy_j")
        return joules / window["tokens"] if joules else None
    return replicate_figures(record)[name]


def machines(
    results: Results,
    experiments: Mapping[str, Experiment],
    baseline: str | None = None,
    assumed: CostAssumption | None = None,
) -> list[Machine]:
    """One for each environment and origin, in order of first appearance. InputError without any."""
    parts: dict[tuple[str, str], list[Record]] = {}
    for record in results.records:
        parts.setdefault((record.environment, record.origin), []).append(record)
    if not parts:
        there = "quality, but no timed record" if results.qualities else "no measurements"
        raise InputError(f"nothing to report: {there} in the results; `bench run` makes them")
    labels = _labels(parts, results.environments)
    return [
        _machine(f"m{number}", labels[part], part, records, results, experiments, baseline, assumed)
        for number, (part, records) in enumerate(parts.items(), start=1)
    ]


def _labels(
    parts: Mapping[tuple[str, str], Any], environments: Mapping[str, Environment]
) -> dict[tuple[str, str], str]:
    """The card or CPU of each; equal ones are told apart by the first fact in which all differ."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for part in parts:
        alike.setdefault(device(environments.get(part[0])), []).append(part)
    found = {}
    for label, those in alike.items():
        if len(those) == 1:
            found[those[0]] = label
            continue
        known = {part: getattr(environments.get(part[0]), "identity", {}) for part in those}
        facts = [[_fact(key, known[part].get(key)) for part in those] for key in TELLING]
        facts += [[part[1] for part in those], [part[0][:8] for part in those]]
        sure = [f"{id_[:8]}, {origin}" for id_, origin in those]
        told = next((each for each in facts if all(each) and len({*each}) == len(those)), sure)
        found |= {part: f"{label} ({text})" for part, text in zip(those, told, strict=True)}
    return found


def _fact(name: str, value: Any) -> str:
    """A fact that tells machines apart, with its name; empty where it is not known."""
    return f"{name.removeprefix('gpu_')} {value}" if value else ""


def device(environment: Environment | None) -> str:
    """The card and how many, or the CPU with its cores."""
    if environment is None:
        return "unknown machine"
    known = environment.identity
    if known.get("gpu"):
        alike = known.get("gpus", 1) > 1 and " + " not in str(known["gpu"])
        return f"{known['gpus']} x {known['gpu']}" if alike else str(known["gpu"])
    cores = f", {known['cpu_cores']} cores" if known.get("cpu_cores") else ""
    return f"{known.get('cpu') or 'unknown CPU'}{cores}"


def _machine(
    name: str,
    label: str,
    part: tuple[str, str],
    records: Sequence[Record],
    results: Results,
    experiments: Mapping[str, Experiment],
    baseline: str | None,
    assumed: CostAssumption | None,
) -> Machine:
    environments = results.environments
    qualities = [q for q in results.qualities if (q.environment, q.origin) == part]
    groups = grouped(records)
    shown = _shown(list(groups))
    each = max(LEAST_REPLICATES, min(MOST_REPLICATES, MOST_RECORDS // len(shown)))
    kept = {key: tuple(group[:each]) for key, group in groups.items() if key in shown}
    variants = {key[0] for key in kept}
    small = Results(
        environments=environments,
        records=[record for group in kept.values() for record in group],
        qualities=[q for q in qualities if q.variant["name"] in variants],
    )
    rows = with_limits(summarise(small), small)
    compared, why = _compared(small, experiments, baseline)
    return Machine(
        id=name,
        label=label,
        environment=environments.get(part[0]),
        origin=part[1],
        results=small,
        rows=tuple(rows),
        n_rows=len(groups),
        n_records=len(records),
        n_replicates=max(len(group) for group in groups.values()),
        names=short_names(list(dict.fromkeys(key[0] for key in kept))),
        groups=kept,
        quality=quality_of(small),
        costs=dict(_costs(small, kept, experiments, assumed)),
        assumed=tuple(dict.fromkeys(_assumed(small, experiments, assumed).values())),
        compared=tuple(_believed(compared, rows)),
        not_compared=why,
    )


def grouped(records: Sequence[Record]) -> dict[Key, list[Record]]:
    """Records by variant and workload, replicates in their order."""
    groups: dict[Key, list[Record]] = {}
    for record in records:
        w = record.workload
        key = (record.variant["name"], w["n_prompt"], w["n_gen"], w["n_batch"])
        groups.setdefault(key, []).append(record)
    for group in groups.values():
        group.sort(key=lambda record: record.replicate)
    return groups


def _shown(keys: Sequence[Key]) -> set[Key]:
    """At most `MOST_ROWS` keys: whole workloads, so that arms can be compared."""
    works = list(dict.fromkeys(key[1:] for key in keys))
    kept: set[Key] = set()
    for work in works:
        of_work = [key for key in keys if key[1:] == work]
        if kept and len(kept) + len(of_work) > MOST_ROWS:
            break
        kept |= set(of_work[:MOST_ROWS])
    return kept


def _compared(
    results: Results, experiments: Mapping[str, Experiment], baseline: str | None
) -> tuple[list[Row], str]:
    """Rows of the comparison, or why there are none."""
    names = {record.experiment for record in results.records}
    asked = {experiments[name].baseline for name in names if name in experiments}
    gates = [experiments[name].gate for name in names if name in experiments]
    rules = Rules(gate=gates[0]) if len(gates) == 1 else Rules()
    base = baseline or (asked.pop() if len(asked) == 1 else None)
    for selector in dict.fromkeys((base, baseline)):
        try:
            return compare(results, rules, selector), ""
        except InputError as error:
            why = str(error)
    if baseline is not None:
        raise InputError(f"--baseline: {why}")
    return [], why


def _believed(compared: Sequence[Row], rows: Sequence[Row]) -> Iterator[Row]:
    """The comparison; a rate above the bound, which only the summary sees, is no evidence."""
    beyond = {key_of(row) for row in rows if "ABOVE_BOUND" in row["reasons"]}
    for row in compared:
        sides = {key_of(row | {"variant": row[side]}) for side in ("baseline", "candidate")}
        if row["metric"] in ("memory", QUALITY) or not sides & beyond:
            yield row
        else:
            reasons = sorted({*row["reasons"], "ABOVE_BOUND"})
            yield row | {"verdict": "invalid", "significant": False, "reasons": reasons}


def _costs(
    results: Results,
    groups: Mapping[Key, Sequence[Record]],
    experiments: Mapping[str, Experiment],
    assumed: CostAssumption | None,
) -> Iterator[tuple[Key, CostRow]]:
    """What each row costs under --rent, or under its experiment's own assumption."""
    items = throughputs(results)
    for name, cost in _assumed(results, experiments, assumed).items():
        mine = [one for one in items if groups[key_of_throughput(one)][0].experiment == name]
        for row in price(mine, as_scenario(cost), Terms()):
            assert row.n_batch is not None, "an API has no batch; no API was asked for"
            yield (row.variant, row.n_prompt, row.n_gen, row.n_batch), row


def _assumed(
    results: Results, experiments: Mapping[str, Experiment], assumed: CostAssumption | None
) -> dict[str, CostAssumption]:
    """Experiment -> the price of an hour that counts for its records, where there is one."""
    names = dict.fromkeys(record.experiment for record in results.records)
    own = {name: experiments[name].cost for name in names if name in experiments}
    prices = {name: assumed or own.get(name) for name in names}
    return {name: price for name, price in prices.items() if price is not None}


def key_of_throughput(one: Any) -> Key:
    return one.variant, one.n_prompt, one.n_gen, one.n_batch
