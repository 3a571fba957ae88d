"""Several client processes that send one load: the same requests, one window, and no orphan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.demand import demand
from bench.engines.endpoint import EndpointEngine, crew
from bench.engines.endpoint.crew import Crew, clients_for
from bench.engines.endpoint.prompts import HEAD
from bench.engines.endpoint.sending import Streams, of_sessions, planned
from bench.engines.endpoint.source import Source
from bench.errors import UnsupportedError
from bench.experiment import Workload
from bench.records.file import read
from tests.engines.test_serving import engine
from tests.scripted_server import Exchange, ScriptedServer, good, scripted
from tests.ticking_server import ticking

ROOT = Path(__file__).parents[2]
SESSIONS = "prompt=uniform:30:60 gen=uniform:3:6 turns=3 system=32"


def tails(server: ScriptedServer, n_gen: int) -> list[tuple[int, ...]]:
    """What was asked for so many tokens, without the beginnings that are new in each process."""
    return [tuple(to.body["prompt"][HEAD:]) for to in server.asked if to.n_gen == n_gen]


def tail(runs: EndpointEngine, place: int) -> tuple[int, ...]:
    prompt = runs._asking.vocabulary.prompt(place)
    assert not isinstance(prompt, str)
    return tuple(prompt[HEAD:])


def pids(runs: EndpointEngine) -> list[int]:
    assert isinstance(runs._clients, Crew)
    return [member._process.pid for member in runs._clients._members]


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def gone(each: Sequence[int], seconds: float = 10.0) -> bool:
    """Whether all of them end by themselves in time."""
    until = time.monotonic() + seconds
    while any(map(alive, each)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, each))


@pytest.mark.parametrize("n_clients", [1, 2, 3, 7])
def test_shares_are_the_whole_whatever_the_number_of_processes(n_clients: int) -> None:
    streams = Streams(n=5, first=40, mine=range(5))
    shares = [streams.share(client, n_clients) for client in range(n_clients)]
    assert sorted(one for share in shares for one in share.mine) == list(range(5))
    assert {(share.n, share.first) for share in shares} == {(5, 40)}
    for load in (
        planned([0.0, 0.5, 0.7, 2.0], 3),
        of_sessions(demand(SESSIONS).requests("seed", 30), 4.0),
    ):
        parts = [load.share(client, n_clients).each for client in range(n_clients)]
        assert sorted((a for part in parts for a in part), key=lambda a: a.place) == list(load.each)


def test_sessions_are_drawn_alike_in_whatever_order_they_are_asked_for() -> None:
    forth, back = (Source(demand(SESSIONS), "seed") for _ in range(2))
    ahead = [forth.session(number) for number in range(6)]
    assert ahead == [back.session(number) for number in reversed(range(6))][::-1]
    assert [one for turns in ahead for one in turns] == demand(SESSIONS).requests("seed", 18)


@pytest.mark.parametrize("n_clients", [1, 2, 3])
def test_a_closed_loop_of_several_processes_asks_the_same(n_clients: int) -> None:
    with scripted() as server, engine(server.url, clients=n_clients) as runs:
        runs.start(12, 8, 4)
        runs.request(8)
        found = runs.serve(3, 0.0)
        # The warm-up took the first 4 places; each stream asks in its own order.
        wanted = {tail(runs, place) for place in range(4 + 4 * 3)}
    assert server.most_in_flight == 4
    assert len(found.requests) % 4 == 0
    assert len(found.requests) >= 12
    assert wanted <= set(tails(server, 8))
    told = found.device["client"]
    assert told["n_clients"] == n_clients
    assert 0 < told["cpu_share_max"] <= told["cpu_share"]
    assert told["memory_bytes"] > n_clients * 10**6


@pytest.mark.parametrize("n_clients", [1, 3])
def test_arrivals_of_several_processes_are_one_schedule(n_clients: int) -> None:
    with scripted() as server:
        options: dict[str, Any] = {"rate": 100.0, "n_requests": 20, "clients": n_clients}
        with engine(server.url, **options) as runs:
            runs.start(12, 8, 1)
            found = runs.serve(1, 0.0)
            wanted = sorted(tail(runs, place) for place in range(20))
    assert len(found.requests) == 20
    assert sorted(tails(server, 8)) == wanted
    assert found.wall_s > 0


def test_a_probe_of_several_processes_judges_the_same_requests() -> None:
    """By their lengths, as text of any tokens will do."""
    asked: list[list[tuple[int, int]]] = []
    for n_clients in (1, 2):
        with scripted() as server, engine(server.url, clients=n_clients) as runs:
            spec = "prompt=uniform:9:30 gen=uniform:3:6"
            work = Workload(
                n_prompt=20,
                n_gen=4,
                n_batch=1,
                requests=spec,
                slo="e2e_p95=10",
                rate=100.0,
                n_requests=20,
            )
            runs.expect(work)
            runs.start(20, 4, 1)
            found = runs.serve(1, 0.0)
        assert found.device["requests"]["n_answered"] == 20
        each = [one.counts for one in found.requests]
        asked.append(sorted((one.n_prompt, one.n_gen) for one in each if one is not None))
    lengths = [(one.n_prompt, one.n_gen) for one in demand(spec).requests(f"0/0/{spec}", 30)]
    assert asked[0] == asked[1] == sorted(lengths[10:30])


def test_sessions_stay_with_one_process() -> None:
    with scripted() as server, engine(server.url, clients=2) as runs:
        work = Workload(n_prompt=60, n_gen=4, n_batch=2, requests=SESSIONS)
        runs.expect(work)
        runs.start(60, 4, 2)
        found = runs.serve(4, 0.0)
    shared = [one.counts.n_shared for one in found.requests if one.counts is not None]
    assert len(shared) == len(found.requests) >= 8
    assert any(n > 32 for n in shared)


def test_where_too_many_fail_all_processes_stop() -> None:
    async def fails(to: Exchange) -> None:
        await (good(to) if to.n_gen <= 2 else to.status(500))

    with scripted(fails) as server, engine(server.url, clients=2) as runs:
        runs.start(8, 4, 4)
        with pytest.raises(UnsupportedError, match=r"requests failed .* http_500") as error:
            runs.serve(50, 0.0)
        assert error.value.code == "REQUESTS_FAILED"
        assert len(tails(server, 4)) <= 8  # those in flight, and not 200
        assert all(map(alive, pids(runs)))


def test_a_process_that_dies_ends_the_workload_and_all_the_others() -> None:
    async def slow(to: Exchange) -> None:
        if to.n_gen > 2 and not killed.is_set():
            killed.set()
            os.kill(doomed[0], signal.SIGKILL)
        await good(to)

    killed, doomed = threading.Event(), list[int]()
    with scripted(slow) as server, engine(server.url, clients=2) as runs:
        runs.start(8, 4, 4)
        doomed += pids(runs)
        with pytest.raises(
            UnsupportedError, match="client process 1 of 2 was killed by signal 9"
        ) as error:
            runs.serve(500, 0.0)
        assert error.value.code == "CRASH"
        assert gone(doomed)
        runs.start(8, 4, 4)  # the next workload has fresh ones
        assert not set(pids(runs)) & set(doomed)
        assert len(runs.serve(2, 0.0).requests) >= 8
        left = pids(runs)
    assert gone(left)


def test_processes_whose_leader_is_killed_end() -> None:
    program = (
        "import sys, time\n"
        "from tests.engines.test_serving import engine\n"
        "from tests.engines.test_serving_clients import pids\n"
        "with engine(sys.argv[1], clients=2) as runs:\n"
        "    runs.start(8, 4, 2)\n"
        "    print(*pids(runs), flush=True)\n"
        "    runs.serve(10**6, 0.0)\n"
    )
    with scripted() as server:
        command = [sys.executable, "-c", program, server.url]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as leader:
            assert leader.stdout is not None
            each = [int(word) for word in leader.stdout.readline().split()]
            assert len(each) == 2
            assert all(map(alive, each))
            leader.kill()
        assert gone(each)


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    flags = ["-p", "8", "-n", "50", "-b", "4", "--pairs", "1", "--option", "clients=2"]
    with ticking("tick", ttft=0.05, tpot=0.05) as url:
        command = [sys.executable, "-m", "bench", "run", "--url", url, *flags]
        run = subprocess.Popen(
            [*command, "--into", str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        try:
            each = _members(run.pid)
            assert len(each) == 2
            run.send_signal(signal.SIGINT)
            _, errors = run.communicate(timeout=60)
        finally:
            run.kill()
            run.wait()
    assert run.returncode == 130, errors
    assert gone(each)


def _members(root: int) -> list[int]:
    """Client processes below a process, once there are two."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if "bench.engines.endpoint.member" in words and _below(int(folder.name), root):
                found.append(int(folder.name))
        if len(found) == 2:
            return found
        time.sleep(0.1)
    return []


def _below(pid: int, root: int) -> bool:
    while pid > 1:
        if pid == root:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def test_auto_adds_processes_where_one_could_not_read_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clients_for(0.0) == 1
    monkeypatch.setattr(crew, "cores", lambda: 2)
    assert clients_for(10**6) == 1  # the other core is the server's, or everything else's
    monkeypatch.setattr(crew, "cores", lambda: 8)
    assert [clients_for(n * crew.CHUNKS_S) for n in (0.9, 1.1, 30.0)] == [1, 2, 7]
    monkeypatch.setattr(crew, "cores", lambda: 3)
    monkeypatch.setattr(crew, "CHUNKS_S", 100)
    with scripted() as server, engine(server.url) as runs:
        runs.start(8, 8, 4)
        assert runs._clients.n == 1
        runs.request(8)  # 4 streams of 500 tokens a second
        assert runs._clients.n == 2
        assert runs.serve(2, 0.0).device["client"]["n_clients"] == 2
        runs.start(8, 8, 1)
        assert runs._clients.n == 1


def test_processes_without_a_common_clock_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted() as server, engine(server.url, clients=2) as runs:
        monkeypatch.setattr(crew, "time", SimpleNamespace(perf_counter_ns=lambda: 0))
        with pytest.raises(UnsupportedError, match="no common clock"):
            runs.start(8, 4, 2)


def test_a_run_records_its_client_processes(tmp_path: Path) -> None:
    from bench.cli import main

    flags: list[Any] = ["-p", "8", "-n", "10", "-b", "4", "--pairs", "1", "--option", "clients=2"]
    with ticking("tick", ttft=0.01, tpot=0.005) as url:
        assert main(["run", "--url", url, *flags, "--into", str(tmp_path)]) == 0
    (record,) = read(tmp_path).records
    assert record.status == "ok"
    assert record.device["client"]["n_clients"] == 2
    assert record.variant["options"]["clients"] == 2
