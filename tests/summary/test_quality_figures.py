from __future__ import annotations

import math
import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.experiment import Gate
from bench.records import QualityRecord
from bench.statistics import Estimate, mean, wilson
from bench.summary.quality import (
    QualityScores,
    Trade,
    arm_qualities,
    check_gate,
    fronts,
    paired_ratio,
    perplexity,
    summarise,
)

BASE = QualityRecord(
    key="base",
    environment="e",
    experiment="x",
    started_at="2026-01-01",
    status="ok",
    variant={"name": "m/none", "weights": "w"},
    baseline="m/none",
    text={"name": "t", "sha256": "s", "max_tokens": 4, "window": 4},
    nll=(1.0, 2.0, 3.0),
    absent={"kld": "this is the baseline arm"},
)
OTHER = replace(
    BASE,
    key="other",
    variant={"name": "m/int8", "weights": "w"},
    nll=(1.1, 2.0, 3.3),
    kld=(0.0, 0.1, 0.5),
    same_top1=(1, 1, 0),
    absent={},
)


def test_perplexity_by_hand() -> None:
    found = perplexity([1.0, 2.0, 3.0])
    assert found is not None
    half = 1.959964 / math.sqrt(3)  # the values' standard deviation is 1
    assert found.value == pytest.approx(math.exp(2))
    assert found.high == pytest.approx(math.exp(2 + half))


def test_perplexity_that_no_number_can_hold_is_absent() -> None:
    assert perplexity([800.0, 800.0]) is None
    found = summarise(replace(OTHER, nll=(800.0, 800.0, 800.0)), BASE)
    assert found.absent == {"ppl": "too large to state", "ppl_ratio": "too large to state"}


def test_equal_arms_have_ratio_one_exactly() -> None:
    assert paired_ratio([0.3, 7.1, 2.2], [0.3, 7.1, 2.2]) == Estimate(1.0, 1.0, 1.0)


def test_paired_interval_has_the_covariance_term() -> None:
    a, b = [1.1, 2.0, 3.3, 0.5], [1.0, 2.0, 3.0, 0.7]
    n = len(a)

    def covariance(x: list[float], y: list[float]) -> float:
        mx, my = sum(x) / n, sum(y) / n
        return sum((i - mx) * (j - my) for i, j in zip(x, y, strict=True)) / (n - 1)

    error = math.sqrt((covariance(a, a) + covariance(b, b) - 2 * covariance(a, b)) / n)
    found = paired_ratio(a, b)
    assert found is not None
    assert math.log(found.high / found.value) == pytest.approx(1.959964 * error)


def test_paired_interval_covers() -> None:
    """Hard tokens are hard for both arms; the true ln ratio is 0.02."""
    draw = random.Random(1)
    covered = 0
    for _ in range(300):
        base = [draw.expovariate(0.4) for _ in range(300)]
        other = [nll + draw.gauss(0.02, 0.2) for nll in base]
        found = paired_ratio(other, base)
        assert found is not None
        covered += found.low <= math.exp(0.02) <= found.high
    assert 0.91 <= covered / 300 <= 0.98


def test_wilson_by_hand() -> None:
    found = wilson(90, 100)  # Wilson's interval without continuity correction
    assert found.value == 0.9
    assert found.low == pytest.approx(0.8256, abs=1e-4)
    assert found.high == pytest.approx(0.9448, abs=1e-4)


@given(st.integers(1, 2000), st.data())
def test_wilson_stays_within_zero_and_one(count: int, data: st.DataObject) -> None:
    found = wilson(data.draw(st.integers(0, count)), count)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_summary_of_a_candidate() -> None:
    found = arm_qualities([OTHER, BASE])[0].figures
    assert found.n_tokens == 3
    assert found.ppl_ratio is not None
    assert found.ppl_ratio.value == pytest.approx(math.exp(0.4 / 3))
    assert found.mean_kld == mean([0.0, 0.1, 0.5])
    assert (found.median_kld, found.p99_kld, found.max_kld) == (0.1, 0.5, 0.5)
    assert found.same_top1 == wilson(2, 3)
    assert not found.is_baseline
    assert found.absent == {}


def test_the_baseline_agrees_with_itself() -> None:
    found = arm_qualities([BASE])[0].figures
    assert found.is_baseline
    assert found.mean_kld == Estimate(0.0, 0.0, 0.0)
    assert found.ppl_ratio == found.same_top1 == Estimate(1.0, 1.0, 1.0)
    assert found.absent == {}


@pytest.mark.parametrize(
    ("baseline", "reason"),
    [
        (None, "no quality record"),
        (replace(BASE, status="failed"), "no quality record"),
        (replace(BASE, text=BASE.text | {"sha256": "z"}), "another text or windows"),
        (replace(BASE, nll=(1.0, 2.0)), "another number of tokens"),
    ],
)
def test_what_cannot_be_paired_has_no_ratio(baseline: QualityRecord | None, reason: str) -> None:
    found = summarise(OTHER, baseline)
    assert found.ppl_ratio is None
    assert reason in found.absent["ppl_ratio"]
    assert found.ppl is not None


def test_a_failed_record_says_why() -> None:
    found = summarise(replace(OTHER, status="failed", message="no logits", nll=()), BASE)
    assert found.ppl is None
    assert found.absent["mean_kld"] == "no logits"


def test_a_quantized_checkpoint_is_compared_with_the_model_it_was_made_of() -> None:
    made = {"name": "q/w8a8", "model": "q", "weights": "other"}
    base = replace(BASE, variant=BASE.variant | {"model": "m"})
    found = arm_qualities([base, replace(OTHER, variant=made)])[1].figures
    assert found.ppl_ratio is not None
    assert found.baseline_model == "m"


def test_other_weights_of_one_model_are_not_its_baseline() -> None:
    old = replace(BASE, variant=BASE.variant | {"model": "m", "weights": "old"})
    now = replace(OTHER, variant=OTHER.variant | {"model": "m"})
    assert arm_qualities([old, now])[1].figures.ppl_ratio is None
    kept = replace(old, key="k", variant=BASE.variant | {"model": "m"})
    assert arm_qualities([kept, old, now])[2].figures.ppl_ratio is not None


def test_records_of_another_environment_are_not_the_baseline() -> None:
    found = arm_qualities([OTHER, replace(BASE, environment="other")])[0].figures
    assert found.ppl_ratio is None


INSIDE = QualityScores(
    ppl_ratio=Estimate(1.01, 1.005, 1.015),
    mean_kld=Estimate(0.01, 0.009, 0.011),
    same_top1=Estimate(0.95, 0.94, 0.96),
)


@pytest.mark.parametrize(
    ("gate", "problem"),
    [
        (Gate(), None),
        (Gate(max_ppl_ratio=1.012), "ppl_ratio 1.01 .* not certain"),
        (Gate(max_ppl_ratio=1.001), "ppl_ratio 1.01 .* outside the gate max_ppl_ratio = 1.001"),
        (Gate(max_mean_kld=0.005), "mean_kld .* outside"),
        (Gate(min_same_top1=0.945), "same_top1 .* not certain"),
        (Gate(min_same_top1=0.99), "same_top1 .* outside the gate min_same_top1 = 0.99"),
    ],
)
def test_gate(gate: Gate, problem: str | None) -> None:
    found = check_gate(gate, INSIDE)
    if problem is None:
        assert found == []
    else:
        assert len(found) == 1
        assert re.search(problem, found[0])


def test_gate_is_not_passed_by_what_is_not_known() -> None:
    found = check_gate(Gate(), QualityScores(absent={"ppl_ratio": "no logits"}))
    assert found == ["ppl_ratio is not known (no logits); gate: max_ppl_ratio = 1.02"]


def trade(kld: float | None, size: float | None = None, **more: float | None) -> Trade:
    measures = {"decode_tok_s": None, "usd_per_mtok": None} | more
    return Trade(mean_kld=kld, packed_bytes=size, **measures)


def test_pareto_front_of_each_measure() -> None:
    arms = {
        "bad": trade(1.0, 60, decode_tok_s=20.0),
        "none": trade(0.0, 100, decode_tok_s=10.0),
        "good": trade(0.1, 50, decode_tok_s=9.0),
        "unknown": trade(None, 1, decode_tok_s=99.0),
    }
    assert dict(zip(arms, fronts(list(arms.values())), strict=True)) == {
        "none": ("packed_bytes", "decode_tok_s"),
        "good": ("packed_bytes",),
        "bad": ("decode_tok_s",),
        "unknown": (),
    }


def test_equal_arms_share_the_front() -> None:
    one = trade(0.1, usd_per_mtok=2.0)
    assert fronts([one, one]) == [("usd_per_mtok",)] * 2
