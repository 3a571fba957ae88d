"""Tables for people and their tools: CSV, Parquet, Markdown, and our own lines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TypeVar

from bench.errors import UnsupportedError
from bench.exchange.exporting import Exported
from bench.exchange.frame import LEFT_OUT, frame
from bench.experiment import CostAssumption
from bench.records import Line, QualityRecord, Record, to_json
from bench.records.file import Results
from bench.text import csv_cell

Work = TypeVar("Work", Record, QualityRecord)


def csv(results: Results, price: CostAssumption | None) -> Exported:
    """The columns of docs/data.md; what is missing is empty."""
    table = frame(results)
    for name in table.select_dtypes(include=["object", "string"]):
        table[name] = table[name].map(csv_cell, na_action="ignore")
    text = table.to_csv(index=False, lineterminator="\n")
    return Exported(data=text.encode(), dropped=_left(price))


def parquet(results: Results, price: CostAssumption | None) -> Exported:
    """The columns of docs/data.md, with their types."""
    if find_spec("pyarrow") is None:  # pandas says so less clearly
        raise UnsupportedError("--to parquet needs pyarrow: pip install 'gpu-cost-bench[parquet]'")
    stream = io.BytesIO()
    frame(results).to_parquet(stream, engine="pyarrow", index=False)
    return Exported(data=stream.getvalue(), dropped=_left(price))


def markdown(results: Results, price: CostAssumption | None) -> Exported:
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


def jsonl(results: Results, price: CostAssumption | None) -> Exported:
    """Every record as it is: any verb of this tool reads the file.

    A results file holds one line of each key; of work done again elsewhere the newest is kept.
    """
    records, qualities = _newest(results.records), _newest(results.qualities)
    lines: list[Line] = [*results.environments.values(), *records, *qualities]
    text = "".join(to_json(line) + "\n" for line in lines)
    again = len(results.records) + len(results.qualities) - len(records) - len(qualities)
    dropped = (
        [f"{again} records of work done again later: a file holds one of each"] if again else []
    )
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
