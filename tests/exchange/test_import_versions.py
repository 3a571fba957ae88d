"""Shapes that other versions of the tools give to the same figures, each as its file had it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.exchange.foreign import Given
from bench.exchange.importing import import_file
from bench.records import Record
from bench.records.file import read

DATA = Path(__file__).parents[1] / "data" / "imports"
CASES = DATA / "cases"


def records(text: str, folder: Path, name: str = "file.txt", **said: Any) -> list[Record]:
    """The records of a file with this text."""
    path, into = folder / name, folder / "into"
    path.write_text(text)
    import_file("auto", path, into, Given(**said))
    return read(into).records


# ---- aiperf ----------------------------------------------------------------------------------


def test_a_phase_of_aiperf_may_be_known_by_its_name_alone(tmp_path: Path) -> None:
    table = json.loads((DATA / "aiperf" / "profile_export_aiperf.json").read_text())
    table["schema_version"] = "1.3"
    table["input_config"]["phases"] = [
        {"name": "warmup", "type": "concurrency", "exclude_from_results": True, "concurrency": 3},
        {"name": "profiling", "type": "concurrency", "requests": 6, "concurrency": 2},
    ]
    (record,) = records(json.dumps(table), tmp_path)
    assert record.workload["n_batch"] == 2
    assert "n_batch" not in record.absent


def test_the_csv_of_aiperf_says_nothing_of_how_the_load_was_set(tmp_path: Path) -> None:
    text = (CASES / "aiperf.csv").read_text()
    (record,) = records(text, tmp_path, "aiperf.csv", model="qwen2.5-7b")
    assert record.absent["n_batch"] == (
        "the CSV does not say how many requests ran at once; --n-batch does"
    )


# ---- MLPerf ----------------------------------------------------------------------------------

SERVER = """
MLPerf Results Summary
SUT name : gptj-Server-SUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 47.23
Completed tokens per second (inferred): 3258.83
Result is : VALID
Min latency (ns)                : 848254952
Max latency (ns)                : 19827536210
50.00 percentile latency (ns)   : 10296058976
"""


def test_mlperfs_server_has_inferred_tokens_and_the_time_of_a_request(tmp_path: Path) -> None:
    (record,) = records(SERVER, tmp_path, model="gpt-j-6b", n_prompt=900)
    assert record.samples["output_tok_s"] == [3258.83]
    assert record.samples["e2e_s"] == pytest.approx([10.296058976])
    assert record.workload["n_gen"] == 69
    assert record.absent["ttft_s"].startswith("the summary has no '50.00 percentile first token")


def test_mlperfs_offline_latencies_are_waiting(tmp_path: Path) -> None:
    text = SERVER.replace(": Server", ": Offline").replace("Completed tokens", "Tokens")
    (record,) = records(text, tmp_path, model="gpt-j-6b", n_prompt=900)
    assert "e2e_s" not in record.samples
    assert "wait from the start" in record.absent["e2e_s"]
