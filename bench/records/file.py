"""Records on disk: read, and appended with fsync."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from bench.errors import InputError, UnsupportedError
from bench.fields import MOST_BYTES
from bench.hiding import hide_all, private
from bench.records import (
    FILE,
    Environment,
    Line,
    QualityRecord,
    Record,
    Run,
    _Kept,
    from_json,
    to_json,
)


@dataclass(slots=True, kw_only=True)
class Results:
    """Everything read from some results folders or files."""

    environments: dict[str, Environment] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    """The last line of each key of a file, in order of first appearance; an `ok` one wins over a
    failure."""
    qualities: list[QualityRecord] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Lines that could not be read, with file and line."""


def results_file(path: Path) -> Path:
    """The records file that a user means by a folder or a file."""
    try:
        file = path / FILE if path.is_dir() else path
        found = file.is_file()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not found:
        raise InputError(f"{file}: no such results; `bench run` makes them")
    return file


def lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and text of each line that is not blank; of one that is too long, its start.

    Raises InputError where the file cannot be read.
    """
    return ((number, text) for number, _, text in placed_lines(file))


def placed_lines(
    file: Path, begin: int = 0, end: int | None = None
) -> Iterator[tuple[int, int, bytes]]:
    """As `lines`, with the byte at which each begins; of a part of the file that begins and ends
    with whole lines, if one is given, numbered from 1."""
    number = 0
    try:
        with file.open("rb") as stream:
            stream.seek(begin)
            while end is None or begin < end:
                text = stream.readline(MOST_BYTES + 1)
                if not text:
                    break
                number += 1
                rest, size = text, len(text)
                while len(rest) > MOST_BYTES and not rest.endswith(b"\n"):
                    rest = stream.readline(MOST_BYTES + 1)
                    size += len(rest)
                if not text.isspace():
                    yield number, begin, text
                begin += size
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from error


def read(*paths: Path) -> Results:
    """Read results folders or files. Lines that cannot be read are listed, the rest is kept.

    Within a file a later line replaces an earlier one of its key. Files do not replace each
    other's: the same work done on two days, or on two machines, was done twice.
    """
    with without_cycles():
        return _read(paths)


@contextmanager
def without_cycles() -> Iterator[None]:
    """Without looking for cycles, which records do not have: a third of the time for 100,000."""
    looked = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if looked:
            gc.enable()


def _read(paths: Sequence[Path]) -> Results:
    results = Results()
    all_records: dict[Run, Record] = {}
    all_qualities: dict[Run, QualityRecord] = {}
    for path in paths:
        records: dict[str, Record] = {}
        qualities: dict[str, QualityRecord] = {}
        file = results_file(path)
        for number, text in lines(file):
            try:
                line = from_json(text)
            except InputError as error:
                results.problems.append(f"{file}:{number}: {error}")
                continue
            if isinstance(line, Environment):
                keep_environment(results.environments, line)
            elif isinstance(line, Record):
                keep_last(records, line)
            else:
                keep_last(qualities, line)
        all_records |= {run_of(record): record for record in records.values()}
        all_qualities |= {run_of(record): record for record in qualities.values()}
    results.records = list(all_records.values())
    results.qualities = list(all_qualities.values())
    return results


def keep_environment(kept: dict[str, Environment], line: Environment) -> None:
    """Of equal identities the first state, unless only a later one has the peaks."""
    held = kept.get(line.id)
    if held is None or ("peaks" in line.state and "peaks" not in held.state):
        kept[line.id] = line


def run_of(line: Record | QualityRecord) -> Run:
    """What tells work done twice from one line read twice."""
    return line.key, line.environment, line.started_at


def keep_last(kept: dict[str, _Kept], line: _Kept) -> None:
    """Keep a line by its key: the last counts, an `ok` one before a failure."""
    old = kept.get(line.key)
    if old is None or old.status != "ok" or line.status == "ok":
        kept[line.key] = line


class Writer:
    """Appends lines to a results folder; holds its lock, so that two runs cannot mix.

    What becomes of the file meanwhile is seen at the next line: if it was removed, replaced or cut
    short, `say` is told, and the lines about this run's machine are written again before it.
    Raises InputError if another run holds the folder, UnsupportedError if the disk is full.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] | None = None) -> None:
        self.folder = folder
        self._say = say or (lambda _text: None)
        self._stream: IO[bytes] | None = None
        self._end = 0
        """Bytes of the file after the last line of ours."""
        self._machines: dict[str, Environment] = {}

    def __enter__(self) -> Writer:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def append(self, line: Line) -> None:
        """Write one line and wait until it is on the disk."""
        assert self._stream is not None, "use inside `with`"
        if lost := self._lost():
            self._say(f"{self.folder / FILE} {lost} during the run; a new one was started")
            self._close()
            self._open()
            for machine in self._machines.values():
                self._write(machine)
        if isinstance(line, Environment):
            self._machines[line.id] = line
        self._write(line)

    def _open(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line that could not be written must not be written later either.
            self._stream = (self.folder / FILE).open("ab+", buffering=0)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise InputError(f"{self.folder}: {why}; choose with --into") from error
        try:
            self._lock()
            self._end = self._stream.seek(0, os.SEEK_END)
        except OSError as error:  # a pipe
            self._close()
            raise InputError(f"{self.folder / FILE}: {error.strerror}") from error

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _lost(self) -> str | None:
        """What happened to the file since the last line; None if it is as it was left."""
        assert self._stream is not None
        mine = os.fstat(self._stream.fileno())
        try:
            there = (self.folder / FILE).stat()
        except OSError:
            return "was removed"
        if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            return "was replaced"
        return "was cut short" if there.st_size < self._end else None

    def _write(self, line: Line) -> None:
        assert self._stream is not None
        told = asdict(line)
        if (hidden := {name: private(hide_all(value)) for name, value in told.items()}) != told:
            line = type(line)(**hidden)
        # Half a character, as in names of files that are no text, is not read back either.
        data = (to_json(line) + "\n").encode("utf-8", "replace")
        try:
            self._end_broken_line()
            written = 0
            while written < len(data):
                written += self._stream.write(data[written:])
            os.fsync(self._stream.fileno())
            self._end = self._stream.tell()
        except OSError as error:
            raise UnsupportedError(
                f"{self.folder / FILE}: {error.strerror}; what was measured before is kept"
            ) from error

    def _end_broken_line(self) -> None:
        """Give a line that an interrupted write left without its newline one of its own."""
        assert self._stream is not None
        if self._stream.seek(0, os.SEEK_END) > 0:
            self._stream.seek(-1, os.SEEK_END)
            if self._stream.read(1) != b"\n":
                self._stream.write(b"\n")

    def _lock(self) -> None:
        assert self._stream is not None
        from filelock import lock_descriptor

        try:
            held = lock_descriptor(self._stream.fileno(), blocking=False)
        except OSError:  # a file system without locks: two runs into one folder are the user's care
            return
        if not held:
            self._close()
            raise InputError(
                f"{self.folder}: another run is writing there; wait for it or use --into DIR"
            )
