"""One experiment over the engines, on the embedded model: one table, the same work in each arm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import runner
from bench.engines import ENGINES
from bench.experiment import ArmEntry, Experiment, load_experiment
from bench.report.summary import show
from bench.summary import summarise
from tests.fakes import Quiet


@pytest.fixture
def short() -> Experiment:
    """experiments/engines-cpu.toml with little to do."""
    full = load_experiment("engines-cpu")
    pytest.importorskip("xllamacpp")
    return replace(
        full,
        arm=tuple(arm for arm in full.arm if arm.engine in ENGINES and _cheap(arm)),
        baseline=f"{full.baseline}/1t",
        grid=replace(full.grid, n_prompt=(16,), n_gen=(8,), n_batch=(2,), threads=1),
        measure={"pairs": 1, "iterations": 2, "window_s": 0.0, "warmup_max_s": 1.0},
        quality=replace(full.quality, max_tokens=16, window=16),
    )


def _cheap(arm: ArmEntry) -> bool:
    """torchao in eager mode on a CPU takes long, and other tests have it."""
    return (arm.engine, arm.quant) != ("transformers", "int8-dynamic")


@pytest.mark.model
def test_engines_do_the_same_work_in_one_table(
    short: Experiment, embedded_folder: Path, tmp_path: Path
) -> None:
    progress = Quiet()
    outcome = runner.run(short, tmp_path, progress)
    assert outcome.failed == 0, progress.said
    records = outcome.results.records
    assert {record.variant["engine"] for record in records} == {arm.engine for arm in short.arm}
    for record in records:
        assert record.workload == {"n_prompt": 16, "n_gen": 8, "n_batch": 2}
        assert [len(gaps) for gaps in record.samples["itl_s"]] == [7, 7]
        assert len(record.model["first_tokens"][0]) == 8

    rows = summarise(outcome.results)
    assert len(rows) == len(short.arm)
    by_arm = {(row["engine"], row["quant"]): row for row in rows}
    for row in rows:
        assert row["ppl"] is not None
        assert row["mean_kld"] is not None
        assert row["weights_bytes"] > 0
    # The same weights, tokens and windows: what is left is 8-bit activations and rounding.
    assert by_arm["llama.cpp", "q4_1"]["mean_kld"] < 0.05
    assert by_arm["llama.cpp", "q4_1"]["quantized_fraction"] > 0.99

    table = show(short, outcome.results, tmp_path, "md")
    for arm in short.arm:
        assert f"{arm.engine}/{arm.quant}" in table
