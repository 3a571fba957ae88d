"""Quantized folders: which scheme they state, and that nothing unknown passes for floats."""

from __future__ import annotations

import copy
import json
import random
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UnsupportedError
from bench.experiment import Experiment, Grid
from bench.models import load_card, model_cards, resolve_model
from bench.models.checkpoint import (
    Checkpoint,
    base_of,
    checkpoint_of,
    refusal,
    stated,
)
from bench.models.shapes import shape
from bench.models.tokenizers import same_tokens
from bench.runner.naming import named
from bench.schemes import Device, scheme
from bench.schemes.bytes import held

CPU = Device(name="cpu", kind="cpu")
ADA = Device(name="cuda:0", kind="cuda", capability=(8, 9), elsewhere=True)


def compressed(weights: dict[str, Any], inputs: dict[str, Any] | None, **more: Any) -> Any:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        **more,
    }


FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "channel", "dynamic": False}
TOKEN8 = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel", "dynamic": False}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "dynamic": False}
FP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}

CONFIGS: dict[str, dict[str, Any]] = {
    "compressed-tensors/fp8-dynamic": compressed(FLOAT8, TOKEN8),
    "compressed-tensors/fp8": compressed(FLOAT8, TOKEN8 | {"dynamic": False}),
    "compressed-tensors/fp8-block-dynamic": compressed(
        FLOAT8 | {"strategy": "block", "block_structure": [128, 128]}, TOKEN8
    ),
    "compressed-tensors/w8a8-dynamic": compressed(INT8, TOKEN8 | {"type": "int"}),
    "compressed-tensors/w4a16-g128": compressed(INT4, None),
    "compressed-tensors/w8a16-g32": compressed(INT4 | {"num_bits": 8, "group_size": 32}, None),
    "compressed-tensors/w4a16-channel": compressed(
        INT4 | {"strategy": "channel", "group_size": None}, None
    ),
    "compressed-tensors/nvfp4": compressed(FP4, FP4 | {"dynamic": "local"}),
    "compressed-tensors/nvfp4a16": compressed(FP4, None),
    "fp8-block128": {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"],
    },
    "fp8-per-tensor": {"quant_method": "fp8", "ignored_layers": ["lm_head"]},
    "fp8-per-tensor-static": {
        "quant_method": "fp8",
        "activation_scheme": "static",
        "kv_cache_scheme": "static",
    },
    "bnb-nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "quant_method": "bitsandbytes"},
    "bnb-nf4-nested": {
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    "bnb-int8": {"load_in_8bit": True, "quant_method": "bitsandbytes"},
    "torchao/int8-weight-only": {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}},
    },
    "torchao/int4-weight-only-g128": {
        "quant_method": "torchao",
        "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 128}}},
    },
    "gptq-int4-g128": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    "gptq-int8-channel": {
        "quant_method": "gptq",
        "bits": 8,
        "group_size": -1,
        "modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp.up_proj"]],
    },
    "awq-int4-g128": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"},
    "mxfp4": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
    "quanto-int8": {"quant_method": "quanto", "weights": "int8", "activations": None},
}


def of(config: Any) -> Checkpoint | None:
    return stated({"model_type": "llama", "quantization_config": config})


@pytest.mark.parametrize("name", CONFIGS)
def test_the_scheme_is_what_the_config_says(name: str) -> None:
    found = of(CONFIGS[name])
    assert found is not None
    assert found.scheme == name
    row = scheme(name)
    assert row.layout is not None
    assert row.dynamic == ("activations" if "dynamic" in name else scheme(name).dynamic)


def test_floats_are_floats() -> None:
    assert stated({"model_type": "llama"}) is None
    assert stated({"quantization_config": None, "text_config": {"hidden_size": 4}}) is None


def test_a_part_of_the_config_counts_too() -> None:
    found = stated({"text_config": {"quantization_config": CONFIGS["awq-int4-g128"]}})
    assert found is not None
    assert found.scheme == "awq-int4-g128"


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
MXFP8 = {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quant_method": "hqq"}, "quant_method 'hqq' is not one that is measured here"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "'modelopt' is not one"),
        ({}, "quant_method None is not one"),
        ([], "expected a table"),
        ("int8", "expected a table with quant_method, found 'int8'"),
        ({"quant_method": "gptq", "bits": 5}, "bits: 5 is not measured here; expected 2 or 3"),
        ({"quant_method": "bitsandbytes"}, "exactly one of them has to be true"),
        (compressed(INT4, None, kv_cache_scheme={"num_bits": 8}), "quantized caches"),
        (compressed(INT8 | {"num_bits": 3}, None), "3 bits 'int', 'channel' is not a scheme"),
        (
            compressed(INT8, None, quantization_status="frozen"),
            "frozen is not measured here; expected compressed: others are loaded as floats",
        ),
        ({"quant_algo": "FP8", "config_groups": {"a": {}}}, "NVIDIA ModelOpt's; no engine here"),
        (GPTQ | {"dynamic": {"+:.*mlp.*": {"bits": 8}}}, "dynamic: '+:.*mlp.*' with bits of its"),
        (GPTQ | {"dynamic": {".*mlp.*": {"bits": 8}}}, "dynamic: '.*mlp.*' with bits of its own"),
        (GPTQ | {"dynamic": "x"}, "dynamic: x is not measured here; expected a table of modules"),
        (GPTQ | {"modules_in_block_to_quantize": [[7]]}, "[7] is not measured here; expected nam"),
        (GPTQ | {"lm_head": True}, "lm_head: true is not measured here"),
        (GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format: marlin is not measured"),
        (compressed(MXFP8, MXFP8 | {"dynamic": True}), "8 bits 'float', 'group' is not a scheme"),
        (compressed(MXFP8, None), "8 bits 'float', 'group' is not a scheme"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(config: Any, said: str) -> None:
    with pytest.raises(UnsupportedError) as error:
        of(config)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_experts_in_another_format_are_not_the_scheme_of_the_rest() -> None:
    """DeepSeek V4 states it beside the quantization, V4.1 in it."""
    fp8 = CONFIGS["fp8-block128"]
    for config in (
        {"expert_dtype": "fp4", "quantization_config": fp8},
        {"quantization_config": fp8 | {"expert_dtype": "fp4"}},
        {"text_config": {"expert_dtype": "fp4", "quantization_config": fp8}},
    ):
        with pytest.raises(UnsupportedError, match="expert_dtype: fp4 is not measured here"):
            stated(config)
    found = stated({"expert_dtype": "fp8", "quantization_config": fp8})
    assert found is not None
    assert found.scheme == "fp8-block128"


@pytest.mark.parametrize("place", ["llm_config", "language_config", "thinker_config.text_config"])
def test_a_quantization_stated_elsewhere_is_never_floats(place: str) -> None:
    table: dict[str, Any] = {"quantization_config": GPTQ}
    for name in reversed(place.split(".")):
        table = {name: table}
    with pytest.raises(UnsupportedError, match=f"json: {place}.quantization_config: no loader"):
        stated({"model_type": "llama"} | table)


JUNK: list[Any] = [None, 0, -1, 3, 4.5, True, "", "int8", [], {}, [1, "a"], {"_type": 7}, "\0" * 60]


def outcome(config: Any) -> tuple[Checkpoint | None, str]:
    """What is found, or what is said of it."""
    try:
        return of(config), ""
    except UnsupportedError as error:
        return None, str(error)


def mutated(value: Any, draw: random.Random) -> Any:
    """One place of a config changed, taken away or made up."""
    value = copy.deepcopy(value)
    if isinstance(value, dict) and value:
        key = draw.choice(sorted(value))
        match draw.randrange(4):
            case 0:
                del value[key]
            case 1:
                value[key] = draw.choice(JUNK)
            case 2:
                value[draw.choice(["x", "bits", "quant_method", "weights"])] = draw.choice(JUNK)
            case _:
                value[key] = mutated(value[key], draw)
        return value
    if isinstance(value, list) and value and draw.randrange(2):
        value[draw.randrange(len(value))] = draw.choice(JUNK)
        return value
    return draw.choice(JUNK[1:])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_mutated_config_is_never_none_and_never_a_traceback(name: str) -> None:
    draw = random.Random(name)
    for _ in range(60):
        config = CONFIGS[name]
        for _ in range(draw.randrange(1, 4)):
            config = mutated(config, draw)
        if config is None:
            continue
        found, said = outcome(config)
        assert "\n" not in said
        assert len(said) < 400
        if not said:
            assert found is not None
            assert found.scheme != "none"
            assert scheme(found.scheme).source == "checkpoint" or found.scheme in (
                "bnb-int8",
                "bnb-nf4",
                "quanto-int8",
            )


def folder(place: Path, config: dict[str, Any], tensors: dict[str, str]) -> Path:
    """A folder of headers alone."""
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    header = {
        name: {"dtype": kind, "shape": [1], "data_offsets": [0, 1]}
        for name, kind in tensors.items()
    }
    data = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (place / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data + b"\0")
    return place


@pytest.mark.parametrize(
    "tensors",
    [
        {"model.layers.0.mlp.up_proj.weight": "F8_E4M3"},
        {"model.layers.0.mlp.up_proj.qweight": "I32"},
        {"model.layers.0.mlp.up_proj.weight_packed": "I32"},
        {"model.layers.0.mlp.up_proj.weight": "I8", "model.layers.0.mlp.up_proj.SCB": "F32"},
        {"model.layers.0.mlp.experts.gate_up_proj_blocks": "U8"},
        {"model.layers.0.mlp.up_proj.weight": "U8"},
        {"model.layers.0.mlp.up_proj.weight": "I8"},
        {"model.layers.0.mlp.up_proj.q_weight": "I32"},
        {"model.layers.0.mlp.up_proj.trellis": "I16"},
        {"model.layers.0.mlp.up_proj.W_q": "U8"},
        {"model.layers.0.mlp.up_proj.weight._data": "I8"},
        {"model.layers.0.mlp.up_proj.weight._data._data": "U8"},
        {"model.layers.0.mlp.up_proj.Qidxs": "I64"},
        {"model.layers.0.mlp.up_proj.input_scale": "F32"},
    ],
)
def test_quantized_tensors_without_a_config_are_refused(
    tmp_path: Path, tensors: dict[str, str]
) -> None:
    place = folder(tmp_path / "m", {}, {"lm_head.weight": "BF16"} | tensors)
    with pytest.raises(UnsupportedError, match="holds quantized weights"):
        checkpoint_of(resolve_model(str(place)))


def test_other_tools_files_are_named(tmp_path: Path) -> None:
    place = folder(tmp_path / "m", {}, {"lm_head.weight": "BF16"})
    assert checkpoint_of(resolve_model(str(place))) is None
    (place / "hf_quant_config.json").write_text("{}")
    with pytest.raises(UnsupportedError, match="folder of NVIDIA ModelOpt"):
        checkpoint_of(resolve_model(str(place)))
    bits = {"group_size": 64, "bits": 4}
    for name, config in (
        ("one", {"quantization": bits}),
        ("both", {"quantization": bits, "quantization_config": bits}),
    ):
        mlx = folder(tmp_path / name, config, {"lm_head.weight": "BF16"})
        with pytest.raises(UnsupportedError, match="'quantization' is MLX's; no engine"):
            checkpoint_of(resolve_model(str(mlx)))


def test_arms_are_named_after_what_the_folder_holds(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", {}, {"lm_head.weight": "BF16"})
    awq = folder(
        tmp_path / "base-awq",
        {"quantization_config": CONFIGS["awq-int4-g128"]},
        {"lm_head.weight": "BF16"},
    )
    grid = Grid(model=(str(base), str(awq)), quant=("none", "int8-dynamic"))
    asked = Experiment(name="a", question="?", baseline=str(base), grid=grid)
    arms = [(v.model, v.quant) for v in named(asked).variants]
    assert arms == [
        (str(base), "none"),
        (str(base), "int8-dynamic"),
        (str(awq), "awq-int4-g128"),
        (str(awq), "int8-dynamic"),
    ]
    assert named(named(asked)) == named(asked)
    assert named(asked).baselines == tuple(v.name for v in named(asked).variants[:2])
    alone = replace(asked, baseline="none", grid=Grid(model=(str(awq),)))
    assert named(alone).baselines == (f"{awq}/transformers/awq-int4-g128",)


def test_published_sizes_of_8b_folders() -> None:
    """GB of the safetensors of RedHatAI's and hugging-quants' Llama 3.1 8B."""
    card = load_card(model_cards()["llama-3.1-8b"])
    for name, size in (
        ("compressed-tensors/fp8-dynamic", 9.08),
        ("compressed-tensors/w8a8-dynamic", 9.08),
        ("compressed-tensors/w4a16-g128", 5.70),
        ("awq-int4-g128", 5.73),
        ("compressed-tensors/w8a16-g32", 9.08 * 1.048),  # a scale each 32 in place of each row
    ):
        assert held(shape(card), name).weights_bytes / 1e9 == pytest.approx(size, rel=0.01)


def test_why_a_checkpoint_cannot_run() -> None:
    awq, block = of(CONFIGS["awq-int4-g128"]), of(CONFIGS["fp8-block128"])
    assert refusal(awq, "int8-weight-only", ADA) == (
        "the model is quantized already, in 'awq-int4-g128': 'int8-weight-only' on top of it is "
        "not measured; remove -q"
    )
    assert "pip install gptqmodel" in str(refusal(awq, "awq-int4-g128", CPU))
    assert refusal(awq, "awq-int4-g128", ADA) is None
    assert refusal(block, "fp8-block128", ADA) is None
    assert refusal(block, "fp8-block128", CPU) == (
        "scheme 'fp8-block128' runs on cuda, not on cpu; -q fp8-block128-dequantized measures it "
        "dequantized by its loader"
    )
    assert refusal(block, "fp8-block128-dequantized", CPU) is None
    assert "-m names a folder" in str(refusal(None, "awq-int4-g128", ADA))
    ampere = Device(name="cuda:0", kind="cuda", capability=(8, 0), elsewhere=True)
    assert "needs compute capability 8.9" in str(refusal(block, "fp8-block128", ampere))
    assert scheme("fp8-block128-dequantized").dynamic is None


@pytest.mark.parametrize(
    ("front", "base"),
    [
        ("base_model: org/Name-8B\n", "org/Name-8B"),
        ('base_model:\n- "org/Name-8B"\n', "org/Name-8B"),
        ("base_model: [org/Name-8B]\n", None),
        ("license: mit\n", None),
    ],
)
def test_the_base_model_is_the_one_that_the_readme_names(
    tmp_path: Path, front: str, base: str | None
) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}tags:\n- fp8\n---\n# Title\n")
    assert base_of(tmp_path) == base


def test_tokenizers_are_compared_by_what_makes_tokens(tmp_path: Path) -> None:
    table = {
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
        "added_tokens": [{"id": 3, "content": "<s>", "lstrip": False}],
        "padding": None,
    }
    same = copy.deepcopy(table) | {"padding": {"strategy": "longest"}}
    same["model"]["merges"] = [["a", "b"]]  # type: ignore[index]
    other = copy.deepcopy(table)
    other["model"]["vocab"] = {"b": 0, "a": 1, "ab": 2}  # type: ignore[index]
    for name, made in (("one", table), ("same", same), ("other", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(made))
    (tmp_path / "none").mkdir()
    assert same_tokens(tmp_path / "one", tmp_path / "same") is True
    assert same_tokens(tmp_path / "one", tmp_path / "other") is False
    assert same_tokens(tmp_path / "one", tmp_path / "none") is None
