"""What a foreign file says, and the records that become of it.

An importer turns a file into `Found`, one a measurement: what the file says, None where it says
nothing. `filling` adds what the user says; `lines` makes records. Nothing is guessed: what nobody
says is null with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.errors import InputError
from bench.exchange.reading import SourceText
from bench.exchange.values import Json
from bench.experiment import Variant
from bench.identity import key
from bench.records import Environment, Record

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


class NothingAnsweredError(InputError):
    """A run of several in a file of which no request was answered: the others are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the user says because the file does not."""

    model: str | None = None
    """A model of the catalog, so that bounds and claims know its shape."""
    quant: str | None = None
    engine: str | None = None
    gpu: str | None = None
    n_gpus: int | None = None
    n_prompt: int | None = None
    n_gen: int | None = None
    n_batch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Twice:
    """A figure that a file gives in two ways, which must agree."""

    what: str
    stated: float
    made: float
    """From the file's other figures."""
    of: str
    """What it is made from."""
    within: float = 0.02
    """Share by which rounding may part them."""


def out_of_place(
    what: str,
    middle: float | None,
    *,
    mean: float | None = None,
    std: float | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Iterator[Twice]:
    """A median that its distribution excludes: it lies within one standard deviation of the mean,
    is at most twice the mean of what is never below 0, and lies between the ends."""
    if middle is None:
        return
    ends: list[tuple[str, float, bool]] = []
    if mean is not None:
        ends.append(("twice the mean", 2 * mean, True))
    if mean is not None and std is not None:
        ends += [("mean + std", mean + std, True), ("mean - std", mean - std, False)]
    if low is not None:
        ends.append(("the least", low, False))
    if high is not None:
        ends.append(("the most", high, True))
    for of, end, most in ends:
        if middle > end * SLACK if most else middle < end / SLACK:
            yield Twice(what=what, stated=middle, made=end, of=of, within=0.0)


SLACK = 1.02
"""For figures that were rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRun:
    """One measurement of a foreign file, in our words and units; None is not said."""

    model: str | None = None
    card: str | None = None
    """Of the catalog, whose shape the model has where its name is another."""
    engine: str | None = None
    forks: bool = False
    """Whether forks of the engine write the same file, so that --engine may name one."""
    quant: str | None = None
    usual_quant: str | None = None
    """Scheme where neither the file, a name nor the user has one."""
    mode: str = "eager"
    dtype: str = "auto"
    device: str | None = None
    backend: str | None = None
    """CUDA, ROCm, Vulkan, Metal, RPC: what ran the model on the device."""
    gpu: str | None = None
    n_gpus: int | None = None
    """Cards that held the model, where the file says so."""
    layered: bool = False
    """Whether several cards hold layers, each after the other, and add no bandwidth."""
    threads: int | None = None
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Settings that make it another arm."""
    whole: bool = False
    """Whether the file says all of it, so that no flag goes with it."""
    name: str | None = None
    """Of the arm, where the file has it."""
    n_prompt: int | None = None
    n_gen: int | None = None
    n_batch: int | None = None
    tokens_each: float | None = None
    """Prompt and new tokens of a request together, where the file knows no more; of its total rate
    the new tokens' share is then `output_tok_s`."""
    needs_batch: bool = False
    """Whether the file means nothing without --n-batch."""
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
    twice: tuple[Twice, ...] = ()
    loaded: Json = field(default_factory=dict)
    """`Record.model`."""
    memory: Json = field(default_factory=dict)
    energy: Json = field(default_factory=dict)
    identity: Json = field(default_factory=dict)
    """`Environment.identity` as far as the file knows it."""
    state: Json = field(default_factory=dict)


def answered(
    source: SourceText, runs: Iterable[Any], make: Callable[[SourceText, Any], ForeignRun]
) -> list[ForeignRun]:
    """The runs of a file that were answered; the others are named. InputError if none was."""
    found: list[ForeignRun] = []
    empty: list[str] = []
    for run in runs:
        try:
            found.append(make(source, run))
        except NothingAnsweredError as error:
            empty.append(str(error))
    if empty and not found:
        raise InputError(empty[0])
    source.notes += [f"left out: {line}" for line in dict.fromkeys(empty)]
    return found


def lines(tool: str, source: SourceText, found: Iterable[ForeignRun]) -> list[Environment | Record]:
    """The lines of a results file: keys are made of the content, so that a second import is the
    same lines."""
    made: list[Environment | Record] = []
    environments: dict[str, Environment] = {}
    for position, one in enumerate(found):
        identity = {"imported_from": tool, "host": None, **one.identity}
        state = {"file": source.base, "absent": {"host": f"{tool} does not name the host"}}
        environment = Environment(
            id=key("environment", **identity), identity=identity, state=state | one.state
        )
        if environments.setdefault(environment.id, environment) is environment:
            made.append(environment)
        made.append(_record(tool, one, environment.id, position))
    return made


def _record(tool: str, one: ForeignRun, environment: str, position: int) -> Record:
    arm = Variant(
        model=str(one.model),
        engine=str(one.engine),
        quant=str(one.quant),
        mode=one.mode,
        device=str(one.device),
        threads=one.threads,
        options=one.options,
    )
    name = one.name or arm.name
    variant = asdict(arm) | {"name": name, "dtype": one.dtype, "source": tool}
    if one.card:
        variant["card"] = one.card
    workload: Json = {"n_prompt": one.n_prompt, "n_gen": one.n_gen, "n_batch": one.n_batch}
    samples = {name: list(values) for name, values in one.samples.items()}
    absent = dict(one.absent)
    if one.mean_lengths:
        absent["lengths"] = "requests differ in length: n_prompt and n_gen are rounded means"
    if one.n_batch is None and "n_batch" in absent:
        absent.setdefault("decode_tok_s", absent["n_batch"])
    if not one.dated:
        absent["started_at"] = f"{tool} records no time: the file's date is used"
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
