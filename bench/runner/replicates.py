"""Every replicate of a run that is missing, in the planned order, each in a fresh process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from bench.errors import UnsupportedError
from bench.experiment import Workload
from bench.experiment.plan import PlannedReplicate, plan
from bench.records import Record, utc_now
from bench.runner.arms import Arm
from bench.runner.process import events
from bench.runner.search import ProbeOnce, search
from bench.runner.servers import RunningServer, ServerOf, failure_to_serve, with_server
from bench.runner.session import Session
from bench.schemes.row import COMPILED
from bench.summary import METRICS
from bench.summary.rows import replicate
from bench.summary.service import probe_of
from bench.toolchain import CODE as NO_COMPILER
from bench.worker.messages import Failed, Measured, Phase, Ready, Told

ONCE = frozenset(
    {"UNSUPPORTED", "OOM", "INPUT", "NONFINITE", "NOT_LOADED", "WRONG_MODEL", NO_COMPILER}
)
"""Failures that a fresh process would only repeat."""


def measure_replicates(session: Session, arms: Sequence[Arm], done: set[str]) -> None:
    """Every replicate that is missing, in the planned order, each in a fresh process."""
    arm_of = {arm.variant.name: arm for arm in arms}
    variants = [arm.variant for arm in arms]
    steps = plan(variants, session.experiment.measuring.pairs, session.experiment.seed)
    todo = []
    here = [
        s for s in steps if session.part.positions is None or s.position in session.part.positions
    ]
    for step in here:
        arm = arm_of[step.variant.name]
        keys = {w: arm.key(session.experiment, w, step.index) for w in session.experiment.workloads}
        session.outcome.keys.update(keys.values())
        missing = [workload for workload, name in keys.items() if name not in done]
        if missing or session.experiment.slo:  # what a search still lacks is not known before
            todo.append((step, arm, missing))
    if len(todo) < len(here):
        before = len(here) - len(todo)
        session.progress.say(f"{before} of {len(here)} replicates were measured before")
    for step, arm, missing in todo:
        title = f"{arm.variant.name}, replicate {step.index + 1}"
        session.progress.step(step.position, len(steps), title)
        if refused := _refused(session, arm):
            if step.index == 0:
                _fail(session, arm, step, missing, refused)
        elif session.experiment.slo:
            with ServerOf(arm, session.writer.folder, f"{step.index + 1}") as host:
                for base in session.experiment.workloads:
                    search(session.searches, arm, step, base, _probing(session, done, host))
        else:
            _each_in_its_process(session, arm, step, missing)


def _each_in_its_process(
    session: Session, arm: Arm, step: PlannedReplicate, missing: Sequence[Workload]
) -> None:
    """One replicate's workloads: one that kills its process must not take the rest along."""
    while left := [w for w in missing if (arm.variant.name, w) not in session.hopeless]:
        with ServerOf(arm, session.writer.folder, f"{step.index + 1}") as host:
            recorded = _worker(session, arm, step, left, host)
        missing = [workload for workload in left if workload not in recorded]


def _probing(session: Session, done: set[str], host: ServerOf) -> ProbeOnce:
    """Measures a probe of a search, unless that was done before; all of them ask one server."""

    def measured(arm: Arm, step: PlannedReplicate, workload: Workload) -> None:
        name = arm.key(session.experiment, workload, step.index)
        session.outcome.keys.add(name)
        if name in done or (arm.variant.name, workload) in session.hopeless:
            return
        if workload.rate is not None:
            session.progress.phase(f"{workload.rate:.3g} requests a second")
        _worker(session, arm, step, [workload], host)

    return measured


def _refused(session: Session, arm: Arm) -> Failed | None:
    """Why an arm is not tried; where nothing can be built, no arm that is compiled is."""
    if arm.refusal:
        return Failed(code="UNSUPPORTED", message=arm.refusal)
    return session.no_compiler if arm.variant.mode in COMPILED else None


def _worker(
    session: Session,
    arm: Arm,
    step: PlannedReplicate,
    workloads: Sequence[Workload],
    host: ServerOf,
) -> set[Workload]:
    """Run one worker; returns the workloads that now have a record, of success or failure."""
    started = utc_now()
    try:
        server = host.running()
    except UnsupportedError as error:
        _fail(session, arm, step, workloads, failure_to_serve(error), started)
        return set(workloads)
    return _conversation(session, arm, step, workloads, server)


def _conversation(
    session: Session,
    arm: Arm,
    step: PlannedReplicate,
    workloads: Sequence[Workload],
    server: RunningServer | None,
) -> set[Workload]:
    rules = session.experiment.measuring
    job = Told(
        task="measure",
        engine=arm.variant.engine,
        load=arm.job(session.experiment.seed, step.index, server),
        workloads=tuple(workloads),
        measure=rules,
    )
    recorded: set[Workload] = set()
    current: Workload | None = None
    started, loaded = utc_now(), None
    for event in events(job, limit_s=rules.time_limit_s, command=arm.command):
        match event:
            case Phase():
                if event.workload is not None:
                    current, started = event.workload, utc_now()
                session.progress.phase(event.phase)
            case Ready():
                loaded = with_server(event, server)
            case Measured():
                assert loaded is not None
                _save(session, arm, step, started, loaded, event)
                recorded.add(event.workload)
                current = None
            case Failed():
                # Outside a workload, it strikes all that were still to be measured.
                struck = [current] if current else [w for w in workloads if w not in recorded]
                why = event if server is None else server.cause(event)
                _fail(session, arm, step, struck, why, started)
                recorded.update(struck)
                current = None
                if server is not None and server.has_ended:
                    break  # the other workloads get a fresh one
    return recorded


def _save(
    session: Session,
    arm: Arm,
    step: PlannedReplicate,
    started: str,
    loaded: Ready,
    event: Measured,
) -> None:
    """Append the record of a measured workload."""
    model = {name: value for name, value in asdict(loaded).items() if name != "absent"}
    workload = event.workload
    record = Record(
        **session.common(arm, loaded),
        key=arm.key(session.experiment, workload, step.index),
        workload=workload.table(),
        replicate=step.index,
        position=step.position,
        started_at=started,
        status="ok",
        reasons=event.reasons,
        samples=dict(event.samples),
        warmup=dict(event.warmup),
        model=model | {"notes": event.notes, "first_tokens": event.first_tokens},
        memory=dict(event.memory),
        energy=dict(event.energy),
        device=dict(event.device),
        absent={**loaded.absent, **event.absent},
    )
    session.outcome.measured += 1
    session.keep(record)
    session.progress.say(f"{arm.variant.name}, {_in_short(record)}")


SHOWN: Final = ("prefill_tok_s", "decode_tok_s", "output_tok_s", "ttft_s")
"""Figures of a replicate that are shown when it ends, the first two that there are."""


def _in_short(record: Record) -> str:
    """A replicate in one line: which, of what size, and its first figures; of a probe its rate,
    and how many requests were within each limit."""
    made = replicate(record)
    sizes = made.sizes
    if sizes.slo and (probe := probe_of(record, sizes.slo)) is not None:
        shown = ", ".join(
            f"{kept / probe.n:.1%} within {limit}"
            for kept, limit in zip(probe.kept, sizes.slo.split(","), strict=True)
        )
        return f"replicate {record.replicate + 1}, {probe.rate:.3g} requests/s: {shown}"
    figures = [
        f"{METRICS[name].heading or name} {value:{METRICS[name].form}}"
        for name in SHOWN
        if (value := made.figures[name]) is not None
    ]
    at = f"replicate {record.replicate + 1}, {sizes.n_prompt}+{sizes.n_gen} x {sizes.n_batch}"
    return ", ".join((f"{at}: {', '.join(figures[:2]) or 'no rate'}", *made.reasons))


def _fail(
    session: Session,
    arm: Arm,
    step: PlannedReplicate,
    workloads: Sequence[Workload],
    why: Failed,
    started: str | None = None,
) -> None:
    """Append a record of failure for each workload: a failure is recorded, never absent."""
    session.progress.say(f"{arm.variant.name}: {why.code}: {why.message}")
    for workload in workloads:
        session.outcome.failed += 1
        session.outcome.refused += why.code == "INPUT"
        if why.code == NO_COMPILER:
            session.no_compiler = why
        if why.code in ONCE:
            session.hopeless.add((arm.variant.name, workload))
        session.keep(
            Record(
                **session.common(arm, None),
                key=arm.key(session.experiment, workload, step.index),
                workload=workload.table(),
                replicate=step.index,
                position=step.position,
                started_at=started or utc_now(),
                status="failed",
                reasons=(why.code,),
                message=why.message,
                device=dict(why.device),
            )
        )
