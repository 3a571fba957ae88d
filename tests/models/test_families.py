"""Formulas of each model type against the modules and caches that transformers builds."""

from __future__ import annotations

import importlib.util
import os
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

from bench.errors import InputError, UnsupportedError
from bench.models import ModelCard, Weights
from bench.models.families import DEFAULTS_FILE, FAMILIES, defaults, layer_kinds
from bench.models.shapes import Shape, shape
from bench.roofline.memory import STATE_BYTES, cache_bytes

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

TINY = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 20,
}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 16,
    "head_dim": 16,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 12, "mamba_n_groups": 2}
CONV = ["conv", "conv", "full_attention", "conv", "conv", "full_attention", "conv"]

SPECIAL: dict[str, list[dict[str, Any]]] = {
    "afmoe": [EXPERTS],
    "bamba": [{**MAMBA, "attn_layer_indices": [2, 5]}],
    "deepseek_v2": [{**LATENT, **ROUTED}, {**LATENT, **ROUTED, "q_lora_rank": None}],
    "deepseek_v3": [{**LATENT, **ROUTED}, {**LATENT, **ROUTED, "attention_bias": True}],
    "deepseek_v32": [{**LATENT, **ROUTED, "index_n_heads": 4, "index_head_dim": 16}],
    "ernie4_5_moe": [{"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32}],
    "llama4_text": [
        {"num_local_experts": 4, "intermediate_size_mlp": 160},
        {"num_local_experts": 4, "intermediate_size_mlp": 160, "interleave_moe_layer_step": 2},
        {"num_local_experts": 4, "moe_layers": [1, 5], "no_rope_layers": [1, 0, 1, 1, 1, 0, 1]},
    ],
    "falcon_h1": [
        {**MAMBA, "mamba_d_ssm": 128},
        {**MAMBA, "mamba_d_ssm": 128, "mamba_rms_norm": True},
    ],
    "gemma3n_text": [{"num_kv_shared_layers": 2}],
    "gemma4_text": [
        {},
        {"num_kv_shared_layers": 1, "use_double_wide_mlp": True},
        {"hidden_size_per_layer_input": 0, "attention_k_eq_v": True},
        {
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
        },
    ],
    "glm4_moe": [ROUTED, {**ROUTED, "use_qk_norm": True, "attention_bias": True}],
    "glm4_moe_lite": [{**LATENT, **ROUTED}],
    "glm_moe_dsa": [{**LATENT, **ROUTED, "index_n_heads": 4, "index_head_dim": 16}],
    "granitemoehybrid": [
        {**MAMBA, "layer_types": ["mamba"] * 4 + ["attention"] + ["mamba"] * 2},
        {**MAMBA, "num_local_experts": 0, "layer_types": ["mamba"] * 5 + ["attention"] * 2},
    ],
    "hunyuan_v1_dense": [{"head_dim": 16}],
    "laguna": [{**EXPERTS, "layer_types": ["full_attention", *["sliding_attention"] * 6]}],
    "lfm2": [{"layer_types": CONV}, {"full_attn_idxs": [1, 4], "block_ff_dim": 80}],
    "lfm2_moe": [{**EXPERTS, "layer_types": CONV}],
    "llama": [{}, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}],
    "nemotron_h": [
        {
            "num_hidden_layers": None,
            "hybrid_override_pattern": "MEM*E-M",
            **ROUTED,
            "mamba_num_heads": 8,
            "mamba_head_dim": 16,
            "ssm_state_size": 12,
            "n_groups": 2,
        },
        {"num_hidden_layers": None, "hybrid_override_pattern": "M*ME", "moe_latent_size": 16},
    ],
    "qwen2_moe": [EXPERTS, {**EXPERTS, "mlp_only_layers": [0, 3], "decoder_sparse_step": 2}],
    "qwen3_5_moe_text": [{**EXPERTS, **DELTA, "intermediate_size": None}],
    "qwen3_5_text": [DELTA],
    "qwen3_moe": [EXPERTS, {**EXPERTS, "mlp_only_layers": [1, 2]}],
    "qwen3_next": [{**EXPERTS, **DELTA}],
    "solar_open": [ROUTED],
}
CASES = [(kind, extra) for kind in sorted(FAMILIES) for extra in SPECIAL.get(kind, [{}])]


def built(kind: str, extra: dict[str, Any]) -> tuple[Any, Shape]:
    """transformers' configuration, and the shape counted from the same keys."""
    keys = {key: value for key, value in {**TINY, **extra}.items() if value is not None}
    if extra.get("q_lora_rank", 0) is None:
        keys["q_lora_rank"] = None
    config = transformers.AutoConfig.for_model(kind, **keys)
    card = ModelCard(
        name="tiny",
        title="tiny",
        license="none",
        architecture={"model_type": kind, **keys},
        architecture_source="this test",
        weights=Weights(),
    )
    return config, shape(card)


@pytest.mark.parametrize(
    ("kind", "extra"), CASES, ids=[f"{k}-{i}" for i, (k, _) in enumerate(CASES)]
)
def test_parameters_are_those_of_the_module(kind: str, extra: dict[str, Any]) -> None:
    config, counted = built(kind, extra)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings().weight

    assert counted.n_params == sum(p.numel() for p in model.parameters())
    assert counted.tied == (head is model.get_input_embeddings().weight)
    experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    assert sum(m.n_params for m in counted.matrices if m.part == "expert") == experts


CACHED = (
    "bamba",
    "falcon_h1",
    "gemma3_text",
    "gemma3n_text",
    "gemma4_text",
    "gpt_oss",
    "granitemoehybrid",
    "lfm2",
    "lfm2_moe",
    "llama",
    "llama4_text",
    "mistral",
    "nemotron_h",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen3_next",
)
N_CACHED = 12


@pytest.mark.parametrize(
    ("kind", "extra"), [(k, e) for k, e in CASES if k in CACHED], ids=lambda v: str(v)[:20]
)
def test_cached_numbers_are_those_of_the_cache(kind: str, extra: dict[str, Any]) -> None:
    """Keys, values and constant states after 12 tokens; windows are longer than that."""
    extra = {**extra, "sliding_window": 64} if kind in ("mistral", "gpt_oss") else extra
    config, counted = built(kind, extra)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()

    with torch.no_grad():
        cache = model(torch.randint(1, 256, (1, N_CACHED)), use_cache=True).past_key_values

    growing = sum(
        tensor.numel()
        for layer in cache.layers
        for name in ("keys", "values")
        if (tensor := getattr(layer, name, None)) is not None
    )
    constant = sum(_state(layer) for layer in cache.layers)
    states = sum(a.layers * a.state_width for a in counted.attention)
    assert constant == states
    assert cache_bytes(counted, N_CACHED) == 2 * growing + STATE_BYTES * constant


def _state(layer: Any) -> int:
    """Numbers of a layer's constant state, under the names that transformers uses."""
    found = 0
    for name in ("conv_states", "recurrent_states"):
        value = getattr(layer, name, None)
        tensors = value.values() if isinstance(value, dict) else [value]
        found += sum(t.numel() for t in tensors if t is not None)
    return found


def test_defaults_are_those_of_this_transformers() -> None:
    """`scripts/architecture-defaults > bench/data/architectures.json` renews the file."""
    if not transformers.__version__.startswith("5.23"):
        pytest.skip(f"written with 5.23, here is {transformers.__version__}")
    script = Path(__file__).parents[2] / "scripts" / "architecture-defaults"
    loader = SourceFileLoader("architecture_defaults", str(script))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    made = module.table()

    assert made == defaults(), f"{DEFAULTS_FILE} is stale"


def test_a_window_counts_up_to_its_length_and_sparse_attention_reads_what_it_chooses() -> None:
    _, counted = built("deepseek_v32", {**LATENT, **ROUTED, "index_topk": 100})
    latent, index = counted.attention

    assert (latent.kept(1000), latent.read(1000)) == (1000, 100)
    assert index.read(1000) == 1000


def test_nested_text_configs_are_unwrapped() -> None:
    _, plain = built("gemma3_text", {})
    inner = {"model_type": "gemma3_text", **TINY}
    card = ModelCard(
        name="tiny",
        title="tiny",
        license="none",
        architecture={"model_type": "gemma3", "text_config": inner, "vision_config": {}},
        architecture_source="this test",
        weights=Weights(),
    )

    assert shape(card).n_params == plain.n_params


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"model_type": "llama", "num_hidden_layers": "many"}, InputError),
        ({"model_type": "bert"}, UnsupportedError),
        ({"model_type": "llama", "num_hidden_layers": 1, "layer_types": ["hash"]}, InputError),
    ],
)
def test_a_config_that_cannot_be_counted_is_refused_in_one_line(keys, error) -> None:
    card = ModelCard(
        name="odd",
        title="odd",
        license="none",
        architecture=keys,
        architecture_source="this test",
        weights=Weights(),
    )

    with pytest.raises(error, match="odd"):
        shape(card)


def test_windows_in_letters_repeat_and_the_last_layer_sees_all() -> None:
    config = {"model_type": "exaone4", "sliding_window": 4096, "sliding_window_pattern": "LLLG"}
    kinds = layer_kinds(config, 6)
    assert [kind[0] for kind in kinds] == list("sssfsf")
    assert layer_kinds(config | {"sliding_window": None}, 3) == ["full_attention"] * 3
