"""Own records as rows of the fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.predict import Predictor
from bench.predict.published import card
from bench.predict.user_rows import rows_of
from bench.records import Environment, Record
from bench.records.file import Writer
from bench.roofline.gpus import gpus

ENVIRONMENT = Environment(
    id="e", identity={"device": {"name": "NVIDIA H200", "driver": "1"}}, state={}
)
RECORD = Record(
    key="a",
    environment="e",
    experiment="x",
    variant={
        "name": "a",
        "model": "llama-3.1-8b@random",
        "engine": "transformers",
        "quant": "none",
        "device": "cuda:0",
        "dtype": "bfloat16",
    },
    workload={"n_prompt": 128, "n_gen": 3, "n_batch": 2},
    replicate=0,
    position=0,
    started_at="2026-01-01T00:00:00+00:00",
    status="ok",
    samples={
        "prefill_s": [0.02, 0.02],
        "itl_s": [[0.02, 0.02], [0.02, 0.03]],
        "e2e_s": [0.06, 0.07],
    },
)


def written(folder, *lines):
    with Writer(folder) as writer:
        for line in lines:
            writer.append(line)
    return [folder]


def test_a_record_becomes_a_row(tmp_path) -> None:
    found, left = rows_of(written(tmp_path, ENVIRONMENT, RECORD))

    assert left == []
    assert [(r.gpu, r.model, r.quant, r.engine) for r in found] == [
        ("h200-sxm", "llama-3.1-8b", "none", "transformers")
    ]
    assert found[0].decode_tok_s == pytest.approx(100)
    assert found[0].prefill_tok_s == pytest.approx(12800)


def test_what_cannot_be_used_is_left_out_and_said_once(tmp_path) -> None:
    strange = {**RECORD.variant, "model": "gpt-9"}
    lines = [
        ENVIRONMENT,
        replace(RECORD, key="b", variant=strange),
        replace(RECORD, key="c", variant=strange),
        replace(RECORD, key="d", variant={**RECORD.variant, "quant": "int9"}),
        replace(RECORD, key="e", status="failed", samples={}),
        replace(RECORD, key="f", reasons=("THERMAL_THROTTLE",)),
        replace(RECORD, key="g", environment="another"),
        replace(RECORD, key="h", variant={**RECORD.variant, "device": "cuda:0+cuda:1"}),
    ]
    found, left = rows_of(written(tmp_path, *lines))

    assert found == []
    assert len(left) == 4


def test_own_rows_move_the_prediction(tmp_path) -> None:
    slow = replace(RECORD, workload={**RECORD.workload, "n_batch": 1})
    samples = {"prefill_s": [0.02], "itl_s": [[0.1, 0.1]], "e2e_s": [0.22]}
    lines = [replace(slow, key=f"k{i}", samples=samples) for i in range(8)]
    extra, _ = rows_of(written(tmp_path, ENVIRONMENT, *lines))
    model, gpu = card("llama-3.1-8b"), gpus()["h200-sxm"]

    def rate(by: Predictor) -> float | None:
        return by.predict(model, gpu, "none", "transformers").decode_tok_s

    assert rate(Predictor(extra)) < rate(Predictor())


def test_no_results_no_rows() -> None:
    assert rows_of([]) == ([], [])


def test_results_without_a_measurement_are_said(tmp_path) -> None:
    rows, left = rows_of(written(tmp_path, ENVIRONMENT))
    assert rows == []
    assert len(left) == 1
    assert left[0].endswith("no measured record there: nothing is fitted")
