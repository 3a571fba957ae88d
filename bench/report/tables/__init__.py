"""Rows of figures as Markdown, JSON, JSON lines or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.summary import Sizes

from bench.text import csv_cell, markdown_cell

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a Markdown table: its heading, and how a row's figure is shown."""

    heading: str
    show: Callable[[Any], str]
    """Of a row: a table of figures, or a typed one."""


def column(key: str, heading: str = "", form: str = "", missing: str = "-") -> Column:
    """The column of `key`, formatted with the format specification `form`; None is `missing`."""

    def show(row: Row) -> str:
        value = row.get(key)
        return missing if value is None else format(value, form)

    return Column(heading=heading or key, show=show)


def figure(heading: str, of: Callable[[Any], Any], form: str = "", missing: str = "-") -> Column:
    """The column of what `of` gives of a typed row, formatted with `form`; None is `missing`."""

    def show(row: Any) -> str:
        value = of(row)
        return missing if value is None else format(value, form)

    return Column(heading=heading, show=show)


def sweeps(sizes: Sequence[Sizes], of: Callable[[Any], Sizes | None]) -> list[Column]:
    """Columns of the sizes that differ between rows: what is the same in all is not shown."""
    names = (("n_prompt", "prompt"), ("n_gen", "new"), ("n_batch", "batch"))

    def size(name: str) -> Callable[[Any], Any]:
        return lambda row: getattr(of(row), name, None)

    return [
        figure(heading, size(name))
        for name, heading in names
        if len({getattr(one, name) for one in sizes}) > 1
    ]


def render(
    rows: Sequence[Any],
    columns: Sequence[Column],
    output: str,
    table: Callable[[Any], Row] | None = None,
) -> str:
    """The rows in one of the formats of `-o`; only Markdown uses `columns`.

    `table`: makes keys and values of a typed row, for the other formats.
    """
    if output == "md":
        return to_markdown(rows, columns)
    keyed = rows if table is None else [table(row) for row in rows]
    if output == "json":
        return json.dumps(keyed, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if output == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in keyed)
    return to_csv(keyed)


def to_csv(rows: Sequence[Row]) -> str:
    """CSV with a heading line; lists are joined with spaces, a missing figure is empty."""
    stream = io.StringIO()
    keys = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(stream, keys, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _csv(value) for key, value in row.items()})
    return stream.getvalue()


def _csv(value: Any) -> Any:
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    return csv_cell(value) if isinstance(value, str) else value


def to_markdown(rows: Sequence[Any], columns: Sequence[Column]) -> str:
    """An aligned pipe table that reads well as text and pastes into an issue."""
    cells = [[markdown_cell(column.show(row)) for column in columns] for row in rows]
    heads = [column.heading for column in columns]
    widths = [max([len(head), *(len(row[at]) for row in cells)]) for at, head in enumerate(heads)]
    lines = [
        "| "
        + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        + " |"
        for line in (heads, *cells)
    ]
    rule = "|" + "|".join(":" + "-" * (width + 1) for width in widths) + "|"
    return "\n".join((lines[0], rule, *lines[1:])) + "\n"
