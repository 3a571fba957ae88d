"""`bench.read_results`: one row a record, in columns and types that do not change."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas
import pytest

from bench import read_results
from bench.errors import InputError
from bench.exchange.frame import COLUMNS, frame
from bench.experiment import load_experiment
from bench.records import FILE, Environment
from bench.records.file import Results, Writer, read
from tests.summary.test_summary import quality, record

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "results" / "quickstart-cpu"

STABLE = [
    "key",
    "origin",
    "experiment",
    "variant",
    "model",
    "engine",
    "quant",
    "mode",
    "dtype",
    "device",
    "threads",
    "options",
    "n_prompt",
    "n_gen",
    "n_batch",
    "replicate",
    "position",
    "started_at",
    "status",
    "valid",
    "reasons",
    "message",
    "n_requests",
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "prefill_tok_s",
    "decode_tok_s",
    "output_tok_s",
    "total_tok_s",
    "noise",
    "requests_s",
    "goodput_req_s",
    "ttft_p99_s",
    "tpot_p99_s",
    "itl_p99_s",
    "peak_host_bytes",
    "peak_device_bytes",
    "weights_bytes",
    "n_params",
    "quantized_fraction",
    "dynamic",
    "kernel",
    "load_s",
    "energy_per_output_token_j",
    "energy_per_prompt_token_j",
    "energy_per_token_j",
    "net_energy_per_output_token_j",
    "net_energy_per_prompt_token_j",
    "energy_scope",
    "ppl",
    "ppl_ratio",
    "mean_kld",
    "same_top1",
    "environment",
    "host",
    "cpu",
    "gpu",
    "backend",
    "n_devices",
    "gpu_driver",
    "gpu_power_limit_w",
    "os",
    "python",
    "torch",
    "bench",
    "absent",
    "figure_reasons",
]
"""What scripts may rely on: a column may be added here, none may go."""


def test_no_column_was_renamed() -> None:
    assert [column.name for column in COLUMNS] == STABLE


def test_the_page_lists_every_column_as_it_is() -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (.+) \|$", page, re.MULTILINE)
    assert listed == [(c.name, c.type, c.meaning) for c in COLUMNS]


@pytest.mark.parametrize("made", [Results(), Results(records=[record("none")])])
def test_types_do_not_depend_on_what_is_there(made: Results) -> None:
    table = frame(made)
    assert {name: str(kind) for name, kind in table.dtypes.items()} == {
        column.name: column.type for column in COLUMNS
    }
    assert len(table) == len(made.records)


def test_a_shipped_folder_is_read() -> None:
    table = read_results(QUICKSTART)
    made = load_experiment(str(QUICKSTART / "experiment.toml"))
    assert len(table) == len(made.variants) * made.measuring.pairs
    assert set(table["quant"]) == set(made.grid.quant)
    assert table.attrs["problems"] == []
    plain = table[table["quant"] == "none"]
    assert plain["decode_tok_s"].between(1, 100).all()
    assert plain["ppl"].iloc[0] == pytest.approx(32.23, abs=0.01)
    assert plain["started_at"].dt.year.eq(2026).all()


def test_a_search_has_a_row_for_each_probe() -> None:
    results = read(ROOT / "results" / "serving-slots-cpu")
    assert {record.workload.get("slo") for record in results.records} != {None}
    assert list(frame(results)["key"]) == [record.key for record in results.records]


def test_a_record_becomes_its_row() -> None:
    window = {"energy_j": 30.0, "window_s": 10.0, "idle_power_w": 1.0, "tokens": 100}
    one = record(
        "int8",
        2,
        energy={"decode": window | {"scope": "gpu-board"}},
        reasons=("DRIFT", "CV"),
        absent={"ppl": "no text"},
        memory={"peak_device_bytes": 7},
    )
    machine = Environment(id="e1", identity={"gpu": "NVIDIA H200", "torch": "2.13"}, state={})
    made = Results(
        environments={"e1": machine},
        records=[one],
        qualities=[quality("none", 2.0), quality("int8", 2.5)],
    )
    row = frame(made).iloc[0]
    assert (row["replicate"], row["valid"], row["reasons"]) == (2, False, "DRIFT CV")
    assert row["decode_tok_s"] == pytest.approx(20)
    assert row["energy_per_output_token_j"] == pytest.approx(0.3)
    assert row["net_energy_per_output_token_j"] == pytest.approx(0.2)
    assert row["energy_scope"] == "gpu-board"
    assert (row["gpu"], row["torch"], row["peak_device_bytes"]) == ("NVIDIA H200", "2.13", 7)
    assert row["ppl_ratio"] == pytest.approx(1.6487, abs=1e-3)
    assert json.loads(row["absent"]) == {"ppl": "no text"}
    assert row["n_requests"] == 3


def test_what_is_missing_is_missing_and_not_0() -> None:
    failed = record(
        "none",
        status="failed",
        samples={},
        memory={},
        model={},
        message="no memory",
        reasons=("OOM",),
    )
    row = frame(Results(records=[failed])).iloc[0]
    for name in ("ttft_s", "decode_tok_s", "peak_host_bytes", "weights_bytes", "ppl", "gpu"):
        assert pandas.isna(row[name]), name
    assert (row["status"], row["valid"], row["message"]) == ("failed", False, "no memory")


def test_a_servers_record_has_its_requests_a_second() -> None:
    samples = {"prefill_s": [0.2] * 4, "itl_s": [[0.1, 0.1]] * 4, "e2e_s": [0.4] * 4, "wall_s": 0.8}
    row = frame(Results(records=[record("none", samples=samples)])).iloc[0]
    assert row["requests_s"] == pytest.approx(5)
    assert row["output_tok_s"] == pytest.approx(15)
    assert pandas.isna(row["prefill_tok_s"]), "prompts overlap"
    assert row["n_requests"] == 4


def test_folders_files_and_broken_lines(tmp_path: Path) -> None:
    with Writer(tmp_path / "one") as writer:
        writer.append(record("none"))
    with Writer(tmp_path / "two") as writer:
        writer.append(replace(record("int8"), started_at="2026-11-24T00:00:00+00:00"))
    with (tmp_path / "two" / FILE).open("a") as stream:
        stream.write('{"schema": 9}\n')
    table = read_results(str(tmp_path / "one"), tmp_path / "two" / FILE)
    assert list(table["quant"]) == ["none", "int8"]
    assert len(table.attrs["problems"]) == 1
    with pytest.raises(InputError, match="no such results"):
        read_results(tmp_path / "three")


def test_importing_the_name_does_not_import_pandas() -> None:
    code = "import sys; from bench import read_results; print('pandas' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "False\n"
