"""Bounds against figures worked out by hand and against published bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import roofline
from bench.errors import InputError, UnsupportedError
from bench.models import ModelCard, load_card, model_cards
from bench.models.shapes import shape
from bench.roofline import MeasuredRates, bound, decode_work, prefill_work
from bench.roofline.gpus import gpus
from bench.schemes.bytes import file_bits


def card(name: str) -> ModelCard:
    return load_card(model_cards()[name])


LLAMA = card("llama-3.1-8b")


@pytest.mark.parametrize("name", ["q4_1", "q5_0", "q5_1"])
def test_bits_of_plain_gguf_types_are_those_of_their_blocks(name: str) -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    def bits(kind: str) -> float:
        weights, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]]
        return 8 * size / weights

    made = shape(LLAMA)
    head = sum(m.n_params for m in made.matrices if m.part == "head") / made.n_params
    assert file_bits(name) == pytest.approx(bits(name) * (1 - head) + bits("q6_k") * head, rel=1e-3)


@pytest.mark.parametrize(
    ("gpu", "scheme", "expected"),
    [
        # Bounds that others published for an 8B model; the head is not quantized.
        ("h200-sxm", "none", 320),
        ("h200-sxm", "bnb-int8", 600),
        ("rtx-4080", "none", 48),
        ("rtx-4080", "bnb-int8", 89),
    ],
)
def test_bounds_of_an_8b_model(gpu, scheme, expected) -> None:
    found = bound(LLAMA, gpus()[gpu], scheme, n_prompt=1, n_gen=2)

    assert found.decode_tok_s == pytest.approx(expected, rel=0.01)
    assert found.limited_by == "memory"


@pytest.mark.parametrize(
    ("baseline", "ratio"),
    [
        ("rtx-4080", 1.03),
        ("rtx-4070-ti-super", 1.10),
        ("rtx-3080", 0.97),
        ("rtx-3080-ti", 0.81),
        ("rtx-3090", 0.79),
        ("rtx-4070-ti", 1.46),
        ("rtx-3070", 1.64),
        ("rtx-4090", 0.73),
    ],
)
def test_batch_one_decode_bounds_are_in_the_ratio_of_bandwidth(baseline, ratio) -> None:
    ours, theirs = (bound(LLAMA, gpus()[name], "q4_k_m") for name in ("rtx-4080-super", baseline))

    assert ours.decode_tok_s / theirs.decode_tok_s == pytest.approx(ratio, abs=0.005)


def test_decode_bytes_by_hand() -> None:
    # 8.03e9 parameters less a 128256 x 4096 embedding, 2 bytes each, and 128 KiB a token.
    weights = 2 * (8_030_261_248 - 128256 * 4096)
    work = decode_work(LLAMA, context=1000, n_batch=4)

    assert roofline.kv_bytes_per_token(LLAMA) == 2 * 32 * 8 * 128 * 2
    assert work.n_bytes == weights + 4 * 1000 * 131072
    assert work.flops == 4 * (weights + 4 * 32 * 32 * 128 * 1000)


@pytest.mark.parametrize(
    ("kind", "n_bytes"),
    [
        ("bfloat16", 32 * 2 * 8 * 128 * 2),
        ("fp8", 32 * 2 * 8 * 128),
        ("int8", 32 * 2 * 8 * (128 + 4)),  # and a float32 scale for each head
        ("q8_0", 32 * 2 * 8 * 128 * 34 // 32),
        ("q8_0/f16", 32 * 8 * 128 * (34 + 64) // 32),
    ],
)
def test_a_narrower_cache_is_less_to_read_and_to_hold(kind: str, n_bytes: int) -> None:
    def sizes(kv: str) -> tuple[float, float, float, float]:
        limit = bound(LLAMA, gpus()["h200-sxm"], n_prompt=32768, n_gen=128, kv_dtype=kv)
        work = decode_work(LLAMA, context=1000, n_batch=4, kv_dtype=kv)
        first = prefill_work(LLAMA, n_prompt=512, kv_dtype=kv)
        return work.n_bytes, first.n_bytes, limit.memory_bytes, limit.decode_bytes

    assert roofline.kv_bytes_per_token(LLAMA, kind) == n_bytes
    saved = 131072 - n_bytes
    given = zip(sizes("auto"), sizes(kind), strict=True)
    assert [wide - narrow for wide, narrow in given] == [
        4 * 1000 * saved,
        512 * saved,
        (32768 + 128) * saved,
        (32768 + 64) * saved,
    ]


def test_a_cache_of_unknown_bytes_has_no_bound() -> None:
    with pytest.raises(UnsupportedError, match="type 'turbo2' are not known"):
        decode_work(LLAMA, context=1, kv_dtype="turbo2")


def test_prefill_flops_by_hand() -> None:
    # B (2 N S + 2 l n_h d_h S^2 + 2 V d), with S (S + 1) for the causal triangle's diagonal.
    n = 8_030_261_248 - 2 * 128256 * 4096
    work = prefill_work(LLAMA, n_prompt=512, n_batch=2)

    expected = 2 * (2 * n * 512 + 2 * 32 * 32 * 128 * 512 * 513 + 2 * 128256 * 4096)
    assert work.flops == expected


def test_latent_attention_caches_one_latent_a_layer() -> None:
    assert roofline.kv_bytes_per_token(card("deepseek-r1")) == 61 * (512 + 64) * 2


def test_a_window_caps_what_is_read_and_computed() -> None:
    gemma = card("gemma-3-270m")
    short, long = (decode_work(gemma, context=c) for c in (512, 1512))

    # Only the three full layers read the thousand further tokens.
    assert long.n_bytes - short.n_bytes == 3 * 2 * 256 * 2 * 1000
    assert long.flops - short.flops == 2 * 3 * 2 * 4 * 256 * 1000


def test_a_static_cache_is_read_whole() -> None:
    work = decode_work(LLAMA, context=100, static_cache=4096)

    assert work.n_bytes - decode_work(LLAMA, context=100).n_bytes == (4096 - 100) * 131072
    assert work.flops == decode_work(LLAMA, context=100).flops


def test_a_batch_reads_more_experts_but_dense_weights_once() -> None:
    moe = card("qwen3-30b-a3b")
    one, many = (decode_work(moe, context=1, n_batch=b) for b in (1, 64))
    dense_one, dense_many = (decode_work(LLAMA, context=1, n_batch=b) for b in (1, 64))

    assert many.n_bytes > 7 * one.n_bytes
    assert dense_many.n_bytes < 1.01 * dense_one.n_bytes


def test_a_large_batch_is_limited_by_compute() -> None:
    assert (
        bound(LLAMA, gpus()["rtx-4080"], n_batch=1024, n_prompt=1, n_gen=2).limited_by == "compute"
    )


def test_the_model_that_does_not_fit_says_so() -> None:
    # 16.1 GB of weights are within 16 GiB, with little room for a cache.
    assert bound(LLAMA, gpus()["rtx-4080"]).fits
    assert not bound(LLAMA, gpus()["rtx-4080"], n_prompt=4096).fits
    assert bound(LLAMA, gpus()["rtx-4080"], "int8-weight-only").fits
    assert not bound(card("deepseek-r1"), gpus()["h100-sxm"], "ud-iq1_s").fits
    assert bound(card("deepseek-r1"), gpus()["h100-sxm"], "ud-iq1_s", n_devices=2).fits


def test_without_a_peak_prefill_has_no_bound_and_decode_has_one() -> None:
    device = MeasuredRates(name="this cpu", bandwidth=20e9, vram_bytes=16 * 2**30)
    found = bound(card("smollm2-135m-instruct"), device, dtype="float32")

    assert found.prefill_tok_s is None
    assert "this cpu" in found.absent["prefill_tok_s"]
    assert found.decode_tok_s == pytest.approx(20e9 / found.decode_bytes)


def test_measured_rates_bound_what_they_were_measured_for() -> None:
    rates = {"float32": 1e11, "bfloat16": 4e11}
    device = MeasuredRates(name="this cpu", bandwidth=20e9, vram_bytes=16 * 2**30, rates=rates)
    model = card("smollm2-135m-instruct")

    assert bound(model, device, dtype="float32", n_batch=64).limited_by == "compute"
    assert roofline.peak_flops(device, "float", "float32") == 1e11
    assert roofline.peak_flops(device, "float", "bfloat16") == 4e11
    assert roofline.peak_flops(device, "float", "float16") is None
    assert roofline.peak_flops(device, "int8", "bfloat16") is None


def test_geforce_cards_may_sum_sixteen_bit_products_twice_as_fast() -> None:
    card_4080 = gpus()["rtx-4080"]

    assert roofline.peak_flops(card_4080, "float", "float16") == 2 * 97.5e12
    assert roofline.peak_flops(card_4080, "float", "bfloat16") == 97.5e12
    assert roofline.peak_flops(gpus()["a100-sxm-80gb"], "float", "float16") == 312e12
    assert roofline.peak_flops(gpus()["rtx-3090"], "fp8") == 71e12


def test_utilization_of_the_bound_is_one() -> None:
    gpu = gpus()["rtx-4080"]
    found = bound(LLAMA, gpu, "q4_k_m")
    tpot = 1 / found.decode_tok_s

    assert roofline.mbu(found.decode_bytes, tpot, gpu.bandwidth) == pytest.approx(1)
    assert roofline.mfu(found.decode_flops, tpot, gpu.peak("bf16")) < 1
    assert roofline.mfu(1.0, 1.0, None) is None


def test_impossible_published_figures_are_above_the_bound() -> None:
    ti = replace(gpus()["rtx-4070-ti"], name="rtx-4060-ti", bandwidth_gb_s=288.0)

    assert roofline.above_bound(32, bound(LLAMA, ti).decode_tok_s)
    assert roofline.above_bound(68, bound(LLAMA, gpus()["rtx-5080"]).decode_tok_s)
    assert not roofline.above_bound(43, bound(LLAMA, gpus()["rtx-4080"]).decode_tok_s)
    assert not roofline.above_bound(None, 1.0)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(InputError, match="unknown scheme 'int9'"):
        bound(LLAMA, gpus()["rtx-4080"], "int9")


@given(
    n_prompt=st.integers(1, 8192),
    n_gen=st.integers(2, 2048),
    n_batch=st.integers(1, 256),
    name=st.sampled_from(sorted(model_cards())),
    quant=st.sampled_from(["none", "int8-dynamic", "int4-weight-only", "bnb-nf4", "q4_k_m"]),
)
def test_bounds_are_positive_and_fall_with_context(n_prompt, n_gen, n_batch, name, quant) -> None:
    gpu = gpus()["h200-sxm"]
    found = bound(card(name), gpu, quant, n_prompt, n_gen, n_batch)
    longer = bound(card(name), gpu, quant, n_prompt + 512, n_gen, n_batch)

    assert found.decode_tok_s >= longer.decode_tok_s > 0
    assert found.decode_bytes / (n_batch / found.decode_tok_s) <= gpu.bandwidth * (1 + 1e-9)
    assert found.memory_bytes > found.weights_bytes
