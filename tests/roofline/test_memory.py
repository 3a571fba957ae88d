"""Memory of a workload, and the words for whether it is there."""

from __future__ import annotations

import pytest

from bench.models import load_card, model_cards
from bench.roofline.memory import HOST, RESERVE_BYTES, Memory, fit, running, with_loading

GB = 10**9


def memory(n_bytes: int) -> Memory:
    return Memory(weights_bytes=n_bytes - RESERVE_BYTES, cache_bytes=0, activations_bytes=0)


@pytest.mark.parametrize(
    ("needed", "engine", "word"),
    [
        (9.29, "llama.cpp", "yes"),
        (9.31, "llama.cpp", "tight"),
        (10.0, "llama.cpp", "tight"),
        (10.1, "llama.cpp", "offload"),
        (10.1, "vllm", "no"),
        (80, "llama.cpp", "no"),
    ],
)
def test_fit_in_ten_gigabytes(needed: float, engine: str, word: str) -> None:
    assert fit(memory(round(needed * GB)), 10 * GB, engine=engine, host=HOST) == word


def test_without_a_host_nothing_is_left_to_it() -> None:
    assert fit(memory(11 * GB), 10 * GB, engine="llama.cpp") == "no"


def test_each_device_keeps_a_reserve() -> None:
    assert memory(10 * GB).needed_bytes(3) == 10 * GB + 2 * RESERVE_BYTES


def test_the_peak_while_loading_decides_where_it_is_larger() -> None:
    small = memory(5 * GB)

    assert fit(small, 10 * GB) == "yes"
    assert fit(with_loading(small, 16 * GB), 10 * GB) == "no"


def test_layers_with_a_window_keep_no_more_than_the_window() -> None:
    """gpt-oss-20b at 32k: 12 layers of 128 tokens and 12 of all, 2 x 8 x 64 numbers each."""
    card = load_card(model_cards()["gpt-oss-20b"])

    found = running(card, "none", n_prompt=32_000, n_gen=768)

    assert found.cache_bytes == 2 * 2 * 8 * 64 * (12 * 128 + 12 * 32_768)
