"""Quality of each arm of a run, once a variant, on the weights that were timed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UnsupportedError
from bench.experiment.texts import Text
from bench.models.tokenizers import same_tokens
from bench.models.weights import cache_folder, folder
from bench.records import QualityRecord, utc_now
from bench.runner.arms import Arm, baseline_of
from bench.runner.process import events
from bench.runner.servers import RunningServer, failure_to_serve, serving, with_server
from bench.runner.session import Session
from bench.worker.messages import Failed, Phase, QualityTask, Ready, Told
from bench.worker.messages import QualityDone as QualityFigures


@dataclass(frozen=True, slots=True)
class Task:
    """One arm's quality: what it is compared with and where that is kept."""

    arm: Arm
    base: Arm | None
    key: str
    store: Path | None
    """Predictions of the baseline arm, which it keeps and the others read."""

    @property
    def is_base(self) -> bool:
        return self.base is self.arm


def measure_qualities(
    session: Session, arms: Sequence[Arm], text: Text, before: Sequence[QualityRecord]
) -> None:
    """Measure what is missing, baselines first.

    What was measured when its baseline had failed is measured again once there is something to
    compare it with.
    """
    done = {q.key for q in before if q.status == "ok"}
    alone = {q.key for q in before if q.key in done and _lacks_its_baseline(q)}
    rules = session.experiment.quality
    about = {
        "name": text.name,
        "sha256": text.sha256,
        "max_tokens": rules.max_tokens,
        "window": rules.window,
    }
    tasks = [
        _task(session, arm, arms, about)
        for arm in arms
        if arm.refusal is None and not session.unloadable(arm)
    ]
    session.outcome.keys.update(task.key for task in tasks)
    missing = {task.key for task in tasks if task.key not in done or task.key in alone}
    # A baseline whose predictions are no longer kept is needed again for the others.
    missing |= {
        base.key
        for task in tasks
        if task.key in missing and not task.is_base and task.store and not task.store.exists()
        for base in tasks
        if base.arm is task.base
    }
    todo = sorted((task for task in tasks if task.key in missing), key=lambda t: not t.is_base)
    for number, task in enumerate(todo):
        if task.key in alone and not (task.store and task.store.exists()):
            continue
        session.progress.step(number, len(todo), f"{task.arm.variant.name}, quality")
        _measure(session, task, text, about)


def _lacks_its_baseline(quality: QualityRecord) -> bool:
    return quality.baseline not in (None, quality.variant["name"]) and not quality.kld


def _task(session: Session, arm: Arm, arms: Sequence[Arm], about: dict[str, Any]) -> Task:
    base = baseline_of(arm, arms, session.experiment.baseline)
    store = None
    if base is not None:
        store = cache_folder() / "quality" / f"{base.quality_key(about, base)}.npz"
    return Task(arm=arm, base=base, key=arm.quality_key(about, base), store=store)


def _other_tokens(task: Task) -> str | None:
    """Why an arm is not held against its baseline: another model, which cuts texts otherwise."""
    if task.base is None or task.base.identity == task.arm.identity:
        return None
    mine, theirs = (folder(arm.model) for arm in (task.arm, task.base))
    if mine is None or theirs is None or same_tokens(mine, theirs) is not False:
        return None
    return (
        f"its tokenizer is not that of its baseline {task.base.variant.model}, so the two cannot "
        "be compared token by token"
    )


def _measure(session: Session, task: Task, text: Text, about: dict[str, Any]) -> None:
    if task.arm.model.source == "random":
        message = "random weights: quality is not measured"
        _save(session, task, about, utc_now(), None, status="failed", message=message)
        return
    if differs := _other_tokens(task):
        session.progress.say(f"{task.arm.variant.name}: quality: {differs}")
        _save(session, task, about, utc_now(), None, status="failed", message=differs)
        return
    started = utc_now()
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(serving(task.arm, session.writer.folder, "quality"))
        except UnsupportedError as error:
            why = failure_to_serve(error)
            _failed(session, task, about, started, None, why)
            return
        _converse(session, task, text, about, server)


def _converse(
    session: Session,
    task: Task,
    text: Text,
    about: dict[str, Any],
    server: RunningServer | None,
) -> None:
    store = str(task.store) if task.store else None
    job = Told(
        task="quality",
        engine=task.arm.variant.engine,
        load=task.arm.job(session.experiment.seed, 0, server),
        quality=QualityTask(
            text=text.text,
            max_tokens=about["max_tokens"],
            window=about["window"],
            base=None if task.is_base else store,
            keep=store if task.is_base else None,
        ),
    )
    started, loaded = utc_now(), None
    limit_s = session.experiment.measuring.time_limit_s
    for event in events(job, limit_s=limit_s, command=task.arm.command):
        match event:
            case Phase():
                session.progress.phase(event.phase)
            case Ready():
                loaded = with_server(event, server)
            case QualityFigures():
                figures = _fields(dict(event.figures))
                _save(session, task, about, started, loaded, status="ok", **figures)
            case Failed():
                why = event if server is None else server.cause(event)
                _failed(session, task, about, started, loaded, why)


def _failed(
    session: Session,
    task: Task,
    about: dict[str, Any],
    started: str,
    loaded: Ready | None,
    why: Failed,
) -> None:
    session.progress.say(f"{task.arm.variant.name}: quality: {why.message}")
    session.outcome.failed += why.code != "UNSUPPORTED"
    _save(session, task, about, started, loaded, status="failed", message=why.message)


def _fields(figures: dict[str, Any]) -> dict[str, Any]:
    """What has a key of its own in the record; the rest goes under `figures`."""
    own = {name: tuple(figures.pop(name, ())) for name in ("nll", "kld", "same_top1")}
    return own | {"absent": figures.pop("absent", {}), "figures": figures}


def _save(
    session: Session,
    task: Task,
    about: dict[str, Any],
    started: str,
    loaded: Ready | None,
    **fields: Any,
) -> None:
    session.writer.append(
        QualityRecord(
            **session.common(task.arm, loaded),
            key=task.key,
            started_at=started,
            text=about,
            baseline=task.base.variant.name if task.base else None,
            **fields,
        )
    )
