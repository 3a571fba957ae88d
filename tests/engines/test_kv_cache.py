"""A key-value cache in 8 bits, on tiny real models: its numbers, its tokens, its quality."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cli import main
from bench.engines.graph import attention, narrow
from bench.engines.graph.compiling import Compiling
from bench.engines.graph.engine import GraphEngine
from bench.engines.graph.narrow import Codes, NarrowSlots, narrowed, rounded, widened
from bench.engines.graph.slots import Slots
from bench.engines.messages import Job
from bench.engines.registry import refusal
from bench.errors import InputError, UnsupportedError
from bench.experiment import Variant
from bench.schemes import Device
from tests.conftest import TINY
from tests.generating import generate

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning", "default::UserWarning")

KINDS = ("int8", "fp8")
WINDOWED = {
    "model_type": "gemma3_text",
    "sliding_window": 64,
    "head_dim": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 8,
}
EXPERTS = {
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "head_dim": 8,
    "moe_intermediate_size": 32,
}
ARCHITECTURES: tuple[dict[str, Any], ...] = (
    {"model_type": "llama"},
    {"model_type": "llama", "num_key_value_heads": 4},
    {"model_type": "qwen3", "head_dim": 8},
    {"model_type": "mistral", "sliding_window": None},
    EXPERTS,
    WINDOWED,
)


def job(kind: str = "auto", architecture: dict[str, Any] | None = None, **options: Any) -> Job:
    """Random weights, wide enough for attention to matter in the logits."""
    return Job(
        architecture=TINY | (architecture or {}),
        folder=None,
        random_seed=0,
        initializer_range=0.2,
        quant="none",
        mode="compiled",
        dtype="float32",
        device="cpu",
        threads=None,
        seed=7,
        replicate=0,
        options={"kv_cache_dtype": kind, **options},
    )


def loaded(wanted: Job) -> GraphEngine:
    runs = GraphEngine()
    runs.load(wanted)
    return runs


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call as it is, uncompiled: two tests below go through the compiler."""
    monkeypatch.setattr(Compiling, "__call__", lambda _, function, **__: function)


def teacher_forced(runs: GraphEngine, window: list[int]) -> torch.Tensor:
    """Log-probabilities [length - 1, vocabulary] of the arm's own steps over a given text."""
    with runs._inference():
        decoder = runs._static
        decoder.start(torch.tensor([window[:1]]), len(window))
        decoder._kept = []
        decoder.reset()
        decoder._prefill()
        for token in window[1:-1]:
            decoder._token.fill_(token)
            decoder._step()
        hidden, decoder._kept = torch.cat(decoder._kept, dim=1), None
        norm = decoder._decoder.norm if decoder._norm_is_last else decoder._nothing
        return torch.log_softmax(decoder._head(norm(hidden))[0].float(), dim=-1)


def divergence(base: torch.Tensor, other: torch.Tensor) -> float:
    """Mean KL(base || other) of log-probabilities."""
    return float((base.exp() * (base - other)).sum(-1).mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_int8_is_within_half_a_step_of_each_heads_largest(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (torch.randn(2, 3, 5, 16) * torch.logspace(-4, 4, 5)[:, None]).to(dtype)
    codes = narrowed(x, "int8")
    assert codes.numbers.dtype == torch.int8
    assert codes.scales.shape == x.shape[:3]
    assert codes.numbers.abs().amax(-1).eq(127).all()
    step = x.float().abs().amax(-1, keepdim=True) / 127
    slack = 1.001 if dtype == torch.float32 else 2.1  # the result is rounded to 8 bits again
    assert ((rounded(x, "int8").float() - x.float()).abs() <= slack * step / 2).all()
    assert rounded(torch.zeros(1, 1, 1, 8), "int8").eq(0).all()


def test_fp8_keeps_three_bits_and_ends_at_its_largest() -> None:
    x = torch.randn(1, 2, 50, 16)
    assert ((rounded(x, "fp8") - x).abs() <= x.abs() / 16 + 2**-10).all()
    assert narrowed(x, "fp8").scales is None
    ends = torch.tensor([1e4, -1e4, 448.0, 0.0]).reshape(1, 1, 1, 4)
    assert rounded(ends, "fp8").flatten().tolist() == [448, -448, 448, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_stays_none(kind: str) -> None:
    x = torch.ones(1, 1, 1, 4)
    x[..., 2] = torch.nan
    assert rounded(x, kind)[..., 2].isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_slots_give_back_what_was_put_there_rounded(kind: str) -> None:
    torch.manual_seed(0)
    position = torch.tensor([5])
    plain, slots = Slots(8, position), NarrowSlots(8, position, kind)
    keys, values = torch.randn(2, 3, 2, 6, 4).unbind(0)
    for first, last in ((0, 5), (5, 6)):
        given = keys[:, :, first:last], values[:, :, first:last]
        held = slots.update(*given)
        plain.update(*(rounded(one, kind) for one in given))
        if first == 0:
            assert all(one is other for one, other in zip(held, given, strict=True))
    for one, other in zip(held, (plain.keys, plain.values), strict=True):
        assert isinstance(one, Codes)
        assert torch.equal(widened(one, torch.float32), other)
    query = torch.randn(3, 6, 1, 4)
    mask = (torch.arange(8) <= position)[None, None, None]
    last = position[None, None, None]
    expected, _ = attention.attention(None, query, plain.keys, plain.values, mask, scaling=0.5)
    for way in (mask, last):
        found, _ = attention.attention(None, query, *held, way, scaling=0.5)
        torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("_uncompiled")
@pytest.mark.parametrize(("kind", "way"), [("int8", "split"), ("fp8", "sdpa")])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: f"{a['model_type']}-{len(a)}")
def test_architectures_make_the_tokens_of_eager_mode_over_rounded_numbers(
    architecture: dict[str, Any], kind: str, way: str
) -> None:
    runs = loaded(job(kind, architecture, attention=way))
    runs.start(n_prompt=12, n_gen=16, n_batch=2)
    notes = runs.notes()
    assert notes["tokens_as_eager"] == notes["tokens_checked"] == 16
    assert notes["self_check"]["error"] < 1e-4
    assert notes["attention"] == way


@pytest.mark.parametrize(("kind", "way"), [("int8", "sdpa"), ("fp8", "split")])
def test_it_compiles_and_takes_half_of_16_bits(kind: str, way: str) -> None:
    """Through the compiler, one step and a prompt; bytes by hand."""
    runs = loaded(job(kind, attention=way))
    runs.start(n_prompt=12, n_gen=20, n_batch=2)
    notes = runs.notes()
    assert notes["tokens_as_eager"] == 16
    # Where the cache becomes floats, nobody can tell whether a weight does.
    assert notes["step"]["copies_weights"] is (None if way == "sdpa" else False)
    # two tensors a layer, two layers: batch 2, two heads of 8; a scale for each head in float32
    numbers = 2 * 2 * 2 * 2 * 256 * 8
    assert notes["cache_bytes"] == numbers + (numbers // 8 * 4 if kind == "int8" else 0)
    first = generate(runs, 20)
    assert generate(runs, 20) == first
    runs.rewind()
    for _ in range(19):
        runs.step()
    assert runs.tokens() == first


@pytest.mark.usefixtures("_uncompiled")
@pytest.mark.parametrize("n_prompt", [1, 12])
def test_greedy_tokens_are_nearly_those_of_the_models_dtype(n_prompt: int) -> None:
    made = {}
    for kind in ("auto", *KINDS):
        runs = loaded(job(kind))
        runs.start(n_prompt=n_prompt, n_gen=12, n_batch=1)
        made[kind] = generate(runs, 12)[0]
    for kind in KINDS:
        assert made[kind][:2] == made["auto"][:2]


@pytest.mark.usefixtures("_uncompiled")
@pytest.mark.parametrize(("kind", "way"), [("int8", "sdpa"), ("fp8", "split")])
def test_quality_is_that_of_the_arms_own_steps(kind: str, way: str) -> None:
    """Scored in one pass, and token by token through the cache that is measured: the same."""
    torch.manual_seed(1)
    window = torch.randint(0, 256, (48,)).tolist()
    runs = loaded(job(kind, attention=way))
    told = runs.log_probs(window)
    torch.testing.assert_close(told, teacher_forced(runs, window), rtol=0, atol=2e-4)
    floats = loaded(job()).log_probs(window)
    assert (told - floats).abs().max() > 1e-3  # not the figures of a cache in floats


@pytest.mark.usefixtures("_uncompiled")
def test_the_divergence_is_small_and_larger_with_fewer_bits() -> None:
    window = torch.randint(0, 256, (64,), generator=torch.Generator().manual_seed(1)).tolist()
    told = {kind: loaded(job(kind)).log_probs(window) for kind in ("auto", *KINDS)}
    kld = {kind: divergence(told["auto"], told[kind]) for kind in KINDS}
    assert 0 < kld["int8"] < kld["fp8"] < 0.02
    plain = loaded(replace(job(), options={})).log_probs(window)
    assert torch.equal(told["auto"], plain)


@pytest.mark.usefixtures("_uncompiled")
def test_quality_beyond_a_sliding_window_is_that_of_single_steps() -> None:
    """Longer than the window: no workload of this engine, but a text may be."""
    runs = loaded(job("fp8", WINDOWED | {"sliding_window": 8}))
    window = list(range(40, 70))
    told = runs.log_probs(window)
    eager = runs._static.eager()
    with runs._inference(), runs._static.plain():
        eager.start(torch.tensor([window[:1]]), len(window))
        made = [eager.logits(torch.tensor([[token]])) for token in window[:-1]]
    expected = torch.log_softmax(torch.cat(made).float(), dim=-1)
    torch.testing.assert_close(told, expected, rtol=0, atol=2e-4)


@pytest.mark.usefixtures("_uncompiled")
def test_a_text_is_continued_over_the_rounded_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow, "LEVELS", 1)  # so coarse that no token stays what it was
    prompt = list(range(20))

    def continued(kind: str) -> list[int]:
        runs = loaded(job(kind))
        runs.set_prompt(prompt)
        return generate(runs, 12)[0]

    runs = loaded(job("int8"))
    with runs._inference():
        runs._static.start(torch.tensor([prompt]), 12)
    assert continued("int8") == generate(runs, 12)[0]
    assert continued("int8") != continued("auto")


@pytest.mark.usefixtures("_uncompiled")
def test_a_cache_that_loses_its_scales_is_a_wrong_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(codes: Codes, dtype: Any) -> Any:
        return widened(Codes(codes.numbers, torch.ones_like(codes.scales) / 64), dtype)

    runs = loaded(job("int8"))
    monkeypatch.setattr(attention, "widened", lost)
    with pytest.raises(UnsupportedError, match="gives other logits") as error:
        runs.start(12, 8, 1)
    assert error.value.code == "WRONG_MODEL"


@pytest.mark.usefixtures("_uncompiled")
def test_longer_than_a_sliding_window_is_refused_as_before() -> None:
    runs = loaded(job("int8", WINDOWED | {"sliding_window": 16}))
    with pytest.raises(UnsupportedError, match="sliding window of 16"):
        runs.start(n_prompt=12, n_gen=8, n_batch=1)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["-e", "graph", "--option", "kv_cache_dtype=int4"],
            "unknown option kv_cache_dtype 'int4'",
        ),
        (["-e", "graph", "--option", "kv_cache_type=int8"], "did you mean 'kv_cache_dtype'"),
        (["-e", "transformers", "--option", "kv_cache_dtype=int8"], "is for -e graph"),
    ],
)
def test_what_it_has_not_is_one_line(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["run", *flags, "--into", str(tmp_path / "r")]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
    assert not (tmp_path / "r").exists()


def test_a_value_is_checked_where_the_engine_is_used_alone() -> None:
    with pytest.raises(InputError, match="unknown option kv_cache_dtype 'int4'"):
        loaded(job("int4"))


@pytest.mark.parametrize(
    ("kind", "device", "said"),
    [
        (
            "fp8",
            Device(name="cuda:0", kind="cuda", capability=(8, 6)),
            "needs compute capability 8.9",
        ),
        ("fp8", Device(name="mps:0", kind="mps"), "is for cpu and cuda, not for mps:0"),
        ("fp8", Device(name="cuda:0", kind="cuda", capability=(9, 0)), None),
        ("int8", Device(name="cuda:0", kind="cuda", capability=(8, 0)), None),
    ],
)
def test_fp8_needs_a_card_that_has_it(kind: str, device: Device, said: str | None) -> None:
    arm = Variant(
        model="llama-3.1-8b",
        quant="none",
        engine="graph",
        mode="compiled",
        options={"kv_cache_dtype": kind},
    )
    why = refusal(arm, device)
    assert (why is None) == (said is None)
    assert said is None or said in str(why)


def test_transformers_own_cache_in_fp8_is_why_it_is_not_offered() -> None:
    """What the refusal says of it, seen: should it be mended, it can be offered."""
    from transformers.cache_utils import Fp8QuantizedLayer

    layer, ones = Fp8QuantizedLayer(), torch.ones(1, 1, 4, 8)
    layer.update(ones, ones)
    keys, _ = layer.update(2 * ones[:, :, :1], ones[:, :, :1])
    assert not keys[:, :, -1].isclose(torch.tensor(2.0)).any()  # the prompt's largest, or none
    with pytest.raises(IndexError):
        layer.crop(-1)
