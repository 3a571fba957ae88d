"""What a model is made of: its matrices, counted from the keys of its card's `[architecture]`.

Everything that is arithmetic about a model starts here: parameters, bytes in a scheme, bytes and
FLOPs of a step (`bench.roofline`). Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from bench.errors import InputError, UnsupportedError, unknown
from bench.models import ModelCard, load_card, model_cards
from bench.schemes.row import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What the code of a model type builds and its config does not say."""

    qkv_bias: bool = False
    qk_norm: bool = False
    norms_per_layer: int = 2
    sinks: bool = False
    """One learned attention sink a head."""
    expert_bias: bool = False


FAMILIES: Final[Mapping[str, Family]] = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qk_norm=True),
    "qwen3_moe": Family(qk_norm=True),
    "gemma3_text": Family(qk_norm=True, norms_per_layer=4),
    "gpt_oss": Family(sinks=True, expert_bias=True),
    "deepseek_v3": Family(),
}
"""Model type -> what is special about it, read in transformers 5.23's modelling files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """`count` weights of shape [n_out, n_in]; a vector has n_in 1."""

    part: Part
    n_out: int
    n_in: int = 1
    count: int = 1

    @property
    def n_params(self) -> int:
        return self.n_out * self.n_in * self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """What one attention layer caches and computes for each position."""

    cache_width: int
    """Numbers cached for each token: keys and values, or MLA's latent."""
    decode_macs: int
    """Multiply-adds for each new token and each position it attends to."""
    prefill_macs: int
    """The same in prefill, where MLA works on full heads instead of the latent."""
    window: int | None
    """Positions a token sees at most; None sees all."""
    layers: int
    """Number of such layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model as arithmetic sees it."""

    matrices: tuple[Matrix, ...]
    attention: tuple[Attention, ...]
    """One entry for each kind of attention layer."""
    tied: bool
    """The output head is the input embedding: one matrix, which each step reads once."""
    hidden_size: int
    n_experts: int = 0
    """Routed experts in a layer; 0 for a dense model."""
    n_active_experts: int = 0
    n_layers: int
    latent: bool = False
    """Multi-head latent attention."""
    name: str = field(default="model")

    @property
    def n_params(self) -> int:
        """All parameters; a tied head counts once."""
        return sum(m.n_params for m in self.matrices if not (self.tied and m.part == "head"))

    @property
    def n_active_params(self) -> int:
        """Parameters that one token is multiplied with: no input embedding, its own experts."""
        return sum(
            m.n_params * self.n_active_experts // self.n_experts
            if m.part == "expert"
            else m.n_params
            for m in self.matrices
            if m.part != "embedding"
        )

    def experts_read(self, n_tokens: int) -> float:
        """Share of the routed experts that `n_tokens` tokens touch, if each chooses evenly.

        1 - (1 - k/E)^n: skewed routing touches fewer, so this is an upper estimate of the bytes.
        """
        if self.n_experts == 0:
            return 1.0
        return float(1 - (1 - self.n_active_experts / self.n_experts) ** n_tokens)


def shape(card: ModelCard) -> Shape:
    """The shape of a card. UnsupportedError for a model type that is not in FAMILIES."""
    return _shape(_Frozen(card.name, card.architecture))


@dataclass(frozen=True, eq=False)
class _Frozen:
    """Cards hold dictionaries; they are compared by name and content to cache their shape."""

    name: str
    architecture: Mapping[str, Any]

    def _key(self) -> tuple[str, str]:
        return self.name, repr(sorted(self.architecture.items()))

    def __hash__(self) -> int:
        return hash(self._key())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen) and self._key() == other._key()


@cache
def _shape(card: _Frozen) -> Shape:
    a = card.architecture
    kind = str(a.get("model_type"))
    if kind not in FAMILIES:
        raise UnsupportedError(
            f"model '{card.name}': no arithmetic for {unknown('model type', kind, FAMILIES)}"
        )
    family = FAMILIES[kind]
    vocab, hidden = int(a["vocab_size"]), int(a["hidden_size"])
    n_experts = int(_first(a, "num_experts", "num_local_experts", "n_routed_experts") or 0)
    return Shape(
        matrices=(
            Matrix(part="embedding", n_out=vocab, n_in=hidden),
            Matrix(part="head", n_out=vocab, n_in=hidden),
            *_attention_matrices(a, family),
            *_mlp_matrices(a, family, n_experts),
            Matrix(part="small", n_out=hidden),
        ),
        attention=tuple(_attention(a)),
        tied=bool(a.get("tie_word_embeddings", False)),
        hidden_size=hidden,
        n_experts=n_experts,
        n_active_experts=int(a.get("num_experts_per_tok", 0)) if n_experts else 0,
        n_layers=int(a["num_hidden_layers"]),
        latent="kv_lora_rank" in a,
        name=card.name,
    )


def _first(a: Mapping[str, Any], *keys: str) -> Any:
    return next((a[key] for key in keys if a.get(key) is not None), None)


def _head_dim(a: Mapping[str, Any]) -> int:
    return int(a.get("head_dim") or a["hidden_size"] // a["num_attention_heads"])


def _kv_heads(a: Mapping[str, Any]) -> int:
    return int(a.get("num_key_value_heads") or a["num_attention_heads"])


def _attention_matrices(a: Mapping[str, Any], family: Family) -> Iterator[Matrix]:
    n, hidden = int(a["num_hidden_layers"]), int(a["hidden_size"])
    yield Matrix(part="small", n_out=hidden, count=n * family.norms_per_layer)
    if "kv_lora_rank" in a:
        yield from _latent_matrices(a)
        return
    width = int(a["num_attention_heads"]) * _head_dim(a)
    kv_width = _kv_heads(a) * _head_dim(a)
    yield Matrix(part="attention", n_out=width, n_in=hidden, count=n)
    yield Matrix(part="attention", n_out=kv_width, n_in=hidden, count=2 * n)
    yield Matrix(part="attention", n_out=hidden, n_in=width, count=n)
    if family.qkv_bias or a.get("attention_bias"):
        yield Matrix(part="small", n_out=width + 2 * kv_width, count=n)
    if a.get("attention_bias"):
        yield Matrix(part="small", n_out=hidden, count=n)
    if family.qk_norm:
        yield Matrix(part="small", n_out=_head_dim(a), count=2 * n)
    if family.sinks:
        yield Matrix(part="small", n_out=int(a["num_attention_heads"]), count=n)


def _latent_matrices(a: Mapping[str, Any]) -> Iterator[Matrix]:
    """Multi-head latent attention: DeepSeek-V2, arXiv 2405.04434, section 2.1."""
    n, hidden, heads = int(a["num_hidden_layers"]), int(a["hidden_size"]), a["num_attention_heads"]
    rank, rope, nope = a["kv_lora_rank"], a["qk_rope_head_dim"], a["qk_nope_head_dim"]
    q_rank = int(a["q_lora_rank"])
    yield Matrix(part="attention", n_out=q_rank, n_in=hidden, count=n)
    yield Matrix(part="attention", n_out=heads * (nope + rope), n_in=q_rank, count=n)
    yield Matrix(part="attention", n_out=rank + rope, n_in=hidden, count=n)
    yield Matrix(part="attention", n_out=heads * (nope + a["v_head_dim"]), n_in=rank, count=n)
    yield Matrix(part="attention", n_out=hidden, n_in=heads * a["v_head_dim"], count=n)
    yield Matrix(part="small", n_out=q_rank + rank, count=n)


def _mlp_matrices(a: Mapping[str, Any], family: Family, n_experts: int) -> Iterator[Matrix]:
    n, hidden = int(a["num_hidden_layers"]), int(a["hidden_size"])
    dense = int(a.get("first_k_dense_replace", 0)) if n_experts else n
    if dense:
        yield from _gated(hidden, int(a["intermediate_size"]), "mlp", dense)
        if a.get("mlp_bias"):
            yield Matrix(part="small", n_out=2 * int(a["intermediate_size"]) + hidden, count=dense)
    if not n_experts:
        return
    moe = n - dense
    inner = int(_first(a, "moe_intermediate_size", "intermediate_size"))
    yield Matrix(part="router", n_out=n_experts, n_in=hidden, count=moe)
    yield from _gated(hidden, inner, "expert", moe * n_experts)
    if shared := int(a.get("n_shared_experts", 0)):
        yield from _gated(hidden, inner * shared, "mlp", moe)
    if family.expert_bias:
        yield Matrix(part="small", n_out=n_experts, count=moe)
        yield Matrix(part="expert", n_out=2 * inner + hidden, count=moe * n_experts)


def _gated(hidden: int, inner: int, part: Part, count: int) -> Iterator[Matrix]:
    yield Matrix(part=part, n_out=inner, n_in=hidden, count=2 * count)
    yield Matrix(part=part, n_out=hidden, n_in=inner, count=count)


def _attention(a: Mapping[str, Any]) -> Iterator[Attention]:
    n, heads = int(a["num_hidden_layers"]), int(a["num_attention_heads"])
    if "kv_lora_rank" in a:
        rank, rope = int(a["kv_lora_rank"]), int(a["qk_rope_head_dim"])
        full = int(a["qk_nope_head_dim"]) + rope + int(a["v_head_dim"])
        yield Attention(
            cache_width=rank + rope,
            decode_macs=heads * (2 * rank + rope),
            prefill_macs=heads * full,
            window=None,
            layers=n,
        )
        return
    macs = 2 * heads * _head_dim(a)
    for window, layers in _windows(a, n):
        yield Attention(
            cache_width=2 * _kv_heads(a) * _head_dim(a),
            decode_macs=macs,
            prefill_macs=macs,
            window=window,
            layers=layers,
        )


def _windows(a: Mapping[str, Any], n: int) -> Iterator[tuple[int | None, int]]:
    """(window, number of layers) of each kind of layer."""
    window = a.get("sliding_window") if a.get("use_sliding_window", True) else None
    if window is None:
        yield None, n
        return
    types = a.get("layer_types") or ["sliding_attention"] * n
    sliding = sum(kind == "sliding_attention" for kind in types)
    if sliding:
        yield int(window), sliding
    if n - sliding:
        yield None, n - sliding


def validate_models() -> list[str]:
    """Every problem in the shipped model cards, one line each."""
    problems: list[str] = []
    for path in model_cards().values():
        try:
            shape(load_card(path))
        except InputError as error:
            problems += error.problems
        except UnsupportedError as error:
            problems.append(f"{path}: {error}")
    return problems
