"""Replicates out of columnar copies: the same figures, without the records.

A `StoredReplicate` looks its figures up when asked, and reads its record only where raw samples are
shown. `StoredReplicates` are columns of many. `bench.summary.gathered` makes rows of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np

from bench.errors import InputError
from bench.records import Record
from bench.summary.arm import ArmSettings, Sizes, settings_of
from bench.summary.columns import (
    COUNTS,
    FIGURE,
    FLAGS,
    FLOATS,
    INTEGERS,
    LOADED,
    NOTED,
    PLAIN,
    TEXTS,
    WINDOW_FIGURES,
    line_at,
)
from bench.summary.energy import NO_ENERGY, NO_WINDOW, EnergyFigures, EnergyWindow
from bench.summary.metrics import METRICS
from bench.summary.pooling import PHASES, Pooling
from bench.summary.replicate import Doubt, LoadedFigures, Raw, Replicate
from bench.summary.rows import BEYOND

if TYPE_CHECKING:
    import pyarrow
    from numpy.typing import NDArray

    from bench.summary.copies import PartCopy

    Whole = NDArray[np.int64]

CODED: Final = ("absent", "copies_weights", "dynamic", "kernel")
"""Beside the texts, properties of which many replicates have the same."""
WHOLE: Final = frozenset({*NOTED, *COUNTS})
"""Columns of whole numbers of which some may be missing."""


class Columns:
    """The columns of some results files; each is read when it is first asked for."""

    def __init__(self, parts: Sequence[PartCopy]) -> None:
        self.parts = parts
        self._sizes = np.array([part.footer.num_rows for part in parts], dtype=np.int64)
        self._kept: Whole | None = None
        """Of the rows of all parts, those that count, in order; None: all."""
        self._made: dict[str, Any] = {}

    def __len__(self) -> int:
        return int(self._sizes.sum()) if self._kept is None else len(self._kept)

    def keep(self, rows: Whole) -> None:
        """Let only some rows count, in this order; before anything else is asked."""
        self._kept = rows
        self._made.clear()

    def array(self, name: str) -> NDArray[Any]:
        """A column of numbers or flags; a missing one is nan."""
        found: NDArray[Any] = self._once(name, lambda: self._array(name))
        return found

    def _array(self, name: str) -> NDArray[Any]:
        parts = [each.to_numpy(zero_copy_only=False) for each in self._chunks(name)]
        found = np.concatenate(parts) if parts else np.zeros(0)
        return found if self._kept is None else found[self._kept]

    def whole(self, name: str) -> list[int | None]:
        """A column of whole numbers of which some may be missing: larger than floats hold."""

        def make() -> list[int | None]:
            values = [value for each in self._chunks(name) for value in each.to_pylist()]
            return values if self._kept is None else [values[i] for i in self._kept.tolist()]

        found: list[int | None] = self._once(f"whole {name}", make)
        return found

    def plain(self, name: str) -> list[str]:
        """A column of texts that do not repeat."""
        found: list[str] = self._once(f"list {name}", lambda: self._plain(name).to_pylist())
        return found

    def plain_at(self, name: str, index: int) -> str:
        """One of them."""
        return str(self._plain(name)[index].as_py())

    def _plain(self, name: str) -> pyarrow.ChunkedArray:
        def make() -> pyarrow.ChunkedArray:
            import pyarrow as pa

            column = pa.chunked_array(self._chunks(name), type=pa.string())
            return column if self._kept is None else column.take(pa.array(self._kept))

        return self._once(f"plain {name}", make)

    def unlike(self, name: str) -> Whole:
        """Numbers that are equal where the texts of a plain column are."""
        indices = self._plain(name).dictionary_encode().combine_chunks().indices
        found: Whole = indices.to_numpy(zero_copy_only=False).astype(np.int64)
        return found

    def coded(self, name: str) -> tuple[NDArray[np.int32], list[str | None]]:
        """A column of texts that repeat: which text each record has."""

        def make() -> tuple[NDArray[np.int32], list[str | None]]:
            places: dict[str | None, int] = {}
            codes = [_codes(each, places) for each in self._chunks(name)]
            all_codes = np.concatenate(codes) if codes else np.zeros(0, dtype=np.int32)
            if self._kept is not None:
                all_codes = all_codes[self._kept]
            return all_codes, list(places)

        found: tuple[NDArray[np.int32], list[str | None]] = self._once(f"codes {name}", make)
        return found

    def parsed(self, name: str) -> list[Any]:
        """The JSON values of a column of texts that repeat, each once."""

        def make() -> list[Any]:
            return [None if text is None else json.loads(text) for text in self.coded(name)[1]]

        found: list[Any] = self._once(f"parsed {name}", make)
        return found

    def number(self, name: str, index: int) -> float | None:
        """A number, None where it is missing."""
        if name in WHOLE:
            return self.whole(name)[index]
        view = self._once(f"view {name}", lambda: self.array(name).data)
        value: float = view[index]
        return None if math.isnan(value) else value

    def text(self, name: str, index: int) -> str | None:
        codes, values = self.coded(name)
        found: str | None = values[codes[index]]
        return found

    def value(self, name: str, index: int) -> Any:
        """One JSON value; the same object for equal ones."""
        return self.parsed(name)[self.coded(name)[0][index]]

    @cached_property
    def arms(self) -> list[ArmSettings]:
        return [settings_of(one) for one in self.parsed("variant")]

    @cached_property
    def doubts(self) -> tuple[NDArray[np.int32], list[tuple[Doubt, ...]]]:
        """Which doubts each record has, the bound's among them once `mark_beyond` has seen it."""
        known = [
            tuple(Doubt(code, frozenset(parts)) for code, *parts in one)
            for one in self.parsed("doubts")
        ]
        return self.coded("doubts")[0].copy(), known

    def mark_beyond(self, numbers: Whole) -> None:
        """Some records are above the bound of their device."""
        codes, known = self.doubts
        for code in np.unique(codes[numbers]).tolist():
            doubts = (*(one for one in known[code] if one.code != BEYOND.code), BEYOND)
            if doubts not in known:
                known.append(doubts)
            mine = numbers[codes[numbers] == code]
            codes[mine] = known.index(doubts)

    def record(self, index: int) -> Record:
        """The record as it is on disk, with its samples."""
        file = self.file_of(index)
        found = line_at(file, int(self.array("offset")[index]), int(self.array("length")[index]))
        if not isinstance(found, Record) or found.key != self.plain_at("key", index):
            raise InputError(f"{file}: changed while it was read; try again")
        return found

    def file_of(self, index: int) -> Path:
        row = index if self._kept is None else int(self._kept[index])
        at = int(np.searchsorted(np.cumsum(self._sizes), row, side="right"))
        return self.parts[at].part.file

    def _chunks(self, name: str) -> list[Any]:
        """A column of each part, in one piece."""
        return [part.read([name]).column(0).combine_chunks() for part in self.parts]

    def _once(self, key: str, make: Any) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def _codes(column: pyarrow.DictionaryArray, places: dict[str | None, int]) -> NDArray[np.int32]:
    """The codes of a part's texts by the places that they have among those of all parts."""
    texts: list[str | None] = column.dictionary.to_pylist()
    used = column.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False).astype(np.int64)
    texts.append(None)
    code_of = np.zeros(len(texts), dtype=np.int32)
    there, first = np.unique(used, return_index=True)
    for at in there[np.argsort(first, kind="stable")].tolist():
        code_of[at] = places.setdefault(texts[at], len(places))
    found: NDArray[np.int32] = code_of[used]
    return found


def or_none(values: NDArray[np.float64]) -> list[float | None]:
    """Numbers as Python has them, None for nan."""
    found: list[float | None] = values.tolist()
    for at in np.isnan(values).nonzero()[0].tolist():
        found[at] = None
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
        codes, doubts = columns.doubts
        values = {
            "columns": columns,
            "number": number,
            "arm": columns.arms[columns.coded("variant")[0][number]],
            "sizes": Sizes(*columns.value("sizes", number)),
            "doubts": doubts[codes[number]],
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
        return EnergyFigures(**{name: self._window(name) for name in PHASES})

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
        texts: dict[str, Any] = {
            name: self.columns.text(name, self.number) for name in ("dynamic", "kernel")
        }
        return LoadedFigures(**numbers, **texts)


def _of(name: str) -> property:
    """A property of a replicate, out of its column."""
    if name in (*FLOATS, *NOTED):
        return property(lambda one: one.columns.number(name, one.number))
    if name in INTEGERS:
        return property(lambda one: int(one.columns.array(name)[one.number]))
    if name in FLAGS:
        return property(lambda one: bool(one.columns.array(name)[one.number]))
    if name in PLAIN:
        return property(lambda one: one.columns.plain_at(name, one.number))
    if name in TEXTS:
        return property(lambda one: one.columns.text(name, one.number))
    return property(lambda one: one.columns.value(name, one.number))


for _name in (*FLOATS, *NOTED, *INTEGERS, *FLAGS, *PLAIN, *TEXTS, "absent", "copies_weights"):
    setattr(StoredReplicate, _name, _of(_name))
StoredReplicate.raw = property(lambda one: Raw(one.record))  # type: ignore[assignment]


class StoredReplicates(Pooling):
    """Some replicates of some results files, made when they are looked at."""

    __slots__ = ("columns", "numbers")

    def __init__(self, columns: Columns, numbers: Whole) -> None:
        self.columns = columns
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> Replicate: ...
    @overload
    def __getitem__(self, at: slice) -> StoredReplicates: ...
    def __getitem__(self, at: int | slice) -> Replicate | StoredReplicates:
        if isinstance(at, slice):
            return StoredReplicates(self.columns, self.numbers[at])
        return StoredReplicate(self.columns, int(self.numbers[at]))

    def __iter__(self) -> Iterator[Replicate]:
        return (StoredReplicate(self.columns, number) for number in self.numbers.tolist())

    def every(self) -> StoredReplicates:
        """All of the files, in their order."""
        return StoredReplicates(self.columns, np.arange(len(self.columns)))

    def part(self, which: NDArray[Any]) -> StoredReplicates:
        return StoredReplicates(self.columns, self.numbers[which])

    def with_others(self, others: Sequence[Pooling]) -> StoredReplicates | None:
        numbers = [self.numbers]
        for one in others:
            if not isinstance(one, StoredReplicates) or one.columns is not self.columns:
                return None
            numbers.append(one.numbers)
        return StoredReplicates(self.columns, np.concatenate(numbers))

    def figure(self, name: str) -> NDArray[np.float64]:
        return self.number(FIGURE + name)

    def number(self, name: str) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.columns.array(name)[self.numbers]
        return found.astype(np.float64, copy=False)

    def whole(self, name: str) -> Whole:
        found: Whole = self.columns.array(name)[self.numbers]
        return found

    def flag(self, name: str) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.columns.array(name)[self.numbers].astype(bool)
        return found

    def window(self, phase: str, name: str) -> NDArray[np.float64]:
        return self.number(f"{phase}.{name}")

    def coded(self, name: str) -> tuple[Whole, list[Any]] | None:
        """Which value of a property each has, and the values; None where they hardly repeat."""
        if name not in (*TEXTS, *CODED):
            return None
        codes, texts = self.columns.coded(name)
        parsed = name in ("absent", "copies_weights")
        values = self.columns.parsed(name) if parsed else texts
        return codes[self.numbers].astype(np.int64), values

    def listed(self, name: str) -> list[Any]:
        columns, numbers = self.columns, self.numbers
        if (coded := self.coded(name)) is not None:
            return [coded[1][code] for code in coded[0].tolist()]
        if name in PLAIN:
            every = columns.plain(name)
            return [every[number] for number in numbers.tolist()]
        if name in COUNTS or name in NOTED:
            known = columns.whole(name)
            return [known[number] for number in numbers.tolist()]
        if name in (*FLOATS, *LOADED):
            return or_none(columns.array(name)[numbers])
        if name in (*INTEGERS, *FLAGS):
            plain: list[Any] = columns.array(name)[numbers].tolist()
            return plain
        return [getattr(one, name) for one in self]

    def once(self, name: str) -> list[Any]:
        if name == "energy_scope":
            return list(dict.fromkeys(one.energy_scope for one in self.apart("energy", "ok")))
        if name not in (*TEXTS, *CODED):
            return super().once(name)
        coded = self.coded(name)
        assert coded is not None
        codes, values = coded
        there, first = np.unique(codes, return_index=True)
        return [values[code] for code in there[np.argsort(first)].tolist()]

    def doubts_of(self) -> tuple[Whole, list[tuple[Doubt, ...]]]:
        codes, doubts = self.columns.doubts
        return codes[self.numbers].astype(np.int64), doubts

    def apart(self, *names: str) -> Iterator[Replicate]:
        _, first, _ = self.combinations(names)
        return (self[at] for at in sorted(first.tolist()))

    def combinations(self, names: Sequence[str]) -> tuple[Whole, Whole, Whole]:
        """What some columns hold together: the combinations, where each is first, and which of
        them each replicate has."""
        code = np.zeros(len(self.numbers), dtype=np.int64)
        wanted: list[str] = []
        for name in names:
            wanted += [f"{phase}.rest" for phase in PHASES] if name == "energy" else [name]
        for name in wanted:
            if name in FLAGS:
                mine, count = self.flag(name).astype(np.int64), 2
            elif name == "doubts":
                codes, doubts = self.columns.doubts
                mine, count = codes[self.numbers].astype(np.int64), len(doubts)
            elif name in TEXTS or name.endswith(".rest") or name in ("absent", "variant", "sizes"):
                codes, texts = self.columns.coded(name)
                mine, count = codes[self.numbers].astype(np.int64), len(texts)
            else:
                mine, count = np.isnan(self.number(name)).astype(np.int64), 2
            _, code = np.unique(code * count + mine, return_inverse=True)
        found, first, inverse = np.unique(code, return_index=True, return_inverse=True)
        return found, first, inverse.reshape(-1)
