"""How near to the limit: MBU, MFU, and figures that cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.api import summarise
from bench.records import Environment, Record
from bench.records.file import Results
from bench.summary.limits import MEASURED
from tests.summary.test_summary import record

PEAKS = {
    "device": "cpu",
    "threads": 2,
    "copy_bytes_s": 500e9,
    "matmul_flop_s": {"bfloat16": 80e12, "float16": 80e12},
}


def rows(
    gap: float,
    *,
    gpu: str | None,
    model: str = "llama-3.1-8b",
    quant: str = "none",
    state: dict[str, Any] | None = None,
    threads: int | None = None,
    options: dict[str, Any] | None = None,
    n_prompt: int = 8,
    prefill: float = 0.4,
) -> dict[str, Any]:
    one: Record = record(quant, gap=gap)
    variant = one.variant | {"model": model, "dtype": "bfloat16", "mode": "eager"}
    variant |= {"threads": threads, "options": options or {}}
    work = {"n_prompt": n_prompt, "n_gen": 3, "n_batch": 1}
    samples = {"prefill_s": [prefill], "itl_s": [[gap, gap]], "e2e_s": [prefill + 2 * gap]}
    one = replace(one, variant=variant, workload=work, samples=samples)
    environments = {"e1": Environment(id="e1", identity={"gpu": gpu}, state=state or {})}
    results = Results(records=[one], environments=environments)
    (row,) = summarise(results)
    return row


def test_mbu_is_bytes_over_time_and_bandwidth() -> None:
    row = rows(0.04, gpu="NVIDIA GeForce RTX 4080 SUPER")
    # All weights but the input embedding, 2 bytes each, over 736 GB/s: 20.4 ms of 40.
    needed = 2 * (8_030_261_248 - 128_256 * 4096) / 736.3e9
    assert row["mbu"] == pytest.approx(needed / 0.04, rel=0.01)
    assert row["bound_decode_tok_s"] == pytest.approx(1 / needed, rel=0.01)
    assert 0 < row["mfu"] < 1
    assert row["valid"] is True
    assert "launches" in row["diagnosis"]


def test_the_bound_knows_a_cache_in_8_bits() -> None:
    """131,072 tokens of an 8B: 17 GB in 16 bits, half in 8, beside 15 GB of weights."""
    gpu = "NVIDIA H200"
    wide, narrow = (
        rows(0.006, gpu=gpu, n_prompt=131_072, options=options, prefill=60.0)
        for options in (None, {"kv_cache_dtype": "fp8"})
    )
    assert wide["reasons"] == ["ABOVE_BOUND"]
    assert narrow["reasons"] == []
    assert narrow["bound_decode_tok_s"] / wide["bound_decode_tok_s"] == pytest.approx(
        1.36, abs=0.02
    )


def test_a_figure_above_the_bound_is_a_measurement_error() -> None:
    row = rows(0.015, gpu="NVIDIA GeForce RTX 4080 SUPER")
    assert row["valid"] is False
    assert row["reasons"] == ["ABOVE_BOUND"]
    assert "measurement error" in row["diagnosis"]


@pytest.mark.parametrize(
    ("gpu", "model", "words"),
    [
        (None, "llama-3.1-8b", "a CPU has no data sheet here"),
        ("Voodoo 2", "llama-3.1-8b", "Voodoo 2 is not in the catalog"),
        ("NVIDIA H200", "no-such-model", "unknown model"),
    ],
)
def test_without_a_data_sheet_or_card_there_is_a_reason(
    gpu: str | None, model: str, words: str
) -> None:
    row = rows(0.04, gpu=gpu, model=model)
    assert row["mbu"] is row["mfu"] is row["bound_decode_tok_s"] is None
    assert words in row["absent"]["mbu"]


def test_a_context_filled_before_has_no_bound() -> None:
    row = rows(0.001, gpu="NVIDIA H200", state={"peaks": PEAKS}, options={"n_depth": 4096})
    assert row["mbu"] is row["mbu_measured"] is row["bound_decode_tok_s"] is None
    assert "n_depth" in row["absent"]["mbu"]
    assert "n_depth" in row["absent"]["mbu_measured"]
    assert row["valid"] is True


NEEDED = 2 * (8_030_261_248 - 128_256 * 4096)
"""Bytes of a step: all weights but the input embedding (the cache adds less than 0.1%)."""


def test_measured_rates_give_figures_of_their_own_beside_the_data_sheets() -> None:
    row = rows(0.04, gpu="NVIDIA GeForce RTX 4080 SUPER", state={"peaks": PEAKS})
    assert row["mbu_measured"] == pytest.approx(NEEDED / 0.04 / 500e9, rel=0.01)
    assert row["mbu"] == pytest.approx(NEEDED / 0.04 / 736.3e9, rel=0.01)
    assert row["mfu_measured"] / row["mfu"] == pytest.approx(104.4 / 80, rel=0.1)
    assert row["valid"] is True


def test_a_cpu_without_a_data_sheet_has_the_measured_figures_alone() -> None:
    row = rows(0.04, gpu=None, state={"peaks": PEAKS})
    assert row["mbu_measured"] == pytest.approx(NEEDED / 0.04 / 500e9, rel=0.01)
    assert row["mbu"] is None
    assert "no data sheet" in row["absent"]["mbu"]
    assert not set(MEASURED) & row["absent"].keys()


def test_faster_than_a_measured_rate_is_no_error() -> None:
    """A copy was that fast; that does not say that nothing is faster."""
    row = rows(0.02, gpu=None, state={"peaks": PEAKS})
    assert row["mbu_measured"] > 1
    assert row["valid"] is True


def test_a_device_that_was_measured_above_its_data_sheet_may_be_faster_than_it() -> None:
    gpu = "NVIDIA GeForce RTX 4080 SUPER"
    assert rows(0.018, gpu=gpu, state={"peaks": PEAKS})["reasons"] == ["ABOVE_BOUND"]
    faster = PEAKS | {"copy_bytes_s": 900e9}
    assert rows(0.018, gpu=gpu, state={"peaks": faster})["valid"] is True
    without_matmul = faster | {"matmul_flop_s": {}}  # then what else may bind is not known
    assert rows(0.018, gpu=gpu, state={"peaks": without_matmul})["reasons"] == ["ABOVE_BOUND"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"state": {}}, "the rates of cpu were not measured: `bench doctor --peaks`"),
        ({"state": {"absent": {"peaks": "no torch"}}}, "were not measured: no torch"),
        ({"state": {"peaks": PEAKS | {"device": "cuda:0"}}}, "the rates of cpu were not measured"),
        ({"state": {"peaks": PEAKS}, "threads": 1}, "measured with 2 threads, this arm has 1"),
    ],
)
def test_rates_of_other_conditions_do_not_count(changed: dict[str, Any], words: str) -> None:
    row = rows(0.04, gpu=None, **changed)
    assert row["mbu_measured"] is row["mfu_measured"] is None
    assert words in row["absent"]["mbu_measured"]


def test_no_matmul_rate_stands_in_for_another() -> None:
    row = rows(0.04, gpu=None, quant="int8-dynamic", state={"peaks": PEAKS})
    assert row["mfu_measured"] is None
    assert row["absent"]["mfu_measured"] == "the matmul rate of int8 was not measured on cpu"
    assert row["mbu_measured"] is not None
