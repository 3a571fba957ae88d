"""Results on disk: one JSON object a line, appended with fsync, never rewritten.

A results folder holds `records.jsonl` and the `experiment.toml` it answers. A line is an
environment (once a run), a measurement (one workload of one replicate) or a quality figure (once
a variant). Standard library only; docs/records.md describes every key.
"""

from __future__ import annotations

import dataclasses
import datetime
import gc
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, TypeVar

from bench.errors import InputError, UnsupportedError

SCHEMA = 1
FILE = "records.jsonl"
OWN = ("measured", "synthetic")
"""Origins of what `bench run` made; every other origin names the tool it was imported from."""
Status = Literal["ok", "failed"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The machine and software of one run."""

    id: str
    """Hash of `identity`: records of equal id may be pooled."""
    identity: Json
    """What must be the same for figures to be pooled: host, CPU, GPU, driver, versions, limits."""
    state: Json
    """What may change: load, governor, commit, time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One workload of one replicate. Figures are raw samples; summaries are made when reading."""

    key: str
    environment: str
    """`Environment.id`."""
    experiment: str
    variant: Json
    """Fields of `Variant`, and its `name`; `device` and `dtype` as resolved."""
    workload: Json
    replicate: int
    """Pair index: equal indices of two variants were measured side by side."""
    position: int
    started_at: str
    """UTC, ISO 8601."""
    status: Status
    reasons: tuple[str, ...] = ()
    """Codes of `bench.validity.REASONS`."""
    message: str | None = None
    """Why it failed, one line."""
    samples: Json = field(default_factory=dict)
    """`prefill_s` [iteration], `itl_s` [iteration][gap], `e2e_s` [iteration], host seconds.
    Imported ones may hold figures that their tool states instead: docs/exchange.md."""
    warmup: Json = field(default_factory=dict)
    model: Json = field(default_factory=dict)
    """As loaded: weights_bytes, quantized_fraction, n_params, dynamic, kernel, load_s, ..."""
    memory: Json = field(default_factory=dict)
    energy: Json = field(default_factory=dict)
    device: Json = field(default_factory=dict)
    """Clocks, temperature, foreign load, as read around the window."""
    absent: Json = field(default_factory=dict)
    """Figure -> why it is missing."""
    origin: str = "measured"
    """`measured`, `synthetic`, or the tool it was imported from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRecord:
    """Quality of one variant on one text, on the weights that were timed."""

    key: str
    environment: str
    experiment: str
    variant: Json
    started_at: str
    status: Status
    text: Json
    """name, sha256, tokens, window."""
    message: str | None = None
    nll: tuple[float, ...] = ()
    """Negative log likelihood of each scored token, nats, in text order."""
    kld: tuple[float, ...] = ()
    """KL divergence of each scored token from the baseline arm, nats; empty for the baseline."""
    same_top1: tuple[int, ...] = ()
    """1 where the most likely token is the baseline's."""
    baseline: str | None = None
    """Name of the variant that `kld` and `same_top1` compare with."""
    figures: Json = field(default_factory=dict)
    """Further figures: method, top-k, decoded text."""
    absent: Json = field(default_factory=dict)
    origin: str = "measured"


Line = Environment | Record | QualityRecord
_Kept = TypeVar("_Kept", Record, QualityRecord)
KINDS: Mapping[str, type[Line]] = {
    "environment": Environment,
    "measurement": Record,
    "quality": QualityRecord,
}
_KIND_OF = {cls: kind for kind, cls in KINDS.items()}
Run = tuple[str, str, str]
_FIELDS = {cls: {f.name: f for f in dataclasses.fields(cls)} for cls in KINDS.values()}


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


def utc_now() -> str:
    """The time, UTC, to the microsecond: it tells two runs of a replicate apart."""
    return datetime.datetime.now(datetime.UTC).isoformat()


def to_json(line: Line) -> str:
    """One line of a results file, without its newline. NaN and infinity are refused."""
    table = {"schema": SCHEMA, "kind": _KIND_OF[type(line)]} | dataclasses.asdict(line)
    return json.dumps(table, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def from_json(text: str) -> Line:
    """The inverse of `to_json`. Raises InputError that says what is wrong with the line."""
    try:
        table = json.loads(text)
    except ValueError as error:
        raise InputError(f"not valid JSON ({error})") from None
    if not isinstance(table, dict):
        raise InputError("not a JSON object")
    schema, kind = table.pop("schema", None), table.pop("kind", None)
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise InputError("schema: missing; this is not a gpu-cost-bench record")
    if schema > SCHEMA:
        raise InputError(f"schema {schema} is newer than {SCHEMA}; update gpu-cost-bench")
    if kind not in KINDS:
        raise InputError(f"kind: {kind!r} is not one of {', '.join(KINDS)}")
    cls = KINDS[kind]
    known = _FIELDS[cls]
    if extra := table.keys() - known.keys():
        raise InputError(f"unknown keys: {', '.join(sorted(extra))}")
    missing = [
        name
        for name, f in known.items()
        if name not in table
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"missing keys: {', '.join(missing)}")
    for name in ("reasons", "nll", "kld", "same_top1"):
        if isinstance(table.get(name), list):
            table[name] = tuple(table[name])
    return cls(**table)


def results_file(path: Path) -> Path:
    """The records file that a user means by a folder or a file."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file}: no such results; `bench run` makes them")
    return file


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line that is not blank."""
    with file.open(encoding="utf-8", errors="replace") as stream:
        for number, text in enumerate(stream, start=1):
            if text.strip():
                yield number, text


def read(*paths: Path) -> Results:
    """Read results folders or files. Lines that cannot be read are listed, the rest is kept.

    Within a file a later line replaces an earlier one of its key. Files do not replace each
    other's: the same work done on two days, or on two machines, was done twice.
    """
    with _no_cycles():
        return _read(paths)


@contextmanager
def _no_cycles() -> Iterator[None]:
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
                held = results.environments.get(line.id)
                # Equal identities; the first state, unless only a later one has the peaks.
                if held is None or ("peaks" in line.state and "peaks" not in held.state):
                    results.environments[line.id] = line
            elif isinstance(line, Record):
                _keep(records, line)
            else:
                _keep(qualities, line)
        all_records |= {_run(record): record for record in records.values()}
        all_qualities |= {_run(record): record for record in qualities.values()}
    results.records = list(all_records.values())
    results.qualities = list(all_qualities.values())
    return results


def _run(line: Record | QualityRecord) -> Run:
    """What tells work done twice from one line read twice."""
    return line.key, line.environment, line.started_at


def _keep(kept: dict[str, _Kept], line: _Kept) -> None:
    old = kept.get(line.key)
    if old is None or old.status != "ok" or line.status == "ok":
        kept[line.key] = line


class Writer:
    """Appends lines to a results folder; holds its lock, so that two runs cannot mix.

    Raises InputError if another run holds the folder, UnsupportedError if the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> Writer:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line that could not be written must not be written later either.
            self._stream = (self.folder / FILE).open("ab+", buffering=0)
        except OSError as error:
            raise InputError(f"{self.folder}: {error.strerror}; choose with --into") from error
        self._lock()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._stream is not None
        self._stream.close()
        self._stream = None

    def append(self, line: Line) -> None:
        """Write one line and wait until it is on the disk."""
        assert self._stream is not None, "use inside `with`"
        data = (to_json(line) + "\n").encode()
        try:
            self._end_broken_line()
            written = 0
            while written < len(data):
                written += self._stream.write(data[written:])
            os.fsync(self._stream.fileno())
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
        try:
            import fcntl
        except ImportError:  # not POSIX: two runs into one folder are the user's care
            return
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._stream.close()
            raise InputError(
                f"{self.folder}: another run is writing there; wait for it or use --into DIR"
            ) from None
