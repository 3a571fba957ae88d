"""One cause at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.roofline.diagnosis import Symptoms, diagnose

SLOW = Symptoms(decode_tok_s=41, bound_decode_tok_s=223, layers=32)


@pytest.mark.parametrize(
    ("evidence", "code", "text"),
    [
        (Symptoms(decode_tok_s=68, bound_decode_tok_s=63.6), "above-bound", "107% of the bound"),
        (Symptoms(decode_tok_s=40, bound_decode_tok_s=48), "bandwidth-bound", "reading weights"),
        (
            Symptoms(decode_tok_s=40, bound_decode_tok_s=48, limited_by="compute"),
            "compute-bound",
            "arithmetic",
        ),
        (SLOW, "launch-bound", "622 us a layer: likely launches; measure a graph"),
        (replace(SLOW, graph_tok_s=120), "launch-bound", "2.93x as fast"),
        (replace(SLOW, graph_tok_s=42), "unexplained", "a graph is no faster"),
        (replace(SLOW, mode="graph"), "unexplained", "kernels themselves"),
        (
            replace(SLOW, quantized=True, unquantized_tok_s=41),
            "launch-bound",
            "1.00x the unquantized arm: likely launches",
        ),
        (
            replace(SLOW, quantized=True, mode="graph", unquantized_tok_s=95),
            "fallback-kernel",
            "0.43x the unquantized arm",
        ),
        (
            replace(SLOW, quantized=True, kernel="torch._int_mm above 16 rows, float matmul below"),
            "fallback-kernel",
            "float matmul below",
        ),
        (
            replace(SLOW, needed_bytes=20 * 2**30, memory_bytes=16 * 2**30),
            "capacity-spilled",
            "4.0 GiB more",
        ),
    ],
)
def test_each_cause_is_named(evidence, code, text) -> None:
    found = diagnose(evidence)

    assert found.code == code
    assert text in found.line
    assert "\n" not in found.line


def test_a_full_memory_does_not_explain_a_fast_model() -> None:
    fast = Symptoms(
        decode_tok_s=45, bound_decode_tok_s=48, needed_bytes=17 * 2**30, memory_bytes=16 * 2**30
    )

    assert diagnose(fast).code == "bandwidth-bound"
