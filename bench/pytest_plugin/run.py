"""What the fixture of `bench.pytest_plugin` does: settings -> experiment -> records -> figures.

Settings are those of one arm and one workload; a baseline is a second arm, measured in turns with
the first. docs/pytest.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench import fields
from bench.errors import BenchError, InputError, UnsupportedError, unknown
from bench.experiment import ArmEntry, CostAssumption, Experiment, Grid, Level, Quality
from bench.experiment.devices import on_cpu
from bench.records.file import Results
from bench.statistics.paired import MIN_PAIRS

if TYPE_CHECKING:
    from bench.summary import Replicate, Summary
    from bench.summary import Row as SummaryRow

Row = Mapping[str, Any]
Seconds = Literal["e2e", "prefill", "decode"]
ARM = ("model", "engine", "quant", "mode", "options")
"""Settings in which a baseline may differ."""

SHORT: Mapping[str, int | float] = {
    "pairs": 1,
    "iterations": 1,
    "window_s": 0.0,
    "warmup_max_s": 0.0,
    "idle_s": 0.0,
}
"""One request of each arm: with --benchmark-disable it is shown that it works, not how fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Settings of one test; names and defaults are those of an experiment where it has them."""

    model: str = "smollm2-135m-instruct"
    engine: str = "transformers"
    quant: str = "none"
    mode: str | None = None
    """None: the engine's default."""
    dtype: str = "auto"
    device: str = "auto"
    threads: int | None = None
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    n_prompt: int = 128
    n_gen: int = 32
    n_batch: int = 1
    level: Level | None = None
    """None: `standard` where there is a baseline, else `quick`."""
    measure: Mapping[str, int | float] = field(default_factory=dict)
    """Overrides of the level, such as `pairs`."""
    text: str | None = None
    """Text that quality is measured on; None: it is not."""
    usd_per_hour: float | None = None
    """Price of an hour of the machine, always busy; None: no cost."""
    seconds: Seconds = "e2e"
    """Which part of a request is handed to pytest-benchmark."""
    baseline: str | Mapping[str, Any] | None = None
    """A scheme, or settings of `ARM` in which the other arm differs."""
    metric: str = "decode"
    """What the gate is on; a name of `bench compare --metric`."""
    fail_below: float | None = None
    """The test fails unless the whole interval of candidate / baseline is at or above this."""
    fail_above: float | None = None

    def problems(self) -> Iterable[str]:
        gated = self.fail_below is not None or self.fail_above is not None
        if gated and self.baseline is None:
            yield "fail_below, fail_above: a gate needs a baseline"
        if isinstance(self.baseline, Mapping):
            for name in self.baseline.keys() - set(ARM):
                yield f"baseline.{name}: a baseline differs in one of {', '.join(ARM)}"
        if self.usd_per_hour is not None and not self.usd_per_hour > 0:
            yield "usd_per_hour: must be above 0"

    def cost(self) -> CostAssumption | None:
        """The price of an hour that the test states."""
        if self.usd_per_hour is None:
            return None
        return CostAssumption(usd_per_hour=self.usd_per_hour, source="usd_per_hour of the test")

    @property
    def gated(self) -> bool:
        return self.fail_below is not None or self.fail_above is not None

    def arms(self) -> tuple[ArmEntry, ...]:
        """The candidate and, if there is one, the baseline before it."""
        candidate = ArmEntry(
            model=self.model,
            engine=self.engine,
            quant=self.quant,
            mode=self.mode,
            options=self.options,
        )
        if self.baseline is None:
            return (candidate,)
        other = {"quant": self.baseline} if isinstance(self.baseline, str) else dict(self.baseline)
        return (replace(candidate, **other), candidate)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCase:
    """What a test gets back. `found["decode_tok_s"]` is the figure of that name."""

    row: Row
    """Figures of the arm, with the keys of `bench run -o json`; `absent` says why one is None."""
    comparison: Row | None
    """Candidate over baseline in the gate's metric, with the keys of `bench compare -o json`."""
    seconds: tuple[float, ...]
    """Of each replicate the median of its requests: what pytest-benchmark is given."""
    results: Results
    folder: Path
    failures: tuple[str, ...]
    """Gates that do not hold, a line each."""
    extra_info: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.row[name]

    @property
    def valid(self) -> bool:
        """Whether nothing speaks against the arm's figures; `row["reasons"]` says what."""
        return bool(self.row["valid"])

    @property
    def line(self) -> str:
        """The arm, its speed and its comparison, to read."""
        row, ratio = self.row, self.comparison
        speed = row["decode_tok_s"] or row["prefill_tok_s"]
        said = f"{row['variant']}: {speed:,.1f} tok/s"
        if not self.valid:
            said += f" ({', '.join(row['reasons'])})"
        if ratio is None or ratio["ratio"] is None:
            return said
        said += f"; {ratio['metric']} {ratio['ratio']:.3f}x of {ratio['baseline']}"
        if ratio["ci_low"] is not None:
            said += f" ({ratio['ci_low']:.3f} .. {ratio['ci_high']:.3f})"
        return f"{said}: {ratio['verdict']}"


def wanted(
    tables: Sequence[Mapping[str, Any]], *, level: str | None, fail_below: float | None
) -> Wanted:
    """Settings of markers and call, later ones first; then those of the command line.

    Raises InputError that names every problem.
    """
    table = {name: value for one in tables for name, value in one.items()}
    if level is not None:
        table["level"] = level
    if fail_below is not None and table.get("baseline") is not None:
        table["fail_below"] = fail_below
    found: list[str] = []
    want = fields.build(Wanted, table, "", found)
    if want is None:
        raise InputError(*found)
    return want


def measure(want: Wanted, test: str, folder: Path, *, once: bool) -> MeasuredCase:
    """Run the test's experiment into a new folder. `once`: one request, and no gate.

    Raises InputError, and UnsupportedError where this machine cannot run the arm.
    """
    from bench.api import Logged, run
    from bench.report.tables.row import shown, table
    from bench.runner.naming import named
    from bench.runner.pinning import pinned
    from bench.summary import summarise
    from bench.summary.metrics import compared

    if want.metric not in compared():
        raise InputError(unknown("metric", want.metric, compared()))
    experiment = _experiment(want, test, once=once)
    if want.gated and not once and experiment.measuring.pairs < MIN_PAIRS:
        raise InputError(
            f"a gate needs {MIN_PAIRS} pairs, and there would be {experiment.measuring.pairs}; "
            "set level='standard' or measure={'pairs': 8}"
        )
    experiment = named(pinned(experiment, Logged().say))  # as its records will be named
    results = run(experiment, folder)
    summary = summarise(results)
    (mine,) = (row for row in summary if row.arm.name == experiment.variants[-1].name)
    if not mine.good:
        raise _failure(mine)
    figures = table(shown([mine], experiment.cost)[0])
    ratio, failures = (None, []) if once else _against(want, summary, experiment)
    return MeasuredCase(
        row=figures,
        comparison=ratio,
        seconds=tuple(_seconds(one, want.seconds) for one in mine.good),
        results=results,
        folder=folder,
        failures=tuple(failures),
        extra_info=_extra_info(want, mine, figures, ratio, folder),
    )


def _experiment(want: Wanted, test: str, *, once: bool) -> Experiment:
    level: Level = want.level or ("quick" if want.baseline is None else "standard")
    arms = want.arms()
    grid = Grid(
        model=(want.model,),
        device=want.device,
        dtype=want.dtype,
        threads=want.threads,
        n_prompt=(want.n_prompt,),
        n_gen=(want.n_gen,),
        n_batch=(want.n_batch,),
    )
    experiment = Experiment(
        name=slug(test),
        question=test,
        level=level,
        grid=grid,
        arm=arms,
        cost=want.cost(),
        measure=SHORT if once else want.measure,
        quality=Quality(text=want.text),
    )
    experiment = replace(experiment, baseline=experiment.variants[0].name)
    if problems := [*grid.problems(), *experiment.problems()]:
        raise InputError(*problems)
    return experiment


def slug(test: str) -> str:
    """A test's id as the name of an experiment and of a folder, short enough for a file system.

    Tests whose ids differ only in signs that a name cannot hold are told apart by a checksum.
    """
    from zlib import crc32

    plain = re.sub(r"[^a-z0-9]+", "-", test.lower()).strip("-")
    return f"{plain[-80:].lstrip('-')}-{crc32(test.encode()):08x}"


def _failure(row: SummaryRow) -> BenchError:
    """Why none of the replicates gave a figure."""
    last = row.replicates[-1]
    message = f"{row.arm.name}: {', '.join(last.reasons)}: {last.message}"
    if last.reasons == ("UNSUPPORTED",):
        return UnsupportedError(message)
    return BenchError(message)


def _against(
    want: Wanted, summary: Summary, experiment: Experiment
) -> tuple[Row | None, list[str]]:
    """The comparison with the baseline, and the gates that it does not keep."""
    from bench.comparison import Rules, compare
    from bench.report.tables.compare import gate_failures, table

    if want.baseline is None:
        return None, []
    base, mine = (variant.name for variant in experiment.variants)
    rows = compare(summary, Rules(metrics=(want.metric,)), base, mine)
    failures = gate_failures(rows, (want.metric,), want.fail_below, want.fail_above)
    return (table(rows[0]) if rows else None), failures


def _seconds(one: Replicate, part: Seconds) -> float:
    """Median over a replicate's requests, as in `bench export`: its figure, and one round."""
    parts = {"decode": one.decoding_s, "e2e": one.request_s, "prefill": one.first_token_s}
    seconds = parts[part]
    assert seconds is not None, "this tool's own records have all of them"
    return seconds


ARM_KEYS = (
    "variant",
    "model",
    "engine",
    "quant",
    "mode",
    "dtype",
    "device",
    "n_prompt",
    "n_gen",
    "n_batch",
    "n_replicates",
)
"""Keys of `bench run -o json` that stand beside those of `bench export --to pytest-benchmark`."""

RATIO = ("metric", "baseline", "ratio", "ci_low", "ci_high", "n_pairs", "verdict", "reasons")
"""Keys of `bench compare -o json` that stand in `comparison`."""


def _extra_info(
    want: Wanted, mine: SummaryRow, row: Row, ratio: Row | None, folder: Path
) -> dict[str, Any]:
    """What `bench export --to pytest-benchmark` writes, and what only a test has."""
    from bench.exchange.pytest_benchmark import NAME, extra_info

    info = extra_info(mine, want.cost(), mine.good)
    if want.seconds != "e2e":  # what is timed is no request, so records cannot be made of it again
        del info[NAME]
    missing = {name: why for name, why in row["absent"].items() if info.get(name, 0) is None}
    return (
        {name: row[name] for name in ARM_KEYS}
        | info
        | {
            "absent": missing,
            "seconds": want.seconds,
            "n_requests": [one.n_requests for one in mine.good],
            "comparison": None if ratio is None else {name: ratio[name] for name in RATIO},
            "environment": mine.host.id,
            "records": str(folder),
        }
    )


IDENTITY = (
    "gpu",
    "gpu_driver",
    "gpu_power_limit_w",
    "cpu",
    "cpu_cores",
    "torch",
    "transformers",
    "torchao",
    "bench",
)
"""What pytest-benchmark's `machine_info` is told of `Environment.identity`, where it is there."""


def machine(done: Sequence[MeasuredCase]) -> dict[str, Any]:
    """Devices that a run measured on, and the card, its driver and what was installed."""
    devices = sorted({str(found.row["device"]) for found in done})
    identities = [e.identity for found in done for e in found.results.environments.values()]
    whole = {name: value for identity in identities for name, value in identity.items() if value}
    return _described(devices, whole)


def machine_now(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The same of this machine now, for the devices of a saved run."""
    from bench.devices.environment import capture
    from bench.engines.registry import packages

    devices = list(saved.get("devices", ()))
    on_card = [name for name in devices if not _on_host(name)]
    return _described(devices, capture(on_card[0] if on_card else "cpu", packages()).identity)


def _described(devices: list[str], identity: Mapping[str, Any]) -> dict[str, Any]:
    return {"devices": devices} | {name: identity.get(name) for name in IDENTITY}


def other_device(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How the device that counts differs, in words; None where it is the same."""
    for name in saved.get("devices", ()):
        part = "cpu" if _on_host(name) else "gpu"
        if name != SCRIPTED and saved.get(part) != now.get(part):
            return f"measured on {saved.get(part)}, this machine has {now.get(part)}"
    return None


SCRIPTED = "synthetic"


def _on_host(device: str) -> bool:
    return device == SCRIPTED or on_cpu(device)
