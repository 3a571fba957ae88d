"""Model types: what their code builds that a config.json does not say, and defaults it leaves out.

Read in transformers 5.23's modelling files; tests hold each type against the real module's tensors.
`bench/data/architectures.json` has the defaults of each type's configuration class
(scripts/architecture-defaults makes it), because files on the hub leave defaults out. Standard
library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from bench.data import DATA

DEFAULTS_FILE: Final = DATA / "architectures.json"
Norms = Literal["none", "head", "width"]
Pattern = Literal["all", "sliding", "every", "alternate", "qwen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What the code of a model type builds and its config does not say."""

    qkv_bias: bool = False
    o_bias: bool = False
    """Beside `attention_bias`, which gives both wherever a config has it."""
    qk_norm: Norms = "none"
    """Norms of queries and keys: of one head's width, or of all heads together."""
    norms_per_layer: int = 2
    norm_bias: bool = False
    """Layer norms with a bias, the last one among them."""
    final_norm: bool = True
    sinks: bool = False
    """One learned attention sink a head."""
    expert_bias: bool = False
    router_bias: bool = False
    """A learned correction of each expert's score, held as a parameter."""
    gated_mlp: bool = True
    """Gate, up and down; without a gate, up and down."""
    mlp_bias: bool = False
    query_gate: bool = False
    """Queries are projected twice as wide; half of them gate the output."""
    output_gate: Literal["none", "width", "heads"] = "none"
    """A projection of its own that gates the output: as wide as it, or one number a head."""
    shared_expert: bool = False
    """Each layer of experts has one that all tokens take, as wide as the others."""
    shared_gate: bool = False
    """The shared expert's output has a gate of one number."""
    pattern: Pattern = "all"
    """Which layers have a window where a config names no `layer_types`."""
    every: tuple[str, int] = ("sliding_window_pattern", 0)
    """Key and default of the distance between full layers, for pattern `every`."""
    other: str = "sliding_attention"
    """Kind of the layers between the full ones."""
    last_full: bool = False
    """The last layer is full whatever the pattern says."""
    parallel: Literal["", "mamba"] = ""
    """What runs beside attention in each layer."""


_LLAMA = Family()
_GEMMA = Family(qk_norm="head", norms_per_layer=4, pattern="every")
_QWEN35 = Family(
    qk_norm="head",
    query_gate=True,
    shared_gate=True,
    pattern="every",
    every=("full_attention_interval", 4),
    other="linear_attention",
)

FAMILIES: Final[Mapping[str, Family]] = {
    "afmoe": Family(
        qk_norm="head",
        norms_per_layer=4,
        output_gate="width",
        router_bias=True,
        pattern="every",
        every=("global_attn_every_n_layers", 4),
    ),
    "arcee": Family(gated_mlp=False),
    "bamba": Family(other="mamba"),
    "cohere": Family(norms_per_layer=1),
    "cohere2": Family(norms_per_layer=1, pattern="every", every=("sliding_window_pattern", 4)),
    "deepseek_v2": _LLAMA,
    "deepseek_v3": _LLAMA,
    "deepseek_v32": _LLAMA,
    "ernie4_5": _LLAMA,
    "ernie4_5_moe": Family(router_bias=True),
    "exaone4": Family(qk_norm="head", pattern="every"),
    "falcon_h1": Family(parallel="mamba"),
    "flex_olmo": Family(qk_norm="width"),
    "gemma": _LLAMA,
    "gemma2": Family(norms_per_layer=4, pattern="alternate"),
    "gemma3_text": Family(
        qk_norm="head", norms_per_layer=4, pattern="every", every=("sliding_window_pattern", 6)
    ),
    "gemma3n_text": Family(qk_norm="head", norms_per_layer=4, pattern="every", every=("", 5)),
    "gemma4_text": Family(
        qk_norm="head", norms_per_layer=4, pattern="every", every=("", 6), last_full=True
    ),
    "gemma4_unified_text": Family(
        qk_norm="head", norms_per_layer=4, pattern="every", every=("", 6), last_full=True
    ),
    "glm": _LLAMA,
    "glm4": Family(norms_per_layer=4),
    "glm4_moe": _LLAMA,
    "glm4_moe_lite": _LLAMA,
    "glm_moe_dsa": _LLAMA,
    "gpt_oss": Family(sinks=True, expert_bias=True, pattern="alternate"),
    "granite": _LLAMA,
    "granitemoe": _LLAMA,
    "granitemoehybrid": Family(other="mamba"),
    "granitemoeshared": _LLAMA,
    "hunyuan_v1_dense": Family(qk_norm="head"),
    "laguna": Family(qk_norm="head", output_gate="heads", router_bias=True),
    "lfm2": Family(qk_norm="head", other="conv"),
    "lfm2_moe": Family(qk_norm="head", other="conv"),
    "llama": _LLAMA,
    "llama4_text": Family(
        shared_expert=True,
        pattern="every",
        every=("no_rope_layer_interval", 4),
        other="chunked_attention",
    ),
    "minimax_m2": Family(qk_norm="width"),
    "ministral3": Family(pattern="sliding"),
    "mistral": Family(pattern="sliding"),
    "mixtral": Family(pattern="sliding"),
    "nemotron_h": Family(norms_per_layer=1, gated_mlp=False, other="mamba"),
    "olmo2": Family(qk_norm="width"),
    "olmo3": Family(qk_norm="width", pattern="every", every=("", 4)),
    "olmoe": Family(qk_norm="width"),
    "phi": Family(
        qkv_bias=True,
        o_bias=True,
        norms_per_layer=1,
        norm_bias=True,
        gated_mlp=False,
        mlp_bias=True,
    ),
    "phi3": Family(pattern="sliding"),
    "phimoe": Family(norm_bias=True, pattern="sliding"),
    "qwen2": Family(qkv_bias=True, pattern="qwen"),
    "qwen2_moe": Family(qkv_bias=True, shared_gate=True, pattern="qwen"),
    "qwen3": Family(qk_norm="head", pattern="qwen"),
    "qwen3_5_moe_text": _QWEN35,
    "qwen3_5_text": _QWEN35,
    "qwen3_moe": Family(qk_norm="head", pattern="sliding"),
    "qwen3_next": _QWEN35,
    "seed_oss": _LLAMA,
    "smollm3": Family(pattern="qwen"),
    "solar_open": _LLAMA,
    "stablelm": Family(norm_bias=True),
    "starcoder2": Family(norm_bias=True, gated_mlp=False, pattern="sliding"),
}
"""Model type -> what is special about it."""

TEXT_OF: Final[Mapping[str, str]] = {
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "llama4": "llama4_text",
    "mistral3": "mistral",
    "llava": "llama",
    "qwen3_vl": "qwen3",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
    "qwen3_vl_moe_text": "qwen3_moe",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "lfm2_vl": "lfm2",
    "kimi_k2": "deepseek_v3",
    "kimi_k25": "deepseek_v3",
    "mimo": "qwen2",
    "ministral": "mistral",
}
"""Model type -> the type of its language model, where no nested config names one or the nested
one is built alike."""


@cache
def defaults() -> Mapping[str, Mapping[str, Any]]:
    """Model type -> defaults of its configuration class."""
    found: Mapping[str, Mapping[str, Any]] = json.loads(DEFAULTS_FILE.read_text(encoding="utf-8"))
    return found


def text_config(a: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's own keys; a model of several modalities nests them."""
    inner = a.get("text_config") or a.get("llm_config") or a.get("language_config")
    if not isinstance(inner, Mapping):
        return a
    kind = inner.get("model_type") or TEXT_OF.get(str(a.get("model_type")))
    outer = {key: a[key] for key in ("tie_word_embeddings",) if key in a}
    return {**outer, **inner, "model_type": kind}


def kind_of(a: Mapping[str, Any]) -> str:
    """The model type of the language model, as FAMILIES spells it."""
    kind = str(text_config(a).get("model_type"))
    return kind if kind in FAMILIES else TEXT_OF.get(kind, kind)


def settings(a: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of the language model with the defaults of its type where it leaves them out."""
    kind = kind_of(a)
    return {**defaults().get(kind, {}), **text_config(a), "model_type": kind}


def window_of(a: Mapping[str, Any]) -> int | None:
    """Positions that a sliding layer keeps, or a chunk has at most."""
    found = a.get("sliding_window") or a.get("attention_chunk_size")
    return None if found is None else int(found)


def layer_kinds(a: Mapping[str, Any], n: int) -> list[str]:
    """Kind of each layer: full_attention, sliding_attention, linear_attention, conv, mamba, ..."""
    family = FAMILIES[a["model_type"]]
    if given := _given_kinds(a, n, family):
        return given
    full, other = "full_attention", family.other
    window = window_of(a)
    if family.pattern == "every":
        step = a.get(family.every[0]) or family.every[1]
        windowed = other in ("sliding_attention", "chunked_attention")
        if not step or (windowed and window is None):
            return [full] * n
        kinds = [other if (i + 1) % int(step) else full for i in range(n)]
        return [*kinds[:-1], full] if family.last_full and kinds else kinds
    if window is None or family.pattern == "all":
        return [full] * n
    if family.pattern == "alternate":
        return [other if i % 2 == 0 else full for i in range(n)]
    if family.pattern == "qwen":
        first = int(a.get("max_window_layers") or 0) if a.get("use_sliding_window") else n
        return [full if i < first else other for i in range(n)]
    return [other if a.get("use_sliding_window", True) else full] * n


ALSO_CALLED: Final = {"deepseek_sparse_attention": "full_attention"}
PATTERN_LETTERS: Final = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}
WINDOW_LETTERS: Final = {"L": "sliding_attention", "G": "full_attention"}
"""Of EXAONE's `sliding_window_pattern = "LLLG"`."""


def _given_kinds(a: Mapping[str, Any], n: int, family: Family) -> list[str]:
    """What a config says itself, under any of the names in use."""
    if text := a.get("hybrid_override_pattern"):
        return [PATTERN_LETTERS[letter] for letter in text if letter in PATTERN_LETTERS]
    named = a.get("layers_block_type") or a.get("layer_types")
    if isinstance(named, list) and named:
        return [ALSO_CALLED.get(str(kind), str(kind)) for kind in named]
    letters = a.get("sliding_window_pattern")
    if isinstance(letters, str) and letters and set(letters) <= WINDOW_LETTERS.keys():
        kinds = [WINDOW_LETTERS[letters[i % len(letters)]] for i in range(n)]
        return [*kinds[:-1], "full_attention"] if window_of(a) else ["full_attention"] * n
    if a["model_type"].startswith("lfm2"):
        full = a.get("full_attn_idxs")
        attends = set(range(n)) if full is None else set(full)
        return ["full_attention" if i in attends else family.other for i in range(n)]
    if a["model_type"] == "bamba":
        attends = set(a.get("attn_layer_indices") or ())
        return ["full_attention" if i in attends else family.other for i in range(n)]
    if a["model_type"] == "granitemoehybrid":
        return ["mamba"] * n
    rotated = a.get("no_rope_layers")
    if isinstance(rotated, list) and rotated and a["model_type"] == "llama4_text":
        return [family.other if one and window_of(a) else "full_attention" for one in rotated]
    if a["model_type"] == "nemotron_h" and n == 0:
        return ["mamba", "moe", "attention", "mlp"]
    return []


def sparse_layers(a: Mapping[str, Any], n: int) -> list[bool]:
    """Which layers have routed experts."""
    types = a.get("mlp_layer_types")
    if isinstance(types, list) and types:
        return [kind == "sparse" for kind in types]
    if a["model_type"] in ("glm4_moe_lite", "laguna"):
        return [i > 0 for i in range(n)]
    dense = int(a.get("first_k_dense_replace") or a.get("num_dense_layers") or 0)
    if a["model_type"] == "ernie4_5_moe":
        dense = int(a.get("moe_layer_start_index") or 0)
    listed = a.get("moe_layers")
    if isinstance(listed, list):
        return [i in listed for i in range(n)]
    steps = ("decoder_sparse_step", "moe_layer_interval", "interleave_moe_layer_step")
    step = next((int(a[key]) for key in steps if a.get(key)), 1)
    only = set(a.get("mlp_only_layers") or ())
    return [i >= dense and i not in only and (i + 1) % step == 0 for i in range(n)]
