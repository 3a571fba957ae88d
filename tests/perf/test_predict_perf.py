"""Shows how long the predictor takes; asserts no time."""

from __future__ import annotations

import pytest

from bench.models import load_card, model_cards
from bench.predict import Predictor
from bench.roofline import bound
from bench.roofline.gpus import gpus

pytest.importorskip("pytest_benchmark")


def test_a_thousand_predictions(benchmark) -> None:
    card = load_card(model_cards()["qwen3-8b"])
    predictor = Predictor()

    def ask() -> int:
        cards = list(gpus().values()) * 6
        return len([predictor.predict(card, gpu, "q4_k_m", "llama.cpp") for gpu in cards])

    assert benchmark(ask) > 1000


def test_a_bound(benchmark) -> None:
    card = load_card(model_cards()["deepseek-r1"])

    assert benchmark(bound, card, gpus()["h200-sxm"], "ud-iq1_s").decode_tok_s > 0
