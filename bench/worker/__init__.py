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
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bench.devices import Reader, Reading
from bench.devices.clock import Clock, HostClock, clock_for
from bench.devices.figures import Figures
from bench.devices.gpu.parts import after_loading, parts
from bench.devices.opening import reader_of
from bench.devices.several import room_of
from bench.engines import Engine
from bench.engines.messages import Job, Loaded, Served, Timed
from bench.engines.registry import engine
from bench.engines.transformers.ranks import is_broken
from bench.errors import BenchError, UnsupportedError
from bench.experiment import Measure, Workload
from bench.worker.steady import has_trend, is_steady

Emit = Callable[[dict[str, Any]], None]
Task = Literal["probe", "measure", "quality", "fit"]


@dataclass(slots=True)
class Request:
    """One prompt and its answer: seconds to the first token, then between tokens."""

    prefill_s: float
    itl_s: list[float]
    host_s: float
    """Wall time on the host around the whole request, with the device synchronised."""


def request(runs: Engine, clock: Clock, n_gen: int) -> Request:
    """Run and time one request. Nothing but the engine's steps and the marks is in the loop."""
    runs.reset()
    runs.synchronize()
    before = time.perf_counter()
    if whole := getattr(runs, "request", None):
        return told(whole(n_gen), time.perf_counter() - before)
    clock.start()
    runs.prefill()
    clock.mark()
    for _ in range(n_gen - 1):
        runs.step()
        clock.mark()
    first, *gaps = clock.stop()
    return Request(prefill_s=first, itl_s=gaps, host_s=time.perf_counter() - before)


def told(timed: Timed, host_s: float) -> Request:
    """A request that the engine timed itself, held against the host's clock around it."""
    own_s = timed.prefill_s + sum(timed.itl_s)
    if own_s > host_s * 1.01:
        raise UnsupportedError(
            f"the engine says that a request took {own_s:.6f} s, which took {host_s:.6f} s in all"
        )
    return Request(prefill_s=timed.prefill_s, itl_s=timed.itl_s, host_s=host_s)


def check_tokens(runs: Engine, workload: Workload) -> None:
    """Exactly n_gen new tokens for each sequence, or the figures are of other work."""
    if hasattr(runs, "serve"):  # each answer's count was checked as it came
        return
    made = [len(sequence) for sequence in runs.tokens()]
    if made != [workload.n_gen] * workload.n_batch:
        raise UnsupportedError(
            f"made {made} tokens, not {workload.n_gen} for each of {workload.n_batch} sequences",
            "TOKEN_COUNT",
        )


@dataclass(slots=True)
class Spent:
    """Requests run one after the other, and the time they took by their own clock."""

    requests: list[Request] = field(default_factory=list)

    def add(self, one: Request) -> None:
        self.requests.append(one)

    @property
    def seconds(self) -> float:
        return sum(one.prefill_s + sum(one.itl_s) for one in self.requests)

    @property
    def prefills(self) -> list[float]:
        return [one.prefill_s for one in self.requests]

    @property
    def decodes(self) -> list[float]:
        return [sum(one.itl_s) for one in self.requests]


def to_steady(runs: Engine, spent: Spent) -> list[list[float]]:
    """What must be steady: prefill and decode, each on its own; of a server whole requests, as the
    network and its queue are in the time to the first token and never stand still."""
    if hasattr(runs, "serve"):
        return [[one.prefill_s + sum(one.itl_s) for one in spent.requests]]
    decodes = [spent.decodes] if spent.requests[0].itl_s else []
    return [spent.prefills, *decodes]


def warm_up(runs: Engine, clock: Clock, workload: Workload, rules: Measure) -> dict[str, Any]:
    """Requests until both prefill and decode are steady, or the limit is reached.

    At the limit, what only scatters counts as steady, and what still rises or falls does not.
    """
    spent = Spent()
    steady = False
    while not steady and (not spent.requests or spent.seconds < rules.warmup_max_s):
        spent.add(request(runs, clock, workload.n_gen))
        steady = all(is_steady(each, window=rules.warmup_window) for each in to_steady(runs, spent))
    check_tokens(runs, workload)
    return {
        "steady": steady or not any(has_trend(each) for each in to_steady(runs, spent)),
        "agreed": steady,
        "prefill_s": spent.prefills,
        "decode_s": spent.decodes,
    }


def measure(
    runs: Engine, clock: Clock, reader: Reader, workload: Workload, rules: Measure, phase: Emit
) -> dict[str, Any]:
    """Measure one workload: samples, warm-up, readings of the device."""
    phase({"phase": "warm up"})
    runs.start(workload.n_prompt, workload.n_gen, workload.n_batch)
    warmup = warm_up(runs, clock, workload, rules)
    phase({"phase": "measure"})  # the last word until the window is full: nothing disturbs it
    gc.collect()
    gc.disable()
    try:
        reader.begin()
        window = fill_window(runs, clock, workload, rules)
        reading = reader.end()
    finally:
        gc.enable()
    check_tokens(runs, workload)
    reasons = {*reading.reasons, *window.reasons}
    if not warmup["steady"]:
        reasons.add("NO_STEADY_STATE")
    return {
        "samples": window.samples,
        "warmup": warmup,
        "memory": dict(reading.memory),
        "device": {**reading.device, **window.device, "clock": clock.name},
        "energy": dict(reading.energy) | energy(runs, reader, workload, rules, phase, reasons),
        "absent": {**reading.absent, **window.absent},
        "reasons": sorted(reasons),
        "first_tokens": [sequence[:64] for sequence in runs.tokens()[:1]],
        "notes": dict(runs.notes()),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a measured window gives to the record."""

    samples: dict[str, Any]
    device: Mapping[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)


def fill_window(runs: Engine, clock: Clock, workload: Workload, rules: Measure) -> Window:
    """Requests one after the other until the window is full; a server fills it by itself."""
    if serve := getattr(runs, "serve", None):
        return of_server(serve(rules.iterations, rules.window_s))
    spent = Spent()
    while len(spent.requests) < rules.iterations or spent.seconds < rules.window_s:
        spent.add(request(runs, clock, workload.n_gen))
    return Window(samples=samples(spent.requests))


def of_server(served: Served) -> Window:
    """A server's window: requests beside one another, so their times do not add up to its own."""
    return Window(
        samples={
            "prefill_s": [one.prefill_s for one in served.requests],
            "itl_s": [list(one.itl_s) for one in served.requests],
            "e2e_s": [one.e2e_s for one in served.requests],
            "wall_s": served.wall_s,
        },
        device=served.device,
        reasons=served.reasons,
        absent=served.absent,
    )


def samples(requests: Sequence[Request]) -> dict[str, Any]:
    """The raw figures of some requests: one list an iteration, nothing carried over."""
    return {
        "prefill_s": [one.prefill_s for one in requests],
        "itl_s": [one.itl_s for one in requests],
        "e2e_s": [one.prefill_s + sum(one.itl_s) for one in requests],
        "host_s": [one.host_s for one in requests],
    }


def energy(
    runs: Engine,
    reader: Reader,
    workload: Workload,
    rules: Measure,
    phase: Emit,
    reasons: set[str],
) -> dict[str, Any]:
    """Energy of prefill and of decode apart, each repeated to fill a window; {} if unreadable.

    A server's cannot be told apart: the energy of its whole window is all there is.
    """
    if not reader.has_energy or hasattr(runs, "serve"):
        return {}

    def prefill() -> int:
        runs.reset()
        runs.prefill()
        return workload.n_prompt * workload.n_batch

    def decode() -> int:
        runs.rewind()
        for _ in range(workload.n_gen - 1):
            runs.step()
        return (workload.n_gen - 1) * workload.n_batch

    figures: dict[str, Any] = {}
    prefill()
    for name, work in (("prefill", prefill), ("decode", decode)):
        if name == "decode" and workload.n_gen == 1:
            continue
        phase({"phase": f"energy of {name}"})
        try:
            reading, tokens = fill(reader, runs, work, rules.window_s)
        except UnsupportedError as error:  # the engine cannot repeat this part alone
            figures[name] = {"absent": {"energy_j": str(error)}}
            continue
        reasons.update(reading.reasons)
        figures[name] = dict(reading.energy) | {"tokens": tokens, "absent": dict(reading.absent)}
    return figures


def fill(
    reader: Reader, runs: Engine, work: Callable[[], int], seconds: float
) -> tuple[Reading, int]:
    """Repeat `work` for at least `seconds` between the reader's edges; the tokens it made."""
    tokens = 0
    work()  # fails, if it must, before the window is open
    runs.synchronize()
    reader.begin()
    end = time.perf_counter() + seconds
    while tokens == 0 or time.perf_counter() < end:
        tokens += work()
        runs.synchronize()
    return reader.end(), tokens


def perform(job: dict[str, Any], emit: Emit) -> None:
    """Do what the parent asked for, sending an event for each thing done."""
    task: Task = job["task"]
    if task == "probe":
        emit({"event": "probed", **probe(job["device"])})
        return

    def phase(what: dict[str, Any]) -> None:
        emit({"event": "phase", **what})

    phase({"phase": "load"})
    runs, loaded = load(job, emit)
    if task == "quality":
        phase({"phase": "quality"})
        emit({"event": "quality", **quality(runs, job)})
        return
    if task == "fit":
        found = fit(runs, loaded.device, phase, **job["fit"])
        emit({"event": "fit", **found})
        return
    waits_on = getattr(runs, "clock_device", loaded.device)
    clock = getattr(runs, "clock", None) or clock_for(waits_on)
    reader = reader_of(loaded.device, getattr(runs, "others", None))
    held = after_loading(loaded.device)
    rules = Measure(**job["measure"])
    try:
        if reader.has_energy:
            phase({"phase": "idle power"})
            reader.idle(rules.idle_s)
        for table in job["workloads"]:
            workload = Workload(**table)
            phase({"phase": "start", "workload": table})
            try:
                figures = measure(runs, clock, reader, workload, rules, phase)
                figures |= memory_parts(figures, held, loaded)
                emit({"event": "measured", "workload": table, **figures})
            except Exception as error:  # one workload that fails must not take the others along
                emit(failure(error) | {"workload": table})
                release(runs)
                if is_broken(runs):
                    break  # the parent has the other workloads measured by a fresh process
    finally:
        reader.close()


def memory_parts(figures: dict[str, Any], held: Figures, loaded: Loaded) -> dict[str, Any]:
    """The memory of a measured workload with its parts, and why one is missing."""
    found = parts(
        loaded.device,
        figures["memory"],
        held,
        weights_bytes=loaded.weights_bytes,
        cache_bytes=figures["notes"].get("cache_bytes"),
    )
    return {
        "memory": figures["memory"] | found.values,
        "absent": found.absent | figures["absent"],
    }


def load(job: dict[str, Any], emit: Emit) -> tuple[Engine, Loaded]:
    """Load the engine that the job names, and say what was loaded."""
    runs = engine(job["engine"])
    before = time.perf_counter()
    loaded = runs.load(Job.of(job["load"]))
    emit({"event": "loaded", "load_s": time.perf_counter() - before, **asdict(loaded)})
    return runs, loaded


def quality(runs: Engine, job: dict[str, Any]) -> dict[str, Any]:
    """Quality figures of what is loaded, on the job's text."""
    from bench.quality import evaluate

    return evaluate(runs, **job["quality"])


def fit(
    runs: Engine, device: str, phase: Emit, *, n_prompt: int, n_gen: int, most: int
) -> dict[str, Any]:
    """The largest batch of such requests that fits on the device."""
    from bench.devices.room import peak_bytes
    from bench.worker.fitting import largest_batch

    steps = min(2, n_gen)  # after a longer prompt: the cache is as full, and sooner

    def attempt(n_batch: int) -> int | None:
        phase({"phase": "fit", "n_batch": n_batch})
        reader = reader_of(device, getattr(runs, "others", None))
        try:
            reader.begin()
            runs.start(n_prompt + n_gen - steps, steps, n_batch)
            request(runs, HostClock(), steps)
            return peak_bytes(reader.end(), device)
        except Exception as error:
            if failure(error)["code"] != "OOM":
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

    most = min(most, getattr(runs, "most_sequences", most))
    room = room_of(device, getattr(runs, "others", None))
    found = largest_batch(attempt, room, most)
    return {"n_batch": found.n_batch, "limited_by": found.limited_by, "peaks": dict(found.peaks)}


def probe(device: str) -> dict[str, Any]:
    """What `device` stands for on this machine, without loading anything."""
    from bench.engines.transformers.engine import resolve_device

    found = resolve_device(device)
    return {"device": found.name, "kind": found.kind, "capability": found.capability}


def failure(error: Exception) -> dict[str, Any]:
    """The event for something that went wrong: a code, and one line for the user."""
    if isinstance(error, UnsupportedError):
        code, message = error.code, str(error)
    elif isinstance(error, BenchError):
        code, message = "INPUT", str(error)
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        code, message = "OOM", f"out of memory: {first_line(error)}"
    elif "not enough memory" in str(error) or "can't allocate memory" in str(error):
        # PyTorch's CPU allocator raises a plain RuntimeError.
        code, message = "OOM", f"out of memory: {first_line(error)}"
    else:
        code, message = "CRASH", f"{type(error).__name__}: {first_line(error)}"
        traceback.print_exception(error)
    about = error.about if isinstance(error, UnsupportedError) else {}
    return {"event": "failed", "code": code, "message": message, "device": about}


def first_line(error: Exception) -> str:
    """The first line of an error's text that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def release(runs: Engine) -> None:
    """Give memory back after a failed workload.

    Not if other processes were ended by it: the device may be in a collective that waits for one of
    them, and giving back waits for the device.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and not is_broken(runs) and torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def claim_stdout() -> Emit:
    """Keep stdout for events alone; whatever else is printed goes to stderr."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: dict[str, Any]) -> None:
        stream.write(json.dumps(event, allow_nan=False) + "\n")
        stream.flush()

    return emit


def main() -> int:
    """One job from stdin."""
    emit = claim_stdout()
    try:
        perform(json.loads(sys.stdin.readline()), emit)
    except Exception as error:  # reported to the parent, which writes it down
        emit(failure(error))
        return 1
    emit({"event": "done"})
    return 0
