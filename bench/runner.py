"""Carry out a plan: start workers in order, save each record at once, run only what is missing.

The parent imports neither torch nor pandas, and sleeps while a worker measures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from bench.arms import Arm, resolve
from bench.devices import peaks
from bench.devices.environment import capture
from bench.devices.figures import Unreadable
from bench.errors import InputError, UnsupportedError
from bench.experiment import Experiment, Replicate, Workload, plan
from bench.process import Event, converse
from bench.quality_run import measure_qualities
from bench.records import Environment, QualityRecord, Record, Results, Writer, read, utc_now
from bench.texts import read_text
from bench.weights import cache_folder

ONCE = frozenset({"UNSUPPORTED", "OOM", "INPUT", "NONFINITE"})
"""Failures that a fresh process would only repeat."""


class Progress(Protocol):
    """Told what is going on; `bench.cli.run` shows it."""

    def say(self, text: str) -> None:
        """Something worth a line: a slow step, a failure."""

    def step(self, done: int, total: int, title: str) -> None:
        """A worker starts; `done` of `total` have ended."""

    def phase(self, text: str) -> None:
        """What the worker is doing."""


@dataclass(slots=True)
class Outcome:
    """What a run did."""

    results: Results = field(default_factory=Results)
    """What the experiment asks for, measured now or before."""
    keys: set[str] = field(default_factory=set)
    measured: int = 0
    failed: int = 0


def run(experiment: Experiment, folder: Path, progress: Progress) -> Outcome:
    """Measure what is missing of an experiment; each record is in `folder` as soon as it is made.

    Raises UnsupportedError if no variant at all can run here.
    """
    text = read_text(experiment.quality.text) if experiment.quality.text else None
    arms = resolve(experiment, progress.say)
    if all(arm.refusal for arm in arms):
        raise UnsupportedError("\n".join(dict.fromkeys(str(arm.refusal) for arm in arms)))
    outcome = Outcome()
    with Writer(folder) as writer:
        before = read(folder)
        for problem in before.problems:
            progress.say(f"skipped a broken line: {problem}")
        environment = capture(arms[0].variant.device)
        check_environment(before, environment, folder)
        check_packages(before, arms, folder)
        keep_experiment(experiment, folder)
        writer.append(with_peaks(environment, arms[0].variant.device, progress))
        session = Session(experiment, writer, environment.id, progress, outcome)
        session.measure(arms, done={r.key for r in before.records if r.status == "ok"})
        if text is not None:
            measure_qualities(session, arms, text, before.qualities)
    outcome.results = read(folder)
    outcome.results.problems.clear()  # said above
    outcome.results.records = [r for r in outcome.results.records if r.key in outcome.keys]
    outcome.results.qualities = [q for q in outcome.results.qualities if q.key in outcome.keys]
    return outcome


def with_peaks(environment: Environment, device: str, progress: Progress) -> Environment:
    """The environment with the rates that its device reaches: measured once, then kept."""
    if device.partition(":")[0] not in ("cpu", "cuda", "xpu", "mps"):
        return environment  # nothing here computes
    state = dict(environment.state)
    try:
        state["peaks"] = peaks.undisturbed(cache_folder(), device, environment.id, progress.say)
    except Unreadable as reason:
        state["absent"] = state.get("absent", {}) | {"peaks": str(reason)}
    return replace(environment, state=state)


def check_environment(before: Results, environment: Environment, folder: Path) -> None:
    """Refuse to mix figures of another machine or other versions into one folder."""
    for old in before.environments.values():
        if old.id == environment.id:
            continue
        was, now = old.identity, environment.identity
        differing = [
            f"{name} {was.get(name)!r} -> {now.get(name)!r}"
            for name in sorted(was.keys() | now.keys())
            if was.get(name) != now.get(name)
        ]
        raise InputError(
            f"{folder} holds records of another machine or other versions "
            f"({'; '.join(differing[:3])}), which cannot be pooled; choose another with --into DIR"
        )


def check_packages(before: Results, arms: Sequence[Arm], folder: Path) -> None:
    """Refuse to mix figures that an engine gave with other packages of its own environment."""
    wanted = {arm.variant.name: arm.home.fingerprint for arm in arms if arm.home}
    lines: list[Record | QualityRecord] = [*before.records, *before.qualities]
    for record in lines:
        name, packages = record.variant["name"], record.variant.get("packages")
        if record.status == "ok" and packages != wanted.get(name, packages):
            raise InputError(
                f"{folder} holds records of {name} with other packages of its engine, which "
                "cannot be pooled; choose another with --into DIR"
            )


def keep_experiment(experiment: Experiment, folder: Path) -> None:
    """Put the experiment, as run, beside its records: one line for each that was run there."""
    line = json.dumps(asdict(experiment), sort_keys=True, ensure_ascii=False)
    path = folder / "experiments.jsonl"
    if path.exists() and line in path.read_text(encoding="utf-8").splitlines():
        return
    with path.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


@dataclass(slots=True)
class Session:
    """One run into one folder."""

    experiment: Experiment
    writer: Writer
    environment: str
    progress: Progress
    outcome: Outcome
    hopeless: set[tuple[str, Workload]] = field(default_factory=set)
    """Variant and workload that failed in a way that a fresh process would only repeat."""

    def measure(self, arms: Sequence[Arm], done: set[str]) -> None:
        """Every replicate that is missing, in the planned order, each in a fresh process."""
        arm_of = {arm.variant.name: arm for arm in arms}
        variants = [arm.variant for arm in arms]
        steps = plan(variants, self.experiment.measuring.pairs, self.experiment.seed)
        for step in steps:
            arm = arm_of[step.variant.name]
            keys = {w: arm.key(self.experiment, w, step.index) for w in self.experiment.workloads}
            self.outcome.keys.update(keys.values())
            missing = [workload for workload, name in keys.items() if name not in done]
            title = f"{arm.variant.name}, replicate {step.index + 1}"
            self.progress.step(step.position, len(steps), title)
            if arm.refusal:
                if step.index == 0:
                    self.fail(arm, step, missing, ("UNSUPPORTED", arm.refusal))
                continue
            while left := [w for w in missing if (arm.variant.name, w) not in self.hopeless]:
                # A workload that kills its process must not take the rest of them along.
                recorded = self.worker(arm, step, left)
                missing = [workload for workload in left if workload not in recorded]

    def worker(self, arm: Arm, step: Replicate, workloads: Sequence[Workload]) -> set[Workload]:
        """Run one worker; returns the workloads that now have a record, of success or failure."""
        rules = self.experiment.measuring
        job = arm.job(self.experiment.seed, step.index) | {
            "task": "measure",
            "workloads": [asdict(workload) for workload in workloads],
            "measure": asdict(rules),
        }
        recorded: set[Workload] = set()
        current: Workload | None = None
        started, loaded = utc_now(), {}
        for event in converse(job, limit_s=rules.time_limit_s, command=arm.command):
            match event["event"]:
                case "phase":
                    if "workload" in event:
                        current, started = Workload(**event["workload"]), utc_now()
                    self.progress.phase(event["phase"])
                case "loaded":
                    loaded = event
                case "measured":
                    assert current is not None
                    self.save(arm, step, current, started, loaded, event)
                    recorded.add(current)
                    current = None
                case "failed":
                    # Outside a workload, it strikes all that were still to be measured.
                    struck = [current] if current else [w for w in workloads if w not in recorded]
                    why, about = (event["code"], event["message"]), event.get("device")
                    self.fail(arm, step, struck, why, started, about)
                    recorded.update(struck)
                    current = None
        return recorded

    def save(
        self, arm: Arm, step: Replicate, workload: Workload, started: str, loaded: Event,
        event: Event,
    ) -> None:  # fmt: skip
        """Append the record of a measured workload."""
        model = {name: value for name, value in loaded.items() if name not in ("event", "absent")}
        self.outcome.measured += 1
        self.writer.append(
            Record(
                **self.common(arm, loaded),
                key=arm.key(self.experiment, workload, step.index),
                workload=asdict(workload),
                replicate=step.index,
                position=step.position,
                started_at=started,
                status="ok",
                reasons=tuple(event["reasons"]),
                samples=event["samples"],
                warmup=event["warmup"],
                model=model | {n: event[n] for n in ("notes", "first_tokens")},
                memory=event["memory"],
                energy=event["energy"],
                device=event["device"],
                absent=loaded.get("absent", {}) | event["absent"],
            )
        )

    def fail(
        self, arm: Arm, step: Replicate, workloads: Sequence[Workload], why: tuple[str, str],
        started: str | None = None, about: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Append a record of failure for each workload: a failure is recorded, never absent."""
        code, message = why
        self.progress.say(f"{arm.variant.name}: {code}: {message}")
        for workload in workloads:
            self.outcome.failed += 1
            if code in ONCE:
                self.hopeless.add((arm.variant.name, workload))
            self.writer.append(
                Record(
                    **self.common(arm, {}),
                    key=arm.key(self.experiment, workload, step.index),
                    workload=asdict(workload),
                    replicate=step.index,
                    position=step.position,
                    started_at=started or utc_now(),
                    status="failed",
                    reasons=(code,),
                    message=message,
                    device=about or {},
                )
            )

    def unloadable(self, arm: Arm) -> bool:
        """Whether none of the workloads could be measured on this arm."""
        return all((arm.variant.name, w) in self.hopeless for w in self.experiment.workloads)

    def common(self, arm: Arm, loaded: Event) -> dict[str, Any]:
        """What every line about an arm holds."""
        variant = asdict(arm.variant) | {"name": arm.variant.name, "weights": arm.identity}
        variant["source"] = arm.model.source
        if arm.home:
            variant["packages"] = arm.home.fingerprint
        for name in ("device", "dtype"):
            variant[name] = loaded.get(name, variant[name])
        return {
            "environment": self.environment,
            "experiment": self.experiment.name,
            "variant": variant,
            "origin": arm.origin,
        }
