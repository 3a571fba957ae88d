"""How near to the limit: MBU, MFU, and figures that cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.limits import with_limits
from bench.records import Environment, Record, Results
from bench.summary import summarise
from tests.test_summary import record


def rows(gap: float, *, gpu: str | None, model: str = "llama-3.1-8b", quant: str = "none") -> dict:  # type: ignore[type-arg]
    one: Record = record(quant, gap=gap)
    variant = one.variant | {"model": model, "dtype": "bfloat16", "mode": "eager"}
    work = {"n_prompt": 8, "n_gen": 3, "n_batch": 1}
    samples = {"prefill_s": [0.4], "itl_s": [[gap, gap]], "e2e_s": [0.4 + 2 * gap]}
    one = replace(one, variant=variant, workload=work, samples=samples)
    environments = {"e1": Environment(id="e1", identity={"gpu": gpu}, state={})}
    results = Results(records=[one], environments=environments)
    (row,) = with_limits(summarise(results), results)
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


def test_a_figure_above_the_bound_is_a_measuring_error() -> None:
    row = rows(0.015, gpu="NVIDIA GeForce RTX 4080 SUPER")
    assert row["valid"] is False
    assert row["reasons"] == ["ABOVE_BOUND"]
    assert "measuring error" in row["diagnosis"]


@pytest.mark.parametrize(
    ("gpu", "model", "words"),
    [
        (None, "llama-3.1-8b", "no bandwidth is known for this CPU"),
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
