"""What a worker is told and what it says: the lines between it and its parent, typed on both ends.

A job is one JSON object on the worker's stdin; an event is one on its stdout, with its kind under
`event`. `sent` makes the object, `job` and `event` read it back (by `bench.fields`, which names
each problem). Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeVar

from bench import fields
from bench.engines.messages import Job, Loaded, job_of
from bench.errors import InputError
from bench.experiment import Measure, Workload
from bench.models.shapes import Shape

T = TypeVar("T")
Task = Literal["probe", "shape", "measure", "quality", "fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityTask:
    """The text whose likelihood is asked for. See `bench.quality.evaluate`."""

    text: str
    max_tokens: int
    window: int
    base: str | None
    """File with the baseline arm's predictions, for the others."""
    keep: str | None
    """File to keep them in, for the baseline arm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitTask:
    """The requests of which the largest batch is asked for."""

    n_prompt: int
    n_gen: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Everything that a worker is told."""

    task: Task
    engine: str = ""
    load: Job | None = None
    """What to load; None for a probe."""
    device: str = "auto"
    """Of a probe."""
    architecture: Mapping[str, Any] | None = None
    """The config.json whose shape is asked for."""
    workloads: tuple[Workload, ...] = ()
    measure: Measure | None = None
    quality: QualityTask | None = None
    fit: FitTask | None = None

    def problems(self) -> list[str]:
        needs = {"measure": ("load", "measure"), "quality": ("load", "quality"), "fit": ("load",)}
        needs["shape"] = ("architecture",)
        missing = [name for name in needs.get(self.task, ()) if getattr(self, name) is None]
        return [f"{name}: missing for task {self.task}" for name in missing]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What is being done now."""

    phase: str
    workload: Workload | None = None
    """The one that begins."""
    n_batch: int | None = None
    """The one that is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Loaded):
    """The model is loaded."""

    load_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A workload was measured: the parts of its `bench.records.Record`."""

    workload: Workload
    samples: Mapping[str, Any]
    warmup: Mapping[str, Any]
    memory: Mapping[str, Any]
    device: Mapping[str, Any]
    energy: Mapping[str, Any]
    absent: Mapping[str, str]
    reasons: tuple[str, ...]
    first_tokens: tuple[tuple[int, ...], ...]
    notes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Something went wrong: with a workload, or before any."""

    code: str
    """Of `bench.records.codes.CODES`."""
    message: str
    """One line for the user."""
    device: Mapping[str, Any] = field(default_factory=dict)
    """What was counted before it failed."""
    workload: Workload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityDone:
    """Figures of `bench.quality.evaluate`."""

    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The largest batch that fits: see `bench.worker.fitting.Fit`."""

    n_batch: int
    limited_by: str
    peaks: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a device's name stands for on this machine."""

    device: str
    kind: str
    capability: tuple[int, ...] | None
    n_sm: int | None
    arch: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaped:
    """What a model is made of, counted on its modules."""

    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Everything that was asked is done."""


Event = Phase | Ready | Measured | Failed | QualityDone | Fit | Probed | Shaped | Done

KINDS: Final[Mapping[str, type[Event]]] = {
    "phase": Phase,
    "loaded": Ready,
    "measured": Measured,
    "failed": Failed,
    "quality": QualityDone,
    "fit": Fit,
    "probed": Probed,
    "shape": Shaped,
    "done": Done,
}
_KIND_OF: Final = {cls: kind for kind, cls in KINDS.items()}


def sent(message: Told | Event) -> dict[str, Any]:
    """The JSON object of a job or an event; what is None by default is left out."""
    table = {name: value for name, value in asdict(message).items() if value is not None}
    if isinstance(message, Told):
        return table
    if isinstance(message, Ready | Probed):
        table = asdict(message)  # None is an answer there
    return {"event": _KIND_OF[type(message)]} | table


def told(table: Mapping[str, Any]) -> Told:
    """The job of a JSON object. Raises InputError that names each problem."""
    load = table.get("load")
    found = dict(table) | ({} if load is None else {"load": job_of(load)})
    return _built(Told, found)


def event(table: Mapping[str, Any]) -> Event:
    """The event of a JSON object. Raises InputError that names each problem."""
    rest = {name: value for name, value in table.items() if name != "event"}
    kind: type[Event] | None = KINDS.get(str(table.get("event")))
    if kind is None:
        raise InputError(f"event: {table.get('event')!r} is not one of {', '.join(KINDS)}")
    found: Event = _built(kind, rest)
    return found


def _built(kind: type[T], table: Mapping[str, Any]) -> T:
    problems: list[str] = []
    found = fields.build(kind, table, "", problems)
    if found is None or problems:
        raise InputError(*problems)
    return found
