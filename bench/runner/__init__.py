"""Carry out a plan: start workers in order, save each record at once, run only what is missing.

The parent imports neither torch nor pandas, and sleeps while a worker measures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bench import hiding
from bench.devices import peaks
from bench.devices.environment import capture
from bench.devices.figures import Unreadable
from bench.engines.registry import packages
from bench.errors import InputError, UnsupportedError
from bench.experiment import Experiment
from bench.experiment.devices import kind_of, members
from bench.experiment.kept import AS_RUN
from bench.experiment.texts import read_text
from bench.fields import MOST_BYTES
from bench.models.weights import cache_folder
from bench.records import Environment, QualityRecord, Record
from bench.records.file import Results, Writer, read
from bench.runner.arms import Arm, resolve
from bench.runner.naming import named
from bench.runner.pinning import pinned
from bench.runner.qualities import measure_qualities
from bench.runner.replicates import measure_replicates
from bench.runner.session import Outcome, Part, Progress, Session


def run(
    experiment: Experiment,
    folder: Path,
    progress: Progress,
    part: Part | None = None,
    arms: Sequence[Arm] | None = None,
) -> Outcome:
    """Measure what is missing of an experiment; each record is in `folder` as soon as it is made.

    `part` leaves the rest to other processes, which give the `arms` that they have resolved
    already (`bench.runner.fleet`).

    Raises UnsupportedError if no variant at all can run here.
    """
    experiment = named(pinned(experiment, progress.say))
    text = read_text(experiment.quality.text) if experiment.quality.text else None
    if text is not None and experiment.quality.text:
        hiding.rename(experiment.quality.text, text.name)
    if arms is None:
        arms = resolve(experiment, progress.say)
    if all(arm.refusal for arm in arms):
        raise UnsupportedError("\n".join(dict.fromkeys(str(arm.refusal) for arm in arms)))
    outcome = Outcome()
    with Writer(folder, progress.say) as writer:
        before = read(folder)
        for problem in before.problems:
            progress.say(f"skipped a broken line: {problem}")
        environment = capture(arms[0].variant.device, packages())
        check_environment(before, environment, folder)
        check_packages(before, arms, folder)
        keep_experiment(experiment, folder)
        writer.append(with_peaks(environment, arms[0].variant.device, progress))
        part = part or Part()
        session = Session(
            experiment, writer, environment.id, progress, outcome, part, set(part.hopeless)
        )
        done = {r.key for r in before.records if r.status == "ok"} | session.part.done
        if experiment.slo:
            overloaded = {r.key for r in before.records if "REQUESTS_FAILED" in r.reasons}
            done |= overloaded  # of a probe that is an answer
            session.searches.known(before.records, done)
        measure_replicates(session, arms, done)
        if text is not None and session.part.quality:
            measure_qualities(session, arms, text, before.qualities)
    outcome.results = read(folder)
    outcome.results.problems.clear()  # said above
    outcome.results.records = [r for r in outcome.results.records if r.key in outcome.keys]
    outcome.results.qualities = [q for q in outcome.results.qualities if q.key in outcome.keys]
    return outcome


def with_peaks(environment: Environment, device: str, progress: Progress) -> Environment:
    """The environment with the rates that its device reaches: measured once, then kept."""
    device = members(device)[0]  # of several cards the first stands for the others
    if kind_of(device) not in ("cpu", "cuda", "xpu", "mps"):
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
            f"({'; '.join(differing[:3])}), which cannot be combined; choose another folder "
            "with --into DIR"
        )


def check_packages(before: Results, arms: Sequence[Arm], folder: Path) -> None:
    """Refuse to mix figures that an engine gave with other packages of its own environment."""
    wanted = {arm.variant.name: arm.home.fingerprint for arm in arms if arm.home}
    lines: list[Record | QualityRecord] = [*before.records, *before.qualities]
    for record in lines:
        name, packages = record.variant["name"], record.variant.get("packages")
        if record.status == "ok" and packages != wanted.get(name, packages):
            raise InputError(
                f"{folder} holds records of {name} made with other package versions, which "
                "cannot be combined; choose another folder with --into DIR"
            )


def keep_experiment(experiment: Experiment, folder: Path) -> None:
    """Put the experiment, as run, beside its records: one line for each that was run there."""
    line = json.dumps(
        hiding.private(asdict(experiment)), sort_keys=True, ensure_ascii=False
    ).encode("utf-8", "replace")
    path = folder / AS_RUN
    try:
        with path.open("ab+") as stream:
            stream.seek(0)
            before = stream.read(MOST_BYTES)
            if line not in before.splitlines():
                torn = b"\n" if before and not before.endswith(b"\n") else b""
                stream.write(torn + line + b"\n")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; choose with --into") from error
