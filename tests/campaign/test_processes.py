"""What the system does to parent and worker: streams, signals, limits, clocks, odd files.

Runs are of the engine `synthetic`, so that each is a real parent with real workers in a second.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import worker
from bench.experiment import Measure, Workload
from bench.records.file import read
from bench.runner import process
from bench.runner.process import events
from bench.worker.messages import Done, Failed, Told
from tests.campaign import base
from tests.campaign.seeds import report
from tests.campaign.test_records import harm
from tests.fakes import FakeClock, FakeEngine, FakeReader
from tests.runner.test_process import gone

BENCH = (sys.executable, "-m", "bench")
CONTRACT = (0, 1, 2, 3, 130)
LONGEST_S = 60.0
RUN = ("run", "-m", "llama-3.2-1b@random", "-e", "synthetic", "-q", "none", "-p", "8", "-n", "4")
RUN += ("--level", "quick")
VERBS = {
    "compare": ("compare", "RESULTS"),
    "cost": ("cost", "RESULTS", "--rent", "1"),
    "export": ("export", "RESULTS", "--to", "csv"),
    "validate": ("validate", "RESULTS"),
    "gpus": ("gpus",),
    "plan": ("plan", *RUN[1:], "--gpu", "rtx-4080"),
    "run": (*RUN, "--pairs", "1", "--into", "INTO"),
}
STREAMS = {
    "stdout closed": 'exec "$@" >&-',
    "stderr closed": 'exec "$@" 2>&-',
    "both closed": 'exec "$@" >&- 2>&-',
    "all closed": 'exec "$@" <&- >&- 2>&-',
    "stdout full": 'exec "$@" >/dev/full',
    "stderr full": 'exec "$@" 2>/dev/full',
    "both full": 'exec "$@" >/dev/full 2>/dev/full',
    "reader gone": '"$@" | true',
    "one line read": '"$@" | head -n 1',
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base.write(tmp_path_factory.mktemp("campaign") / "results")


def arguments(verb: str, results: Path, into: Path) -> list[str]:
    found = {"RESULTS": str(results), "INTO": str(into)}
    return [*BENCH, *(found.get(word, word) for word in VERBS[verb])]


def wrong(code: int, said: str) -> str | None:
    """What a process must not have done."""
    if code not in CONTRACT:
        return f"exit code {code}: {said[-200:]!r}"
    return f"a traceback: {said[-200:]!r}" if "Traceback" in said else None


def whole(into: Path, torn: int = 0) -> str | None:
    """What is wrong with the records that a run left, `torn` lines at the end allowed; None where
    it left none."""
    if not (into / "records.jsonl").exists():
        return None
    problems = read(into).problems
    return f"records: {problems[:1]}" if len(problems) > torn else None


def together(jobs: dict[str, Callable[[], str | None]]) -> list[str]:
    """A line for each that failed; two at a time, as each waits for processes."""
    with ThreadPoolExecutor(2) as pool:
        futures = {name: pool.submit(job) for name, job in jobs.items()}
    return [f"{name}: {why}" for name, one in futures.items() if (why := one.result())]


def finished(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """What became of a command; one that does not end has no code of the contract."""
    try:
        return subprocess.run(
            command, text=True, capture_output=True, check=False, timeout=LONGEST_S, **options
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, -1, "", "did not end")


def test_streams_that_are_closed_or_full(results: Path, tmp_path: Path) -> None:
    def job(verb: str, state: str) -> str | None:
        into = tmp_path / f"{verb}-{state}"
        command = ["sh", "-c", STREAMS[state], "sh", *arguments(verb, results, into)]
        done = finished(command)
        if why := wrong(done.returncode, done.stderr) or whole(into):
            return why
        if verb == "run" and not read(into).records:
            return "nothing was measured"
        full = state in ("stdout full", "both full") and done.returncode != 3
        return f"exit code {done.returncode}: the table was lost" if full else None

    jobs = {
        f"{verb}, {state}": lambda verb=verb, state=state: job(verb, state)
        for verb in ("compare", "gpus", "run")
        for state in STREAMS
    }
    report("processes/streams", len(jobs), together(jobs))


def children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def test_signals_at_any_time(tmp_path: Path) -> None:
    moments: dict[str, Callable[[int, Path], bool]] = {
        "a worker": lambda pid, into: bool(children(pid)) and (into / "records.jsonl").exists(),
        "a record": lambda _, into: b'"kind": "record"' in _bytes(into) or _count(into) > 1,
        "three records": lambda _, into: _count(into) > 3,
    }

    def job(number: signal.Signals, moment: str) -> str | None:
        into = tmp_path / f"{number.name}-{moment}"
        command = [*BENCH, *RUN, "--pairs", "300", "--into", str(into)]
        run = subprocess.Popen(command, text=True, stdout=-1, stderr=-1)
        end = time.monotonic() + LONGEST_S
        while not moments[moment](run.pid, into):
            if run.poll() is not None or time.monotonic() > end:
                run.kill()
                return f"did not come so far: {run.communicate()[1][-200:]!r}"
            time.sleep(0.01)
        workers = children(run.pid)
        run.send_signal(number)
        try:
            err = run.communicate(timeout=LONGEST_S)[1]
        except subprocess.TimeoutExpired:
            run.kill()
            return "did not end"
        _, alive = psutil.wait_procs(workers, timeout=10)
        if alive:
            return f"left {len(alive)} processes"
        if run.returncode != 130 or "everything finished is kept" not in err.splitlines()[-1]:
            return f"exit code {run.returncode}: {err[-200:]!r}"
        return wrong(run.returncode, err) or whole(into)

    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    jobs = {
        f"{number.name} at {moment}": lambda number=number, moment=moment: job(number, moment)
        for number in numbers
        for moment in moments
    }
    report("processes/signals", len(jobs), together(jobs))


def _bytes(into: Path) -> bytes:
    with contextlib.suppress(OSError):
        return (into / "records.jsonl").read_bytes()
    return b""


def _count(into: Path) -> int:
    return _bytes(into).count(b"\n")


LIMITS = {
    "NOFILE": (8, 12, 24),
    "AS": (200 << 20, 700 << 20),
    "DATA": (16 << 20, 64 << 20),
    "FSIZE": (0, 100, 4096),
    "STACK": (128 << 10,),
    "CORE": (0,),
}


def test_limits_that_are_tiny(results: Path, tmp_path: Path) -> None:
    def job(verb: str, name: str, value: int) -> str | None:
        into = tmp_path / f"{verb}-{name}-{value}"
        which = getattr(resource, f"RLIMIT_{name}")
        done = finished(
            arguments(verb, results, into),
            preexec_fn=lambda: resource.setrlimit(which, (value, value)),
        )
        return wrong(done.returncode, done.stderr) or whole(into, torn=name == "FSIZE")

    jobs = {
        f"{verb}, {name} {value}": lambda verb=verb, name=name, value=value: job(verb, name, value)
        for verb in ("compare", "run")
        for name, values in LIMITS.items()
        for value in values
    }
    report("processes/limits", len(jobs), together(jobs))


IGNORED = {"SIGCHLD", "SIGCLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG"}
IGNORED |= {"SIGWINCH"}
SAYS = (
    "", "\n", " ", "null", "[]", "{}", "7", "nan", '"text"', "{", "}", '{"event"', '{"event": 3}',
    '{"event": null}', '{"event": "unknown"}', '{"event": "phase"}', '{"event": "done", "x": 1}',
    '{"event": "phase", "phase": []}', '{"event": "phase", "phase": "a", "phase": 3}',
    '{"event": "fit", "n_batch": -1}', '{"event": "fit", "n_batch": 1e999}',
    '{"event": "measured", "workload": {}}', '{"event": "failed"}',
    '{"event": "failed", "code": 5}',
    '{"event": "failed", "code": "NO_SUCH", "message": "\\u001b[2J"}', "\\xff\\xfe", "\\x00" * 50,
    "\\x1b]0;owned\\x07", "[" * 5000, '{"a":' * 5000, "Traceback (most recent call last):",
    '{"event": "done"}\\n{"event": "done"}', '{"event": "done"}\\nmore', '{"event": "shape"}',
)  # fmt: skip
DOES = {
    "closes its output and sleeps": "import os, time; os.close(1); time.sleep(60)",
    "sleeps": "import time; time.sleep(60)",
    "reads nothing and sleeps": "import os, time; os.close(0); time.sleep(60)",
    "floods its errors": "import os\nfor _ in range(200): os.write(2, b'x' * 65536)",
    "floods its output": "import os\nwhile True: os.write(1, b'x' * 65536)",
    "floods with lines": "import os\nwhile True: os.write(1, b'\\n' * 65536)",
    "leaves a child with its output": "import subprocess; subprocess.Popen(['sleep', '60'])",
    "stops itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "runs out of memory": "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 28,) * 2);"
    " x = bytearray(1 << 30)",
    "runs out of stack": "def f(): f()\nf()",
    "raises": "raise RuntimeError('\\x1b[2J')",
    "drips": "import os, time\nwhile True: os.write(1, b'{'); time.sleep(0.05)",
}


def test_workers_that_die_hang_or_talk_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MOST_BYTES", 1 << 20)
    kill = "import os, signal; os.kill(os.getpid(), {})"
    programs = {
        f"killed by {one.name}": kill.format(int(one))
        for one in signal.Signals
        if one.name not in IGNORED and one < signal.SIGRTMIN
    }
    programs |= {f"exit code {n}": f"import os; os._exit({n})" for n in (0, 1, 2, 3, 9, 77, 255)}
    say = 'import os; os.write(1, b"""{}""")'
    programs |= {f"says {text[:40]!r}": say.format(text.replace('"""', "")) for text in SAYS}
    programs |= DOES

    def job(program: str) -> str | None:
        before = time.monotonic()
        told = f"import os, sys; print(os.getpid(), file=sys.stderr, flush=True)\n{program}"
        try:
            said = list(events(Told(task="probe"), limit_s=1.0, command=(PYTHON, "-Sc", told)))
        except Exception as error:
            return f"{type(error).__name__}: {error!s:.90}"
        if time.monotonic() - before > LONGEST_S:
            return "took too long"
        return None if isinstance(said[-1], Done | Failed) else f"ends with {said[-1]}"

    jobs = {name: lambda program=program: job(program) for name, program in programs.items()}
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    failures = together(jobs)
    left = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    failures += [f"left running: {c.pid}" for c in left if not gone(c.pid)]
    report("processes/workers", len(jobs), failures)


PYTHON = sys.executable


def clocks() -> Iterator[tuple[str, Callable[[], datetime.datetime]]]:
    for year in (1, 1582, 1900, 1969, 1970, 1999, 2038, 2106, 2999, 9999):
        yield f"year {year}", lambda year=year: datetime.datetime(year, 12, 31, 23, 59, 59, 999_999)
    for error in (
        OverflowError("year is out of range"),
        ValueError("year 10000"),
        OSError(75, "x"),
    ):

        def fails(error: Exception = error) -> datetime.datetime:
            raise error

        yield type(error).__name__, fails
    back = iter(range(10**9))
    yield (
        "runs backwards",
        lambda: datetime.datetime(2026, 1, 1) - datetime.timedelta(hours=next(back)),
    )


@pytest.mark.parametrize("verb", ["run", "cost", "compare", "prices"])
def test_clocks_that_are_wrong(
    verb: str, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures, told = datetime.datetime, [], list(clocks())

    class Wrong(real):  # type: ignore[misc,valid-type]
        """A clock that somebody set."""

        read: Callable[[], datetime.datetime]

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.read().replace(tzinfo=tz)

    for number, (name, clock) in enumerate(told):
        Wrong.read = staticmethod(clock)  # type: ignore[assignment]
        into = tmp_path / str(number)
        with monkeypatch.context() as patched:
            patched.setattr(datetime, "datetime", Wrong)
            if verb == "run":
                why = harm(*RUN, "--pairs", "1", "--into", str(into)) or whole(into)
            elif verb == "prices":
                why = harm("prices")
            else:
                why = harm(*arguments(verb, results, into)[len(BENCH) :])
        failures += [f"{name}: {why}"] if why else []
    report(f"processes/clocks/{verb}", len(told), failures)


@pytest.mark.parametrize(("slept_s", "marked"), [(0.0, False), (0.05, False), (2.0, True)])
def test_a_machine_that_slept_marks_the_window(
    slept_s: float, marked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "suspended_s", iter([100.0, 100.0 + slept_s]).__next__)
    rules = Measure(pairs=1, iterations=1, window_s=0.0, warmup_max_s=1.0)
    work = Workload(n_prompt=8, n_gen=4)
    measured = worker.measure(
        FakeEngine(), FakeClock([0.01]), FakeReader(), work, rules, lambda _: None
    )
    assert ("SUSPENDED" in measured["reasons"]) == marked


def odd_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Results that are no file of records."""
    real = base.write(folder / "real") / "records.jsonl"

    def at(name: str) -> Path:
        made = folder / name
        made.mkdir()
        return made

    for name, target in {
        "a link to itself": "records.jsonl",
        "a link to nothing": "nowhere",
        "a link to a folder": "/",
        "/dev/null": "/dev/null",
        "/dev/full": "/dev/full",
        "/dev/zero": "/dev/zero",
    }.items():
        made = at(name.replace("/", "_"))
        (made / "records.jsonl").symlink_to(target)
        yield name, made
    made = at("folder")
    (made / "records.jsonl").mkdir()
    yield "a folder", made
    made = at("fifo")
    os.mkfifo(made / "records.jsonl")
    yield "a pipe that nobody writes", made
    made = at("socket")
    with socket.socket(socket.AF_UNIX) as one, contextlib.chdir(made):
        one.bind("records.jsonl")
    yield "a socket", made
    yield "a file in its place", real
    yield "a file below a file", real / "more"
    yield "nothing", folder / "missing"
    yield "an empty folder", at("empty")
    yield "a name of 300 characters", folder / ("x" * 300)
    yield "a name with a zero", folder / "a\0b"
    yield "a lone surrogate", folder / "a\udcff"
    yield "an escape", folder / "a\x1b[2Jb"
    yield "a line break", folder / "a\nbench: all is well"
    for name in ("b\x1b[2J", "c\nd", "e\udcff", "f|g", "=h"):
        yield f"records in {name!r}", base.write(folder / name)


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in whatever waits longer."""

    def ring(*_: object) -> None:
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_results_that_are_odd_files(tmp_path: Path) -> None:
    verbs = ("compare", "cost", "validate", "export", "run")
    failures, tried = [], 0
    for name, path in odd_files(tmp_path):
        for verb in verbs:
            tried += 1
            with alarm(20):
                why = harm(*arguments(verb, path, path)[len(BENCH) :])
            failures += [f"{verb}, {name}: {why}"] if why else []
    report("processes/results", tried, failures)
