"""Predictions of which the likeliest tokens alone are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.errors import UnsupportedError
from bench.quality import evaluate, store
from bench.quality.top import TopPrediction, against, stored, top_prediction

WINDOW = [3, 1, 4, 1, 5]
VOCABULARY = 50


def log_probs(seed: int) -> Tensor:
    logits = torch.randn(len(WINDOW) - 1, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    return (3 * logits).log_softmax(-1)


def told(of: Tensor, k: int) -> TopPrediction:
    """As a server tells it: the k likeliest and the text's own."""
    positions = []
    for row, token in zip(of, WINDOW[1:], strict=True):
        tokens = {*row.topk(k).indices.tolist(), token}
        positions.append({one: float(row[one]) for one in tokens})
    return top_prediction(positions, WINDOW, k)


def test_the_likeliest_come_first_and_the_texts_own_is_known() -> None:
    exact = log_probs(0)
    found = told(exact, 5)
    assert torch.equal(torch.tensor(found.indices), exact.topk(5).indices)
    assert torch.allclose(torch.tensor(found.log_probs), exact.topk(5).values)
    own = exact.gather(-1, torch.tensor(WINDOW[1:])[:, None])[:, 0]
    assert found.given == pytest.approx(own.tolist())


def test_against_a_whole_baseline_it_is_the_divergence_over_our_tokens_and_the_rest() -> None:
    base, other = log_probs(0), log_probs(1)
    found, left = against(told(other, 8), store.predict(base, None))
    indices = other.topk(8).indices
    expected = store.divergence(
        store.grouped(base.double(), indices), store.grouped(other.double(), indices)
    )
    assert found == pytest.approx(expected.tolist(), rel=1e-4)
    assert left == pytest.approx((1 - base.exp().gather(-1, indices).sum(-1)).tolist(), rel=1e-4)


def test_against_a_baseline_of_its_kind_it_is_a_lower_bound_that_grows_with_k() -> None:
    base, other = log_probs(0), log_probs(1)
    exact = store.divergence(base.double(), other.double())
    bounds = [
        torch.tensor(against(told(other, k), stored(told(base, k)))[0]) for k in (2, 8, 20, 50)
    ]
    for bound in bounds:
        assert bool((bound <= exact + 1e-5).all())
    assert bounds[-1].tolist() == pytest.approx(exact.tolist(), rel=1e-3)  # nothing is grouped
    assert bounds[0].sum() < bounds[2].sum() < bounds[3].sum()


def test_tokens_that_only_one_arm_tells_are_in_the_rest() -> None:
    base = top_prediction([{1: -0.5, 2: -1.5}], [0, 1], 2)
    other = top_prediction([{1: -0.7, 3: -1.0}], [0, 1], 2)
    (found,), (left,) = against(other, stored(base))
    p, q = torch.tensor([-0.5, -0.7]).double().exp().tolist()
    assert left == pytest.approx(1 - p)
    kld = p * 0.2 + (1 - p) * float(torch.log(torch.tensor((1 - p) / (1 - q)).double()))
    assert found == pytest.approx(kld)


@pytest.mark.parametrize(
    ("positions", "says"),
    [
        ([], "return 2 tokens"),
        ([{1: -1.0}], "return 2 tokens"),
        ([{2: -1.0, 3: -2.0}], "of the text"),
    ],
)
def test_what_is_missing_is_said(positions: Any, says: str) -> None:
    with pytest.raises(UnsupportedError, match=says):
        top_prediction(positions, [0, 1], 2)


class Whole:
    """An engine whose text is its tokens."""

    def __init__(self, seed: int) -> None:
        self.exact = log_probs(seed)

    def tokenize(self, text: str) -> list[int]:
        return WINDOW

    def detokenize(self, tokens: Any) -> str:
        return str(tokens)

    def log_probs(self, window: Any) -> Tensor:
        return self.exact


class Likeliest(Whole):
    def top_log_probs(self, window: Any) -> TopPrediction:
        return told(self.exact, 10)


def test_an_engine_that_tells_the_likeliest_alone_is_evaluated_and_compared(tmp_path: Path) -> None:
    def figures(runs: Any, **files: Any) -> dict[str, Any]:
        return evaluate(runs, "text", max_tokens=5, window=5, **files)

    whole = figures(Whole(0), keep=tmp_path / "whole.npz")
    top = figures(Likeliest(0), keep=tmp_path / "top.npz")
    assert top["nll"] == pytest.approx(whole["nll"], rel=1e-5)
    assert top["method"] == (
        "lower bound: over those of the 10 likeliest tokens that both arms give, and the rest"
    )
    for base in ("whole", "top"):
        same = figures(Likeliest(0), base=tmp_path / f"{base}.npz")
        assert same["kld"] == pytest.approx([0] * 4, abs=1e-6)
        assert same["same_top1"] == [1] * 4
        other = figures(Likeliest(1), base=tmp_path / f"{base}.npz")
        assert min(other["kld"]) >= 0
        assert sum(other["kld"]) > 0.1
        assert 0 < other["rest_mass"] < 1
    # An engine that tells everything, after a baseline that did not.
    assert figures(Whole(0), base=tmp_path / "top.npz")["kld"] == pytest.approx([0] * 4, abs=1e-6)
