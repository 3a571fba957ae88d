"""Shows how long the predictor takes; asserts no time."""

from __future__ import annotations

import pytest

from bench.models import load_card, model_cards
from bench.predict import Predictor
from bench.roofline import bound
from bench.roofline.gpus import gpus

pytest.importorskip("pytest_benchmark")


def test_fitting(benchmark) -> None:
    assert len(benchmark(Predictor).samples) > 500


def test_a_bound(benchmark) -> None:
    card = load_card(model_cards()["deepseek-r1"])

    assert benchmark(bound, card, gpus()["h200-sxm"], "ud-iq1_s").decode_tok_s > 0
