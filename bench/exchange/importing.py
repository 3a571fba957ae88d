"""Other tools' results into a results folder. Nothing is written before every file is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from bench.errors import InputError, unknown
from bench.exchange import AUTO, LOOKED_FOR, OURS, TOOLS
from bench.exchange.checks import CODE, marked, one_model_an_arm
from bench.exchange.filling import filled
from bench.exchange.foreign import ForeignRun, Given, lines
from bench.exchange.reading import SourceText, files, load
from bench.models import model_cards
from bench.records import FILE, Environment, Line, Record, from_json, to_json
from bench.records.codes import known
from bench.records.file import Results, Writer, read
from bench.report.tables.row import shown, table
from bench.summary import summarise

SHAPE: Final = (
    AttributeError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    OverflowError,
    ZeroDivisionError,
    RecursionError,
)
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
    notes: tuple[str, ...] = ()
    """What the user should know of the files, one line each."""


def import_file(tool: str, path: Path, into: Path, given: Given | None = None) -> Imported:
    """Append the records of a file to a results folder, each once. Raises InputError."""
    return import_files(tool, [path], into, given)


def import_files(
    tool: str, paths: Sequence[Path], into: Path, given: Given | None = None
) -> Imported:
    """Append the records of files and folders (and of stdin, as `-`), each once.

    Files of equal arms are replicates of one. In a folder, files that hold no result are named and
    passed over. Raises InputError; then nothing is written.
    """
    made: list[Line] = []
    notes: list[str] = []
    for path in paths:
        made += _of_path(tool, path, given or Given(), notes)
    there = read(into).records if (into / FILE).exists() else []
    one_model_an_arm([*there, *(line for line in made if isinstance(line, Record))])
    notes += _readable(made, ", ".join(map(str, paths)), tool)
    return _append(made, into, notes)


def _of_path(tool: str, path: Path, given: Given, notes: list[str]) -> list[Line]:
    """The lines of a file, or of every result in a folder."""
    if tool == OURS:
        return _own(path)
    if not path.is_dir():
        return _foreign(tool, path, given, notes)
    made: list[Line] = []
    refused: list[str] = []
    for one in files(path):
        try:
            made += _foreign(tool, one, given, notes)
        except InputError as error:
            refused.append(str(error))
    if not made:
        raise InputError(f"{path}: no file there is a result of {tool}: {refused[0]}")
    notes += [f"left out: {line}" for line in refused]
    return made


def _foreign(tool: str, path: Path, given: Given, notes: list[str]) -> list[Line]:
    """The lines of a file, each checked against the others."""
    source = load(path)
    if tool == AUTO:
        tool = recognised(source)
    try:
        found = [filled(tool, source, one, given) for one in _found(tool, source)]
        made = _marked(lines(tool, source, found), found)
        _readable(made, str(source), tool)
    except SHAPE as error:
        # Importers check the values that they take, and not the shape of every table on the way.
        raise InputError(
            f"{source}: is not a result of {tool} as known here ({type(error).__name__}: {error})"
        ) from error
    for line in made:
        if isinstance(line, Record):
            notes += _said(source, line, given)
    notes += source.notes
    return made


def _marked(made: Sequence[Environment | Record], found: Sequence[ForeignRun]) -> list[Line]:
    each = iter(found)
    return [marked(line, next(each)) if isinstance(line, Record) else line for line in made]


def _readable(made: Sequence[Line], where: str, tool: str) -> list[str]:
    """What is faster than its bound. InputError unless each line can be written, read and
    summarised, before any is written."""
    try:
        for line in made:
            _check(where, line)
        rows = _summarised(made)
    except SHAPE as error:
        raise InputError(
            f"{where}: is not a result of {tool} as known here ({type(error).__name__}: {error})"
        ) from error
    return [_too_fast(row) for row in rows if "ABOVE_BOUND" in row["reasons"]]


def _summarised(made: Sequence[Line]) -> list[dict[str, Any]]:
    """The rows that the other verbs will show of these lines."""
    results = Results(
        environments={line.id: line for line in made if isinstance(line, Environment)},
        records=[line for line in made if isinstance(line, Record)],
    )
    return [table(one) for one in shown(summarise(results))]


def _too_fast(row: Mapping[str, Any]) -> str:
    """The two figures of a row that is above its bound."""
    figures = [
        f"{name} is {row[name]:,.4g}, but the bound is {row[bound]:,.4g}"
        for name, bound in (
            ("prefill_tok_s", "bound_prefill_tok_s"),
            ("decode_tok_s", "bound_decode_tok_s"),
            ("output_tok_s", "bound_decode_tok_s"),
        )
        if row[name] and row[bound] and row[name] > row[bound]
    ]
    return f"{row['variant']}: {'; '.join(figures)}: marked ABOVE_BOUND"


def _check(where: str, line: Line) -> None:
    """Refuse a line that could not be written, or be written and not be read again."""
    text = to_json(line)
    text.encode()
    try:
        from_json(text)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    for code in line.reasons if isinstance(line, Record) else ():
        if not known(code):
            raise InputError(f"{where}: reasons: unknown code {code!r}")


def _said(source: SourceText, record: Record, given: Given) -> list[str]:
    """What the user should know of a record before its figures are used."""
    said = []
    if CODE in record.reasons:
        said.append(f"{source}: {record.variant['name']}: {record.absent['self_check']}")
    for name in ("requests", "n_devices"):
        told = given.gpu or name == "requests"
        if name in record.absent and told:
            said.append(f"{source}: {record.absent[name]}")
    return said


def _found(tool: str, source: SourceText) -> list[ForeignRun]:
    if tool not in TOOLS:
        raise InputError(unknown("tool", tool, (*TOOLS, AUTO, OURS)))
    find: Callable[[SourceText], list[ForeignRun]] = _module(tool).read
    try:
        found = find(source)
    except InputError as error:
        other = _whose(source)
        if other in (None, tool):
            raise
        raise InputError(f"{error}; it looks like one of {other}: bench import {other}") from None
    except SHAPE:
        other = _whose(source)
        if other in (None, tool):
            raise
        raise InputError(
            f"{source}: is not a result of {tool}; it looks like one of {other}: "
            f"bench import {other}"
        ) from None
    if not found:
        raise InputError(f"{source}: holds no result of {tool}")
    return found


def recognised(source: SourceText) -> str:
    """The tool that wrote a file. InputError that says what was looked for."""
    tool = _whose(source)
    if tool is None:
        if source.text.lstrip()[0] in "[{":
            _ = source.values  # says where the text ends in the middle, or is not JSON
        raise InputError(f"{source}: is not a known tool's result; looked for {LOOKED_FOR}")
    return tool


def _whose(source: SourceText) -> str | None:
    """The tool whose file it looks like."""
    for tool in TOOLS:
        try:
            if _module(tool).knows(source):
                return tool
        except (InputError, *SHAPE):
            continue
    return None


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


def _append(made: list[Line], into: Path, notes: Sequence[str]) -> Imported:
    added = known = 0
    with Writer(into) as writer:  # its lock is held while looking at what is there
        had = read(into)
        best = {record.key: record.status for record in had.records}
        best |= {quality.key: quality.status for quality in had.qualities}
        environments = set(had.environments)
        for line in made:
            if isinstance(line, Environment):
                if line.id not in environments:
                    environments.add(line.id)
                    writer.append(line)
            elif best.get(line.key) in ("ok", line.status):
                known += 1
            else:  # new, or finished where there was only a failure
                best[line.key] = line.status
                writer.append(line)
                added += 1
    return Imported(
        added=added,
        known=known,
        folder=into,
        without_card=_without_card(made),
        notes=tuple(dict.fromkeys(notes)),
    )


def _without_card(made: list[Line]) -> tuple[str, ...]:
    cards = model_cards()
    models = dict.fromkeys(
        str(line.variant.get("model"))
        for line in made
        if not isinstance(line, Environment) and "card" not in line.variant
    )
    return tuple(name for name in models if name.partition("@")[0] not in cards)
