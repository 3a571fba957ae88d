"""Matrices and caches of one layer, by its kind. Formulas are those of transformers 5.23's modules.

`a` is everywhere a model's settings: its config.json with the defaults of its type. Standard
library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from bench.fields import Between
from bench.models.families import FAMILIES, Family
from bench.schemes.row import Part

Count = Annotated[int, Between(0, 1 << 48)]
"""Also of a shape that comes from a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """`count` weights of shape [n_out, n_in]; a vector has n_in 1."""

    part: Part
    n_out: Count
    n_in: Count = 1
    count: Count = 1

    @property
    def n_params(self) -> int:
        return self.n_out * self.n_in * self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """What one layer that mixes tokens keeps and computes; linear layers keep a constant state."""

    cache_width: Count = 0
    """Numbers cached for each token: keys and values, or MLA's latent."""
    cache_heads: Count = 0
    """Heads of these keys: a cache in integers has a scale for each, and for its values."""
    decode_macs: Count = 0
    """Multiply-adds for each new token and each position it attends to."""
    prefill_macs: Count = 0
    """The same in prefill, where MLA works on full heads instead of the latent."""
    window: Count | None = None
    """Positions a token sees at most, and a layer keeps; None sees all."""
    chosen: Count | None = None
    """Positions that sparse attention reads at most, though all are kept."""
    layers: Count
    """Number of such layers."""
    stored_layers: Count | None = None
    """How many of them keep a cache of their own; the rest read another layer's. None: all."""
    state_width: Count = 0
    """Numbers of constant state for each sequence."""
    state_macs: Count = 0
    """Multiply-adds on the state for each token."""

    @property
    def keeps(self) -> int:
        """Layers with a cache of their own."""
        return self.layers if self.stored_layers is None else self.stored_layers

    def kept(self, positions: float) -> float:
        """Positions kept of a sequence."""
        return positions if self.window is None else min(positions, self.window)

    def read(self, positions: float) -> float:
        """Positions that a step reads at a context of `positions`."""
        seen = self.kept(positions)
        return seen if self.chosen is None else min(seen, self.chosen)


def first(a: Mapping[str, Any], *keys: str) -> Any:
    """The first key that has a value."""
    return next((a[key] for key in keys if a.get(key) is not None), None)


def head_dim(a: Mapping[str, Any]) -> int:
    return int(a.get("head_dim") or int(a["hidden_size"]) // int(a["num_attention_heads"]))


def kv_heads(a: Mapping[str, Any]) -> int:
    return int(a.get("num_key_value_heads") or a["num_attention_heads"])


def is_latent(a: Mapping[str, Any]) -> bool:
    """Multi-head latent attention."""
    return bool(a.get("kv_lora_rank"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Widths of one attention layer."""

    n: int
    n_kv: int
    dim: int
    one_projection: bool = False
    """Keys and values come of one projection (Gemma 4's global layers)."""


def heads_of(a: Mapping[str, Any], sliding: bool, n_heads: int | None = None) -> Heads:
    """Heads of a full or a sliding layer; Gemma 4's full layers have widths of their own."""
    n = int(n_heads or a["num_attention_heads"])
    if not a["model_type"].startswith("gemma4") or sliding:
        return Heads(n=n, n_kv=kv_heads(a), dim=head_dim(a))
    same = bool(a.get("attention_k_eq_v"))
    n_kv = a.get("num_global_key_value_heads") if same else None
    return Heads(
        n=n,
        n_kv=int(n_kv or kv_heads(a)),
        dim=int(a.get("global_head_dim") or head_dim(a)),
        one_projection=same,
    )


def attention_matrices(
    a: Mapping[str, Any], heads: Heads, n: int, *, shared: bool = False
) -> Iterator[Matrix]:
    """Projections, biases and norms of `n` attention layers; `shared` ones have no keys."""
    family, hidden = FAMILIES[a["model_type"]], int(a["hidden_size"])
    if is_latent(a):
        yield from _latent_matrices(a, n)
        return
    width, kv = heads.n * heads.dim, heads.n_kv * heads.dim
    q_out = width * 2 if family.query_gate else width
    yield Matrix(part="attention", n_out=q_out, n_in=hidden, count=n)
    if not shared:
        yield Matrix(
            part="attention", n_out=kv, n_in=hidden, count=n if heads.one_projection else 2 * n
        )
    yield Matrix(part="attention", n_out=hidden, n_in=width, count=n)
    bias = bool(a.get("attention_bias") or a.get("use_bias"))
    if family.qkv_bias or bias:
        yield Matrix(part="small", n_out=q_out + 2 * kv, count=n)
    if family.o_bias or (bias and a["model_type"] not in ("glm", "glm4", "glm4_moe", "seed_oss")):
        yield Matrix(part="small", n_out=hidden, count=n)
    yield from _query_norms(a, family, heads, n, shared)
    if family.sinks:
        yield Matrix(part="small", n_out=heads.n, count=n)
    if family.output_gate == "width":
        yield Matrix(part="attention", n_out=width, n_in=hidden, count=n)
    if family.output_gate == "heads":
        yield Matrix(part="attention", n_out=heads.n, n_in=hidden, count=n)


def _query_norms(
    a: Mapping[str, Any], family: Family, heads: Heads, n: int, shared: bool
) -> Iterator[Matrix]:
    norms = family.qk_norm
    unweighted = ("ernie4_5_moe", "llama4_text")
    if norms == "none" and a.get("use_qk_norm") and a["model_type"] not in unweighted:
        norms = "head"
    one = 1 if norms == "head" else None
    if norms != "none":
        yield Matrix(part="small", n_out=heads.dim * (one or heads.n), count=n)
        if not shared:
            yield Matrix(part="small", n_out=heads.dim * (one or heads.n_kv), count=n)


def _latent_matrices(a: Mapping[str, Any], n: int) -> Iterator[Matrix]:
    """Multi-head latent attention: DeepSeek-V2, arXiv 2405.04434, section 2.1."""
    hidden, heads = int(a["hidden_size"]), int(a["num_attention_heads"])
    rank, rope, nope = int(a["kv_lora_rank"]), int(a["qk_rope_head_dim"]), a["qk_nope_head_dim"]
    q_rank, queries = int(a.get("q_lora_rank") or 0), heads * (int(nope) + rope)
    if q_rank:
        yield Matrix(part="attention", n_out=q_rank, n_in=hidden, count=n)
        yield Matrix(part="attention", n_out=queries, n_in=q_rank, count=n)
        yield Matrix(part="small", n_out=q_rank, count=n)
    else:
        yield Matrix(part="attention", n_out=queries, n_in=hidden, count=n)
    yield Matrix(part="attention", n_out=rank + rope, n_in=hidden, count=n)
    full = heads * (int(nope) + int(a["v_head_dim"]))
    yield Matrix(part="attention", n_out=full, n_in=rank, count=n)
    yield Matrix(part="attention", n_out=hidden, n_in=heads * int(a["v_head_dim"]), count=n)
    yield Matrix(part="small", n_out=rank, count=n)
    if a.get("attention_bias"):
        yield Matrix(part="small", n_out=q_rank + rank + rope + hidden, count=n)
    if index := int(a.get("index_head_dim") or 0):
        many = int(a["index_n_heads"])
        yield Matrix(part="attention", n_out=index * many, n_in=q_rank or hidden, count=n)
        yield Matrix(part="attention", n_out=index, n_in=hidden, count=n)
        yield Matrix(part="small", n_out=2 * index, count=n)
        yield Matrix(part="attention", n_out=many, n_in=hidden, count=n)


def latent_attention(a: Mapping[str, Any], n: int) -> Iterator[Attention]:
    """The latent cache, and the keys of DeepSeek Sparse Attention's indexer where there is one.

    `caches_heads`: a file whose engine caches the keys and values of all heads instead.
    """
    rank, rope, heads = int(a["kv_lora_rank"]), int(a["qk_rope_head_dim"]), a["num_attention_heads"]
    full = int(a["qk_nope_head_dim"]) + rope + int(a["v_head_dim"])
    index = int(a.get("index_head_dim") or 0)
    whole = bool(a.get("caches_heads"))
    yield Attention(
        cache_width=int(heads) * full if whole else rank + rope,
        decode_macs=int(heads) * (full if whole else 2 * rank + rope),
        prefill_macs=int(heads) * full,
        chosen=int(a["index_topk"]) if index else None,
        layers=n,
    )
    if index:
        macs = index * int(a["index_n_heads"])
        yield Attention(cache_width=index, decode_macs=macs, prefill_macs=macs, layers=n)


def full_attention(heads: Heads, window: int | None, n: int, stored: int) -> Attention:
    """Keys and values of `n` layers, `stored` of which keep a cache of their own."""
    macs = 2 * heads.n * heads.dim
    return Attention(
        cache_width=2 * heads.n_kv * heads.dim,
        cache_heads=heads.n_kv,
        decode_macs=macs,
        prefill_macs=macs,
        window=window,
        layers=n,
        stored_layers=None if stored == n else stored,
    )


def delta_net_matrices(a: Mapping[str, Any], n: int) -> Iterator[Matrix]:
    """Gated delta net (Qwen3-Next, Qwen3.5): fused and separate projections hold the same."""
    hidden, values = int(a["hidden_size"]), int(a["linear_num_value_heads"])
    keys = int(a["linear_num_key_heads"]) * int(a["linear_key_head_dim"])
    width = values * int(a["linear_value_head_dim"])
    yield Matrix(part="attention", n_out=2 * keys + 2 * width, n_in=hidden, count=n)
    yield Matrix(part="attention", n_out=2 * values, n_in=hidden, count=n)
    yield Matrix(part="attention", n_out=hidden, n_in=width, count=n)
    conv = (2 * keys + width) * int(a["linear_conv_kernel_dim"])
    yield Matrix(part="small", n_out=conv + 2 * values + int(a["linear_value_head_dim"]), count=n)


def delta_net(a: Mapping[str, Any], n: int) -> Attention:
    """Its state: a matrix [keys, values] a head, and the last inputs of the convolution."""
    keys = int(a["linear_num_key_heads"]) * int(a["linear_key_head_dim"])
    values, dim = int(a["linear_num_value_heads"]), int(a["linear_value_head_dim"])
    state = values * int(a["linear_key_head_dim"]) * dim
    conv = (2 * keys + values * dim) * int(a["linear_conv_kernel_dim"])
    return Attention(layers=n, state_width=state + conv, state_macs=4 * state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba:
    """Widths of a Mamba-2 layer under the names of several configurations."""

    heads: int
    dim: int
    state: int
    groups: int
    kernel: int
    bias: bool
    conv_bias: bool
    norm: bool

    @property
    def inner(self) -> int:
        return self.heads * self.dim

    @property
    def conv(self) -> int:
        return self.inner + 2 * self.groups * self.state


def mamba_of(a: Mapping[str, Any]) -> Mamba:
    """Mamba-2 as Nemotron-H, Falcon-H1, Bamba and Granite 4 configure it."""
    hidden, heads = int(a["hidden_size"]), int(first(a, "mamba_num_heads", "mamba_n_heads"))
    inner = first(a, "mamba_d_ssm") or int(first(a, "mamba_expand", "expand") or 2) * hidden
    dim = first(a, "mamba_head_dim", "mamba_d_head")
    conv_bias = first(a, "mamba_conv_bias", "use_conv_bias")
    return Mamba(
        heads=heads,
        dim=int(inner) // heads if dim in (None, "auto") else int(dim),
        state=int(first(a, "ssm_state_size", "mamba_d_state")),
        groups=int(first(a, "mamba_n_groups", "n_groups") or 1),
        kernel=int(first(a, "conv_kernel", "mamba_d_conv")),
        bias=bool(first(a, "mamba_proj_bias", "use_bias")),
        conv_bias=True if conv_bias is None else bool(conv_bias),
        norm=a["model_type"] != "falcon_h1" or bool(a.get("mamba_rms_norm")),
    )


def mamba_matrices(a: Mapping[str, Any], n: int) -> Iterator[Matrix]:
    """Projections in and out, the convolution, and a, d, dt of each head."""
    m, hidden = mamba_of(a), int(a["hidden_size"])
    wide = m.inner + m.conv + m.heads
    yield Matrix(part="attention", n_out=wide, n_in=hidden, count=n)
    yield Matrix(part="attention", n_out=hidden, n_in=m.inner, count=n)
    small = m.conv * (m.kernel + m.conv_bias) + 3 * m.heads + (m.inner if m.norm else 0)
    yield Matrix(part="small", n_out=small + (wide + hidden if m.bias else 0), count=n)


def mamba(a: Mapping[str, Any], n: int) -> Attention:
    """Its state: [heads, dim, state], and the last inputs of the convolution."""
    m = mamba_of(a)
    state = m.inner * m.state
    return Attention(layers=n, state_width=state + m.conv * m.kernel, state_macs=3 * state)


def conv_matrices(a: Mapping[str, Any], n: int) -> Iterator[Matrix]:
    """LFM2's gated short convolution."""
    hidden, kernel = int(a["hidden_size"]), int(a["conv_L_cache"])
    yield Matrix(part="attention", n_out=3 * hidden, n_in=hidden, count=n)
    yield Matrix(part="attention", n_out=hidden, n_in=hidden, count=n)
    bias = 5 * hidden if a.get("conv_bias") else 0
    yield Matrix(part="small", n_out=hidden * kernel + bias, count=n)


def short_conv(a: Mapping[str, Any], n: int) -> Attention:
    """The last inputs of the convolution."""
    width = int(a["hidden_size"]) * int(a["conv_L_cache"])
    return Attention(layers=n, state_width=width, state_macs=width)
