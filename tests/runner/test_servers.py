"""Servers that the harness starts: fresh, interleaved, and gone whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.keeper import descendants
from bench.records import Record
from bench.records.file import read
from bench.runner import servers
from bench.runner.servers import decisive, free_port
from tests.scripted_server import scripted

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def command(folder: Path, *faults: str) -> str:
    """A server that writes down its processes, for `--serve`."""
    program = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.served"]
    return f"{shlex.join(program)} {{port}} {shlex.join(['--pids', str(folder / 'pids'), *faults])}"


def arguments(folder: Path, *commands: str, pairs: int = 1, **options: object) -> list[str]:
    """`bench run` of few short requests."""
    path = folder / "e.toml"
    path.write_text(
        """
name = "served"
question = "Which server is faster?"
baseline = "as-served"
[grid]
model = ["served"]
engine = ["endpoint"]
quant = ["as-served"]
n_prompt = [8]
n_gen = [4]
[measure]
iterations = 3
window_s = 0.0
warmup_window = 2
warmup_max_s = 1.0
[quality]
text = ""
"""
    )
    settings = {"stop_s": 2, **options}
    return [
        "run",
        str(path),
        *(word for one in commands for word in ("--serve", one)),
        *(word for key, value in settings.items() for word in ("--option", f"{key}={value}")),
        *("--pairs", str(pairs), "--into", str(folder / "out"), "-o", "json"),
    ]


def records(folder: Path) -> list[Record]:
    return read(folder / "out").records


def started(folder: Path) -> list[list[int]]:
    """The processes of each server that ran, a server and its child."""
    path = folder / "pids"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def left(folder: Path, within_s: float = 0.0) -> list[int]:
    """Processes of servers that are still there."""
    deadline = time.monotonic() + within_s
    while True:
        found = [pid for pids in started(folder) for pid in pids if alive(pid)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def test_arms_take_turns_each_with_a_fresh_server_that_is_gone_afterwards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast, slow = command(tmp_path), command(tmp_path, "--step-s", "0.03")
    assert main(arguments(tmp_path, fast, slow, pairs=2)) == 0
    rows = json.loads(capsys.readouterr().out)
    assert ["--step-s 0.03" in row["variant"] for row in rows] == [False, True]
    assert rows[0]["peak_memory_bytes"] > 1e6
    found = records(tmp_path)
    assert len(started(tmp_path)) == 4
    assert len({pids[0] for pids in started(tmp_path)}) == 4
    first, second, third, fourth = (r.variant["options"]["serve"] for r in found)
    assert first != second == third != fourth == first  # ABBA
    for record in found:
        about = record.model["details"]["started"]
        assert about["startup_s"] > 0
        assert about["memory"]["host_bytes"] > 1e6
        assert (tmp_path / "out" / about["log"]).exists()
        assert record.memory["peak_host_bytes"] > about["memory"]["host_bytes"] / 2
        assert record.memory["processes"] == 2
        assert "peak_memory_bytes" not in record.absent
    assert left(tmp_path) == []


def test_a_server_that_is_never_ready_is_given_up_with_its_logs_last_word(tmp_path: Path) -> None:
    assert main(arguments(tmp_path, command(tmp_path, "--never-ready"), ready_s=1, pairs=2)) == 3
    found = records(tmp_path)
    assert {r.reasons for r in found} == {("NOT_LOADED",)}
    assert "not ready after 1 s (option ready_s): it said nothing; its log: logs/" in str(
        found[0].message
    )
    assert len(list((tmp_path / "out/logs").iterdir())) == 1  # not waited for again
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "code"),
    [("no kernel image is available", "NOT_LOADED"), ("CUDA out of memory. Tried 2 GiB", "OOM")],
)
def test_one_that_dies_while_loading_says_why(tmp_path: Path, words: str, code: str) -> None:
    assert main(arguments(tmp_path, command(tmp_path, "--raises", words))) == 3
    (record,) = records(tmp_path)
    assert record.reasons == (code,)
    assert f"the server ended with 1: RuntimeError: {words}; its log: logs/" in str(record.message)
    assert left(tmp_path) == []


def test_one_that_dies_at_request_7_is_a_failure_of_that_workload_alone(tmp_path: Path) -> None:
    # One at a time takes 3 requests to begin with and 4 + 3 of the window; two takes more.
    base = arguments(tmp_path, command(tmp_path, "--dies-at", "7"))
    assert main([*base, "-b", "1,2"]) == 3
    one, two = records(tmp_path)
    for record in (one, two):
        assert record.status == "failed"
        assert record.reasons == ("CRASH",)
        assert "requests failed" in str(record.message)
        assert "the server ended with 3: RuntimeError: the kernel launch failed" in str(
            record.message
        )
    assert len(started(tmp_path)) == 2  # the second workload had a server of its own
    assert left(tmp_path) == []


def test_one_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    command_ = command(tmp_path, "--hangs-at", "7")
    assert main(arguments(tmp_path, command_, timeout_s=1)) == 3
    (record,) = records(tmp_path)
    assert record.reasons == ("REQUESTS_FAILED",)
    assert "timeout" in str(record.message)
    assert left(tmp_path) == []


def test_one_that_ignores_sigterm_goes_with_its_child_in_another_session(tmp_path: Path) -> None:
    stubborn = command(tmp_path, "--ignores-sigterm", "--child-apart")
    assert main(arguments(tmp_path, stubborn, stop_s=0.5)) == 0
    assert left(tmp_path) == []


def test_a_port_that_was_taken_meanwhile_is_left_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted() as other:
        taken = int(other.url.rpartition(":")[2])
        ports = iter([taken, free_port()])
        monkeypatch.setattr(servers, "free_port", lambda: next(ports))
        assert main(arguments(tmp_path, command(tmp_path))) == 0
        assert other.asked == []  # nothing was measured on another's server
    assert left(tmp_path) == []


def test_a_server_that_is_not_ours_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted() as other:
        taken = int(other.url.rpartition(":")[2])
        monkeypatch.setattr(servers, "free_port", lambda: taken)
        assert main(arguments(tmp_path, command(tmp_path, "--other-port"))) == 3
        assert other.asked == []
    (record,) = records(tmp_path)
    assert f"another process already uses port {taken}" in str(record.message)
    assert left(tmp_path) == []


@contextlib.contextmanager
def running(folder: Path, *faults: str) -> Iterator[subprocess.Popen[bytes]]:
    """A run of its own, at a time when its server is up; it does not outlive its test."""
    run = subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments(folder, command(folder, *faults), pairs=50)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not started(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        assert started(folder)
        time.sleep(0.5)
        yield run
    finally:
        run.kill()
        run.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("faults", [(), ("--ignores-sigterm", "--child-apart")])
def test_no_process_is_left_when_the_parent_goes(
    tmp_path: Path, number: signal.Signals, faults: tuple[str, ...]
) -> None:
    with running(tmp_path, *faults) as run:
        run.send_signal(number)
        code = run.wait(30)
    assert code == (-9 if number == signal.SIGKILL else 130)
    assert left(tmp_path, within_s=10.0 if number == signal.SIGKILL else 0.0) == []


def test_an_interrupt_while_a_server_is_being_ended_waits_for_that_end(tmp_path: Path) -> None:
    with running(tmp_path, "--ignores-sigterm", "--child-apart") as run:
        deadline = time.monotonic() + 60
        while not records(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)  # the first replicate is recorded, and its server asked to end
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 130
    assert left(tmp_path) == []


def test_a_keeper_that_is_killed_takes_the_server_along(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        server = started(tmp_path)[0][0]
        keeper = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(keeper, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while alive(server) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(server)
        run.send_signal(signal.SIGINT)
        run.wait(30)
    for pids in started(tmp_path):
        assert not alive(pids[0])
    for pids in started(tmp_path):  # of the one whose keeper was killed, a child may be left
        if alive(pids[1]):
            os.kill(pids[1], signal.SIGKILL)


@pytest.mark.parametrize(
    ("serve", "says"),
    [
        ("no-such-program --port {port}", "no program 'no-such-program'"),
        ("vllm serve {model}", "must hold {port}"),
        ("vllm serve 'x --port {port}", "serve: No closing quotation"),
        ("vllm serve --port {port} --api-key sk-12345678", "must hold no key"),
        ("env A=1 x {model} --port {port}", "served"),
    ],
)
def test_a_command_that_cannot_work_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], serve: str, says: str
) -> None:
    assert main(arguments(tmp_path, serve)) == 2
    said = capsys.readouterr().err
    assert says in said
    assert "sk-12345678" not in said


def test_a_server_is_started_or_there_already(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [*arguments(tmp_path, command(tmp_path)), "--url", "http://localhost:8000"]
    assert main(both) == 2
    assert "give only one of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("", "it said nothing"),
        ("starting\nready\n", "ready"),
        (
            "INFO up\n(EngineCore pid=7) ERROR core.py:71] ValueError: Free memory is less\n"
            "RuntimeError: Engine core initialization failed. See root cause above.\n",
            "(EngineCore pid=7) ERROR core.py:71] ValueError: Free memory is less",
        ),
        (
            "ValueError: something\ntorch.OutOfMemoryError: CUDA out of memory. Tried to\n",
            "torch.OutOfMemoryError: CUDA out of memory. Tried to",
        ),
        (
            "\x1b[31merror: unknown argument: --foo\x1b[0m\nusage: x\n",
            "error: unknown argument: --foo",
        ),
    ],
)
def test_the_decisive_line_of_a_log(log: str, line: str) -> None:
    assert decisive(log) == line


def test_descendants_are_children_and_theirs(tmp_path: Path) -> None:
    tree: dict[int, Any] = {10: 1, 11: 10, 12: 11, 13: 1}
    for pid, parent in tree.items():
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/stat").write_text(f"{pid} (a (b) c) S {parent} 0 0\n")
    assert sorted(descendants(10, tmp_path)) == [11, 12]
    assert descendants(13, tmp_path) == []
