"""Every replicate of a run that is missing, in the planned order, each in a fresh process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench.experiment import Workload
from bench.experiment.plan import Replicate, plan
from bench.records import Record, utc_now
from bench.runner.arms import Arm
from bench.runner.process import Event, converse
from bench.runner.session import Session

ONCE = frozenset({"UNSUPPORTED", "OOM", "INPUT", "NONFINITE"})
"""Failures that a fresh process would only repeat."""


def measure_replicates(session: Session, arms: Sequence[Arm], done: set[str]) -> None:
    """Every replicate that is missing, in the planned order, each in a fresh process."""
    arm_of = {arm.variant.name: arm for arm in arms}
    variants = [arm.variant for arm in arms]
    steps = plan(variants, session.experiment.measuring.pairs, session.experiment.seed)
    for step in steps:
        if session.part.positions is not None and step.position not in session.part.positions:
            continue
        arm = arm_of[step.variant.name]
        keys = {w: arm.key(session.experiment, w, step.index) for w in session.experiment.workloads}
        session.outcome.keys.update(keys.values())
        missing = [workload for workload, name in keys.items() if name not in done]
        title = f"{arm.variant.name}, replicate {step.index + 1}"
        session.progress.step(step.position, len(steps), title)
        if arm.refusal:
            if step.index == 0:
                _fail(session, arm, step, missing, ("UNSUPPORTED", arm.refusal))
            continue
        while left := [w for w in missing if (arm.variant.name, w) not in session.hopeless]:
            # A workload that kills its process must not take the rest of them along.
            recorded = _worker(session, arm, step, left)
            missing = [workload for workload in left if workload not in recorded]


def _worker(
    session: Session, arm: Arm, step: Replicate, workloads: Sequence[Workload]
) -> set[Workload]:
    """Run one worker; returns the workloads that now have a record, of success or failure."""
    rules = session.experiment.measuring
    job = arm.job(session.experiment.seed, step.index) | {
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
                session.progress.phase(event["phase"])
            case "loaded":
                loaded = event
            case "measured":
                assert current is not None
                _save(session, arm, step, current, started, loaded, event)
                recorded.add(current)
                current = None
            case "failed":
                # Outside a workload, it strikes all that were still to be measured.
                struck = [current] if current else [w for w in workloads if w not in recorded]
                why, about = (event["code"], event["message"]), event.get("device")
                _fail(session, arm, step, struck, why, started, about)
                recorded.update(struck)
                current = None
    return recorded


def _save(
    session: Session,
    arm: Arm,
    step: Replicate,
    workload: Workload,
    started: str,
    loaded: Event,
    event: Event,
) -> None:
    """Append the record of a measured workload."""
    model = {name: value for name, value in loaded.items() if name not in ("event", "absent")}
    session.outcome.measured += 1
    session.writer.append(
        Record(
            **session.common(arm, loaded),
            key=arm.key(session.experiment, workload, step.index),
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


def _fail(
    session: Session,
    arm: Arm,
    step: Replicate,
    workloads: Sequence[Workload],
    why: tuple[str, str],
    started: str | None = None,
    about: dict[str, Any] | None = None,
) -> None:
    """Append a record of failure for each workload: a failure is recorded, never absent."""
    code, message = why
    session.progress.say(f"{arm.variant.name}: {code}: {message}")
    for workload in workloads:
        session.outcome.failed += 1
        session.outcome.refused += code == "INPUT"
        if code in ONCE:
            session.hopeless.add((arm.variant.name, workload))
        session.writer.append(
            Record(
                **session.common(arm, {}),
                key=arm.key(session.experiment, workload, step.index),
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
