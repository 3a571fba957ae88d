"""What a quantized checkpoint leaves in floats: counted by the names that its config has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.models import load_card, model_cards
from bench.models.checkpoint import stated
from bench.models.left import left_in_floats
from bench.models.shapes import shape
from bench.schemes.bytes import held
from tests.models.test_checkpoint import FLOAT8, GPTQ, INT4, TOKEN8, compressed


def test_layers_that_a_checkpoint_leaves_are_counted_as_floats() -> None:
    card = load_card(model_cards()["llama-3.1-8b"])
    config = compressed(FLOAT8, TOKEN8) | {
        "ignore": ["lm_head", r"re:.*self_attn\.q_proj", "model.layers.0.mlp.up_proj"]
    }
    made = shape(replace(card, architecture={**card.architecture, "quantization_config": config}))
    assert made.left == {
        "head": 1.0,
        "attention": 0.25,
        "mlp": 1 / 96,
        "expert": 0.0,
        "router": 0.0,
    }
    low = held(made, "compressed-tensors/fp8-dynamic")
    plain = held(shape(card), "compressed-tensors/fp8-dynamic")
    assert low.weights_bytes > plain.weights_bytes
    assert 0.7 < low.quantized_fraction < plain.quantized_fraction
    # Another scheme of the same shape knows nothing of the list.
    assert held(made, "int8-weight-only") == held(shape(card), "int8-weight-only")
    whole = config | {"ignore": []}
    made = shape(replace(card, architecture={**card.architecture, "quantization_config": whole}))
    assert held(made, "compressed-tensors/fp8-dynamic").quantized_fraction > 0.93


def test_modules_that_gptqmodel_leaves_out_are_counted_as_floats() -> None:
    config = {"quantization_config": GPTQ | {"dynamic": {"-:.*down_proj": {}, "-:lm_head": {}}}}
    found = stated(config)
    assert found is not None
    assert found.scheme == "gptq-int4-g128"
    assert left_in_floats(config, 2)["mlp"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("place", ["model", "model.language_model", "language_model.model"])
def test_layers_of_a_model_that_also_sees_are_known_by_their_names(place: str) -> None:
    """transformers 4 and 5 and vLLM put the language model's layers in different places."""
    listed = [f"{place}.layers.{i}.mlp" for i in range(3)] + ["language_model.lm_head", "visual"]
    for config in (
        {"quant_method": "awq", "bits": 4, "modules_to_not_convert": listed},
        compressed(INT4, None, ignore=[f"re:{place}.*layers.[0-2].mlp.*", *listed[3:]]),
    ):
        left = left_in_floats({"quantization_config": config, "text_config": {}}, 12)
        assert left["mlp"] == pytest.approx(1 / 4)
        assert left["head"] == 1
        assert not left.get("attention")


QWEN_NEXT = {
    "model_type": "qwen3_5_text",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": 1000,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_conv_kernel_dim": 4,
}


def test_linear_attention_is_left_by_its_own_names_and_weights() -> None:
    linear = 3 * 512 * (2 * 256 + 2 * 512 + 2 * 8 + 512)
    share = linear / (linear + 512 * (2 * 256 + 2 * 64 + 256))
    for ignored, left in (
        ("re:.*linear_attn.*", share),
        ("re:.*self_attn.*", 1 - share),
        ("re:.*attn.*", 1),
        ("re:.*in_proj_[ab]$", 0),
    ):
        config = compressed(INT4, None, ignore=["lm_head", ignored])
        card = replace(
            load_card(model_cards()["llama-3.1-8b"]),
            architecture=QWEN_NEXT | {"quantization_config": config},
        )
        assert shape(card).left["attention"] == pytest.approx(left)


@pytest.mark.parametrize(
    "config",
    [
        GPTQ | {"modules_in_block_to_quantize": [["mlp.gate_proj", "mlp.up_proj"]]},
        GPTQ | {"modules_in_block_to_quantize": ["mlp.gate_proj", "mlp.up_proj"]},
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"a": {"targets": [r"re:.*mlp\.(gate|up)_proj"], "weights": INT4}},
        },
    ],
)
def test_modules_that_are_not_named_stay_in_floats(config: dict[str, Any]) -> None:
    left = left_in_floats({"quantization_config": config}, 2)
    assert left["mlp"] == pytest.approx(1 / 3)
    assert left["attention"] == left["head"] == 1
