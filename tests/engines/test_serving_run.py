"""`bench run` against scripted servers: what becomes of answers and of failures on disk."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import shlex
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from bench.api import summarise
from bench.cli import main, parser
from bench.cost.throughput import throughputs
from bench.devices import Reading
from bench.devices.gpu.nvidia import NvidiaCard
from bench.devices.opening import reader_for
from bench.devices.remote import LocalServerReader, StartedServerReader
from bench.engines.endpoint.settings import EndpointSettings, settings
from bench.engines.endpoint.streams import FAILURES
from bench.errors import InputError
from bench.records import Record
from bench.records.file import Results, read
from bench.summary.metrics import goodput_req_s
from bench.summary.replicate import batch_s, each_tpot_s, overlaps, speeds
from bench.summary.rows import tail
from tests.fake_nvml import FakeNvml, process
from tests.fakes import FakeReader
from tests.scripted_server import Exchange, good, scripted

PAGE = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"(?:^    |`)(bench (?:run|cost) [^`\n]+)", PAGE, re.MULTILINE)))


def run(folder: Path, *arguments: str) -> int:
    return main(
        ["run", "serving", "-p", "8", "-n", "4", "--into", str(folder), "-o", "json", *arguments]
    )


def paced(step_s: float) -> Callable[[Exchange], Coroutine[Any, Any, None]]:
    """A server that makes a token every so many seconds."""

    async def answer(to: Exchange) -> None:
        await to.begin()
        for _ in range(to.n_gen):
            await asyncio.sleep(step_s)
            await to.chunk("x")
        await to.chunk("", "length")
        await to.usage(to.n_gen)
        await to.end()

    return answer


def quick(folder: Path, *, pairs: int, arms: str = "", options: str = "") -> Path:
    """An experiment that takes no longer than it must."""
    path = folder / "experiment.toml"
    path.write_text(
        f"""
name = "scripted"
question = "Which server is faster?"
baseline = "as-served"
[grid]
model = ["served"]
engine = ["endpoint"]
quant = ["as-served"]
n_prompt = [8]
n_gen = [8]
{options}
[measure]
pairs = {pairs}
iterations = 3
window_s = 0.0
warmup_window = 2
warmup_max_s = 1.0
[quality]
text = ""
{arms}
"""
    )
    return path


def test_failures_are_recorded_with_their_counts_and_no_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", "sk-hunter2")

    async def busy(to: Exchange) -> None:
        if to.n_gen <= 2:
            await good(to)
        else:
            told = {"error": {"message": f"{to.headers['authorization']} is over its quota"}}
            await to.status(429, json.dumps(told))

    with scripted(busy, key="sk-hunter2") as server:
        code = run(
            tmp_path,
            "--url",
            server.url,
            "-b",
            "2",
            "--pairs",
            "1",
            "--option",
            "key_env=SERVER_KEY",
        )
    assert code == 3
    said = capsys.readouterr()
    (record,) = read(tmp_path).records
    assert record.status == "failed"
    assert record.reasons == ("REQUESTS_FAILED",)
    assert record.message is not None
    assert "2 of 2 requests failed (2 http_429)" in record.message
    assert record.device["requests"]["failed"] == {"http_429": 2}
    assert record.samples == {}
    (row,) = json.loads(said.out)
    assert row["decode_tok_s"] is None
    assert "http_429" in row["absent"]["decode_tok_s"]
    everything = said.out + said.err + "".join(p.read_text() for p in tmp_path.iterdir())
    assert "is over its quota" in everything
    assert "SERVER_KEY" in everything
    assert "hunter2" not in everything


def test_a_model_that_the_server_lacks_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted(good) as server:
        code = run(tmp_path, "--url", server.url, "--pairs", "1", "--option", "model=nosuch")
    assert code == 2
    assert "the server has no 'nosuch'" in capsys.readouterr().err
    assert {record.reasons for record in read(tmp_path).records} == {("INPUT",)}


def test_a_curve_over_concurrency_is_a_row_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted(paced(0.01)) as server:
        path = quick(tmp_path, pairs=1, options="n_batch = [1, 4]")
        command = ["run", str(path), "--url", server.url, "--into", str(tmp_path / "out")]
        assert main([*command, "-o", "json"]) == 0
        one, four = json.loads(capsys.readouterr().out)
        asked = len(server.asked)
        assert main(command) == 0
        assert len(server.asked) == asked  # all was there: nothing is asked again
    assert server.most_in_flight == 4
    # The scripted server is no slower for four at once than for one.
    assert four["output_tok_s"] > 1.5 * one["output_tok_s"]
    out = capsys.readouterr().out
    assert "TTFT ms" in out
    assert "requests/s" in out
    assert "4 at once: " in out
    assert "x the tokens of 1" in out


def test_arrivals_at_a_rate_and_goodput_under_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted(paced(0.005)) as server:
        path = quick(tmp_path, pairs=1)
        options = ("rate=50", "n_requests=30", "ttft_limit_s=60", "e2e_limit_s=60")
        flags = [word for one in options for word in ("--option", one)]
        command = ["run", str(path), "--url", server.url, "--into", str(tmp_path / "out"), *flags]
        assert main([*command, "-o", "json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert main([*command, "-b", "2"]) == 2
        assert "concurrency follows the arrivals" in capsys.readouterr().err
    assert row["n_requests"] == 30
    assert row["goodput_req_s"] == pytest.approx(row["requests_s"])
    assert row["prefill_tok_s"] is None
    assert row["ttft_p99_s"] is None
    assert "needs 100" in row["absent"]["ttft_p99_s"]


def test_two_servers_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(paced(0.03)) as slow, scripted(paced(0.002)) as fast:
        arms = "".join(
            f'[[arm]]\nengine = "endpoint"\nquant = "{quant}"\noptions = {{ url = "{url}" }}\n'
            for quant, url in (("as-served", slow.url), ("fp8", fast.url))
        )
        path = quick(tmp_path, pairs=2, arms=arms)
        assert main(["run", str(path), "--into", str(tmp_path / "out")]) == 0
        capsys.readouterr()
        assert main(["compare", str(tmp_path / "out"), "-o", "json"]) == 0
    rows = {row["metric"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["decode"]["ratio"] > 1.5  # 15 as they are paced, less what this machine adds
    assert rows["cost"]["ratio"] < 1 / 1.5
    assert rows["tpot"]["n_pairs"] == 2
    assert "memory" not in rows  # the client's own is nobody's question


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-e", "endpoint"), "--url http://HOST:PORT"),
        (("--url", "http://me:hunter2@host"), "key_env"),
        (("--url", "http://host", "--option", "raet=2"), "did you mean 'rate'"),
        (("--url", "http://host", "-b", "max"), "-b max: bench cannot see a server's memory"),
        (("--url", "http://host", "--option", "rate=-2"), "rate: must be above 0"),
    ],
)
def test_bad_options_are_one_clear_line(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", *arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert "hunter2" not in said
    assert not (tmp_path / "out").exists()


def test_a_plan_for_a_server_knows_what_it_cannot_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "--url", "http://host", "-o", "json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["device"], row["memory_bytes"], row["bound_decode_tok_s"]) == ("remote", None, None)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_are_understood(command: str) -> None:
    parser().parse_args(shlex.split(command)[1:])


def test_the_page_names_every_kind_of_failure_and_every_option() -> None:
    for kind in FAILURES:
        assert f"`{kind}`" in PAGE or kind == "http_STATUS"
    for one in dataclasses.fields(EndpointSettings):
        assert f"`{one.name}`" in PAGE


# What is read from such records.


def served_record(**changes: Any) -> Record:
    """Two requests at once, three in all, over a window of 3 s."""
    base = Record(
        key="k",
        environment="e",
        experiment="x",
        replicate=0,
        position=0,
        status="ok",
        started_at="2026-11-23T00:00:00+00:00",
        variant={
            "name": "m/endpoint/as-served",
            "model": "m",
            "engine": "endpoint",
            "quant": "as-served",
            "device": "remote",
            "dtype": "as-served",
            "options": {},
        },
        workload={"n_prompt": 10, "n_gen": 5, "n_batch": 2},
        samples={
            "prefill_s": [0.5, 0.5, 1.5],
            "itl_s": [[0.5, 0.5], [0.25] * 4, [0.5]],
            "e2e_s": [1.5, 1.5, 2.5],
            "wall_s": 3.0,
        },
    )
    return replace(base, **changes)


def test_throughput_is_the_windows_and_not_a_requests() -> None:
    record = served_record()
    assert batch_s(record) == pytest.approx(2.0)  # 3 requests in 3 s: 2 of them in 2 s
    figures = speeds(record)
    assert figures["output_tok_s"] == pytest.approx(5.0)  # 15 tokens in 3 s
    assert figures["total_tok_s"] == pytest.approx(15.0)
    assert figures["prefill_tok_s"] is None
    assert figures["e2e_s"] == 1.5
    four = record.variant | {"options": {"n_devices": 4}}
    (row,) = summarise(Results(records=[replace(record, variant=four)]))
    assert row["device_output_tok_s"] == pytest.approx(1.25)


def test_time_per_token_does_not_rest_on_chunks() -> None:
    assert each_tpot_s(served_record()) == pytest.approx([0.25, 0.25, 0.25])


def test_goodput_counts_requests_that_keep_every_limit() -> None:
    record = served_record()
    assert goodput_req_s(record, {}) is None
    assert goodput_req_s(record, {"ttft": 1.0}) == pytest.approx(2 / 3)
    assert goodput_req_s(record, {"ttft": 1.0, "tpot": 0.2}) == 0.0
    assert goodput_req_s(record, {"e2e": 3.0}) == pytest.approx(1.0)
    variant = record.variant | {"options": {"ttft_limit_s": 1.0}}
    (row,) = summarise(Results(records=[replace(record, variant=variant)]))
    assert row["goodput_req_s"] == pytest.approx(2 / 3)


def test_one_request_at_a_time_has_its_prompt_timed_alone() -> None:
    record = served_record(workload={"n_prompt": 10, "n_gen": 5, "n_batch": 1})
    assert not overlaps(record)
    assert speeds(record)["prefill_tok_s"] == pytest.approx(20.0)
    at_a_rate = replace(record, variant=record.variant | {"options": {"rate": 2.0}})
    assert overlaps(at_a_rate)


def test_energy_of_a_local_server_is_that_of_its_window() -> None:
    read_here = Reading(
        energy={"energy_j": 400.0, "window_s": 4.0},
        memory={"peak_host_bytes": 5},
        device={"temperature_c": 60},
        reasons=("FOREIGN_PROCESS", "THERMAL_THROTTLE"),
    )
    reading = LocalServerReader(FakeReader(read_here, has_energy=True)).end()
    assert reading.reasons == ("THERMAL_THROTTLE",)  # the server itself is the other process
    assert reading.memory == {}
    record = served_record(energy=dict(reading.energy))
    (row,) = summarise(Results(records=[record]))
    # 100 W over 3 requests of 15 tokens in 3 s.
    assert row["energy_per_token_j"] == pytest.approx(100 / 15)
    assert row["energy_per_output_token_j"] is None
    assert "overlap" in row["absent"]["energy_per_output_token_j"]
    (priced,) = throughputs(Results(records=[record]))
    assert priced.power_w == pytest.approx(100)


def started_on(*answers: dict[str, Any]) -> Reading:
    """A window of a server that this process stands for, on cards that answer so."""
    cards = [NvidiaCard(f"cuda:{n}", FakeNvml(cards=2, **one)) for n, one in enumerate(answers)]
    inner = LocalServerReader(FakeReader(Reading()), cards)
    reader = StartedServerReader(inner, os.getpid())
    reader.begin()
    return reader.end()


def test_the_memory_of_a_started_server_is_that_of_its_processes_on_the_cards() -> None:
    mine, other = process(os.getpid()), process(4_000_000)
    listed = {"nvmlDeviceGetComputeRunningProcesses": [mine, other]}
    both = {**listed, "nvmlDeviceGetGraphicsRunningProcesses": [mine]}
    reading = started_on(both)
    assert reading.memory["peak_device_bytes"] == 1 << 30
    assert "peak_memory_bytes" not in reading.absent
    assert started_on(listed, listed).memory["peak_device_bytes"] == 2 << 30
    variant = {**served_record().variant, "device": "remote:cuda:0"}
    held = served_record(variant=variant, memory=dict(reading.memory))
    assert summarise(Results(records=[held]))[0]["peak_memory_bytes"] == 1 << 30


@pytest.mark.parametrize(
    ("listed", "why"),
    [
        ([process(4_000_000)], "lists none of the server's processes"),
        ([SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)], "WSL2"),
        (pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION), "nvmlDeviceGetComputeRunning"),
    ],
)
def test_a_servers_memory_on_a_card_that_is_not_told_is_missing(listed: Any, why: str) -> None:
    reading = started_on({"nvmlDeviceGetComputeRunningProcesses": listed})
    assert why in reading.absent["peak_device_bytes"]
    assert "peak_memory_bytes" in reading.absent
    variant = {**served_record().variant, "device": "remote:cuda:0"}
    record = served_record(
        variant=variant, memory=dict(reading.memory), absent=dict(reading.absent)
    )
    (row,) = summarise(Results(records=[record]))
    assert row["peak_memory_bytes"] is None  # the host's is another figure
    assert row["absent"]["peak_memory_bytes"]


def test_a_local_server_is_read_where_it_computes() -> None:
    assert isinstance(reader_for("remote:cpu"), LocalServerReader)
    assert not isinstance(reader_for("remote"), LocalServerReader)
    nowhere = reader_for("remote:cuda:9")  # no such card here, or anywhere
    assert not nowhere.has_energy
    nowhere.begin()
    assert nowhere.end().absent["energy_j"]
    assert settings({"url": "http://a", "local": "cuda:0"}).device == "remote:cuda:0"
    with pytest.raises(InputError, match="not a device such as"):
        settings({"url": "http://a", "local": "cuda"})


def test_a_tail_of_few_values_is_none() -> None:
    assert tail([1.0] * 99) is None
    assert tail([float(i) for i in range(1, 101)]) == 99.0
    assert tail([float(i) for i in range(1, 201)]) == 198.0
