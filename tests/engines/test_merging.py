"""Products that are merged: the tokens of eager mode, one product of each vector, nothing twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench import schemes
from bench.engines.graph import merging, new_token
from bench.engines.graph.compiling import merging_of
from bench.engines.graph.engine import GraphEngine
from bench.engines.graph.static import likeliest
from bench.engines.messages import Job
from bench.engines.transformers.engine import TransformersEngine
from bench.errors import InputError
from bench.quantization import int8_layer, layers
from tests.conftest import TINY
from tests.generating import generate

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning", "default::UserWarning")

QKV, GATE_UP = "q_proj+k_proj+v_proj", "gate_proj+up_proj"
NORMED = [f"input_layernorm+{QKV}", f"post_attention_layernorm+{GATE_UP}"]
TAKEN = new_token.TAKEN
ALL = {"merge": "rotation", "attention": "split"}


@pytest.fixture
def job(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    torch._dynamo.reset()
    real = torch.compile

    def compile_(function: Any, *, options: Any, **rest: Any) -> Any:
        return real(function, backend="eager", **rest)  # traced, and run as it was traced

    monkeypatch.setattr(torch, "compile", compile_)
    return Job(
        architecture=TINY, folder=tiny_folder, random_seed=0, initializer_range=0.02, quant="none",
        mode="compiled", dtype="auto", device="cpu", threads=None, seed=7, replicate=0,
    )  # fmt: skip


def started(job: Job, n_batch: int = 1) -> GraphEngine:
    runs = GraphEngine()
    runs.load(job)
    runs.start(n_prompt=12, n_gen=16, n_batch=n_batch)
    return runs


@pytest.mark.parametrize(
    ("merge", "n_batch", "merged"),
    [
        ("rotation", 1, [*NORMED, TAKEN]),
        ("rotation", 2, [*NORMED, TAKEN]),
        ("norms", 1, NORMED),
        ("norms", 2, NORMED),
        ("products", 1, [QKV, GATE_UP]),
    ],
)
def test_merged_steps_make_the_tokens_of_stock_transformers(
    job: Job, merge: str, n_batch: int, merged: list[str]
) -> None:
    eager = TransformersEngine()
    eager.load(replace(job, mode="eager"))
    eager.start(n_prompt=12, n_gen=16, n_batch=n_batch)
    runs = started(replace(job, options=ALL | {"merge": merge}), n_batch)
    assert generate(runs, 16) == generate(eager, 16)
    assert runs.notes()["merged"] == merged


def test_nothing_is_held_twice(job: Job) -> None:
    loaded = [GraphEngine().load(replace(job, options={"merge": m})) for m in ("norms", "none")]
    assert loaded[0].weights_bytes == loaded[1].weights_bytes
    assert loaded[0].n_params == loaded[1].n_params


@pytest.mark.parametrize(
    ("architecture", "merged"),
    [
        ({"model_type": "qwen3", "head_dim": 8}, [*NORMED, TAKEN]),  # queries and keys are normed
        ({"model_type": "qwen2"}, [*NORMED, TAKEN]),  # with biases
        ({"model_type": "granite", "attention_multiplier": 0.1}, [*NORMED, TAKEN]),
        ({"model_type": "cohere"}, [QKV, GATE_UP]),  # rotates pairs, has other norms
        (
            {"model_type": "glm", "head_dim": 8, "pad_token_id": 0},
            [QKV],
        ),  # rotates a part of each head
        (
            {"model_type": "smollm3", "no_rope_layers": [1, 0], "pad_token_id": 0},
            NORMED,
        ),  # not all rotate
        (
            {
                "model_type": "qwen3_moe",
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "head_dim": 8,
                "moe_intermediate_size": 32,
            },
            [QKV, TAKEN],  # its experts are one tensor, and the router reads the norm too
        ),
        (
            {
                "model_type": "gemma3_text",
                "sliding_window": 64,
                "head_dim": 8,
                "layer_types": ["sliding_attention", "full_attention"],
                "query_pre_attn_scalar": 8,
            },
            [QKV, GATE_UP],  # four norms of another formula
        ),
    ],
    ids=lambda one: one["model_type"] if isinstance(one, dict) else "",
)
def test_what_a_model_has_decides_how_far_it_is_merged(
    job: Job, architecture: dict[str, Any], merged: list[str]
) -> None:
    runs = started(replace(job, folder=None, architecture=TINY | architecture, options=ALL))
    assert runs.notes()["merged"] == merged
    assert runs.notes()["tokens_as_eager"] == 16


@pytest.mark.parametrize("other", [{"attention": "sdpa"}, {"kv_cache_dtype": "int8"}])
def test_only_our_kernel_rotates_and_only_into_a_cache_of_the_models_dtype(
    job: Job, other: dict[str, Any]
) -> None:
    runs = started(replace(job, options=ALL | other))
    assert runs.notes()["merged"] == NORMED
    assert runs.notes()["tokens_as_eager"] == 16


@pytest.mark.parametrize("region", ["layer", "model"])
def test_the_operation_that_rotates_is_what_a_step_calls(
    job: Job, monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    real, seen = new_token.step, []

    def step(attends: Any, hidden: Any, *args: Any) -> Any:
        seen.append(hidden.shape[1])
        return real(attends, hidden, *args)

    monkeypatch.setattr(new_token, "step", step)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    runs = started(replace(job, options=ALL | {"compile": region}))
    seen.clear()
    generate(runs, 3)
    n_layers = job.architecture["num_hidden_layers"]  # type: ignore[index]  # it is TINY
    assert seen == [1] * 2 * n_layers


def test_a_rotation_by_other_rules_shows(tiny_folder: Path) -> None:
    """What a module does beside the product, the rotation and attention is not done by `step`."""
    from transformers import AutoModelForCausalLM
    from transformers.models.llama import modeling_llama

    def layer() -> Any:
        made = AutoModelForCausalLM.from_pretrained(tiny_folder).eval().requires_grad_(False)
        found = made.get_decoder().layers[0]
        merging.merge([found], norms=False)
        return found

    assert new_token.take([layer()], torch.float32) == [TAKEN]
    stock = modeling_llama.apply_rotary_pos_emb

    def changed(turned: Any) -> bool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(modeling_llama, "apply_rotary_pos_emb", turned)
            return bool(new_token.take([layer()], torch.float32))

    assert changed(stock)
    assert not changed(lambda q, k, cos, sin: stock(q, k, cos, -sin))
    assert not changed(
        lambda q, k, cos, sin: (1.01 * stock(q, k, cos, sin)[0], stock(q, k, cos, sin)[1])
    )
    assert not changed(lambda q, k, *_: (q, k))
    other = layer()
    other.self_attn.o_proj.bias = nn.Parameter(torch.ones(other.self_attn.o_proj.out_features))
    assert new_token.take([other], torch.float32) == [TAKEN]  # what the module has, `step` has too
    other = layer()
    other.self_attn.gate = nn.Linear(2, 2)
    assert new_token.take([other], torch.float32) == []


@pytest.mark.parametrize("quant", ["int8-weight-only", "int8-dynamic", "int8-dynamic-fused"])
def test_rows_of_a_quantized_weight_stay_what_they_are(quant: str) -> None:
    torch.manual_seed(0)
    row = schemes.scheme(quant)
    model = nn.Module()
    for name, n_out in (("q_proj", 48), ("k_proj", 16), ("v_proj", 16)):
        model.add_module(name, nn.Linear(64, n_out, bias=quant == "int8-dynamic"))
    names = [name for name, _ in model.named_children()]
    model = layers.convert(row, model.requires_grad_(False), names)
    x = torch.randn(1, 1, 64)
    with torch.inference_mode():
        apart = [model.get_submodule(name)(x) for name in names]
        merged = merging.put(model, names)
        together = [model.get_submodule(name)(x) for name in names]
    for one, other in zip(apart, together, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
    assert merged.made is None
    assert isinstance(merged.linear, int8_layer.Int8Linear if "fused" in quant else nn.Linear)


def test_products_of_one_scale_or_with_hooks_are_left_apart() -> None:
    def layer(**changes: Any) -> nn.Module:
        mlp = nn.Module()
        mlp.gate_proj, mlp.up_proj = nn.Linear(8, 4), nn.Linear(8, 4)
        for name, change in changes.items():
            change(mlp.get_submodule(name))
        whole = nn.Module()
        whole.mlp = mlp
        return whole

    def hooked(one: nn.Module) -> None:
        one.register_forward_pre_hook(lambda *_: None)

    def without_bias(one: Any) -> None:
        one.bias = None

    assert merging.merge([layer()], norms=True) == [GATE_UP]
    assert merging.merge([layer(up_proj=hooked)], norms=True) == []
    assert merging.merge([layer(gate_proj=without_bias)], norms=True) == []
    assert merging.merge([layer(), layer(up_proj=hooked)], norms=True) == []  # alike, or not at all

    class OfOneScale(torch.Tensor):
        def __tensor_flatten__(self) -> Any:
            return ["qdata", "scale"], None

    weight = torch.ones(4, 8).as_subclass(OfOneScale)
    weight.qdata, weight.scale = torch.ones(4, 8), torch.ones(())  # type: ignore[attr-defined]
    assert not merging.by_rows(weight)


def test_how_far_is_an_option() -> None:
    assert [merging_of({}, kind) for kind in ("cuda", "cpu")] == ["rotation", "products"]
    with pytest.raises(InputError, match="unknown option merge 'all'"):
        merging_of({"merge": "all"}, "cpu")


@pytest.mark.parametrize("size", [1, 1000, 1024, 1025, 5000])
def test_the_likeliest_token_is_found_in_two_stages(size: int) -> None:
    torch.manual_seed(size)
    logits = torch.randn(3, size)
    logits[1] = 0.0  # of equals the first
    logits[2, size // 2 :] = 9.0
    assert likeliest(logits).tolist() == logits.argmax(-1, keepdim=True).tolist()
    assert likeliest(torch.full((1, size), -torch.inf)).shape == (1, 1)
