"""A tiny configuration of every causal language model that transformers knows.

The names come from its own registry, so that a new architecture comes by itself; each is its own
default configuration with every size made small. What that cannot do for an architecture is written
out in `MORE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

SMALL: Final[Mapping[str, Any]] = {
    "bos_token_id": 1,
    "d_model": 64,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 96,
    "decoder_layers": 2,
    "embed_dim": 64,
    "embedding_size": 64,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "encoder_layers": 2,
    "eos_token_id": 2,
    "ffn_dim": 96,
    "first_k_dense_replace": 1,
    "global_head_dim": 16,
    "head_dim": 16,
    "hidden_dim": 64,
    "hidden_size": 64,
    "hidden_size_per_layer_input": 16,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 64,
    "intermediate_size": 96,
    "kv_lora_rank": 16,
    "linear_key_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
    "lru_width": 64,
    "mamba_d_conv": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_n_heads": 4,
    "max_position_embeddings": 256,
    "moe_intermediate_size": 48,
    "moe_num_experts": 4,
    "n_embd": 64,
    "n_group": 1,
    "n_head": 4,
    "n_heads": 4,
    "n_inner": 96,
    "n_layer": 4,
    "n_layers": 4,
    "n_positions": 256,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_attention_groups": 2,
    "num_attention_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "num_layers": 4,
    "num_local_experts": 4,
    "num_query_groups": 2,
    "pad_token_id": 0,
    "q_lora_rank": 16,
    "qk_head_dim": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "rotary_dim": 8,
    "shared_expert_intermediate_size": 48,
    "state_size": 16,
    "topk_group": 1,
    "v_head_dim": 16,
    "vocab_size": 160,
    "vocab_size_per_layer_input": 160,
}

HYBRID: Final = {"layer_types": ["linear_attention", "full_attention"] * 2}
ROPE: Final = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
MORE: Final[Mapping[str, Mapping[str, Any]]] = {
    "bailing_hybrid": HYBRID,
    "bamba": {"attn_layer_indices": [1, 3]},
    "ernie4_5_moe": {"moe_k": 2},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "hidden_size": 64},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 4, "head_dim": 32, "n_groups": 1},
    "mpt": {"max_seq_len": 256},
    "glm4v_moe_text": {"rope_parameters": ROPE},
    "glm4v_text": {"rope_parameters": ROPE},
    "glm_ocr_text": {"rope_parameters": ROPE},
    "qwen2_5_omni_text": {"rope_parameters": ROPE},
    "qwen2_5_vl_text": {"rope_parameters": ROPE},
    "qwen2_vl_text": {"rope_parameters": ROPE},
    "paddleocr_vl_text": {"rope_parameters": ROPE},
}
"""What an architecture needs beyond small sizes."""

LATENT: Final = "qk_rope_head_dim"
"""Has its own sizes of heads: `head_dim` follows from them."""

LARGE: Final = 30_000_000
"""Parameters beyond which a form is not tiny."""


def names() -> list[str]:
    """Every architecture that has a causal language model, or a wrapper around one."""
    from transformers.models.auto import modeling_auto as auto

    wrappers = auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return sorted({*auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *wrappers})


def tiny(name: str) -> dict[str, Any]:
    """The keys of a tiny config.json of this architecture. Raises whatever the library does."""
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[name]
    default = cls()
    return {"model_type": name, **_small(default, MORE.get(name, {}))}


def _small(default: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    table = default.to_dict()
    known = table.keys() | getattr(default, "attribute_map", {}).keys()
    found = {key: value for key, value in SMALL.items() if key in known}
    if LATENT in known:
        found.pop("head_dim", None)
        found["num_key_value_heads"] = found.get("num_attention_heads", 4)
    for key in getattr(default, "sub_configs", None) or {}:
        part = getattr(default, key, None)
        if hasattr(part, "to_dict"):
            found[key] = {
                "model_type": part.model_type,
                **_small(part, MORE.get(part.model_type, {})),
            }
    return {**found, **more}
