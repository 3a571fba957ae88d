"""Tables for people and their tools: CSV, Parquet, Markdown, and our own lines."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, TypeVar

from bench.errors import UnsupportedError
from bench.exchange.copied import CopiedTable, copied
from bench.exchange.exporting import Exported
from bench.exchange.frame import LEFT_OUT, FrameColumn, columns, frame
from bench.experiment import CostAssumption
from bench.records import Line, QualityRecord, Record, to_json
from bench.records.file import Results
from bench.summary import Summary
from bench.text import csv_cell

if TYPE_CHECKING:
    from bench.summary.pooling import Floats

Work = TypeVar("Work", Record, QualityRecord)


def csv(results: Results | Summary, price: CostAssumption | None) -> Exported:
    """The columns of docs/data.md; what is missing is empty."""
    table = copied(results) if isinstance(results, Summary) else None
    if table is not None:
        return Exported(data=_head(), more=_pieces(table), dropped=_left(price))
    made = frame(_records(results))
    for name in made.select_dtypes(include=["object", "string"]):
        made[name] = made[name].map(csv_cell, na_action="ignore")
    made[STARTED] = [moment.isoformat(sep=" ") for moment in made[STARTED]]
    text = made.to_csv(index=False, lineterminator="\n")
    return Exported(data=text.encode(), dropped=_left(price))


STARTED: Final = "started_at"


def _records(results: Results | Summary) -> Results:
    assert isinstance(results, Results), "a summary of data that has no columns"
    return results


def _head() -> bytes:
    return (",".join(column.name for column in columns()) + "\n").encode()


def _pieces(table: CopiedTable) -> Iterator[bytes]:
    """The lines of a CSV file, some at a time, as pandas writes them."""
    import csv as writing

    cells = [_cells(table, column) for column in columns()]
    for begin, end in table.chunks():
        stream = io.StringIO()
        writer = writing.writer(stream, lineterminator="\n")
        writer.writerows(zip(*(each(begin, end) for each in cells), strict=True))
        yield stream.getvalue().encode()


def _cells(table: CopiedTable, column: FrameColumn) -> Callable[[int, int], list[Any]]:
    """What makes a column's cells of some rows; None is an empty one."""
    coded = table.coded(column)
    if coded is not None:
        places, values = coded
        every = [_cell(column, value) for value in values]
        return lambda begin, end: [every[at] for at in places[begin:end].tolist()]
    if column.type in ("str", "datetime64[us, UTC]"):
        return lambda begin, end: [
            _cell(column, value) for value in table.values(column, begin, end)
        ]
    if column.type == "Float64":
        return lambda begin, end: texts_of(table.numbers(column, begin, end))
    return lambda begin, end: table.values(column, begin, end)


def texts_of(values: Floats) -> list[str | None]:
    """Floats as `repr` writes them, None for nan: Arrow's texts are the same for most, in a third
    of the time."""
    import numpy as np
    import pyarrow as pa

    size = np.abs(values)
    alike = (size >= 1e-4) & (size < 1e10) & (values != np.floor(values))
    found: list[str | None] = pa.array(values, from_pandas=True).cast(pa.string()).to_pylist()
    for at in (~alike & ~np.isnan(values)).nonzero()[0].tolist():
        found[at] = repr(float(values[at]))
    return found


def _cell(column: FrameColumn, value: Any) -> Any:
    """A value as pandas writes it; None is an empty cell."""
    if value is None:
        return None
    if column.name == STARTED:
        return _moment(value)
    if column.type == "str":
        return csv_cell(value)
    return float(value) if column.type == "Float64" else value


def _moment(text: str) -> str:
    moment = datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
    return moment.isoformat(sep=" ")


def parquet(results: Results | Summary, price: CostAssumption | None) -> Exported:
    """The columns of docs/data.md, with their types."""
    if find_spec("pyarrow") is None:  # pandas says so less clearly
        raise UnsupportedError("--to parquet needs pyarrow: pip install 'gpu-cost-bench[parquet]'")
    table = copied(results) if isinstance(results, Summary) else None
    if table is not None:
        return Exported(data=b"", more=_groups(table), dropped=_left(price))
    stream = io.BytesIO()
    frame(_records(results)).to_parquet(stream, engine="pyarrow", index=False)
    return Exported(data=stream.getvalue(), dropped=_left(price))


def _groups(table: CopiedTable) -> Iterator[bytes]:
    """A Parquet file, a group of rows at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream, writer = io.BytesIO(), None
    for part in table.frames():
        if writer is None:
            schema = pa.Schema.from_pandas(part, preserve_index=False)
            writer = pq.ParquetWriter(stream, schema)
        writer.write_table(pa.Table.from_pandas(part, schema=schema, preserve_index=False))
        yield stream.getvalue()
        stream.seek(0)
        stream.truncate()
    assert writer is not None
    writer.close()
    yield stream.getvalue()


def markdown(results: Results | Summary, price: CostAssumption | None) -> Exported:
    """One row a variant, workload and machine, as `bench run` shows them."""
    from bench.report.tables import to_markdown
    from bench.report.tables.row import shown
    from bench.report.tables.run import columns
    from bench.summary import summarise

    rows = shown(summarise(results), price)
    text = to_markdown(rows, columns(rows))
    return Exported(
        data=text.encode(), dropped=("everything but a summary: --to jsonl keeps the records",)
    )


def jsonl(results: Results | Summary, price: CostAssumption | None) -> Exported:
    """Every record as it is: any verb of this tool reads the file.

    A results file holds one line of each key; of work done again elsewhere the newest is kept.
    """
    results = _records(results)
    records, qualities = _newest(results.records), _newest(results.qualities)
    lines: list[Line] = [*results.environments.values(), *records, *qualities]
    text = "".join(to_json(line) + "\n" for line in lines)
    again = len(results.records) + len(results.qualities) - len(records) - len(qualities)
    dropped = [f"{again} older duplicates"] if again else []
    return Exported(data=text.encode(), dropped=(*dropped, *_no_price(price)))


def _newest(lines: Sequence[Work]) -> list[Work]:
    """The last of each key, in order of first appearance; a finished one before a failure."""
    kept: dict[str, Work] = {}
    for line in lines:
        old = kept.get(line.key)
        if old is None or _rank(line) > _rank(old):
            kept[line.key] = line
    return list(kept.values())


def _rank(line: Record | QualityRecord) -> tuple[bool, str]:
    return line.status == "ok", line.started_at


def _left(price: CostAssumption | None) -> tuple[str, ...]:
    return (LEFT_OUT, *_no_price(price))


def _no_price(price: CostAssumption | None) -> tuple[str, ...]:
    return ("the price: records hold none, `bench cost` computes it",) if price else ()
