"""The main job on the real embedded model: what a new user gets, cut short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cli import main
from bench.records.file import read

CONTRACT = (
    "variant",
    "model",
    "engine",
    "quant",
    "device",
    "n_prompt",
    "n_gen",
    "n_batch",
    "prefill_tok_s",
    "decode_tok_s",
    "ttft_s",
    "tpot_s",
    "peak_memory_bytes",
    "weights_bytes",
    "ppl",
    "mean_kld",
    "usd_per_mtok",
    "valid",
    "reasons",
)


@pytest.mark.model
@pytest.mark.slow
def test_the_quickstart_measures_speed_memory_quality_and_cost(
    embedded_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["-q", "none,torch-dynamic-int8", "-p", "16", "-n", "6", "--pairs", "1", "-d", "cpu"]
    command = ["run", *short, "--into", str(tmp_path)]
    assert main([*command, "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(set(CONTRACT) <= row.keys() for row in rows)
    none, int8 = rows
    assert [none["quant"], int8["quant"]] == ["none", "torch-dynamic-int8"]
    # 134,515,008 weights of 4 bytes, a tied head once.
    assert none["weights_bytes"] == 538_060_032
    # Each linear layer in one byte; the embedding, untied by it, still in four.
    assert 220e6 < int8["weights_bytes"] < 270e6
    for row in rows:
        assert row["decode_tok_s"] > 0
        assert row["prefill_tok_s"] > 0
        assert row["peak_memory_bytes"] > row["weights_bytes"]
        assert row["usd_per_mtok"] > 0
    # Known of this model and scheme: quantizing per tensor hurts it badly.
    assert 5 < none["ppl"] < 40
    assert int8["ppl"] > 1.5 * none["ppl"]
    assert none["mean_kld"] == 0
    assert int8["mean_kld"] > 0.3

    before = (tmp_path / "records.jsonl").read_text().splitlines()
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "not at equal quality" in out
    assert "cannot establish it" in out
    assert "Cost per million tokens" in out
    added = (tmp_path / "records.jsonl").read_text().splitlines()[len(before) :]
    assert [json.loads(line)["kind"] for line in added] == ["environment"]  # nothing ran again

    qualities = read(tmp_path).qualities
    assert len(qualities) == 2
    assert qualities[1].figures["continuations"][0]["text"]  # for a human to look at
