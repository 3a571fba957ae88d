"""Talking to a worker process that answers, dies, hangs or talks nonsense."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from bench.runner.process import Line, converse, events, last
from bench.worker.messages import Done, Failed, Phase, Probed, Told


def talk(program: str, limit_s: float = 20.0) -> list[Line]:
    return list(converse({"a": 1}, limit_s=limit_s, command=(sys.executable, "-c", program)))


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that nobody waits for counts as ended."""
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True


def test_events_come_as_they_are_said() -> None:
    events = talk(
        "import sys; job = sys.stdin.readline().strip()\n"
        'print(\'{"event": "phase", "job": %s}\' % job)\n'
        'print(\'{"event": "done"}\')'
    )
    assert events == [{"event": "phase", "job": {"a": 1}}, {"event": "done"}]


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "CRASH", "SIGKILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "CRASH", "SIGSEGV"),
        ("import sys; print('no room', file=sys.stderr); sys.exit(9)", "CRASH", "no room"),
        ("print('hello')", "CRASH", "an invalid event"),
        ("pass", "CRASH", "said nothing"),
    ],
)
def test_however_a_worker_ends_the_last_event_says_so(program: str, code: str, words: str) -> None:
    events = talk(program)
    failed = [event for event in events if event["event"] == "failed"]
    assert failed[0]["code"] == code
    assert words in failed[0]["message"]


def test_an_error_that_the_worker_told_is_not_told_twice() -> None:
    events = talk(
        'import sys; print(\'{"event": "failed", "code": "OOM", "message": "m"}\'); sys.exit(1)'
    )
    assert [event["code"] for event in events] == ["OOM"]


def test_a_worker_that_hangs_is_ended_at_its_limit() -> None:
    program = (
        'import os, time; print(\'{"event": "phase", "pid": %d}\' % os.getpid(), flush=True);'
        "time.sleep(600)"
    )
    events = talk(program, limit_s=1.0)
    assert events[-1]["code"] == "TIMEOUT"
    assert gone(events[0]["pid"])


def test_whatever_the_worker_started_ends_with_it() -> None:
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        'print(\'{"event": "phase", "pid": %d}\' % child.pid, flush=True)\n'
        "time.sleep(600)"
    )
    events = converse({}, limit_s=20.0, command=(sys.executable, "-c", program))
    child = next(events)["pid"]
    events.close()
    for _ in range(100):
        if gone(child):
            break
        time.sleep(0.05)
    assert gone(child)


def test_the_parent_sleeps_while_the_worker_works() -> None:
    before = os.times()
    talk('import time; time.sleep(2); print(\'{"event": "done"}\')')
    after = os.times()
    # Processor time, not wall time: a parent that spins would use all of the two seconds.
    used = (after.user - before.user) + (after.system - before.system)
    assert used < 0.5


def test_last_is_the_answer() -> None:
    answer = Probed(device="cpu", kind="cpu", capability=None, n_sm=None)
    assert last(iter([Phase(phase="load"), answer, Done()])) == answer


def test_a_line_that_is_no_event_of_ours_ends_the_conversation() -> None:
    first_line, bad = '{"event": "phase", "phase": "load"}', '{"event": "fit", "n_batch": "x"}'
    program = f"print({first_line!r}); print({bad!r})"
    command = (sys.executable, "-c", program)
    first, failed = events(Told(task="probe"), limit_s=20.0, command=command)
    assert first == Phase(phase="load")
    assert isinstance(failed, Failed)
    assert failed.code == "CRASH"
    assert "n_batch: expected a whole number" in failed.message
