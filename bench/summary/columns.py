"""What is read of each record, as columns: the schema of the copy of a results file, and its rows.

`bench.summary.copies` says where the copy lies. Raw samples stay where they are: a column has the
place of each line. docs/records.md.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.errors import InputError
from bench.records import Environment, Line, Record, from_json
from bench.records.file import placed_lines, without_cycles
from bench.summary.energy import NO_WINDOW, EnergyWindow
from bench.summary.metrics import METRICS
from bench.summary.pooling import PHASES
from bench.summary.replicate import Doubt, Replicate
from bench.summary.rows import NO_TAILS, Arms, replicate, tails

if TYPE_CHECKING:
    import pyarrow

FIGURE: Final = "figure."
WINDOW_FIGURES: Final = (
    "energy_j",
    "window_s",
    "tokens",
    "idle_power_w",
    "systematic_error",
    "disagreement",
)
COUNTS: Final = ("weights_bytes", "n_params", "peak_host_bytes", "peak_device_bytes")
NOTED: Final = ("tokens_checked", "tokens_as_eager")
"""Whole numbers, some of them missing."""
LOADED: Final = (*COUNTS, "quantized_fraction", "load_s")

FLOATS: Final = (
    "request_s",
    "first_token_s",
    "decoding_s",
    "noise",
    "host_ratio",
    "early_share",
    "temperature_start_c",
    "power_cap_share",
)
INTEGERS: Final = ("index", "position", "n_requests", "started_us")
FLAGS: Final = ("ok", "overlaps", "served", "on_device", "drifts")
PLAIN: Final = ("key", "started_at")
TEXTS: Final = (
    "environment",
    "experiment",
    "origin",
    "status",
    "message",
    "clock",
    "requests_id",
)
"""Properties of a replicate, by how they are kept; texts that repeat are kept once each."""
TAILS: Final = ("ttft_p99_s", "tpot_p99_s", "itl_p99_s")
"""Of one record alone."""
OF_TABLES: Final = (
    "variant",
    "sizes",
    "absent",
    "doubts",
    "codes",
    "copies_weights",
    "dynamic",
    "kernel",
)
"""JSON texts that repeat; `codes` are a record's reasons as it has them."""

NO_NUMBERS: Final = (None,) * len(WINDOW_FIGURES)
AT_ONCE: Final = 5_000
"""Records that are held before they become columns."""


def part_as_columns(file: Path, begin: int, end: int) -> bytes:
    """Read the lines of a part of a results file; what is read of them, as a Parquet file.

    Every record is there, also one that a later line replaces. Lines that are no records are in the
    file's metadata: see `about`. Raises InputError where the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    batches: list[Any] = []
    rows: list[tuple[Any, ...]] = []
    read = _Rows()
    found: dict[str, Any] = {"problems": [], "environments": [], "qualities": [], "lines": 0}
    with without_cycles():
        for number, offset, text in placed_lines(file, begin, end):
            try:
                line = from_json(text)
            except InputError as error:
                found["problems"].append([number, str(error)])
                continue
            if isinstance(line, Record):
                rows.append((*read.of(line), offset, len(text)))
            else:
                kind = "environments" if isinstance(line, Environment) else "qualities"
                found[kind].append([offset, len(text)])
            if len(rows) == AT_ONCE:
                batches.append(_batch(rows))
                rows = []
    batches.append(_batch(rows))
    found["lines"] = _newlines(file, begin, end)
    table = pa.Table.from_batches(batches, schema=schema()).unify_dictionaries().combine_chunks()
    kept = io.BytesIO()
    with_words = table.replace_schema_metadata({"about": json.dumps(found)})
    pq.write_table(with_words, kept, compression="zstd", compression_level=1)
    return kept.getvalue()


def _newlines(file: Path, begin: int, end: int) -> int:
    """Lines of a part that end in it."""
    count = 0
    with file.open("rb") as stream:
        stream.seek(begin)
        while begin < end and (text := stream.read(min(1 << 20, end - begin))):
            count += text.count(b"\n")
            begin += len(text)
    return count


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
        windows = [_window(getattr(energy, name)) for name in PHASES]
        return (
            *(getattr(one, name) for name in (*FLOATS, *NOTED)),
            *(getattr(loaded, name) for name in LOADED),
            *(figures.get(name) for name in METRICS),
            *(value for numbers, _ in windows for value in numbers),
            *_tails(one),
            *(getattr(one, name) for name in (*INTEGERS, *FLAGS, *PLAIN, *TEXTS)),
            self._text(one.arm, one.arm.settings),
            json.dumps(one.sizes),
            json.dumps(one.absent) if one.absent else "{}",
            _doubts(one.doubts) if one.doubts else "[]",
            json.dumps(record.reasons) if record.reasons else "[]",
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


def _tails(one: Replicate) -> tuple[float | None, ...]:
    """99th percentiles of a server's record."""
    found = tails([one.record]) if one.ok and one.served else NO_TAILS
    return tuple(getattr(found, name) for name in TAILS)


def _doubts(doubts: Sequence[Doubt]) -> str:
    return json.dumps([[doubt.code, *sorted(doubt.parts)] for doubt in doubts])


def _window(window: EnergyWindow) -> tuple[tuple[float | None, ...], str | None]:
    if window is NO_WINDOW:
        return NO_NUMBERS, None
    rest = json.dumps([window.scope, dict(window.absent)])
    return tuple(getattr(window, figure) for figure in WINDOW_FIGURES), rest


@cache
def schema() -> pyarrow.Schema:
    """Every column and its type."""
    import pyarrow as pa

    kinds = dict.fromkeys(FLOATS, pa.float64()) | dict.fromkeys(NOTED, pa.int64())
    kinds |= {name: pa.int64() if name in COUNTS else pa.float64() for name in LOADED}
    kinds |= dict.fromkeys((FIGURE + name for name in METRICS), pa.float64())
    kinds |= {f"{name}.{figure}": pa.float64() for name in PHASES for figure in WINDOW_FIGURES}
    kinds |= dict.fromkeys(TAILS, pa.float64())
    kinds |= dict.fromkeys(INTEGERS, pa.int64()) | dict.fromkeys(FLAGS, pa.bool_())
    kinds |= dict.fromkeys(PLAIN, pa.string())
    texts = (*TEXTS, *OF_TABLES, *(f"{name}.rest" for name in PHASES))
    kinds |= dict.fromkeys(texts, pa.dictionary(pa.int32(), pa.string()))
    kinds |= dict.fromkeys(("offset", "length"), pa.int64())
    return pa.schema(list(kinds.items()))


def _batch(rows: Sequence[tuple[Any, ...]]) -> pyarrow.RecordBatch:
    import pyarrow as pa

    values = zip(*rows, strict=True) if rows else [()] * len(schema())
    columns = [
        pa.array(column, type=field.type)
        if not pa.types.is_dictionary(field.type)
        else pa.array(column, type=pa.string()).dictionary_encode()
        for field, column in zip(schema(), values, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema())
