"""The trade-off of each scheme, from real records and by the verb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cli import main
from bench.cost.hour import stated
from bench.records.file import read
from bench.report.tables.pareto import baseline_model, rows, table

MIXED = Path(__file__).parents[2] / "results/mixed-cpu"
READY = Path(__file__).parents[2] / "results/ready-w8a8-cpu"


def test_mixed_lies_on_the_front_of_size_and_dynamic_int8_does_not() -> None:
    found = {row.row.arm.quant: table(row) for row in rows(read(MIXED), None)}
    for quant in ("none", "int8-weight-only", "mixed:kld<0.02", "mixed:6.0bit", "mixed:5.0bit"):
        assert "packed_bytes" in found[quant]["front"]
    assert "packed_bytes" not in found["int8-dynamic"]["front"]
    assert found["mixed:5.0bit"]["packed_bytes"] < found["mixed:5.0bit"]["weights_bytes"]
    assert found["int8-dynamic"]["packed_bytes"] == found["int8-dynamic"]["weights_bytes"]
    assert "decode_tok_s" in found["torch-dynamic-int8"]["front"]
    assert all(row["usd_per_mtok"] is None for row in found.values())


def test_a_quantized_checkpoint_stands_with_the_model_it_was_made_of() -> None:
    found = rows(read(READY), None)
    assert len({row.row.arm.model for row in found}) == 2
    assert {baseline_model(row.row) for row in found} == {"smollm2-135m-instruct"}


def test_cost_is_that_of_an_hour_at_the_price() -> None:
    found = [table(row) for row in rows(read(MIXED), stated(3.6))]
    for row in found:
        assert row["usd_per_mtok"] == pytest.approx(3.6 / 3600 / row["total_tok_s"] * 1e6)
    klds = [row["mean_kld"] for row in found]
    assert klds == sorted(klds)


def test_the_verb_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(MIXED), "--pareto", "--rent", "0.1", "-o", "json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert {row["quant"] for row in table} >= {"none", "mixed:6.0bit"}
    assert main(["compare", str(MIXED), "--pareto"]) == 0
    out = capsys.readouterr().out
    assert "| best in" in out
    assert "$ per Mtok" not in out  # no price was given


def test_without_a_divergence_there_is_nothing_to_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (MIXED / "records.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"kind": "quality"' not in line.replace('":"', '": "')]
    (tmp_path / "records.jsonl").write_text("\n".join(kept) + "\n")
    assert main(["compare", str(tmp_path), "--pareto"]) == 2
    assert "no trade-off to show" in capsys.readouterr().err
