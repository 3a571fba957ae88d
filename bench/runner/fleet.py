"""Carry out a plan on the machines of a Ray cluster: one replicate a task, one folder a seat.

A seat is a machine, or one GPU of it where `per_machine` asks for several. Each seat does the whole
experiment in the planned order, so that pairs of one card stay in turns on it. Lines come back
after each replicate and are appended here with fsync; whatever dies, the same command goes on with
what is missing. The parent imports neither torch nor pandas.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.errors import InputError, UnsupportedError
from bench.experiment import Experiment, Workload
from bench.experiment.plan import plan
from bench.experiment.selectors import short_names
from bench.records import FILE, Environment, Line, QualityRecord, Record, from_json, to_json
from bench.records.file import Results, Writer, read
from bench.runner import keep_experiment, nodes
from bench.runner.nodes import FleetMachine, Node
from bench.runner.replicates import ONCE
from bench.runner.session import Part, Progress


@dataclass(slots=True)
class Fleet:
    """What came of a run on a cluster."""

    folders: dict[str, Path] = field(default_factory=dict)
    """Machine -> its results folder."""
    measured: int = 0
    failed: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    """Machine that went away -> why, in one line."""
    refused: dict[str, str] = field(default_factory=dict)
    """Machine that cannot do the experiment -> why."""


@dataclass(slots=True)
class Desk:
    """The driver's side of one seat: its folder, and what is still to be done there."""

    machine: FleetMachine
    actor: Any
    folder: Path
    writer: Writer
    steps: Iterator[tuple[str, frozenset[int]]]
    """Title and replicate of each task, in order; quality, of no replicate, comes last."""
    before: Results
    hopeless: set[tuple[str, Workload]] = field(default_factory=set)
    title: str = ""

    def part(self, positions: frozenset[int]) -> Part:
        """What the machine is asked to do next."""
        done = (record.key for record in self.before.records if record.status == "ok")
        return Part(
            positions=positions,
            quality=not positions,
            done=frozenset(done),
            hopeless=frozenset(self.hopeless),
            neighbours=self.machine.beside,
        )

    def seed(self, part: Part) -> list[str]:
        """Lines that a part builds on: the environment; for quality, what is there of it."""
        lines: list[Line] = list(self.before.environments.values())
        return [to_json(line) for line in lines + (self.before.qualities if part.quality else [])]

    def keep(self, line: Line) -> None:
        """Append a line that a machine brought home."""
        match line:
            case Environment():
                held = self.before.environments.get(line.id)
                if held is not None and ("peaks" in held.state or "peaks" not in line.state):
                    return
                self.before.environments[line.id] = line
            case Record():
                self.before.records.append(line)
                if ONCE.intersection(line.reasons):
                    self.hopeless.add((line.variant["name"], Workload(**line.workload)))
            case QualityRecord():
                self.before.qualities.append(line)
        self.writer.append(line)


def machines(
    experiment: Experiment, select: str | None, per_machine: int = 1
) -> list[tuple[FleetMachine, Any]]:
    """The chosen machines of the cluster, each with its seat; up to `per_machine` seats of one,
    each with a GPU of its own. Raises UnsupportedError if none is chosen."""
    with redirect_stdout(sys.stderr):  # Ray prints what it tries again; the output is for tables
        return _machines(experiment, select, per_machine)


def _machines(
    experiment: Experiment, select: str | None, per_machine: int
) -> list[tuple[FleetMachine, Any]]:
    import ray

    wanted = nodes.selection(select)
    there = {node.id: nodes.seats(node, experiment, per_machine) for node in nodes.nodes()}
    seats = [(node, actor) for node in nodes.nodes() for actor in there.get(node.id, ())]
    found: list[tuple[FleetMachine, Any]] = []
    for node, actor in seats:
        try:
            about = ray.get(actor.describe.remote(), timeout=nodes.ANSWER_S)
        except ray.exceptions.GetTimeoutError:
            raise UnsupportedError(
                f"machine {_short(node)}: no answer in {nodes.ANSWER_S} s; is another job of the "
                "cluster using it? `ray status` shows"
            ) from None
        except (ray.exceptions.ActorUnschedulableError, ray.exceptions.ActorDiedError):
            continue  # it went away since it was listed
        except ray.exceptions.RayError as error:
            raise UnsupportedError(f"machine {_short(node)}: {nodes.first_line(error)}") from None
        machine = nodes.described(node, about, len(there[node.id]))
        if nodes.matches(machine, wanted):
            found.append((machine, actor))
        else:
            ray.kill(actor)
    if not seats and there:
        device = experiment.grid.device
        raise UnsupportedError(f"no machine of the cluster has as many GPUs as '{device}' names")
    if not found:
        known = ", ".join(sorted(_short(node) for node, _ in seats)) or "none"
        raise UnsupportedError(f"no machine of the cluster is chosen by --select (there: {known})")
    return _named_apart(_beside_one_another(found))


def _beside_one_another(
    found: Sequence[tuple[FleetMachine, Any]],
) -> list[tuple[FleetMachine, Any]]:
    """The seats by name, each told how many others of its machine are chosen too."""
    of_node = Counter(machine.node.id for machine, _ in found)
    told = [
        (replace(machine, beside=of_node[machine.node.id] - 1), actor) for machine, actor in found
    ]
    return sorted(told, key=lambda seat: (seat[0].node.id, seat[0].name))


def _named_apart(found: Sequence[tuple[FleetMachine, Any]]) -> list[tuple[FleetMachine, Any]]:
    """Refuse two machines of one name: their records would mix in one folder."""
    names = [machine.name for machine, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"machines of one name: {', '.join(twice)}; give each Ray node a label of its own, "
            "such as `ray start --labels machine=left`"
        )
    return list(found)


def run_on_fleet(
    experiment: Experiment,
    into: Path,
    progress: Progress,
    select: str | None = None,
    per_machine: int = 1,
) -> Fleet:
    """Measure what is missing of an experiment on every chosen machine at once, and on up to
    `per_machine` cards of each."""
    with redirect_stdout(sys.stderr):
        return _run_on_fleet(experiment, into, progress, select, per_machine)


def _run_on_fleet(
    experiment: Experiment, into: Path, progress: Progress, select: str | None, per_machine: int
) -> Fleet:
    import ray

    fleet = Fleet()
    desks: list[Desk] = []
    running: dict[Any, Desk] = {}
    try:
        for machine, actor in machines(experiment, select, per_machine):
            desk = _open(experiment, machine, actor, into / machine.name)
            desks.append(desk)
            fleet.folders[machine.name] = desk.folder
            _next(desk, running, progress)
        while running:
            (ready,), _ = ray.wait(list(running), num_returns=1)
            desk = running.pop(ready)
            try:
                answer = ray.get(ready)
            except ray.exceptions.RayError as error:
                fleet.lost[desk.machine.name] = nodes.first_line(error)
                progress.say(f"{desk.machine.name}: lost: {nodes.first_line(error)}")
                continue
            if _take(desk, answer, fleet, progress):
                _next(desk, running, progress)
    finally:
        for desk in desks:
            desk.writer.__exit__(None, None, None)
            ray.kill(desk.actor)
    return fleet


def _open(experiment: Experiment, machine: FleetMachine, actor: Any, folder: Path) -> Desk:
    writer = Writer(folder).__enter__()
    before = read(folder) if (folder / FILE).is_file() else Results()
    for old in before.environments:
        if old != machine.environment:
            writer.__exit__(None, None, None)
            raise InputError(
                f"{folder} holds records of another machine or other versions; "
                "choose another with --into DIR"
            )
    keep_experiment(experiment, folder)
    return Desk(
        machine=machine,
        actor=actor,
        folder=folder,
        writer=writer,
        steps=_steps(experiment),
        before=before,
    )


def _steps(experiment: Experiment) -> Iterator[tuple[str, frozenset[int]]]:
    """Title and position of each replicate, then the quality of all arms."""
    steps = plan(experiment.variants, experiment.measuring.pairs, experiment.seed)
    names = short_names([variant.name for variant in experiment.variants])
    for step in steps:
        title = f"[{step.position + 1}/{len(steps)}] {names[step.variant.name]} #{step.index + 1}"
        yield title, frozenset({step.position})
    if experiment.quality.text:
        yield "quality", frozenset()


def _next(desk: Desk, running: dict[Any, Desk], progress: Progress) -> None:
    """Give a machine its next task, if there is one."""
    found = next(desk.steps, None)
    if found is None:
        return
    desk.title, positions = found
    progress.say(f"{desk.machine.name}: {desk.title}")
    part = desk.part(positions)
    running[desk.actor.work.remote(desk.seed(part), part)] = desk


def _take(desk: Desk, answer: Mapping[str, Any], fleet: Fleet, progress: Progress) -> bool:
    """Keep what a task brought home; whether the machine may go on."""
    name = desk.machine.name
    for text in answer["said"]:
        progress.say(f"{name}: {text}")
    for text in answer["lines"]:
        line = from_json(text)
        if isinstance(line, Record):
            fleet.measured += line.status == "ok"
            fleet.failed += line.status != "ok"
        desk.keep(line)
    if "error" in answer:
        fleet.refused[name] = answer["error"]
        progress.say(f"{name}: {answer['error']}")
        return False
    return True


def _short(node: Node) -> str:
    return node.labels.get("machine", node.id[:8])
