"""The transformers engine on a tiny real model: the steps do what a plain forward pass does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import quantization
from bench.engines.messages import Job, Loaded
from bench.engines.registry import engine
from bench.engines.transformers.engine import TransformersEngine
from bench.engines.transformers.resolving import resolve_device, resolve_dtype
from bench.errors import InputError, UnsupportedError
from tests.conftest import TINY
from tests.generating import generate


@pytest.fixture
def job(tiny_folder: Path) -> Job:
    return Job(
        architecture=TINY,
        folder=tiny_folder,
        random_seed=0,
        initializer_range=0.02,
        quant="none",
        mode="eager",
        dtype="auto",
        device="cpu",
        threads=None,
        seed=7,
        replicate=0,
    )


def load(job: Job) -> tuple[TransformersEngine, Loaded]:
    runs = TransformersEngine()
    return runs, runs.load(job)


def test_steps_with_a_cache_make_the_tokens_of_plain_forward_passes(job: Job) -> None:
    runs, _ = load(job)
    runs.start(n_prompt=12, n_gen=8, n_batch=2)
    made = generate(runs, 8)
    tokens = runs._prompt
    for _ in range(8):
        logits = runs._model(input_ids=tokens, use_cache=False).logits[:, -1]
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    assert made == tokens[:, 12:].tolist()
    assert [len(sequence) for sequence in made] == [8, 8]
    # Keys and values, layers, sequences, heads, positions (the last token is not read again),
    # dimensions, bytes.
    assert runs.notes()["cache_bytes"] == 2 * 2 * 2 * 2 * (12 + 8 - 1) * 8 * 4


def test_the_prompt_is_the_same_for_every_arm(job: Job) -> None:
    prompts = []
    for quant in ("none", "torch-dynamic-int8"):
        runs, _ = load(replace(job, quant=quant))
        runs.start(n_prompt=12, n_gen=2, n_batch=3)
        prompts.append(runs._prompt.tolist())
    assert prompts[0] == prompts[1]
    assert len(set(map(tuple, prompts[0]))) == 3  # and differs between sequences


def test_rewind_goes_back_to_the_state_after_prefill(job: Job) -> None:
    runs, _ = load(job)
    runs.start(n_prompt=12, n_gen=6, n_batch=1)
    first = generate(runs, 6)
    runs.rewind()
    for _ in range(5):
        runs.step()
    assert runs.tokens() == first


def test_log_probs_are_of_the_next_token(job: Job) -> None:
    runs, _ = load(job)
    window = list(range(10, 20))
    found = runs.log_probs(window)
    assert found.shape == (9, 256)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(9))
    logits = runs._model(input_ids=torch.tensor([window[:4]])).logits[0, -1]
    torch.testing.assert_close(found[3], torch.log_softmax(logits, -1), rtol=1e-4, atol=1e-5)


def test_text_round_trip(job: Job) -> None:
    runs, _ = load(job)
    assert runs.detokenize(runs.tokenize("Grüße, 東京")) == "Grüße, 東京"


def test_what_is_held_is_counted(job: Job) -> None:
    runs, loaded = load(job)
    assert loaded.n_params == sum(p.numel() for p in runs._model.parameters())
    assert loaded.weights_bytes == 4 * loaded.n_params
    assert (loaded.quantized_fraction, loaded.dynamic) == (0.0, None)
    assert (loaded.device, loaded.dtype) == ("cpu", "float32")


@pytest.mark.parametrize(
    ("quant", "dynamic"),
    [
        ("torch-dynamic-int8", "activations"),
        ("int8-dynamic", "activations"),
        ("int8-weight-only", None),
    ],
)
def test_schemes_say_what_they_hold_and_which_meaning_of_dynamic(
    job: Job, quant: str, dynamic: str | None
) -> None:
    _, plain = load(job)
    runs, loaded = load(replace(job, quant=quant))
    assert plain.n_params is not None
    linear = plain.n_params - 256 * 32 - 5 * 32  # but the embedding and five norms
    assert loaded.dynamic == dynamic
    assert loaded.n_params == plain.n_params
    assert loaded.quantized_fraction == pytest.approx(linear / plain.n_params)
    assert loaded.weights_bytes is not None
    kept = 4 * (plain.n_params - linear)
    assert kept + linear < loaded.weights_bytes < kept + 1.3 * linear  # scales come on top
    runs.start(n_prompt=20, n_gen=3, n_batch=1)
    assert [len(sequence) for sequence in generate(runs, 3)] == [3]


def test_counting_twice_gives_the_same(job: Job) -> None:
    # Unpacked weights are copies; freed ones must not be taken for one another.
    runs, _ = load(replace(job, quant="torch-dynamic-int8"))
    assert len({quantization.held(runs._model) for _ in range(5)}) == 1


def test_random_weights_are_seeded_and_finite(job: Job) -> None:
    made = []
    for seed in (0, 0, 1):
        runs, loaded = load(replace(job, folder=None, random_seed=seed))
        runs.start(n_prompt=8, n_gen=4, n_batch=1)
        made.append(runs._model.lm_head.weight.sum().item())
        assert loaded.details["weights"] == "random"
        assert runs._model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert made[0] == made[1] != made[2]
    with pytest.raises(UnsupportedError, match="no tokenizer"):
        runs.tokenize("text")


def test_logits_that_are_not_finite_are_refused(job: Job) -> None:
    runs, _ = load(job)
    runs._model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(UnsupportedError, match="not finite") as error:
        runs.start(n_prompt=8, n_gen=4, n_batch=1)
    assert error.value.code == "NONFINITE"


def test_a_prompt_longer_than_the_context_is_refused(job: Job) -> None:
    runs, _ = load(job)
    with pytest.raises(UnsupportedError, match="context of 512"):
        runs.start(n_prompt=510, n_gen=3, n_batch=1)


def test_an_unknown_mode_is_refused_before_anything_is_loaded(job: Job) -> None:
    runs = TransformersEngine()
    with pytest.raises(InputError, match="unknown mode 'fast'"):
        runs.load(replace(job, mode="fast", folder=Path("/nowhere")))


def test_devices() -> None:
    assert resolve_device("cpu") == quantization.Device(name="cpu", kind="cpu")
    with pytest.raises(InputError, match="unknown device 'cuda:one'"):
        resolve_device("cuda:one")
    with pytest.raises(UnsupportedError, match="no device 'cuda:99' on this machine"):
        resolve_device("cuda:99")
    if torch.version.cuda is None:
        with pytest.raises(UnsupportedError, match="torch says: Torch not compiled with CUDA"):
            resolve_device("cuda:0")


def test_torchs_own_reason_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system.\n  Please check that you\n")

    monkeypatch.setattr(torch.cuda, "init", init)
    said = r"there is: cpu.*; torch says: Found no NVIDIA driver on your system\. Please check that"
    with pytest.raises(UnsupportedError, match=said):
        resolve_device("cuda:99")


def test_a_cards_capability_and_sms_are_known_and_amds_numbers_are_no_capability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card: Any = SimpleNamespace(major=8, minor=9, multi_processor_count=66)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: card)
    here = resolve_device("auto")
    assert (here.name, here.capability, here.n_sm) == ("cuda:0", (8, 9), 66)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    card.gcnArchName = "gfx942:sramecc+:xnack-"
    amd = quantization.Device(name="cuda:0", kind="cuda", arch="gfx942")
    assert resolve_device("cuda:0") == amd


def test_dtypes() -> None:
    cuda = quantization.Device(name="cuda:0", kind="cuda")
    cpu = quantization.Device(name="cpu", kind="cpu")
    assert (resolve_dtype("auto", cpu), resolve_dtype("auto", cuda)) == ("float32", "bfloat16")
    assert resolve_dtype("float16", cpu) == "float16"


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(InputError, match="did you mean 'transformers'"):
        engine("transformer")
