"""Probes of a search -> the highest load within its limits, as a row like any other.

A row of a service level has, for each replicate, the jackknife's value of the rate of arrivals
(`bench.demand.search`), so that cost, comparison and page take it as they take what was measured
at one load; its latencies are those of the highest rate that kept the limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from bench.demand.limits import limits, shares, within
from bench.demand.search import Bracket, Probe, bracket, pseudo_values
from bench.records import Record
from bench.records.codes import touches
from bench.statistics import Estimate, percentile_interval
from bench.summary.arm import Sizes
from bench.summary.limits import Ceiling
from bench.summary.metrics import METRICS
from bench.summary.replicate import Doubt, Raw, Replicate, each_tpot_s

if TYPE_CHECKING:
    from bench.records.file import Results
    from bench.summary.rows import Row, RowKey

OVERLOAD: Final = frozenset({"REQUESTS_FAILED", "DRIFT"})
"""Of a probe: what a rate that is too high does, and no fault of the measurement."""
NEAR: Final = 8
"""Steps of the lattice (a factor of 1.4) by which both sides may be apart: where probes are
read at other limits than they were made for, they are no neighbours."""
SERVED: Final = 0.9
"""Share of the arrivals that must be answered while they arrive. Where fewer are, the queue grows
for as long as they come, and what kept the limits in a short window will not in a long one."""
CHANCE: Final = 4.0
"""Standard deviations by which a lower rate may do worse than a higher one."""


def probe_of(record: Record, slo: str) -> Probe | None:
    """What a record says of its rate of arrivals; None where it says nothing of the server."""
    rate, counted = record.workload.get("rate"), record.device.get("requests", {})
    if rate is None:
        return None
    n_failed = counted.get("n_failed", 0)
    if record.status != "ok":
        if "REQUESTS_FAILED" not in record.reasons or not n_failed:
            return None
        return Probe(rate=rate, n=n_failed, kept=(0,) * len(shares(slo)))
    kept = tuple(map(sum, _within(record, slo)))
    if counted.get("served_share", 1.0) < SERVED:
        kept = (0,) * len(kept)
    return Probe(rate=rate, n=len(record.samples["e2e_s"]) + n_failed, kept=kept)


def _within(record: Record, slo: str) -> list[list[bool]]:
    """Of each limit, which answered requests were within it."""
    samples = record.samples
    return within(
        slo,
        ttft_s=samples["prefill_s"],
        tpot_s=each_tpot_s(record) or [0.0] * len(samples["e2e_s"]),
        itl_s=samples["itl_s"],
        e2e_s=samples["e2e_s"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPoint:
    """One rate of arrivals, its replicates together: a point of the curve."""

    rate: float | None
    """Requests a second; None: one request at a time."""
    n_replicates: int
    n_requests: int
    requests_s: float | None
    goodput_req_s: float | None
    """Within every limit."""
    output_tok_s: float | None
    total_tok_s_each: tuple[float, ...]
    """Of each replicate, prompt and new tokens a second."""
    concurrency: float | None
    """Requests in flight in the mean, by Little's law: answered a second x mean time of each."""
    user_tok_s: Estimate | None
    """Tokens a second of one user, 1 / median time per token; with interval of order statistics."""
    percentiles: Mapping[str, Estimate | None]
    """Each limit's figure at its percentile, s; None where there are too few requests."""
    keeps: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class ServiceLevel:
    """The highest load of one arm within some limits, and the probes it rests on."""

    slo: str
    probes: tuple[Row, ...]
    """One a rate."""
    held: Mapping[int, tuple[Probe, ...]] = field(repr=False)
    """Replicate -> its probes."""

    @cached_property
    def each(self) -> dict[int, float]:
        """Replicate -> its value of the rate, requests a second; {} where it is not held."""
        done = {i: ones for i, ones in self.held.items() if self.bracket(i).steps <= NEAR}
        found = pseudo_values(list(done.values()), shares(self.slo)) if done else None
        return {} if found is None else dict(zip(done, found, strict=True))

    def bracket(self, index: int) -> Bracket:
        """What one replicate holds the rate between."""
        return bracket(self.held[index], shares(self.slo))

    @property
    def absent(self) -> str:
        """Why there is no rate; empty where there is one."""
        if self.each:
            return ""
        ends = [self.bracket(index) for index in self.held]
        if not ends:
            return "no rate of arrivals was measured"
        if all(one.below is None for one in ends):
            lowest = min(probe.rate for ones in self.held.values() for probe in ones)
            return f"even {lowest:.3g} requests a second do not meet {self.slo}"
        if all(one.above is None for one in ends):
            return f"every rate tried meets {self.slo}"
        return "the search is unfinished; run it again to continue"

    @property
    def monotone(self) -> bool:
        """Whether no lower rate did worse than a higher one by more than chance."""
        return all(map(_falls, self.held.values()))

    @cached_property
    def curve(self) -> list[LoadPoint]:
        """A point a rate, from low to high; one request at a time first."""
        order = sorted(self.probes, key=lambda row: row.sizes.rate or 0.0)
        return [_point(row, self.slo) for row in order if row.good]

    @cached_property
    def knee(self) -> LoadPoint | None:
        """The highest point of the curve that keeps the limits over all its requests."""
        kept_ = [one for one in self.curve if one.keeps and one.rate is not None]
        return max(kept_, key=lambda one: one.rate or 0.0, default=None)

    @property
    def cached_share(self) -> float | None:
        """Of the prompts' tokens, the share that the server took from a cache, in what kept the
        limits; None where it does not say."""
        samples = [one.record.samples for one in self._within()]
        hits = [n for each in samples for n in each.get("n_cached", ())]
        if not hits or None in hits:
            return None
        total: int = sum(n for each in samples for n in each["n_prompt"])
        return float(sum(hits) / total)

    def _within(self) -> Iterator[Replicate]:
        for row in self.probes:
            for one in row.good:
                rate, below = (
                    row.sizes.rate,
                    self.bracket(one.index).below if (one.index in self.held) else None,
                )
                if rate is not None and below is not None and rate <= below:
                    yield one


def _falls(probes: Sequence[Probe]) -> bool:
    ordered = sorted(probes, key=lambda one: one.rate)
    for place, low in enumerate(ordered):
        for high in ordered[place + 1 :]:
            for a, b in zip(low.kept, high.kept, strict=True):
                share = (a + b) / (low.n + high.n)
                spread = math.sqrt(share * (1 - share) * (1 / low.n + 1 / high.n))
                if b / high.n - a / low.n > CHANCE * spread > 0:
                    return False
    return True


def _point(row: Row, slo: str) -> LoadPoint:
    records = [one.record for one in row.good]
    e2e = [s for r in records for s in r.samples["e2e_s"]]
    tpots = [s for r in records for s in each_tpot_s(r)]
    figures = {
        "ttft": [s for r in records for s in r.samples["prefill_s"]],
        "tpot": tpots,
        "itl": [max(gaps, default=0.0) for r in records for gaps in r.samples["itl_s"]],
        "e2e": e2e,
    }
    served = row.value("requests_s")
    slow = percentile_interval(tpots, 0.5)
    user = None
    if slow is not None and slow.low > 0:
        user = Estimate(1 / slow.value, 1 / slow.high, 1 / slow.low)
    made = [probe for r in records if (probe := probe_of(r, slo)) is not None]
    n = sum(one.n for one in made)
    kept = tuple(sum(one.kept[i] for one in made) for i in range(len(shares(slo))))
    return LoadPoint(
        rate=row.sizes.rate,
        n_replicates=len(records),
        n_requests=len(e2e),
        requests_s=served,
        goodput_req_s=_goodput(records, slo),
        output_tok_s=row.value("output_tok_s"),
        total_tok_s_each=tuple(row.each("total_tok_s")),
        concurrency=served * sum(e2e) / len(e2e) if served and row.sizes.rate else None,
        user_tok_s=user,
        percentiles={
            f"{one.figure}_p{100 * one.share:g}": percentile_interval(
                figures[one.figure], one.share
            )
            for one in limits(slo)
        },
        keeps=bool(made) and Probe(rate=1.0, n=n, kept=kept).keeps(shares(slo)),
    )


def _goodput(records: Sequence[Record], slo: str) -> float | None:
    """Requests a second within every limit, mean over the replicates; failed ones kept none."""
    from statistics import fmean

    return fmean(_within_all(record, slo) / record.samples["wall_s"] for record in records)


def _within_all(record: Record, slo: str) -> int:
    """Answered requests that kept every limit."""
    return sum(map(all, zip(*_within(record, slo), strict=True)))


def judged_by(results: Results, slo: str) -> Results:
    """The results with every search's probes held against other limits. Raises InputError."""
    shares(slo)
    records = [
        replace(one, workload={**one.workload, "slo": slo}) if one.workload.get("slo") else one
        for one in results.records
    ]
    return replace(results, records=records)


def unheld(rows: Iterable[Row]) -> Iterator[str]:
    """A line for each search that came to no rate."""
    for row in rows:
        if row.level is not None and row.level.absent:
            yield f"{row.arm.name}: {row.level.absent}"


def service_level(probes: Sequence[Row], slo: str) -> ServiceLevel:
    """The level that an arm's probes of one workload hold."""
    held: dict[int, list[Probe]] = {}
    for row in probes:
        for one in row.replicates:
            if (probe := probe_of(one.record, slo)) is not None:
                held.setdefault(one.index, []).append(probe)
    ordered = {index: tuple(held[index]) for index in sorted(held)}
    return ServiceLevel(slo=slo, probes=tuple(probes), held=ordered)


def level_sizes(sizes: Sizes) -> Sizes:
    """Of the level that a probe belongs to: as many at once as there happen to be."""
    return sizes._replace(n_batch=None, rate=None)


def level_replicates(level: ServiceLevel) -> list[Replicate]:
    """One for each replicate that holds the rate: its figures at that rate."""
    by_place = {(one.index, row.sizes.rate): one for row in level.probes for one in row.good}
    found = []
    for index, rate in level.each.items():
        ends = level.bracket(index)
        below = by_place[index, ends.below]
        edges = [below, *([by_place[index, ends.above]] if (index, ends.above) in by_place else [])]
        codes = {doubt for one in edges for doubt in one.doubts if doubt.code not in OVERLOAD}
        if not level.monotone:
            codes.add(Doubt("NOT_MONOTONE", touches("NOT_MONOTONE")))
        found.append(
            replace(
                below,
                sizes=level_sizes(below.sizes),
                doubts=tuple(sorted(codes, key=lambda doubt: doubt.code)),
                figures=_figures(below, rate),
            )
        )
    return found


def _figures(below: Replicate, rate: float) -> dict[str, float | None]:
    """Of a replicate at the level's rate: tokens by the mean request, times of the rate below."""
    record = below.record
    n_in, n_out = tokens_of(record)
    figures: dict[str, float | None] = dict.fromkeys(METRICS)
    kept_as_they_are = ("ttft_s", "tpot_s", "energy_per_token_j", "peak_memory_bytes")
    figures |= {name: below.figures[name] for name in kept_as_they_are}
    options: Mapping[str, Any] = record.variant.get("options") or {}
    return figures | {
        "e2e_s": median(record.samples["e2e_s"]),
        "requests_s": rate,
        "goodput_req_s": rate
        * _within_all(record, record.workload["slo"])
        / len(record.samples["e2e_s"]),
        "output_tok_s": rate * n_out,
        "total_tok_s": rate * (n_in + n_out),
        "device_output_tok_s": rate * n_out / options.get("n_devices", 1),
        "machine_s_per_token": 1 / (rate * (n_in + n_out)),
    }


def tokens_of(record: Record) -> tuple[float, float]:
    """Mean tokens of a request's prompt and answer."""
    samples, work = record.samples, record.workload
    if "n_gen" not in samples:
        return float(work["n_prompt"]), float(work["n_gen"])
    count = len(samples["n_gen"])
    return sum(samples["n_prompt"]) / count, sum(samples["n_gen"]) / count


def with_levels(rows: Sequence[Row]) -> list[Row]:
    """Rows of a search's probes give way to one of the load that they found."""
    found: dict[RowKey, list[Row]] = {}
    plain: dict[RowKey, Row | None] = {}
    for row in rows:
        if row.sizes.slo:
            key = row.key._replace(sizes=level_sizes(row.sizes))
            found.setdefault(key, []).append(row)
            plain[key] = None
        else:
            plain[row.key] = row
    return [_level_row(key, found[key]) if row is None else row for key, row in plain.items()]


def _unheld(one: Replicate, sizes: Sizes, why: str) -> Replicate:
    """Stands for a search without an answer."""
    record = replace(one.record, status="failed", message=why, samples={})
    return replace(one, raw=Raw(record), sizes=sizes, figures={})


def _level_row(key: RowKey, probes: Sequence[Row]) -> Row:
    level = service_level(probes, key.sizes.slo)
    made = level_replicates(level)
    why = "concurrency follows the arrivals"
    return replace(
        probes[0],
        key=key,
        replicates=tuple(made) or (_unheld(probes[0].replicates[0], key.sizes, level.absent),),
        ceiling=Ceiling(gpu=why, rates=why),
        level=level,
    )
