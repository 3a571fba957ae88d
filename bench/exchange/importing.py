"""Other tools' results into a results folder. Nothing is written before the whole file is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final

from bench.errors import InputError, unknown
from bench.exchange import OURS, TOOLS
from bench.exchange.foreign import Found, Given, lines, parse_json, read_text
from bench.models import model_cards
from bench.records import Environment, Line, Record, from_json, to_json
from bench.records.file import Results, Writer, read
from bench.report.tables.row import shown, table
from bench.summary import summarise

SHAPE: Final = (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError)
"""What reading a table of another shape raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import did."""

    added: int
    """Records written."""
    known: int
    """Records that were there already."""
    folder: Path
    without_card: tuple[str, ...]
    """Models that are not in the catalog: their records have no bound."""


def import_file(tool: str, path: Path, into: Path, given: Given | None = None) -> Imported:
    """Append the records of a file to a results folder, each once. Raises InputError."""
    made = _own(path) if tool == OURS else _foreign(tool, path, given or Given())
    return _append(made, into)


def _foreign(tool: str, path: Path, given: Given) -> list[Line]:
    """The lines of a file, each of which can be written and summarised, before any is."""
    try:
        made: list[Line] = list(lines(tool, path, _found(tool, path, given)))
        for line in made:
            _check(path, line)
        made_of = [line for line in made if isinstance(line, Record)]
        for one in shown(summarise(Results(records=made_of))):
            table(one)
    except SHAPE as error:
        # Importers check the values that they take, and not the shape of every table on the way.
        raise InputError(
            f"{path}: is not a result of {tool} as known here ({type(error).__name__}: {error})"
        ) from error
    return made


def _check(path: Path, line: Line) -> None:
    """Refuse a line that could be written and not be read again."""
    try:
        from_json(to_json(line))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _found(tool: str, path: Path, given: Given) -> list[Found]:
    if tool not in TOOLS:
        raise InputError(unknown("tool", tool, (*TOOLS, OURS)))
    find: Callable[[Path, Given], list[Found]] = _module(tool).read
    try:
        return find(path, given)
    except InputError as error:
        other = _whose(path)
        if other in (None, tool):
            raise
        raise InputError(f"{error}; it looks like one of {other}: bench import {other}") from None


def _whose(path: Path) -> str | None:
    """The tool whose file it looks like."""
    try:
        value = parse_json(path, read_text(path))[0]
    except InputError:
        return None
    if isinstance(value, list) and value:
        value = value[0]
    return next((tool for tool in TOOLS if _module(tool).knows(value)), None)


def _module(tool: str) -> ModuleType:
    return import_module(f"bench.exchange.{TOOLS[tool]}")


def _own(path: Path) -> list[Line]:
    results = read(path)
    if results.problems:
        more = len(results.problems) - 1
        also = f", and {more} more lines" if more else ""
        raise InputError(f"{results.problems[0]}{also}; nothing was imported")
    made: list[Line] = [*results.environments.values(), *results.records, *results.qualities]
    if not made:
        raise InputError(f"{path}: is empty")
    return made


def _append(made: list[Line], into: Path) -> Imported:
    added = known = 0
    with Writer(into) as writer:  # its lock is held while looking at what is there
        had = read(into)
        best = {record.key: record.status for record in had.records}
        best |= {quality.key: quality.status for quality in had.qualities}
        for line in made:
            if isinstance(line, Environment):
                if line.id not in had.environments:
                    writer.append(line)
            elif best.get(line.key) in ("ok", line.status):
                known += 1
            else:  # new, or finished where there was only a failure
                best[line.key] = line.status
                writer.append(line)
                added += 1
    return Imported(added=added, known=known, folder=into, without_card=_without_card(made))


def _without_card(made: list[Line]) -> tuple[str, ...]:
    cards = model_cards()
    models = dict.fromkeys(
        str(line.variant.get("model")) for line in made if not isinstance(line, Environment)
    )
    return tuple(name for name in models if name.partition("@")[0] not in cards)
