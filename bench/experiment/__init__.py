"""What will be measured: Experiment (a file), Variant (one arm), Workload, and the plan.

Standard library only: a plan touches no device and imports no engine.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from bench import fields
from bench.data import shipped
from bench.demand import demand
from bench.demand.limits import limits, requests_of
from bench.errors import InputError, unknown
from bench.experiment import modes
from bench.experiment.selectors import chosen

Level = Literal["quick", "standard", "strict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`n_batch` sequences of `n_prompt` tokens, each continued by exactly `n_gen` tokens.

    With `requests` lengths differ, and the two are their rounded means.
    """

    n_prompt: int
    n_gen: int
    n_batch: int = 1
    requests: str = ""
    """What is asked for, as `bench.demand` reads it; empty: all requests alike."""
    slo: str = ""
    """Limits that the highest rate is searched for, as `bench.demand.limits` reads them."""
    rate: float | None = None
    """Arrivals a second of a probe of that search; None keeps `n_batch` in flight."""
    n_requests: int | None = None
    """How many of them a probe judges."""

    def table(self) -> dict[str, Any]:
        """As in a record: what is not set is left out, as it was before there was such a thing."""
        plain = ("n_prompt", "n_gen", "n_batch")
        return {name: v for name, v in asdict(self).items() if name in plain or v}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One arm: a model on an engine in a scheme, with its settings."""

    model: str
    engine: str = "transformers"
    quant: str = "none"
    mode: str = "eager"
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Engine settings beyond the common ones."""

    @property
    def name(self) -> str:
        """What tells this arm from others: model/engine/quant, and settings not at default."""
        parts = [self.model, self.engine, self.quant]
        if self.mode != "eager":
            parts.append(self.mode)
        if self.dtype != "auto":
            parts.append(self.dtype)
        if self.threads is not None:
            parts.append(f"{self.threads}t")
        parts += [option_part(key, value) for key, value in sorted(self.options.items())]
        return "/".join(parts)

    def table(self) -> dict[str, Any]:
        """As in a record, the name with it."""
        return asdict(self) | {"name": self.name}


def option_part(key: str, value: object) -> str:
    """An option in an arm's name; a server's command would fill a line, so its program and a mark
    of all the rest."""
    if key != "serve":
        return f"{key}={value}"
    words = [word for word in str(value).split() if word != "env" and "=" not in word]
    mark = hashlib.sha256(str(value).encode()).hexdigest()[:6]
    return f"serve={words[0].rpartition('/')[2] if words else ''}-{mark}"


def started_by(options: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What the marks in names of started servers stand for: one sentence a command."""
    commands = dict.fromkeys(str(one["serve"]) for one in options if one.get("serve"))
    for command in commands:
        yield f"{option_part('serve', command)} is the server started by: {command}"


SWEPT: Final = ("model", "engine", "quant", "mode", "n_prompt", "n_gen", "n_batch", "requests")
"""The lists of a grid, of which every combination is measured."""

MOST_REPEATS: Final = 10_000
"""More pairs or iterations than anybody measures; their plan would be made before the first."""
MOST_WORK: Final = 100_000
"""The same of a grid's combinations."""
MOST_TOKENS: Final = 10**9
MOST_THREADS: Final = 10_000
MOST_SECONDS: Final = 10**7
"""Some four months."""
SEEDS: Final = range(2**63)
"""What every library takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """How long and how often to measure; the level gives the defaults."""

    pairs: int
    """Fresh replicates of each variant."""
    iterations: int
    """The least number of measured iterations in a replicate."""
    window_s: float
    """Iterations are repeated until they fill this many seconds."""
    warmup_max_s: float
    """Warm-up stops here even if the speed is not steady (reason NO_STEADY_STATE)."""
    warmup_window: int = 4
    """Number of requests that must agree before the speed counts as steady."""
    idle_s: float = 3.0
    """Seconds at rest, model loaded, over which idle power is measured, once a replicate."""
    time_limit_s: float = 1800.0
    """A worker that takes longer is stopped (reason TIMEOUT)."""

    def problems(self) -> Iterator[str]:
        for name in ("pairs", "iterations"):
            if not 1 <= getattr(self, name) <= MOST_REPEATS:
                yield f"{name}: must be at least 1 and at most {MOST_REPEATS:,}"
        if self.warmup_window < 2:
            yield "warmup_window: must be at least 2"
        for name in ("window_s", "warmup_max_s", "idle_s"):
            if getattr(self, name) < 0:
                yield f"{name}: must not be negative"
        if self.time_limit_s <= 0:
            yield "time_limit_s: must be above 0"
        for name in ("window_s", "warmup_max_s", "idle_s", "time_limit_s"):
            if getattr(self, name) > MOST_SECONDS:
                yield f"{name}: must be at most {MOST_SECONDS:,}"


LEVELS: Final[Mapping[str, Measure]] = MappingProxyType(
    {
        "quick": Measure(pairs=3, iterations=3, window_s=2.0, warmup_max_s=30.0, warmup_window=2),
        "standard": Measure(pairs=8, iterations=5, window_s=10.0, warmup_max_s=60.0, idle_s=10.0),
        "strict": Measure(pairs=12, iterations=5, window_s=30.0, warmup_max_s=120.0, idle_s=30.0),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Lists whose combinations are the variants and workloads."""

    model: tuple[str, ...] = ("smollm2-135m-instruct",)
    engine: tuple[str, ...] = ("transformers",)
    quant: tuple[str, ...] = ("none",)
    mode: tuple[str, ...] = ()
    """Empty: the default of each engine."""
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    n_prompt: tuple[int, ...] = (128,)
    n_gen: tuple[int, ...] = (32,)
    n_batch: tuple[int, ...] = (1,)
    requests: tuple[str, ...] = ()
    """Instead of `n_prompt` and `n_gen`: shipped shapes, descriptions or trace files."""
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def problems(self) -> Iterator[str]:
        for name in SWEPT:
            values = getattr(self, name)
            if not values and name not in ("mode", "requests"):
                yield f"{name}: must not be empty"
            if len(set(values)) != len(values):
                yield f"{name}: a value is repeated"
        for name in ("n_prompt", "n_gen", "n_batch"):
            for value in getattr(self, name):
                if isinstance(value, int) and value < 1:
                    yield f"{name}: {value} must be at least 1"
                elif isinstance(value, int) and value > MOST_TOKENS:
                    yield f"{name}: {value:.6g} must be at most {MOST_TOKENS:,}"
        work = math.prod(len(getattr(self, name)) or 1 for name in SWEPT)
        if work > MOST_WORK:
            lists = ", ".join(name for name in SWEPT if len(getattr(self, name)) > 1)
            yield f"{lists}: {work:,} combinations; at most {MOST_WORK:,} are measured"
        for spec in self.requests:
            try:
                demand(spec)
            except InputError as error:
                yield from (f"requests: {problem}" for problem in error.problems)
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            yield f"threads: must be at least 1 and at most {MOST_THREADS:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmEntry:
    """One arm written out, where the combinations of a grid would hold arms that cannot be."""

    engine: str = "transformers"
    quant: str = "none"
    mode: str | None = None
    """None: the engine's default."""
    model: str | None = None
    """None: each model of the grid."""
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Laid over the grid's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Which text the quality of each variant is measured on; no text, no measurement."""

    text: str | None = "english"
    """Name of a shipped text (bench/data/text/NAME.txt) or a path to the user's own."""
    max_tokens: int = 1024
    window: int = 512
    """Tokens of context; windows do not overlap, and a window's first token is not scored."""

    @property
    def longest(self) -> int:
        """Tokens that are scored at once; 0 without a text."""
        return min(self.window, self.max_tokens) if self.text else 0

    def problems(self) -> Iterator[str]:
        if self.max_tokens < 2 or self.window < 2:
            yield "max_tokens, window: must be at least 2"


@dataclass(frozen=True, slots=True, kw_only=True)
class CostAssumption:
    """The price of an hour of this machine that `bench run` shows cost under."""

    usd_per_hour: float
    utilization: float = 1.0
    """Share of paid hours in which the machine makes tokens."""
    source: str
    """Where the price comes from, or that it is an assumption."""

    def problems(self) -> Iterator[str]:
        if not self.usd_per_hour > 0:
            yield "usd_per_hour: must be above 0"
        if not 0 < self.utilization <= 1:
            yield "utilization: must be above 0 and at most 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Quality bounds within which 'faster' may be called 'faster at equal quality'."""

    max_ppl_ratio: float | None = 1.02
    max_mean_kld: float | None = None
    min_same_top1: float | None = None

    def problems(self) -> Iterator[str]:
        for name in ("max_ppl_ratio", "max_mean_kld"):
            if (value := getattr(self, name)) is not None and value <= 0:
                yield f"{name}: must be above 0"
        if self.min_same_top1 is not None and not 0 <= self.min_same_top1 <= 1:
            yield "min_same_top1: must be at least 0 and at most 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One question and the grid that answers it."""

    name: str
    question: str
    level: Level = "standard"
    baseline: str = "none"
    """Scheme, engine, mode or full variant name that the other arms are compared with."""
    seed: int = 0
    slo: str = ""
    """Limits such as `ttft_p95=0.5,tpot_p95=0.05`: servers are searched for the highest rate of
    arrivals that keeps them; empty: no search."""
    grid: Grid = field(default_factory=Grid)
    arm: tuple[ArmEntry, ...] = ()
    """`[[arm]]` tables that stand in for the grid's engines, schemes and modes."""
    measure: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the level's `Measure`."""
    quality: Quality = field(default_factory=Quality)
    cost: CostAssumption | None = None
    gate: Gate = field(default_factory=Gate)

    def problems(self) -> Iterator[str]:
        from bench.models import NAME

        if not NAME.fullmatch(self.name):
            yield f"name: {self.name!r} is not lower-case letters, digits, '.', '_', '-'"
        names = [variant.name for variant in self.variants] if self.arm else []
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"arm: {name} is repeated"
        if self.seed not in SEEDS:
            yield f"seed: must be at least 0 and below 2^63, not {self.seed:.6g}"
        yield from self._measure()[1]
        yield from self._search()

    def _search(self) -> Iterator[str]:
        if not self.slo:
            return
        try:
            limits(self.slo)
        except InputError as error:
            yield from error.problems
        if self.grid.n_batch != (1,):
            yield "slo: concurrency follows the arrivals; use -b 1"
        if any("rate" in variant.options for variant in self.variants):
            yield "slo: the search sets the rate; leave the option out"

    def _measure(self) -> tuple[Measure, list[str]]:
        found: list[str] = []
        table = asdict(LEVELS[self.level]) | dict(self.measure)
        for name in ("pairs", "iterations", "warmup_window"):
            if isinstance(table[name], float) and table[name].is_integer():
                table[name] = int(table[name])
        measure = fields.build(Measure, table, "measure", found)
        return measure or LEVELS[self.level], found

    @property
    def measuring(self) -> Measure:
        """The level's rules with this experiment's overrides."""
        return self._measure()[0]

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the arms that `baseline` means."""
        return tuple(chosen(self.baseline, {v.name: v.table() for v in self.variants}))

    @property
    def _entries(self) -> Sequence[ArmEntry]:
        """The arms as they are written out, else the combinations of the grid."""
        g = self.grid
        return self.arm or [
            ArmEntry(engine=engine, quant=quant, mode=mode)
            for engine, quant, mode in itertools.product(g.engine, g.quant, g.mode or (None,))
        ]

    @property
    def moved(self) -> list[str]:
        """One line for each engine and mode that are taken as those of another engine."""
        lines = (modes.moved(entry.engine, entry.mode) for entry in self._entries)
        return list(dict.fromkeys(line for line in lines if line))

    @property
    def variants(self) -> list[Variant]:
        """Every arm, in the grid's order."""
        g, entries = self.grid, self._entries
        pairs = [(model, entry) for model in g.model for entry in entries if entry.model is None]
        pairs += [(entry.model, entry) for entry in entries if entry.model is not None]
        return [self._variant(model, entry) for model, entry in pairs]

    def _variant(self, model: str, entry: ArmEntry) -> Variant:
        engine, mode = modes.engine_and_mode(entry.engine, entry.mode)
        return Variant(
            model=model,
            engine=engine,
            quant=entry.quant,
            mode=mode,
            dtype=self.grid.dtype,
            device=self.grid.device,
            threads=self.grid.threads,
            options={**self.grid.options, **entry.options},
        )

    @property
    def workloads(self) -> list[Workload]:
        """Every workload, in the grid's order."""
        g = self.grid
        lengths = [(p, n, "") for p, n in itertools.product(g.n_prompt, g.n_gen)]
        lengths = [(*demand(spec).mean_lengths(), spec) for spec in g.requests] or lengths
        judged = requests_of(self.slo, self.level) if self.slo else None
        return [
            Workload(n_prompt=p, n_gen=n, n_batch=b, requests=spec, slo=self.slo, n_requests=judged)
            for (p, n, spec), b in itertools.product(lengths, g.n_batch)
        ]


def experiments() -> dict[str, Path]:
    """Name -> file of every shipped experiment."""
    return {path.stem: path for path in sorted(shipped("experiments").glob("*.toml"))}


def load_experiment(ref: str) -> Experiment:
    """Read an experiment: the name of a shipped one, or a file."""
    path = Path(ref)
    if path.suffix != ".toml" and not path.exists():
        known = experiments()
        if ref not in known:
            raise InputError(unknown("experiment", ref, known) + "; or give a .toml file")
        path = known[ref]
    return fields.load(Experiment, path)
