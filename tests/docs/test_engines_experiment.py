"""One experiment over the engines, on the embedded model: one table, the same work in each arm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import runner
from bench.api import summarise
from bench.engines.registry import ENGINES
from bench.experiment import ArmEntry, Experiment, load_experiment
from bench.records import QualityRecord, Record
from bench.report.tables.run import show
from bench.runner import Outcome
from tests.fakes import Quiet

pytestmark = [pytest.mark.model, pytest.mark.slow]
N_SCORED = 16
Arm = tuple[str, str]


@pytest.fixture(scope="module")
def short() -> Experiment:
    """experiments/engines-cpu.toml with little to do."""
    full = load_experiment("engines-cpu")
    pytest.importorskip("xllamacpp")
    return replace(
        full,
        arm=tuple(arm for arm in full.arm if arm.engine in ENGINES and _cheap(arm)),
        baseline=f"{full.baseline}/1t",
        grid=replace(full.grid, n_prompt=(16,), n_gen=(8,), n_batch=(2,), threads=1),
        measure={"pairs": 1, "iterations": 2, "window_s": 0.0, "warmup_max_s": 0.0},
        quality=replace(full.quality, max_tokens=N_SCORED, window=N_SCORED),
    )


def _cheap(arm: ArmEntry) -> bool:
    """torchao in eager mode on a CPU takes long, and other tests have it."""
    return (arm.engine, arm.quant) != ("transformers", "int8-dynamic")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def outcome(short: Experiment, folder: Path, embedded_folder: Path) -> Outcome:
    """All arms, run once for the tests below: two processes an arm."""
    progress = Quiet()
    found = runner.run(short, folder, progress)
    assert found.failed == 0, progress.said
    return found


@pytest.fixture(scope="module")
def records(outcome: Outcome) -> dict[Arm, Record]:
    return {(r.variant["engine"], r.variant["quant"]): r for r in outcome.results.records}


@pytest.fixture(scope="module")
def qualities(outcome: Outcome) -> dict[Arm, QualityRecord]:
    return {(q.variant["engine"], q.variant["quant"]): q for q in outcome.results.qualities}


def test_engines_do_the_same_work(short: Experiment, records: dict[Arm, Record]) -> None:
    assert set(records) == {(arm.engine, arm.quant) for arm in short.arm}
    for record in records.values():
        assert record.workload == {"n_prompt": 16, "n_gen": 8, "n_batch": 2}
        assert [len(gaps) for gaps in record.samples["itl_s"]] == [7, 7]
        assert len(record.model["first_tokens"][0]) == 8


def test_all_are_in_one_table(short: Experiment, outcome: Outcome, folder: Path) -> None:
    rows = summarise(outcome.results)
    assert len(rows) == len(short.arm)
    for row in rows:
        assert row["ppl"] is not None
        assert row["mean_kld"] is not None
        assert row["weights_bytes"] > 0
    table = show(short, outcome.results, folder, "md")
    for arm in short.arm:
        assert f"{arm.engine}/{arm.quant}" in table


def test_llama_cpp_runs_the_same_weights(outcome: Outcome) -> None:
    (row,) = [row for row in summarise(outcome.results) if row["engine"] == "llama.cpp"]
    # The same weights, tokens and windows: what is left is 8-bit activations and rounding.
    assert row["mean_kld"] < 0.05
    assert row["quantized_fraction"] > 0.99


def test_onnxruntime_with_and_without_dynamic_quantization(
    records: dict[Arm, Record], qualities: dict[Arm, QualityRecord]
) -> None:
    arms = (("transformers", "none"), ("onnxruntime", "none"), ("onnxruntime", "int8-dynamic"))
    theirs, ours, int8 = (records[arm] for arm in arms)
    assert ours.model["first_tokens"] == theirs.model["first_tokens"]
    assert ours.model["n_params"] == int8.model["n_params"] == 134_515_008
    # The tied head is held a second time, transposed: ONNX Runtime folds that when it loads.
    assert ours.model["weights_bytes"] == pytest.approx(538_060_032 + 49152 * 576 * 4, rel=1e-3)
    assert int8.model["weights_bytes"] < 0.26 * ours.model["weights_bytes"]
    assert int8.model["quantized_fraction"] > 0.99
    assert int8.memory["peak_host_bytes"] < ours.memory["peak_host_bytes"]
    base, same, damaged = (qualities[arm] for arm in arms)
    assert [q.status for q in (base, same, damaged)] == ["ok"] * 3
    assert len(base.nll) == len(same.nll) == len(damaged.nll) == N_SCORED - 1
    assert max(abs(a - b) for a, b in zip(base.nll, same.nll, strict=True)) < 1e-3
    assert max(same.kld) < 1e-6
    assert sum(damaged.kld) / (N_SCORED - 1) > 0.05  # known of this model: int8 activations hurt
