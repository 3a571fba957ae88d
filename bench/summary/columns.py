"""A columnar copy of a results file: what is read of each record, made once, checked by its hash.

`records.jsonl` stays the truth. The copy is a Parquet file in the user's cache, named after the
SHA-256 of the results file and of the code that read it, so another byte in either makes another
copy. Raw samples stay where they are: the copy knows the place of each line. docs/records.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.errors import BenchError, InputError
from bench.models.weights import cache_folder
from bench.records import Environment, Line, QualityRecord, Record, from_json
from bench.records.file import placed_lines, without_cycles
from bench.summary.energy import NO_WINDOW, EnergyWindow
from bench.summary.metrics import METRICS
from bench.summary.replicate import Doubt
from bench.summary.rows import Arms, replicate

if TYPE_CHECKING:
    import pyarrow

FIGURE: Final = "figure."
WINDOWS: Final = ("whole", "prefill", "decode")
WINDOW_FIGURES: Final = (
    "energy_j",
    "window_s",
    "tokens",
    "idle_power_w",
    "systematic_error",
    "disagreement",
)
COUNTS: Final = frozenset({"weights_bytes", "n_params", "peak_host_bytes", "peak_device_bytes"})
LOADED: Final = (*sorted(COUNTS), "quantized_fraction", "load_s")

FLOATS: Final = (
    "request_s",
    "first_token_s",
    "decoding_s",
    "noise",
    "host_ratio",
    "early_share",
    "temperature_start_c",
    "power_cap_share",
    "tokens_checked",
    "tokens_as_eager",
)
INTEGERS: Final = ("index", "position", "n_requests")
FLAGS: Final = ("ok", "overlaps", "served", "on_device", "drifts")
PLAIN: Final = ("key", "started_at")
TEXTS: Final = ("environment", "experiment", "origin", "status", "message", "clock")
"""Properties of a replicate, by how they are kept; texts that repeat are kept once each."""
OF_TABLES: Final = ("variant", "sizes", "absent", "doubts", "copies_weights", "dynamic", "kernel")
"""JSON texts that repeat."""

NO_NUMBERS: Final = (None,) * len(WINDOW_FIGURES)
AT_ONCE: Final = 20_000
"""Records that are held while a copy is made."""


def read_copy(file: Path) -> pyarrow.Table:
    """The columns of a results file, from the copy if there is one of these very bytes.

    Raises InputError where the file cannot be read. A copy that cannot be kept is made each time.
    """
    place = _place(file)
    found = None if place is None else _kept(place)
    if found is None:
        with without_cycles():
            found = make(file)
        if place is not None:
            with suppress(OSError):
                _keep(found, place)
    return found


def make(file: Path) -> pyarrow.Table:
    """Read every line of a results file into columns.

    Of a key the last line counts, an `ok` one before a failure, at the place of the first, as
    `bench.records.file.read` has it.
    """
    import pyarrow as pa

    batches: list[Any] = []
    rows: list[tuple[Any, ...]] = []
    read = _Rows()
    place: dict[str, int] = {}
    order: list[int] = []
    """Of each key, the number of the row that counts."""
    good: list[bool] = []
    about: dict[str, list[Any]] = {"problems": [], "environments": [], "qualities": []}
    count = 0
    for number, offset, text in placed_lines(file):
        try:
            line = from_json(text)
        except InputError as error:
            about["problems"].append([number, str(error)])
            continue
        if not isinstance(line, Record):
            kind = "environments" if isinstance(line, Environment) else "qualities"
            about[kind].append([offset, len(text)])
            continue
        at = place.get(line.key)
        if at is None:
            place[line.key] = len(order)
            order.append(count)
            good.append(line.status == "ok")
        elif not good[at] or line.status == "ok":
            order[at], good[at] = count, line.status == "ok"
        rows.append((*read.of(line), offset, len(text)))
        count += 1
        if len(rows) == AT_ONCE:
            batches.append(_batch(rows))
            rows = []
    batches.append(_batch(rows))
    table = pa.Table.from_batches(batches, schema=_schema()).unify_dictionaries()
    if order != list(range(count)):
        table = table.take(order).unify_dictionaries()
    return table.combine_chunks().replace_schema_metadata({"about": json.dumps(about)})


def line_at(file: Path, offset: int, length: int) -> Line:
    """One line of a results file again, by its place. Raises InputError if it is another now."""
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            return from_json(stream.read(length))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from error


class _Rows:
    """Replicates as rows of the copy; what is equal in many is written once."""

    def __init__(self) -> None:
        self._arms = Arms()
        self._texts: dict[int, tuple[object, str]] = {}

    def of(self, record: Record) -> tuple[Any, ...]:
        """In the order of the schema, but for the place of the line."""
        one = replicate(record, self._arms)
        loaded, energy = one.loaded, one.energy
        figures = one.figures
        windows = [_window(getattr(energy, name)) for name in WINDOWS]
        return (
            *(getattr(one, name) for name in FLOATS),
            *(getattr(loaded, name) for name in LOADED),
            *(figures.get(name) for name in METRICS),
            *(value for numbers, _ in windows for value in numbers),
            *(getattr(one, name) for name in (*INTEGERS, *FLAGS, *PLAIN, *TEXTS)),
            self._text(one.arm, one.arm.settings),
            json.dumps(one.sizes),
            json.dumps(one.absent) if one.absent else "{}",
            _doubts(one.doubts) if one.doubts else "[]",
            json.dumps(one.copies_weights),
            loaded.dynamic,
            loaded.kernel,
            *(rest for _, rest in windows),
        )

    def _text(self, of: object, value: object) -> str:
        found = self._texts.get(id(of))
        if found is None:
            found = self._texts[id(of)] = (of, json.dumps(value))  # kept, so that its id stays its
        return found[1]


def _doubts(doubts: Sequence[Doubt]) -> str:
    return json.dumps([[doubt.code, *sorted(doubt.parts)] for doubt in doubts])


def _window(window: EnergyWindow) -> tuple[tuple[float | None, ...], str | None]:
    if window is NO_WINDOW:
        return NO_NUMBERS, None
    rest = json.dumps([window.scope, dict(window.absent)])
    return tuple(getattr(window, figure) for figure in WINDOW_FIGURES), rest


@cache
def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    kinds = dict.fromkeys([*FLOATS, *LOADED, *(FIGURE + name for name in METRICS)], pa.float64())
    kinds |= {f"{name}.{figure}": pa.float64() for name in WINDOWS for figure in WINDOW_FIGURES}
    kinds |= dict.fromkeys(INTEGERS, pa.int64()) | dict.fromkeys(FLAGS, pa.bool_())
    kinds |= dict.fromkeys(PLAIN, pa.string())
    texts = (*TEXTS, *OF_TABLES, *(f"{name}.rest" for name in WINDOWS))
    kinds |= dict.fromkeys(texts, pa.dictionary(pa.int32(), pa.string()))
    kinds |= dict.fromkeys(("offset", "length"), pa.int64())
    return pa.schema(list(kinds.items()))


def _batch(rows: Sequence[tuple[Any, ...]]) -> pyarrow.RecordBatch:
    import pyarrow as pa

    schema = _schema()
    values = zip(*rows, strict=True) if rows else [()] * len(schema)
    columns = [
        pa.array(column, type=field.type)
        if not pa.types.is_dictionary(field.type)
        else pa.array(column, type=pa.string()).dictionary_encode()
        for field, column in zip(schema, values, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def about(table: pyarrow.Table) -> dict[str, list[Any]]:
    """Lines that are no records: `problems` with number and text, the others with their place."""
    found: dict[str, list[Any]] = json.loads(table.schema.metadata[b"about"])
    return found


def others(file: Path, table: pyarrow.Table) -> Iterator[Environment | QualityRecord]:
    """The lines of a results file that are no measurements, environments first."""
    kept = about(table)
    for offset, length in (*kept["environments"], *kept["qualities"]):
        line = line_at(file, offset, length)
        assert not isinstance(line, Record)
        yield line


# --- where it lies ---------------------------------------------------------------------------


def _place(file: Path) -> Path | None:
    """Where the copy of these bytes lies; None where the cache cannot be trusted."""
    try:
        folder = cache_folder() / "columns"
    except BenchError:
        return None
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from error
    return folder / f"{digest[:40]}-{_code()[:16]}.parquet"


@cache
def _code() -> str:
    """A hash of the code that reads records: other code may read other figures."""
    package = Path(__file__).parent.parent
    files = [
        file for room in ("summary", "records", "demand") for file in (package / room).glob("*.py")
    ]
    files += [
        package / "fields.py",
        package / "statistics" / "__init__.py",
        package / "experiment" / "devices.py",
    ]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _kept(place: Path) -> pyarrow.Table | None:
    """The copy, if it is a file of this user's own and whole; a link is not followed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        held = os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    with os.fdopen(held, "rb") as stream:
        facts = os.fstat(stream.fileno())
        own = not hasattr(os, "geteuid") or facts.st_uid == os.geteuid()
        if not own or not stat.S_ISREG(facts.st_mode) or facts.st_mode & 0o022:
            return None
        try:
            found = pq.read_table(stream)
        except (OSError, pa.ArrowException):  # cut short, or no Parquet
            return None
    whole = found.schema.equals(_schema()) and b"about" in (found.schema.metadata or {})
    return found.combine_chunks() if whole else None


def _keep(table: pyarrow.Table, place: Path) -> None:
    """Write it beside and put it in its place, so that nobody reads half of it."""
    import pyarrow.parquet as pq

    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if place.parent.is_symlink():
        return
    held, name = tempfile.mkstemp(dir=place.parent, suffix=".part")  # 0600, and no link
    try:
        with os.fdopen(held, "wb") as stream:
            pq.write_table(table, stream, compression="zstd", compression_level=1)
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
