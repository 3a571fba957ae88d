"""The table of `frame` out of columnar copies, some rows at a time: as large as results may be.

Texts that many records have alike are made once. The rows are those of `frame`, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.exchange.frame import FrameColumn, Line, columns, frame, series
from bench.records.file import Results, read, results_file
from bench.summary import Row, Summary, load
from bench.summary.copies import Say
from bench.summary.loading import LARGE, by_copy
from bench.summary.rows import NO_TAILS

if TYPE_CHECKING:
    import pandas

    from bench.summary.pooling import Floats, Whole
    from bench.summary.stored import StoredReplicates

AT_ONCE: Final = 20_000
"""Rows that are held as Python values."""


@dataclass(frozen=True)
class CopiedTable:
    """All records of a summary that was read from columnar copies."""

    every: StoredReplicates
    rows: Mapping[tuple[str, str], Row]
    """By environment and arm: for what all records of both have alike."""

    def __len__(self) -> int:
        return len(self.every)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Where each piece of the table begins and ends."""
        for begin in range(0, len(self), AT_ONCE):
            yield begin, min(begin + AT_ONCE, len(self))

    def values(self, column: FrameColumn, begin: int, end: int) -> list[Any]:
        """A column of some rows, None where a value is missing."""
        coded = self.coded(column)
        if coded is not None:
            places, distinct = coded
            return [distinct[at] for at in places[begin:end].tolist()]
        from bench.summary.stored import or_none

        if column.type == "Float64":
            return or_none(self.numbers(column, begin, end))
        return self.every[begin:end].listed(column.column)

    def numbers(self, column: FrameColumn, begin: int, end: int) -> Floats:
        """A column of floats of some rows, nan where a value is missing."""
        return self.every[begin:end].number(column.column)

    def coded(self, column: FrameColumn) -> tuple[Whole, list[Any]] | None:
        """Which value each row has, and the values; None where they hardly repeat."""
        if column.name not in self._coded:
            self._coded[column.name] = self._distinct(column)
        return self._coded[column.name]

    def frames(self) -> Iterator[pandas.DataFrame]:
        """The table, piece by piece."""
        import pandas

        every = columns()
        for begin, end in self.chunks():
            yield pandas.DataFrame(
                {one.name: series(one, self.values(one, begin, end)) for one in every},
                columns=pandas.Index([one.name for one in every]),
            )

    @cached_property
    def _coded(self) -> dict[str, tuple[Whole, list[Any]] | None]:
        return {}

    @cached_property
    def _combined(self) -> dict[tuple[str, ...], tuple[Whole, list[Line]]]:
        return {}

    def _distinct(self, column: FrameColumn) -> tuple[Whole, list[Any]] | None:
        if column.column:
            return self.every.coded(column.column)
        key = column.hangs_on
        if key not in self._combined:
            _, first, places = self.every.combinations(key)
            self._combined[key] = places, [self._line(at) for at in first.tolist()]
        places, lines = self._combined[key]
        return places, [column.of(line) for line in lines]

    def _line(self, at: int) -> Line:
        one = self.every[at]
        row = self.rows[one.environment, one.arm.name]
        return Line(one, row.host, row.quality, NO_TAILS, one.loaded)


def read_results(*paths: str | Path, large: int = LARGE) -> pandas.DataFrame:
    """Results folders or files as a DataFrame, one row a record. Raises InputError.

    Lines that cannot be read are left out and listed in `frame.attrs["problems"]`. Files of `large`
    bytes and more together are read by their columnar copies (docs/records.md).
    """
    import pandas

    found = large_or_records(*map(Path, paths), large=large)
    table = copied(found) if isinstance(found, Summary) else None
    if table is not None:
        made = pandas.concat(table.frames(), ignore_index=True)
    else:
        assert isinstance(found, Results)
        made = frame(found)
    made.attrs["problems"] = list(found.problems)
    return made


def large_or_records(*paths: Path, large: int = LARGE, say: Say | None = None) -> Results | Summary:
    """Large results by their columnar copies, others as records.

    So are searches of a service level: their probes are records, and no rows.
    """
    if by_copy([results_file(path) for path in paths], large):
        found = load(*paths, large=large, say=say)
        if copied(found) is not None:
            return found
    return read(*paths)


def copied(summary: Summary) -> CopiedTable | None:
    """The table of a summary; None where it was not read from copies alone."""
    from bench.summary.stored import StoredReplicates

    rows: dict[tuple[str, str], Row] = {}
    every: StoredReplicates | None = None
    for row in summary:
        if not isinstance(row.replicates, StoredReplicates):
            return None
        every = row.replicates.every()
        rows.setdefault((row.key.environment, row.arm.name), row)
    return None if every is None else CopiedTable(every, rows)
