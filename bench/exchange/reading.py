"""Bytes that a stranger wrote -> text, and the JSON values, CSV rows and tables that stand in it.

Lines of a log before, between and after are passed over. What is cut off gives what is whole, and a
note says what is not; a file of which nothing is whole is refused.
"""

from __future__ import annotations

import csv
import datetime
import json
import math
import os
import re
import select
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from bench.errors import InputError
from bench.records import now

STDIN: Final = "-"
GZIP: Final = b"\x1f\x8b"
MOST_BYTES: Final = 2**30
"""Of a file, unpacked: what is larger is no summary of a benchmark."""

MARKS: Final = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
"""First bytes that name an encoding: PowerShell's `>` writes UTF-16."""

csv.field_size_limit(2**27)
"""Tools put whole configurations into one cell; the usual limit is 128 KiB."""

COLOUR: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What a tool tells a terminal, in a file made by `script` or `tee`."""

CONTROL: Final = frozenset(map(chr, range(32))) - frozenset("\t\n\r\f\x1b")


@dataclass(kw_only=True)
class SourceText:
    """One file's text, and what could not be read of it."""

    name: str
    """As messages have it."""
    text: str
    date: str
    """When it was last written: for tools that do not say when they ran."""
    notes: list[str] = field(default_factory=list)
    """What is not in the records, one line each."""

    def __str__(self) -> str:
        return self.name

    @property
    def base(self) -> str:
        """The name without its folder."""
        return Path(self.name).name

    @cached_property
    def values(self) -> list[Any]:
        """The JSON values of the text, one or more. InputError if there is none."""
        found, notes = json_values(self.name, self.text)
        self.notes += [note for note in notes if note not in self.notes]
        return found

    def first(self) -> Any:
        """The first JSON value (of a list, its first entry), None without one: to tell tools."""
        try:
            value = self.values[0]
        except InputError:
            return None
        return value[0] if isinstance(value, list) and value else value

    def entries(self) -> list[Any]:
        """The JSON values, each list taken apart."""
        return [
            entry
            for value in self.values
            for entry in (value if isinstance(value, list) else [value])
        ]

    def columns(self, wanted: Iterable[str]) -> list[dict[str, str]]:
        """The rows of the CSV tables that have these columns; [] without one."""
        rows, notes = csv_rows(self.name, self.text, frozenset(wanted))
        self.notes += [note for note in notes if note not in self.notes]
        return rows


def load(path: Path) -> SourceText:
    """A file, or `-` for stdin. InputError if it is not there, is empty or is no text."""
    name = "stdin" if str(path) == STDIN else str(path)
    try:
        if name == "stdin" and sys.stdin is None:  # `<&-`
            raise InputError("stdin: is closed")
        if name == "stdin":
            data, moment = sys.stdin.buffer.read(), now()
        elif path.is_fifo():
            data, moment = _from_pipe(path), now()
        else:
            data = path.read_bytes()
            moment = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    source = SourceText(name=name, text="", date=moment.isoformat())
    if data.startswith(GZIP):
        data = _unpacked(source, data)
    source.text = decoded(name, data)
    if not source.text.strip():
        raise InputError(f"{name}: is empty")
    return source


WAIT_S: Final = 5.0
"""How long a named pipe may have no writer."""


def _from_pipe(path: Path) -> bytes:
    """What is written to a named pipe, once somebody writes: opening it would wait for ever."""
    parts: list[bytes] = []
    until = time.monotonic() + WAIT_S
    held = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            select.select([held], [], [], 0.1)
            try:
                part = os.read(held, 1 << 20)
            except BlockingIOError:  # there is a writer, which has said nothing yet
                until = math.inf
                continue
            parts.append(part)
            if not part and (any(parts) or until == math.inf):
                return b"".join(parts)
            if not part and time.monotonic() > until:
                raise InputError(f"{path}: is a pipe that nothing writes to")
            if not part:
                time.sleep(0.05)
    finally:
        os.close(held)


def files(path: Path) -> list[Path]:
    """The files of a folder, by name, hidden ones left out; of a file, itself."""
    if not path.is_dir():
        return [path]
    found = sorted(
        one
        for one in path.rglob("*")
        if one.is_file() and not any(part.startswith(".") for part in one.relative_to(path).parts)
    )
    if not found:
        raise InputError(f"{path}: is an empty folder")
    return found


def _unpacked(source: SourceText, data: bytes) -> bytes:
    """What gzip holds, all members; of one that is cut off, what is whole."""
    parts: list[bytes] = []
    size = 0
    try:
        while data.startswith(GZIP):
            member = zlib.decompressobj(wbits=31)
            parts.append(member.decompress(data, MOST_BYTES - size))
            size += len(parts[-1])
            if member.unconsumed_tail:
                raise InputError(f"{source}: holds more than {MOST_BYTES} bytes unpacked")
            if not member.eof:
                source.notes.append(f"{source}: the gzip stream is cut off: what is whole is taken")
                break
            data = member.unused_data
    except zlib.error:
        raise InputError(f"{source}: is not a gzip file, or is damaged") from None
    return b"".join(parts)


def decoded(name: str, data: bytes) -> str:
    """Text in UTF-8, UTF-16 or UTF-32, or else the Windows code page; InputError for no text."""
    encoding = next((one for mark, one in MARKS if data.startswith(mark)), None)
    if encoding is None and b"\x00" in data[:4096]:
        # No mark: which bytes of a pair are 0 in text of mostly ASCII tells the order.
        even, odd = data[:4096:2].count(0), data[1:4096:2].count(0)
        encoding = "utf-16-be" if even > odd else "utf-16-le"
    for one in [encoding] if encoding else ["utf-8", "cp1252"]:
        try:
            text = data.decode(one)
        except UnicodeDecodeError:
            continue
        if not CONTROL & set(text):
            return COLOUR.sub("", text) if "\x1b" in text else text
    raise InputError(f"{name}: is not text")


def _refuse_constant(_: str) -> None:
    """NaN and infinity become None."""


DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def json_values(name: str, text: str) -> tuple[list[Any], list[str]]:
    """The JSON values of a text: alone, one after another, or between lines of a log.

    Returns them and notes on what is cut off. Raises InputError if none is whole.
    """
    found: list[Any] = []
    at, end = _next_start(text, 0), len(text.rstrip())
    first_fault: str | None = None
    while at is not None and at < end:
        try:
            value, stop = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, getattr(error, "pos", at)) + 1
            if _is_cut(text, at, error, end):
                why = f"{name}: ends in the middle: cut off? (line {line})"
                if not found:
                    raise InputError(why) from None
                return found, [f"{why}; the {len(found)} values before are taken"]
            first_fault = first_fault or f"{name}: is not JSON (line {line})"
            at = _next_start(text, _line_end(text, at))
            continue
        whole = not text[:at].strip() and not text[stop:].strip()
        if isinstance(value, dict | list) or whole:
            found.append(value)
            at = _next_start(text, stop)
        else:  # a log line that begins with a number
            at = _next_start(text, _line_end(text, at))
    found = found or _inside_lines(text)
    if not found:
        raise InputError(first_fault or f"{name}: is not JSON (line 1)")
    return found, []


def _inside_lines(text: str) -> list[Any]:
    """Values that end a line, after what a logger wrote before them."""
    found = []
    for line in text.splitlines():
        at = line.find('{"')
        if at > 0:
            try:
                value, stop = DECODER.raw_decode(line, at)
            except (ValueError, RecursionError):
                continue
            if not line[stop:].strip():
                found.append(value)
    return found


def _is_cut(text: str, at: int, error: Exception, end: int) -> bool:
    """Whether a value that begins at `at` is whole as far as the text goes."""
    place = getattr(error, "pos", at)
    if "Unterminated" in str(error):
        return '"' not in text[place + 1 : end]  # else a quote that a log line leaves open
    return bool(place >= end - 5 and text[at] in "[{")


def _next_start(text: str, at: int) -> int | None:
    """Where the next value may begin: right here, or at the first bracket that begins a line."""
    start = at
    while at < len(text) and (text[at].isspace() or text[at] in ",;"):
        at += 1
    if at >= len(text):
        return None
    if text[at] in "{[" or start == 0:
        return at
    while at < len(text):
        at = _line_end(text, at)
        while at < len(text) and text[at].isspace():
            at += 1
        if at < len(text) and text[at] in "{[":
            return at
    return None


def _line_end(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found + 1


def csv_rows(
    name: str, text: str, wanted: frozenset[str]
) -> tuple[list[dict[str, str]], list[str]]:
    """Rows of the CSV tables whose heading has these columns, and notes on what is cut off.

    A table ends at a line of a log. Raises InputError for a row that has not as many values as the
    heading has names: nobody knows which value has none.
    """
    rows: list[dict[str, str]] = []
    notes: list[str] = []
    lines = text.splitlines(keepends=True)
    at = 0
    while at < len(lines):
        heading = next(_rows(lines[at : at + 1]), (0, []))[1]
        at += 1
        if not wanted <= set(heading):
            continue
        for read, values in _rows(lines[at:]):
            line = at + read
            ends = not any(one.strip() for one in lines[line:])
            cut = ends and (len(values) < len(heading) or "".join(lines[at:]).count('"') % 2 == 1)
            if cut and rows and len(values) <= len(heading):
                notes.append(f"{name}: line {line} is cut off; the {len(rows)} before are taken")
            elif len(values) == len(heading) and not cut:
                rows.append(dict(zip(heading, values, strict=True)))
                continue
            elif len(values) > 2:
                raise InputError(
                    f"{name}: line {line} is cut off or has too many columns: "
                    f"{len(values)} values under {len(heading)} names"
                )
            at = line
            break
        else:
            break
    return rows, notes


def _rows(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The lines as CSV: how many lines were read, and the values; empty lines are passed over."""
    reader = csv.reader(lines)
    try:
        for values in reader:
            if values:
                yield reader.line_num, values
    except csv.Error:
        return


def tables(text: str, wanted: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of Markdown tables (or of tabs, as a browser copies them) whose heading has these
    columns: line number and cells. Lines of a log may stand between them."""
    heading: Sequence[str] = ()
    needed = set(wanted)
    for at, line in enumerate(text.splitlines()):
        bar = "|" if "|" in line else "\t"
        cells = [cell.strip() for cell in line.strip("`> \r\n").strip(bar).split(bar)]
        if len(cells) < 3:
            continue
        if needed <= {cell.lower() for cell in cells}:
            heading = [cell.lower() for cell in cells]
        elif heading and len(cells) == len(heading) and set("".join(cells)) - set("-: "):
            yield at, dict(zip(heading, cells, strict=True))
