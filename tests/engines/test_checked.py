"""Models that are not whole, or decode wrong, are refused before they are measured."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.engines.graph.engine import GraphEngine
from bench.engines.messages import Job
from bench.engines.transformers import eager, loading, self_check
from bench.engines.transformers.eager import Eager, new_cache
from bench.engines.transformers.engine import TransformersEngine
from bench.errors import InputError, UnsupportedError
from tests.conftest import TINY

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    made = tmp_path / "model"
    shutil.copytree(tiny_folder, made)
    return made


def job(folder: Path | None, **more: Any) -> Job:
    plain = Job(
        architecture=TINY,
        folder=folder,
        random_seed=0,
        initializer_range=0.1,
        quant="none",
        mode="eager",
        dtype="float32",
        device="cpu",
        threads=None,
        seed=7,
        replicate=0,
    )
    return replace(plain, **more)


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    (file,) = folder.glob("*.safetensors")
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def without_a_layer(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if "layers.1.mlp" not in name}


def renamed(tensors: Tensors) -> Tensors:
    return {f"base_model.{name}": tensor for name, tensor in tensors.items()}


def wrong_shape(tensors: Tensors) -> Tensors:
    (name,) = (name for name in tensors if name.endswith("layers.0.mlp.up_proj.weight"))
    return tensors | {name: tensors[name][:-1].contiguous()}


def with_scales(tensors: Tensors) -> Tensors:
    return tensors | {"model.layers.0.mlp.up_proj.weight_scale": torch.ones(1)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_a_layer, "model.layers.1.mlp.down_proj.weight"),
        (renamed, "are missing"),
        (wrong_shape, "have other shapes than config.json says (model.layers.0.mlp.up_proj.weight"),
        (with_scales, "weight_scale"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_tensor_that_is_not_as_it_must_be_is_named(
    change: Callable[[Tensors], Tensors], words: str, folder: Path
) -> None:
    rewrite(folder, change)
    with pytest.raises(InputError) as error:
        TransformersEngine().load(job(folder))
    assert words in str(error.value)


def test_heads_for_several_tokens_are_left_out_and_said(folder: Path) -> None:
    n = TINY["num_hidden_layers"]
    rewrite(folder, lambda tensors: tensors | {f"model.layers.{n}.eh_proj.weight": torch.ones(2)})
    loaded = TransformersEngine().load(job(folder))
    assert loaded.details["left_out"]["count"] == 1


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            InputError,
            "no head that predicts",
        ),
        ({"architectures": ["LlamaModel"]}, InputError, "its weights are of LlamaModel"),
        ({"model_type": "llama9"}, UnsupportedError, "is not one of transformers"),
        ({"model_type": "t5"}, UnsupportedError, "is an encoder-decoder"),
        ({"model_type": "modernbert"}, UnsupportedError, "is not a causal language model"),
    ],
)
def test_a_model_that_predicts_no_next_token_is_refused(
    keys: dict[str, Any], error: type[Exception], words: str, folder: Path
) -> None:
    config = {} if "model_type" in keys else json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))
    with pytest.raises(error, match=words):
        TransformersEngine().load(job(folder))


def small(kind: str, **more: Any) -> Any:
    rest = {name: value for name, value in TINY.items() if name != "model_type"}
    config = loading.config_of(None, {"model_type": kind, **rest, **more})
    torch.manual_seed(0)
    model = loading.random(config, loading.auto_class(config, None), torch.float32, "cpu").eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def check(model: Any, decoder: Eager, n_prompt: int = 12) -> self_check.Judged:
    def full(tokens: Any, n: int) -> Any:
        return model(input_ids=tokens, use_cache=False).logits[:, -n:]

    with torch.inference_mode():
        decoder.start(torch.randint(0, 256, (3, n_prompt)), 4)
        return decoder.checked(full, self_check.TOLERANCE["float32"])


def test_a_right_model_passes_with_what_is_left_of_precision() -> None:
    model = small("llama")
    assert check(model, Eager(model)).error < 1e-4


def test_a_cache_that_is_swallowed_is_a_wrong_model() -> None:
    class Forgetful(Eager):
        def logits(self, tokens: Any) -> Any:
            self._cache = new_cache(self._model)
            return super().logits(tokens)

    model = small("llama")
    with pytest.raises(UnsupportedError, match="gives other logits") as error:
        check(model, Forgetful(model))
    assert error.value.code == "WRONG_MODEL"


def test_positions_that_start_anew_are_a_wrong_model() -> None:
    class Anew(Eager):
        def logits(self, tokens: Any) -> Any:
            self._length = 0
            return super().logits(tokens)

    model = small("llama")
    with pytest.raises(UnsupportedError, match="gives other logits"):
        check(model, Anew(model))


def test_a_window_that_is_reached_is_kept() -> None:
    model = small("mistral", sliding_window=8)
    assert check(model, Eager(model), n_prompt=20).error < 1e-4


def test_an_encoder_that_looks_ahead_is_refused() -> None:
    sizes = {"num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64}
    config = {"model_type": "bert", "vocab_size": 256, "num_hidden_layers": 2, **sizes}
    runs = TransformersEngine()
    runs.load(job(None, architecture=config))
    with pytest.raises(UnsupportedError) as error:
        runs.start(12, 4, 2)
    assert error.value.code == "WRONG_MODEL"


def test_the_window_of_a_compiled_arm_is_that_of_the_cache() -> None:
    config = {**TINY, "model_type": "mistral", "sliding_window": 16}
    runs = GraphEngine()
    runs.load(job(None, architecture=config, mode="compiled"))
    with pytest.raises(UnsupportedError, match="sliding window of 16"):
        runs.start(14, 4, 1)


def test_a_linear_state_is_refused_before_it_is_loaded() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 256, "state_size": 8}
    with pytest.raises(UnsupportedError, match="LinearAttentionLayer"):
        GraphEngine().load(
            job(None, architecture={"model_type": "mamba", **sizes}, mode="compiled")
        )


def test_in_16_bits_more_may_differ_by_what_passes_of_two_lengths_do() -> None:
    rows = torch.randn(2, 9, 64)

    def full(tokens: Any, n: int) -> Any:
        return rows[:, :n] * (1 + 0.07 * tokens.shape[1])

    prompt = torch.zeros(2, 8, dtype=torch.long)
    assert self_check.tolerance_for("float32", full, prompt) == 2e-3
    least = self_check.TOLERANCE["float16"]
    assert least < self_check.tolerance_for("float16", full, prompt) <= self_check.MOST


@pytest.mark.parametrize(("drift", "allowed"), [(0.01, 0.7), (0.35, 0.778), (0.6, math.inf)])
def test_with_scaled_activations_more_may_differ_until_it_says_nothing(
    drift: float, allowed: float
) -> None:
    """`drift`: the share by which logits grow with each token of the pass."""
    torch.manual_seed(0)
    rows = torch.randn(2, 1, 64)

    def full(tokens: Any, n: int) -> Any:
        return rows.expand(2, n, 64) * (1 + drift) ** tokens.shape[1]

    found = self_check.scaled_tolerance(full, torch.zeros(2, 8, dtype=torch.long))
    assert found == pytest.approx(allowed, rel=0.02)
    assert self_check.scaled_tolerance(full, torch.zeros(2, 1, dtype=torch.long)) == 1.0


@pytest.mark.parametrize("quant", ["torch-dynamic-int8", "int8-dynamic"])
def test_a_scheme_that_scales_activations_is_checked_before_it_is_applied(
    quant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = TransformersEngine()
    runs.load(job(None, quant=quant))
    runs.start(12, 4, 2)
    json.dumps(runs.notes()["self_check"], allow_nan=False)
    forget(monkeypatch)
    with pytest.raises(UnsupportedError, match="gives other logits"):
        TransformersEngine().load(job(None, quant=quant))


def test_a_scheme_that_scales_each_token_is_checked_after_it_is_applied_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A streamed model is never there in floats: this is its only check."""
    runs = TransformersEngine()
    runs.load(job(None, quant="int8-dynamic"))
    runs.start(12, 4, 2)
    noted = runs.notes()["self_check"]
    assert noted["error"] < noted["tolerance"] <= self_check.MOST_SCALED
    forget(monkeypatch)
    with pytest.raises(UnsupportedError, match="gives other logits") as error:
        runs.start(12, 4, 2)
    assert error.value.code == "WRONG_MODEL"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make eager steps begin with an empty cache each time."""
    monkeypatch.setattr(eager, "new_cache", lambda _: {"past_key_values": None})
    monkeypatch.setattr(eager, "CACHES", {})


def test_a_window_beyond_the_context_and_a_foreign_tokenizer_are_input_errors(
    folder: Path,
) -> None:
    runs = TransformersEngine()
    runs.load(job(folder))
    with pytest.raises(InputError, match="more than the model's context"):
        runs.log_probs([1] * (TINY["max_position_embeddings"] + 1))
    with pytest.raises(InputError, match="they do not belong to one model"):
        runs.log_probs([1, TINY["vocab_size"]])


def test_what_no_scheme_for_linear_layers_reaches_is_named() -> None:
    from bench.quantization.layers import EXPERTS, other_weights

    mixtral = small("mixtral", num_local_experts=4, num_experts_per_tok=2)
    assert len(other_weights(mixtral)[EXPERTS]) == 2 * TINY["num_hidden_layers"]
    gpt2 = small("gpt2", n_embd=32, n_layer=2, n_head=4)
    assert len(other_weights(gpt2)["Conv1D is no nn.Linear"]) == 8
