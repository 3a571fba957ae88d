"""A file that another tool wrote, and the records that its figures become.

An importer turns a file into `Found`, one a measurement; `lines` makes records of them. Nothing is
guessed: what a file does not say is asked of the user (`Given`) or is null with the reason.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import InputError
from bench.experiment import Variant
from bench.identity import key
from bench.records import Environment, Record

Json = dict[str, Any]
UNKNOWN = "unknown"
"""Scheme, engine or device that neither the file nor the user names."""

NOT_READ: Mapping[str, str] = {
    "peak_memory_bytes": "the tool does not report it",
    "energy_j": "the tool reads no energy counter",
}

SERVED: Mapping[str, str] = {
    "prefill_tok_s": "ttft_s is as served, with queue and network: not the prompt's own time",
}
"""The rate that a client of a server cannot know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the user says because the file does not."""

    model: str | None = None
    """A model of the catalog, so that bounds and claims know its shape."""
    quant: str | None = None
    engine: str | None = None
    gpu: str | None = None
    n_prompt: int | None = None
    n_gen: int | None = None
    n_batch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One measurement of a foreign file, in our words and units."""

    model: str
    engine: str
    quant: str = UNKNOWN
    mode: str = "eager"
    dtype: str = "auto"
    device: str
    threads: int | None = None
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Settings that make it another arm."""
    name: str | None = None
    """Of the arm, where the file has it."""
    n_prompt: int
    n_gen: int
    n_batch: int | None
    mean_lengths: bool = False
    """Whether requests differ in length, and `n_prompt` and `n_gen` are rounded means."""
    replicate: int = 0
    key: str | None = None
    """Of the piece of work, where the file has it."""
    started_at: str
    dated: bool = True
    """Whether the file says when; else `started_at` is the file's date, and no part of the key."""
    samples: Mapping[str, Sequence[Any]]
    """Seconds and rates, by the names of docs/records.md."""
    absent: Mapping[str, str]
    reasons: tuple[str, ...] = ()
    loaded: Json = field(default_factory=dict)
    """`Record.model`."""
    memory: Json = field(default_factory=dict)
    energy: Json = field(default_factory=dict)
    identity: Json
    """`Environment.identity` as far as the file knows it."""
    state: Json = field(default_factory=dict)


def lines(tool: str, file: Path, found: Iterable[Found]) -> list[Environment | Record]:
    """The lines of a results file: keys are made of the content, so that a second import is the
    same lines."""
    made: list[Environment | Record] = []
    environments: dict[str, Environment] = {}
    for position, one in enumerate(found):
        identity = {"imported_from": tool, "host": None, **one.identity}
        state = {"file": file.name, "absent": {"host": f"{tool} does not say on which host"}}
        environment = Environment(
            id=key("environment", **identity), identity=identity, state=state | one.state
        )
        if environments.setdefault(environment.id, environment) is environment:
            made.append(environment)
        made.append(_record(tool, one, environment.id, position))
    return made


def _record(tool: str, one: Found, environment: str, position: int) -> Record:
    arm = Variant(
        model=one.model,
        engine=one.engine,
        quant=one.quant,
        mode=one.mode,
        device=one.device,
        threads=one.threads,
        options=one.options,
    )
    name = one.name or arm.name
    variant = asdict(arm) | {"name": name, "dtype": one.dtype, "source": tool}
    workload: Json = {"n_prompt": one.n_prompt, "n_gen": one.n_gen, "n_batch": one.n_batch}
    samples = {name: list(values) for name, values in one.samples.items()}
    absent = dict(one.absent)
    if one.mean_lengths:
        absent["lengths"] = "requests differ in length: n_prompt and n_gen are rounded means"
    if one.n_batch is None and "n_batch" in absent:
        absent.setdefault("decode_tok_s", absent["n_batch"])
    if not one.dated:
        absent["started_at"] = f"{tool} does not say when: the date of the file"
    return Record(
        key=key(
            "import",
            tool=tool,
            variant=variant,
            workload=workload,
            samples=samples,
            replicate=one.replicate,
            work=one.key,
            environment=environment,
            started_at=one.started_at if one.dated else None,
        ),
        environment=environment,
        experiment=f"import-{tool}",
        variant=variant,
        workload=workload,
        replicate=one.replicate,
        position=position,
        started_at=one.started_at,
        status="ok",
        reasons=one.reasons,
        samples=samples,
        model=one.loaded,
        memory=one.memory,
        energy=one.energy,
        absent=absent,
        origin=tool,
    )


def unsaid(tool: str, given: Given, card: str | None = None) -> dict[str, str]:
    """Why scheme and card are missing, where neither the file nor the user names them, and what a
    client never reads."""
    absent = dict(NOT_READ)
    if not given.quant:
        absent["quant"] = f"{tool} does not say in which scheme; --quant does"
    if not (card or given.gpu):
        absent["device"] = f"{tool} names no card, or several; --gpu does"
    return absent


def read_text(path: Path) -> str:
    """The file's text. InputError if it is not there, is empty or is no text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text") from None
    if not text.strip():
        raise InputError(f"{path}: is empty")
    return text


def parse_json(path: Path, text: str) -> list[Any]:
    """The JSON values of a text: one, or one after another. NaN and infinity become None."""
    decoder = json.JSONDecoder(parse_constant=lambda _: None)
    values, at, end = [], 0, len(text.rstrip())
    while at < end:
        if text[at].isspace():
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as error:
            place = getattr(error, "pos", at)
            line = text.count("\n", 0, place) + 1
            cut = place >= end - 5 or "Unterminated" in str(error)
            why = "ends in the middle: cut off?" if cut else "is not JSON"
            raise InputError(f"{path}: {why} (line {line})") from None
        values.append(value)
    return values


def expect(path: Path, tool: str, table: object, keys: Iterable[str]) -> Json:
    """The table, if it is one with these keys. InputError that names what is missing."""
    if not isinstance(table, dict):
        raise InputError(f"{path}: is not a result of {tool}: expected a JSON object")
    missing = [name for name in keys if name not in table]
    if missing:
        raise InputError(f"{path}: is not a result of {tool} as known here: no {missing[0]!r}")
    return table


def number(path: Path, name: str, value: object) -> float:
    """A finite number above 0, such as a duration. InputError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{path}: {name}: {value!r} is not a number")
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{path}: {name}: {value!r} is not above 0")
    return float(value)


def numbers(path: Path, name: str, values: object, scale: float = 1.0) -> list[float]:
    """A list of finite numbers above 0, each times `scale`."""
    if not isinstance(values, list):
        raise InputError(f"{path}: {name}: expected a list")
    return [number(path, f"{name}[{i}]", value) * scale for i, value in enumerate(values)]


def count(path: Path, name: str, value: object) -> int:
    """A whole number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{path}: {name}: {value!r} is not a whole number of at least 0")
    return value


def utc(moment: datetime.datetime) -> str:
    """A time as records have it; one without a zone is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.astimezone(datetime.UTC).isoformat()


def file_date(path: Path) -> str:
    """When the file was last written, for tools that do not say when they ran."""
    return utc(datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC))


def parse_time(path: Path, name: str, value: object, form: str | None = None) -> str:
    """A time in ISO 8601, or in `form` of strptime, as records have it."""
    try:
        assert isinstance(value, str)
        parse = datetime.datetime
        return utc(parse.strptime(value, form) if form else parse.fromisoformat(value))
    except (AssertionError, ValueError):
        raise InputError(f"{path}: {name}: {value!r} is not a time") from None
