"""Replicates and rows out of the columnar copy: the same figures, without the records.

A `StoredReplicate` looks its figures up when asked, and reads its record only where raw samples are
shown. Rows pool whole columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np

from bench.records import Environment, Record
from bench.records.file import Results, keep_environment
from bench.summary.arm import ArmSettings, Sizes, host_of, labels, settings_of
from bench.summary.columns import (
    COUNTS,
    FIGURE,
    FLAGS,
    FLOATS,
    INTEGERS,
    LOADED,
    PLAIN,
    TEXTS,
    WINDOW_FIGURES,
    WINDOWS,
    about,
    line_at,
    others,
    read_copy,
)
from bench.summary.energy import NO_ENERGY, NO_WINDOW, EnergyFigures, EnergyWindow
from bench.summary.limits import Ceiling, Ceilings
from bench.summary.metrics import METRICS
from bench.summary.quality import arm_qualities
from bench.summary.replicate import Doubt, LoadedFigures, Raw, Replicate
from bench.summary.rows import BEYOND, Pooling, Row, RowKey, Summary

if TYPE_CHECKING:
    import pyarrow
    from numpy.typing import NDArray

    Indices = NDArray[np.int64]

SPEED_NAMES: Final = ("decode_tok_s", "output_tok_s", "prefill_tok_s")
"""What a ceiling looks at."""


class Columns:
    """The columns of one results file."""

    def __init__(self, file: Path, table: pyarrow.Table) -> None:
        self.file = file
        self.table = table
        self._made: dict[str, Any] = {}
        self.beyond: set[int] = set()
        """Records above their bound."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def array(self, name: str) -> NDArray[Any]:
        """A column of numbers; a missing one is nan."""
        found: NDArray[Any] = self._once(name, lambda column: column.to_numpy(zero_copy_only=False))
        return found

    def number(self, name: str, index: int) -> float | None:
        """A number, None where it is missing."""
        value: float = self._once(
            f"view {name}", lambda _: memoryview(self.array(name).data), name
        )[index]
        return None if math.isnan(value) else value

    def text(self, name: str, index: int) -> str | None:
        codes, values = self.coded(name)
        found: str | None = values[codes[index]]
        return found

    def coded(self, name: str) -> tuple[NDArray[np.int32], list[str | None]]:
        """A column of texts that repeat: which text each record has."""

        def codes(column: Any) -> tuple[NDArray[np.int32], list[str | None]]:
            values = [*column.dictionary.to_pylist(), None]
            filled = column.indices.fill_null(len(values) - 1)
            return filled.to_numpy(zero_copy_only=False).astype(np.int32), values

        found: tuple[NDArray[np.int32], list[str | None]] = self._once(f"codes {name}", codes, name)
        return found

    def plain(self, name: str, index: int) -> str:
        column = self._once(name, lambda column: column)
        return str(column[index].as_py())

    def parsed(self, name: str) -> list[Any]:
        """The JSON values of a column of texts that repeat, each once."""

        def parse(_: Any) -> list[Any]:
            return [None if text is None else json.loads(text) for text in self.coded(name)[1]]

        found: list[Any] = self._once(f"parsed {name}", parse, name)
        return found

    def value(self, name: str, index: int) -> Any:
        """One JSON value; the same object for equal ones."""
        return self.parsed(name)[self.coded(name)[0][index]]

    @cached_property
    def arms(self) -> list[ArmSettings | None]:
        return [None if one is None else settings_of(one) for one in self.parsed("variant")]

    @cached_property
    def doubts(self) -> list[tuple[Doubt, ...]]:
        each = self.parsed("doubts")
        return [tuple(Doubt(code, frozenset(parts)) for code, *parts in one or ()) for one in each]

    def _once(self, key: str, make: Any, name: str | None = None) -> Any:
        if key not in self._made:
            self._made[key] = make(self.table.column(name or key).chunk(0))
        return self._made[key]

    def record(self, index: int) -> Record:
        """The record as it is on disk, with its samples."""
        offset, length = (int(self.array(name)[index]) for name in ("offset", "length"))
        found = line_at(self.file, offset, length)
        assert isinstance(found, Record)
        return found


class StoredFigures(Mapping[str, float | None]):
    """Each of METRICS of one record, looked up when asked for."""

    __slots__ = ("_columns", "_number")

    def __init__(self, columns: Columns, number: int) -> None:
        self._columns = columns
        self._number = number

    def __getitem__(self, name: str) -> float | None:
        return self._columns.number(FIGURE + name, self._number)

    def __iter__(self) -> Iterator[str]:
        return iter(METRICS)

    def __len__(self) -> int:
        return len(METRICS)


class StoredReplicate(Replicate):
    """A replicate whose record is read only where its samples are shown."""

    __slots__ = ("columns", "number")
    columns: Columns
    number: int

    def __init__(self, columns: Columns, number: int) -> None:
        ok = bool(columns.array("ok")[number])
        arm = columns.arms[columns.coded("variant")[0][number]]
        doubts = columns.doubts[columns.coded("doubts")[0][number]]
        if number in columns.beyond:
            doubts = (*(one for one in doubts if one.code != BEYOND.code), BEYOND)
        values = {
            "columns": columns,
            "number": number,
            "arm": arm,
            "sizes": Sizes(*columns.value("sizes", number)),
            "doubts": doubts,
            "figures": StoredFigures(columns, number) if ok else {},
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def record(self) -> Record:
        return self.columns.record(self.number)

    @property
    def energy(self) -> EnergyFigures:
        if not self.ok:
            return NO_ENERGY
        return EnergyFigures(**{name: self._window(name) for name in WINDOWS})

    def _window(self, name: str) -> EnergyWindow:
        rest = self.columns.value(f"{name}.rest", self.number)
        if rest is None:
            return NO_WINDOW
        scope, absent = rest
        figures: dict[str, Any] = {
            figure: self.columns.number(f"{name}.{figure}", self.number)
            for figure in WINDOW_FIGURES
        }
        tokens = figures["tokens"]
        figures["tokens"] = None if tokens is None else int(tokens)
        return EnergyWindow(**figures, scope=scope, absent=absent)

    @property
    def loaded(self) -> LoadedFigures:
        numbers: dict[str, Any] = {name: self.columns.number(name, self.number) for name in LOADED}
        for name in COUNTS:
            numbers[name] = None if numbers[name] is None else int(numbers[name])
        texts: dict[str, Any] = {
            name: self.columns.text(name, self.number) for name in ("dynamic", "kernel")
        }
        return LoadedFigures(**numbers, **texts)


def _of(name: str) -> property:
    """A property of a replicate, out of its column."""
    if name in FLOATS:
        return property(lambda one: one.columns.number(name, one.number))
    if name in INTEGERS:
        return property(lambda one: int(one.columns.array(name)[one.number]))
    if name in FLAGS:
        return property(lambda one: bool(one.columns.array(name)[one.number]))
    if name in PLAIN:
        return property(lambda one: one.columns.plain(name, one.number))
    if name in TEXTS:
        return property(lambda one: one.columns.text(name, one.number))
    return property(lambda one: one.columns.value(name, one.number))


for _name in (*FLOATS, *INTEGERS, *FLAGS, *PLAIN, *TEXTS, "absent", "copies_weights"):
    setattr(StoredReplicate, _name, _of(_name))
StoredReplicate.raw = property(lambda one: Raw(one.record))  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class StoredReplicates(Pooling):
    """Some replicates of a results file, made when they are looked at."""

    columns: Columns
    numbers: Indices

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> Replicate: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Replicate]: ...
    def __getitem__(self, at: int | slice) -> Replicate | Sequence[Replicate]:
        if isinstance(at, slice):
            return StoredReplicates(self.columns, self.numbers[at])
        return StoredReplicate(self.columns, int(self.numbers[at]))

    def __iter__(self) -> Iterator[Replicate]:
        return (StoredReplicate(self.columns, number) for number in self.numbers.tolist())

    def each(self, name: str) -> list[float]:
        """A figure of each finished replicate that has it."""
        ok = self.numbers[self.columns.array("ok")[self.numbers]]
        values = self.columns.array(FIGURE + name)[ok]
        found: list[float] = values[~np.isnan(values)].tolist()
        return found

    def all_doubts(self) -> frozenset[Doubt]:
        """Every code of any, with what it touches."""
        codes = np.unique(self.columns.coded("doubts")[0][self.numbers]).tolist()
        found = {doubt for code in codes for doubt in self.columns.doubts[code]}
        if not self.columns.beyond.isdisjoint(self.numbers.tolist()):
            found.add(BEYOND)
        return frozenset(found)


def stored_summary(file: Path) -> Summary | None:
    """The rows of one large results file; None where it holds searches, which look at the samples
    of every probe. Raises InputError where it cannot be read.
    """
    table = read_copy(file)
    columns = Columns(file, table)
    if any(Sizes(*sizes).slo for sizes in columns.parsed("sizes") if sizes is not None):
        return None
    environments: dict[str, Environment] = {}
    results = Results()
    for line in others(file, table):
        if isinstance(line, Environment):
            keep_environment(environments, line)
        else:
            results.qualities.append(line)
    qualities = tuple(arm_qualities(results.qualities))
    groups = _groups(columns)
    places = dict.fromkeys((key.environment, key.origin) for key in groups)
    hosts = {id_: host_of(id_, environments.get(id_)) for id_, _ in places}
    names = labels({place: hosts[place[0]] for place in places})
    quality = {(one.environment, one.arm): one.figures for one in qualities}
    ceilings, rows = Ceilings(), []
    for key, numbers in groups.items():
        replicates = StoredReplicates(columns, numbers)
        first, host = replicates[0], hosts[key.environment]
        ceiling = ceilings.of(host, first.arm, key.sizes, key.origin, first.absent.get("n_batch"))
        columns.beyond |= _beyond(columns, numbers, ceiling, key.sizes)
        rows.append(
            Row(
                key=key,
                host=host,
                label=names[key.environment, key.origin],
                arm=first.arm,
                replicates=replicates,
                quality=quality.get((key.environment, key.arm)),
                ceiling=ceiling,
            )
        )
    problems = tuple(f"{file}:{number}: {why}" for number, why in about(table)["problems"])
    return Summary(rows=tuple(rows), hosts=hosts, qualities=qualities, problems=problems)


def _groups(columns: Columns) -> dict[RowKey, Indices]:
    """What is pooled, in order of first appearance."""
    if not len(columns):
        return {}
    names = ("environment", "origin", "variant", "sizes")
    code = np.zeros(len(columns), dtype=np.int64)
    for name in names:
        codes, values = columns.coded(name)
        if name == "variant":  # arms of one name are one
            arms = [None if arm is None else arm.name for arm in columns.arms]
            codes = np.array([arms.index(arm) for arm in arms])[codes]
        code = code * len(values) + codes
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    order = np.argsort(inverse, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
    found = {}
    for at in np.argsort(first, kind="stable").tolist():
        one = StoredReplicate(columns, int(first[at]))
        found[RowKey(one.environment, one.origin, one.arm.name, one.sizes)] = parts[at]
    return found


def _beyond(columns: Columns, numbers: Indices, ceiling: Ceiling, sizes: Sizes) -> set[int]:
    """Records above their bound: seldom any, so the largest figures are looked at first."""
    if ceiling.most is None:
        return set()
    speeds = {name: columns.array(FIGURE + name)[numbers] for name in SPEED_NAMES}
    known = {name: values[~np.isnan(values)] for name, values in speeds.items()}
    largest = {name: float(values.max()) if len(values) else None for name, values in known.items()}
    if not ceiling.passed(largest, sizes):
        return set()
    return {
        number
        for i, number in enumerate(numbers.tolist())
        if ceiling.passed({name: _known(values[i]) for name, values in speeds.items()}, sizes)
    }


def _known(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)
