"""Results on disk: one JSON object a line, appended with fsync, never rewritten.

A results folder holds `records.jsonl` and the `experiment.toml` it answers. A line is an
environment (once a run), a measurement (one workload of one replicate) or a quality figure (once
a variant). Standard library only; docs/records.md describes every key.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from bench import fields
from bench.errors import InputError
from bench.records import quick, shape
from bench.records.shape import OWN as OWN

SCHEMA = 1
FILE = "records.jsonl"

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
    """Codes of `bench.records.codes.CODES`."""
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
_REQUIRED = {
    cls: [
        name
        for name, f in known.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    for cls, known in _FIELDS.items()
}
_SHAPES: Mapping[type[Line], Mapping[str, Any]] = {
    Environment: shape.ENVIRONMENT,
    Record: shape.MEASUREMENT,
    QualityRecord: shape.QUALITY,
}
MOST_SAID = 4
"""Problems of one line that are said."""


EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def now() -> datetime.datetime:
    """The time, UTC, whatever the clock was set to."""
    try:
        return max(datetime.datetime.now(datetime.UTC), EPOCH)
    except (ValueError, OverflowError, OSError):  # a clock beyond the year 9999
        return datetime.datetime.max.replace(tzinfo=datetime.UTC)


def utc_now() -> str:
    """The time, UTC, to the microsecond: it tells two runs of a replicate apart."""
    return now().isoformat()


def to_json(line: Line) -> str:
    """One line of a results file, without its newline. NaN and infinity are refused."""
    table = {"schema": SCHEMA, "kind": _KIND_OF[type(line)]} | dataclasses.asdict(line)
    return json.dumps(table, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def from_json(text: str | bytes) -> Line:
    """The inverse of `to_json`: a line that every reader can use.

    Raises InputError that lists what is wrong with the line.
    """
    table = quick.parse_json(text)
    if not isinstance(table, dict):
        raise InputError("not a JSON object")
    cls = _class_of(table.pop("schema", None), table.pop("kind", None))
    known = _FIELDS[cls]
    if extra := table.keys() - known.keys():
        raise InputError(f"unknown keys: {', '.join(sorted(extra)[:MOST_SAID])}")
    if missing := [name for name in _REQUIRED[cls] if name not in table]:
        raise InputError(f"missing keys: {', '.join(missing)}")
    if found := shape.problems(table, _SHAPES[cls]):
        raise InputError("; ".join(found[:MOST_SAID]))
    for name in ("reasons", "nll", "kld", "same_top1"):
        if name in table:
            table[name] = tuple(table[name])
    return cls(**table)


def _class_of(schema: object, kind: object) -> type[Line]:
    """The class of a line. Raises InputError for another program's, or a later one's."""
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise InputError("schema: missing; this is not a gpu-cost-bench record")
    if schema > SCHEMA:
        raise InputError(f"schema {schema} is newer than {SCHEMA}; update gpu-cost-bench")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"kind: {fields.shown(kind)} is not one of {', '.join(KINDS)}")
    return KINDS[kind]
