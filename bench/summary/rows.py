"""Records -> rows: the one stage between what is on disk and everything that reads it.

Replicates are grouped once, by machine, arm and workload. A row's figure is the geometric mean over
its replicates, the centre of the intervals that `bench cost` gives (logarithms, as ratios are what
is compared), and has the codes that touch it, the physical bound's among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any, Final, NamedTuple

from bench.records import Record
from bench.records.codes import Part, touches
from bench.records.file import Results, without_cycles
from bench.statistics import centre, half_range, middle, percentile
from bench.summary.arm import ArmSettings, Host, Place, Sizes, arm_of, host_of, labels, sizes_of
from bench.summary.limits import Ceiling, Ceilings
from bench.summary.metrics import METRICS, OnDemand, Pooled, figures_of
from bench.summary.pooling import PHASES, Pooling, known, listed, once
from bench.summary.quality import ArmQuality, QualityScores, arm_qualities
from bench.summary.replicate import (
    Doubt,
    Raw,
    Replicate,
    against,
    doubts_of,
    each_tpot_s,
    main_part,
)
from bench.summary.service import ServiceLevel, with_levels

TAIL: Final = 0.99
TAIL_LEAST: Final = 100
"""Requests (or gaps) below which there is no 99th percentile: it would be the largest."""

UNKNOWN: Final = Ceiling(gpu="", rates="")
BEYOND: Final = Doubt("ABOVE_BOUND", touches("ABOVE_BOUND"))


POOLS: Final[Mapping[Pooled, Callable[[Sequence[float]], float | None]]] = {
    "geometric": centre,
    "median": middle,
    "mean": fmean,
}


class RowKey(NamedTuple):
    """What is pooled: one arm at one workload on one machine, made by one tool."""

    environment: str
    origin: str
    arm: str
    sizes: Sizes


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a row."""

    value: float | None
    """None where nothing measured it; `Row.absent` says why."""
    reasons: tuple[str, ...] = ()
    """Codes that touch it in any replicate."""

    @property
    def valid(self) -> bool:
        return self.value is not None and not self.reasons


NOT_MEASURED: Final = Figure(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFigures:
    """What the arm's weights were held as, as loaded."""

    weights_bytes: int | None = None
    packed_bytes: int | None = None
    """As the numbers need them, where a scheme holds them in more."""
    quantized_fraction: float | None = None
    dynamic: str | None = None
    kernel: str | None = None
    warning: str | None = None
    copies_weights: bool | None = None
    """Whether a compiled step writes weights out in floats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tails:
    """99th percentiles over all requests of a server's replicates; None below `TAIL_LEAST`."""

    ttft_p99_s: float | None = None
    tpot_p99_s: float | None = None
    itl_p99_s: float | None = None
    n_requests: int | None = None
    absent: Mapping[str, str] = field(default_factory=dict)


NO_TAILS: Final = Tails()


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One arm at one workload on one machine."""

    key: RowKey
    host: Host
    label: str
    """The machine in words, apart from the others of the summary."""
    arm: ArmSettings
    replicates: Sequence[Replicate]
    """All, in file order; failed ones too."""
    quality: QualityScores | None
    ceiling: Ceiling
    level: ServiceLevel | None = None
    """What it was made of, where it is the highest load within some limits."""

    @property
    def sizes(self) -> Sizes:
        return self.key.sizes

    @property
    def origin(self) -> str:
        return self.key.origin

    @cached_property
    def good(self) -> Sequence[Replicate]:
        """Those that finished."""
        if isinstance(self.replicates, Pooling):
            return self.replicates.good
        return tuple(one for one in self.replicates if one.ok)

    @cached_property
    def figures(self) -> Mapping[str, Figure]:
        """Each of METRICS."""
        return OnDemand(self.figure)

    def figure(self, name: str) -> Figure:
        """One of METRICS over the finished replicates, and what speaks against it."""
        metric, values = METRICS[name], self.each(name)
        if not values:
            return NOT_MEASURED
        return Figure(POOLS[metric.pooled](values), against(self.doubts, metric.parts))

    def value(self, name: str) -> float | None:
        """A figure's value; None where nothing measured it."""
        return self.figures[name].value

    def each(self, name: str) -> list[float]:
        """A figure of each finished replicate that has it."""
        if isinstance(self.replicates, Pooling):
            return self.replicates.each(name)
        return [value for one in self.good if (value := one.figures[name]) is not None]

    @cached_property
    def doubts(self) -> frozenset[Doubt]:
        """Every code of any replicate, with what it touches."""
        if isinstance(self.replicates, Pooling):
            return self.replicates.all_doubts()
        return frozenset(doubt for one in self.replicates for doubt in one.doubts)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every code, whatever it touches."""
        return tuple(sorted({doubt.code for doubt in self.doubts}))

    def against(self, part: Part) -> tuple[str, ...]:
        """The codes that touch one part of its work."""
        return against(self.doubts, frozenset({part}))

    @property
    def valid(self) -> bool:
        """Whether it was measured and its decoding (of one new token: prefill) stands."""
        return bool(self.good) and not against(self.doubts, main_part(self.sizes))

    @property
    def doubtful(self) -> dict[str, tuple[str, ...]]:
        """Figure -> the codes against it, where there are some."""
        return {name: one.reasons for name, one in self.figures.items() if one.reasons}

    @property
    def n_failed(self) -> int:
        return len(self.replicates) - len(self.good)

    @property
    def spread(self) -> float | None:
        """What decoding differs by between fresh processes."""
        return half_range(self.each("decode_tok_s"))

    @property
    def noise(self) -> float | None:
        """What decoding differs by within one process."""
        return middle(listed(self.good, "noise"))

    @property
    def host_ratio(self) -> float | None:
        return middle(listed(self.good, "host_ratio"))

    @property
    def early_share(self) -> float | None:
        return max(listed(self.good, "early_share"), default=0.0) or None

    @property
    def tokens_checked(self) -> int | None:
        """Tokens compared with eager mode when the workload started."""
        return self._least_note("tokens_checked")

    @property
    def tokens_as_eager(self) -> int | None:
        """How many of them were alike before the first that differs."""
        return self._least_note("tokens_as_eager")

    def _least_note(self, name: str) -> int | None:
        noted = zip(listed(self.good, "tokens_checked"), listed(self.good, name), strict=True)
        each = (found for checked, found in noted if checked is not None)
        return min((found for found in each if found is not None), default=None)

    @property
    def energy_scope(self) -> str | None:
        """What the counter covers; None where replicates differ in it."""
        scopes = {*once(self.good, "energy_scope")} - {None}
        return scopes.pop() if len(scopes) == 1 else None

    @property
    def energy_disagreement(self) -> float | None:
        """Share by which counter and power samples differ at most, where they do."""
        return max(_of_windows(self.good, "disagreement"), default=None)

    @property
    def systematic_error(self) -> float:
        """Share by which the counter may be off."""
        return max(_of_windows(self.replicates, "systematic_error"), default=0.0)

    @cached_property
    def weights(self) -> WeightFigures:
        if not self.good:
            return WeightFigures()
        held = self.good[0].record.model
        details = held.get("details", {})
        size = held.get("weights_bytes")
        return WeightFigures(
            weights_bytes=size,
            packed_bytes=details.get("allocation", {}).get("packed_bytes", size),
            quantized_fraction=held.get("quantized_fraction"),
            dynamic=held.get("dynamic"),
            kernel=held.get("kernel"),
            warning=details.get("warning"),
            copies_weights=copies_weights(once(self.good, "copies_weights")),
        )

    @cached_property
    def tails(self) -> Tails:
        served = listed(self.good, "served")
        if not any(served):
            return NO_TAILS
        return tails([one.record for one, so in zip(self.good, served, strict=True) if so])

    @cached_property
    def absent(self) -> Mapping[str, str]:
        """Figure -> why it is missing."""
        from bench.summary.absence import absent_of

        return absent_of(self)


def _of_windows(replicates: Sequence[Replicate], name: str) -> list[float]:
    """A figure of the windows of energy, prefill's and decode's, where it is known."""
    if isinstance(replicates, Pooling):
        return [value for phase in PHASES[1:] for value in known(replicates.window(phase, name))]
    each = (getattr(w, name) for one in replicates for w in one.energy.windows)
    return [value for value in each if value is not None]


def copies_weights(each: Sequence[bool | None]) -> bool | None:
    """Whether any replicate's step writes weights out; None where one does not say."""
    return None if None in each or not each else any(each)


def tails(records: Sequence[Record]) -> Tails:
    """99th percentiles of a server's requests; `NO_TAILS` for what no server answered."""
    served = [record for record in records if "wall_s" in record.samples]
    if not served:
        return NO_TAILS
    pooled = {
        "ttft_p99_s": [s for r in served for s in r.samples["prefill_s"]],
        "tpot_p99_s": [s for r in served for s in each_tpot_s(r)],
        "itl_p99_s": [gap for r in served for one in r.samples.get("itl_s", ()) for gap in one],
    }
    found: dict[str, Any] = {name: tail(values) for name, values in pooled.items()}
    absent = {
        name: f"{len(values)} values; a 99th percentile needs {TAIL_LEAST}"
        for name, values in pooled.items()
        if found[name] is None
    }
    return Tails(**found, n_requests=len(pooled["ttft_p99_s"]), absent=absent)


def tail(values: Sequence[float]) -> float | None:
    """The 99th percentile; None where so few values make it a guess."""
    return percentile(values, TAIL) if len(values) >= TAIL_LEAST else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Summary:
    """All rows of some results."""

    rows: tuple[Row, ...]
    """In order of first appearance."""
    hosts: Mapping[str, Host]
    qualities: tuple[ArmQuality, ...]
    problems: tuple[str, ...] = ()
    """Lines that could not be read, with file and line."""

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def replicates(self) -> Iterator[Replicate]:
        """All, row by row."""
        return (one for row in self.rows for one in row.replicates)

    @property
    def places(self) -> list[Place]:
        """Machines and origins, in order of first appearance."""
        return list(dict.fromkeys((row.key.environment, row.origin) for row in self.rows))

    @property
    def arms(self) -> dict[str, list[Row]]:
        """An arm's name -> its rows, on whatever machine."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.arm.name, []).append(row)
        return found

    def at(self, place: Place) -> Summary:
        """The part that was measured on one machine by one tool."""
        return replace(
            self,
            rows=tuple(row for row in self.rows if (row.key.environment, row.origin) == place),
            qualities=tuple(
                one for one in self.qualities if (one.environment, one.record.origin) == place
            ),
        )

    def in_order(self, place: Mapping[str, int]) -> Summary:
        """The same with its arms in these places, those that have none last."""
        ordered = sorted(self.rows, key=lambda row: place.get(row.arm.name, len(place)))
        return replace(self, rows=tuple(ordered))

    def renamed(self, suffix: str) -> Summary:
        """The same with another name for each arm, to stand beside arms of those names."""

        def row_of(row: Row) -> Row:
            name = row.arm.name + suffix
            settings = {**row.arm.settings, "name": name}
            arm = replace(row.arm, name=name, settings=settings)
            return replace(row, key=row.key._replace(arm=name), arm=arm)

        return replace(
            self,
            rows=tuple(map(row_of, self.rows)),
            qualities=tuple(replace(one, arm=one.arm + suffix) for one in self.qualities),
        )

    def beside(self, other: Summary) -> Summary:
        """The rows of both."""
        return Summary(
            rows=(*self.rows, *other.rows),
            hosts={**self.hosts, **other.hosts},
            qualities=(*self.qualities, *other.qualities),
            problems=(*self.problems, *other.problems),
        )


def summarise(results: Results | Summary) -> Summary:
    """Read records into rows; a summary is one already."""
    if isinstance(results, Summary):
        return results
    with without_cycles():
        return _summarise(results)


def _summarise(results: Results) -> Summary:
    groups: dict[RowKey, list[Record]] = {}
    for record in results.records:
        key = RowKey(record.environment, record.origin, record.variant["name"], sizes_of(record))
        groups.setdefault(key, []).append(record)
    places = dict.fromkeys((key.environment, key.origin) for key in groups)
    hosts = {id_: host_of(id_, results.environments.get(id_)) for id_, _ in places}
    names = labels({place: hosts[place[0]] for place in places})
    qualities = tuple(arm_qualities(results.qualities))
    quality = {(one.environment, one.arm): one.figures for one in qualities}
    ceilings, arms = Ceilings(), Arms()
    rows = []
    for key, group in groups.items():
        arm, host = arms.of(group[0]), hosts[key.environment]
        absent = group[0].absent.get("n_batch")
        ceiling = ceilings.of(host, arm, key.sizes, key.origin, absent)
        rows.append(
            Row(
                key=key,
                host=host,
                label=names[key.environment, key.origin],
                arm=arm,
                replicates=tuple(replicate_under(one, arms, key.sizes, ceiling) for one in group),
                quality=quality.get((key.environment, key.arm)),
                ceiling=ceiling,
            )
        )
    problems = tuple(results.problems)
    levels = tuple(with_levels(rows))
    return Summary(rows=levels, hosts=hosts, qualities=qualities, problems=problems)


class Arms:
    """Arms of records, each made once: many records have equal settings."""

    def __init__(self) -> None:
        self._found: dict[str, ArmSettings] = {}

    def of(self, record: Record) -> ArmSettings:
        held = self._found.get(record.variant["name"])
        if held is None or held.settings != record.variant:
            held = self._found[record.variant["name"]] = arm_of(record)
        return held


def replicate_under(record: Record, arms: Arms, sizes: Sizes, ceiling: Ceiling) -> Replicate:
    """One record, with the bound of its device."""
    doubts, arm = doubts_of(record), arms.of(record)
    if record.status != "ok":
        return Replicate(raw=Raw(record), arm=arm, sizes=sizes, doubts=doubts, figures={})
    raw = Raw(record)
    figures = figures_of(raw)
    if ceiling.most is not None and ceiling.passed(figures, sizes):
        doubts = (*(one for one in doubts if one.code != BEYOND.code), BEYOND)
    return Replicate(raw=raw, arm=arm, sizes=sizes, doubts=doubts, figures=figures)


def replicate(record: Record, arms: Arms | None = None) -> Replicate:
    """One record alone, without the bound of its device, which only `summarise` knows."""
    return replicate_under(record, arms or Arms(), sizes_of(record), UNKNOWN)
