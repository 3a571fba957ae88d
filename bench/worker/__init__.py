"""The only timing loop: load, warm up until steady, measure, send samples. One fresh process.

    python -m bench.worker        a job as one JSON line on stdin, events as JSON lines on stdout

Events: `phase` (what is being done), `loaded`, `measured` or `failed` (a workload), `quality`,
`done`. Whatever libraries print goes to stderr. The parent is `bench.runner`.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from bench import toolchain
from bench.demand import Asked
from bench.devices import Reader
from bench.devices.clock import Clock, HostClock, clock_for, suspended_s
from bench.devices.figures import Figures
from bench.devices.gpu import spill
from bench.devices.gpu.parts import after_loading, parts
from bench.devices.opening import reader_of
from bench.devices.several import room_of
from bench.engines import (
    Batches,
    Engine,
    Limited,
    OwnClock,
    Server,
    WaitsOn,
    others_of,
)
from bench.engines.messages import Loaded
from bench.engines.registry import engine
from bench.engines.transformers.ranks import is_broken
from bench.errors import BenchError, UnsupportedError, is_out_of_memory
from bench.experiment import Measure, Workload
from bench.quantization.streaming import give_back_all
from bench.worker.differing import differing, identity, in_batches, one_by_one, shortest
from bench.worker.energy import energy
from bench.worker.messages import (
    Done,
    Event,
    Failed,
    Fit,
    FitTask,
    Measured,
    Phase,
    Probed,
    QualityDone,
    QualityTask,
    Ready,
    Shaped,
    Told,
    sent,
    told,
)
from bench.worker.requests import Spent, check_tokens, request, samples, warm_up
from bench.worker.window import MeasuringWindow, of_served

Emit = Callable[[Event], None]
SLEPT_S: Final = 0.1
"""Two clocks that are read one after the other may differ by less."""


def measure(
    runs: Engine,
    clock: Clock,
    reader: Reader,
    workload: Workload,
    rules: Measure,
    phase: Emit,
    seed: str = "",
) -> dict[str, Any]:
    """Measure one workload: samples, warm-up, readings of the device.

    `seed`: of requests that differ.
    """
    phase(Phase(phase="warm up"))
    if isinstance(runs, Server):
        runs.expect(workload)
    asked = differing(runs, workload, rules, seed)
    first = shortest(workload, asked)
    runs.start(first.n_prompt, first.n_gen, first.n_batch)
    warmup = warm_up(runs, clock, first, rules)
    if asked and isinstance(runs, Batches):
        in_batches(runs, workload, asked, 0.0)
    phase(Phase(phase="measure"))  # the last word until the window is full: nothing disturbs it
    gc.collect()
    gc.disable()
    slept_s = suspended_s()
    try:
        reader.begin()
        window = fill_window(runs, clock, workload, rules, asked)
        reading = reader.end()
    finally:
        gc.enable()
    if not asked:  # else each was checked
        check_tokens(runs, workload)
    reasons = {*reading.reasons, *window.reasons}
    if suspended_s() - slept_s > SLEPT_S:
        reasons.add("SUSPENDED")
    if not warmup["steady"]:
        reasons.add("NO_STEADY_STATE")
    return {
        "samples": window.samples,
        "warmup": warmup,
        "memory": dict(reading.memory),
        "device": {**reading.device, **window.device, "clock": clock.name},
        "energy": {}
        if "energy_j" in window.absent
        else dict(reading.energy)
        | ({} if asked else energy(runs, reader, workload, rules, phase, reasons)),
        "absent": {**reading.absent, **window.absent},
        "reasons": sorted(reasons),
        "first_tokens": [sequence[:64] for sequence in runs.tokens()[:1]],
        "notes": {**runs.notes(), **window.notes, **identity(workload, seed)},
    }


def fill_window(
    runs: Engine, clock: Clock, workload: Workload, rules: Measure, asked: Sequence[Asked]
) -> MeasuringWindow:
    """Requests until the window is full; a server fills it by itself."""
    if isinstance(runs, Server):
        return of_served(runs.serve(rules.iterations, rules.window_s))
    if asked and isinstance(runs, Batches):
        return in_batches(runs, workload, asked, rules.window_s)
    if asked:
        return one_by_one(runs, clock, workload, asked, rules)
    spent = Spent()
    while len(spent.requests) < rules.iterations or spent.seconds < rules.window_s:
        spent.add(request(runs, clock, workload.n_gen))
    return MeasuringWindow(samples=samples(spent.requests))


def perform(job: Told, emit: Emit) -> None:
    """Do what the parent asked for, sending an event for each thing done."""
    if job.task == "probe":
        emit(probe(job.device))
        return
    if job.architecture is not None:
        emit(shaped(job.architecture))
        return
    emit(Phase(phase="load"))
    watched = None if job.load is None else spill.watch(job.load.device)
    runs, loaded = load(job, emit)
    if job.quality is not None:
        emit(Phase(phase="quality"))
        emit(QualityDone(figures=quality(runs, job.quality)))
    elif job.fit is not None:
        emit(fit(runs, loaded.device, emit, job.fit, watched))
    elif job.measure is not None:
        assert job.load is not None
        reader = reader_of(loaded.device, others_of(runs), job.load.server_pid)
        measure_all(runs, loaded, job, emit, reader, watched)


def measure_all(
    runs: Engine,
    loaded: Loaded,
    job: Told,
    emit: Emit,
    reader: Reader,
    watched: spill.Watch | None = None,
) -> None:
    """Every workload in its turn, on what is loaded."""
    assert job.load is not None
    assert job.measure is not None
    rules, seed = job.measure, f"{job.load.seed}/{job.load.replicate}"
    clock = clock_of(runs, loaded.device)
    held = after_loading(loaded.device)
    try:
        emit(Phase(phase="at rest"))
        reader.idle(rules.idle_s)
        for workload in job.workloads:
            emit(Phase(phase="start", workload=workload))
            try:
                figures = measure(runs, clock, reader, workload, rules, emit, seed)
                figures |= memory_parts(figures, held, loaded)
                figures |= spill.marked(watched, figures)
                emit(Measured(workload=workload, **figures))
            except Exception as error:  # one workload that fails must not take the others along
                emit(replace(failure(error), workload=workload))
                release(runs)
                if is_broken(runs):
                    break  # the parent has the other workloads measured by a fresh process
    finally:
        reader.close()


def clock_of(runs: Engine, device: str) -> Clock:
    """What times its steps on this device."""
    if isinstance(runs, OwnClock):
        return runs.clock
    return clock_for(runs.clock_device if isinstance(runs, WaitsOn) else device)


def memory_parts(figures: dict[str, Any], held: Figures, loaded: Loaded) -> dict[str, Any]:
    """The memory of a measured workload with its parts, and why one is missing.

    What graphs keep in pools of their own is not in the allocator's peak, and is added.
    """
    memory, graphs = dict(figures["memory"]), figures["notes"].get("graph_bytes")
    if graphs is not None and "peak_device_bytes" in memory:
        memory |= {"peak_device_bytes": memory["peak_device_bytes"] + graphs, "graph_bytes": graphs}
    found = parts(
        loaded.device,
        memory,
        held,
        weights_bytes=loaded.weights_bytes,
        cache_bytes=figures["notes"].get("cache_bytes"),
    )
    return {
        "memory": memory | found.values,
        "absent": found.absent | figures["absent"],
    }


def load(job: Told, emit: Emit) -> tuple[Engine, Loaded]:
    """Load the engine that the job names, and say what was loaded."""
    assert job.load is not None
    runs = engine(job.engine)
    before = time.perf_counter()
    try:
        loaded = runs.load(job.load)
    except Exception as error:
        if (why := toolchain.explained(error)) is not None:
            raise UnsupportedError(why, toolchain.CODE) from error
        if failure(error).code != "CRASH":
            raise
        # It would fail again in every replicate: said once, and no process died of it.
        why = f"{type(error).__name__}: {first_line(error)}"
        raise UnsupportedError(why, "NOT_LOADED") from error
    emit(Ready(load_s=time.perf_counter() - before, **asdict(loaded)))
    return runs, loaded


def quality(runs: Engine, task: QualityTask) -> dict[str, Any]:
    """Quality figures of what is loaded, on the job's text."""
    from bench.quality import evaluate

    return evaluate(
        runs,
        task.text,
        max_tokens=task.max_tokens,
        window=task.window,
        base=task.base,
        keep=task.keep,
    )


def fit(
    runs: Engine, device: str, phase: Emit, task: FitTask, watched: spill.Watch | None = None
) -> Fit:
    """The largest batch of such requests that fits on the device."""
    from bench.devices.room import peak_bytes
    from bench.worker.fitting import largest_batch

    n_prompt, n_gen, most = task.n_prompt, task.n_gen, task.most
    steps = min(2, n_gen)  # after a longer prompt: the cache is as full, and sooner

    def attempt(n_batch: int) -> int | None:
        phase(Phase(phase="fit", n_batch=n_batch))
        reader = reader_of(device, others_of(runs))
        try:
            reader.begin()
            runs.start(n_prompt + n_gen - steps, steps, n_batch)
            request(runs, HostClock(), steps)
            reading = reader.end()
            if watched is not None and watched.spilled(reading.memory):
                return None
            return peak_bytes(reading, device)
        except Exception as error:
            if failure(error).code != "OOM":
                raise
            if is_broken(runs):
                raise UnsupportedError(
                    f"memory ran out at {n_batch} sequences, which ended the processes that hold "
                    "the model: give a smaller -b"
                ) from error
            return None
        finally:
            reader.close()
            release(runs)

    if isinstance(runs, Limited):
        most = min(most, runs.most_sequences)
    room = room_of(device, others_of(runs))
    found = largest_batch(attempt, room, most)
    peaks = {str(n_batch): peak for n_batch, peak in found.peaks.items()}
    return Fit(n_batch=found.n_batch, limited_by=found.limited_by, peaks=peaks)


def probe(device: str) -> Probed:
    """What `device` stands for on this machine, without loading anything."""
    from bench.engines.transformers.resolving import resolve_device

    found = resolve_device(device)
    return Probed(
        device=found.name,
        kind=found.kind,
        capability=found.capability,
        n_sm=found.n_sm,
        arch=found.arch,
    )


def shaped(architecture: Mapping[str, Any]) -> Shaped:
    """What a config.json's model is made of, without loading anything."""
    from bench.engines.transformers.counting import count

    return Shaped(shape=count(architecture))


def failure(error: Exception) -> Failed:
    """The event for something that went wrong: a code, and one line for the user."""
    if isinstance(error, UnsupportedError):
        code, message = error.code, str(error)
    elif isinstance(error, BenchError):
        code, message = "INPUT", str(error)
    elif is_out_of_memory(error):
        code, message = "OOM", f"out of memory: {first_line(error)}"
    else:
        code, message = "CRASH", f"{type(error).__name__}: {first_line(error)}"
        traceback.print_exception(error)
    about = error.about if isinstance(error, UnsupportedError) else {}
    return Failed(code=code, message=message, device=about)


def first_line(error: Exception) -> str:
    """The first line of an error's text that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def release(runs: Engine) -> None:
    """Give memory back after a failed workload.

    Not if other processes were ended by it: the device may be in a collective that waits for one of
    them, and giving back waits for the device.
    """
    gc.collect()
    if "torch" in sys.modules and not is_broken(runs):
        give_back_all()


def claim_stdout() -> Callable[[dict[str, Any]], None]:
    """Keep stdout for JSON objects alone; whatever else is printed goes to stderr."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(table: dict[str, Any]) -> None:
        stream.write(json.dumps(table, allow_nan=False) + "\n")
        stream.flush()

    return tell


def main() -> int:
    """One job from stdin."""
    tell = claim_stdout()

    def emit(event: Event) -> None:
        tell(sent(event))

    try:
        perform(told(json.loads(sys.stdin.readline())), emit)
    except Exception as error:  # reported to the parent, which writes it down
        emit(failure(error))
        return 1
    emit(Done())
    return 0
