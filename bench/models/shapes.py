"""What a model is made of: its matrices, counted from the keys of its card's `[architecture]`.

Everything that is arithmetic about a model starts here: parameters, bytes in a scheme, bytes and
FLOPs of a step (`bench.roofline`). `families` has what model types build, `layers` and `mlp` the
formulas of each kind of layer. Standard library only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final

from bench import fields
from bench.errors import InputError, UnsupportedError, unknown
from bench.models import ModelCard, counted, load_card, model_cards
from bench.models.families import (
    FAMILIES,
    kind_of,
    layer_kinds,
    settings,
    sparse_layers,
    window_of,
)
from bench.models.layers import Attention as Attention
from bench.models.layers import (
    Count,
    attention_matrices,
    conv_matrices,
    delta_net,
    delta_net_matrices,
    first,
    full_attention,
    heads_of,
    is_latent,
    latent_attention,
    mamba,
    mamba_matrices,
    short_conv,
)
from bench.models.layers import Matrix as Matrix
from bench.models.left import left_in_floats
from bench.models.mlp import dense_matrices, expert_matrices, feed_forward, n_active, n_experts
from bench.schemes.row import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model as arithmetic sees it."""

    matrices: tuple[Matrix, ...]
    attention: tuple[Attention, ...]
    """One entry for each kind of attention layer."""
    tied: bool
    """The output head is the input embedding: one matrix, which each step reads once."""
    hidden_size: Count
    n_experts: Count = 0
    """Routed experts in a layer; 0 for a dense model."""
    n_active_experts: Count = 0
    n_layers: Count
    n_mixers: Count = 0
    """Layers that mix tokens: attention, a state space, a convolution."""
    n_ffns: Count = 0
    """Layers with a feed-forward part; Nemotron-H's layers have one of the two."""
    n_delta_nets: Count = 0
    """Layers that mix tokens with a gated delta net."""
    sandwich: bool = False
    """Four norms a layer, before and after each part."""
    latent: bool = False
    """Multi-head latent attention."""
    mtp: tuple[Matrix, ...] = ()
    """Heads for multi-token prediction, which only speculation loads; not among `matrices`."""
    left: Mapping[Part, float] = field(default_factory=dict)
    """Share of a part's weights that a quantized checkpoint leaves in floats, where it says so."""
    name: str = field(default="model")

    @property
    def n_params(self) -> int:
        """All parameters; a tied head counts once."""
        return sum(m.n_params for m in self.matrices if not (self.tied and m.part == "head"))

    @property
    def hybrid(self) -> bool:
        """Whether some layers keep a constant state instead of keys and values."""
        return any(a.state_width for a in self.attention)

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
    known = _KNOWN.get(id(card))
    if known is None or known[0] is not card:
        if len(_KNOWN) > 1000:
            _KNOWN.clear()
        known = _KNOWN[id(card)] = card, _shape(_Frozen(card.name, card.architecture))
    return known[1]


_KNOWN: Final[dict[int, tuple[ModelCard, Shape]]] = {}
"""Shapes by the identity of their card, which is kept so that it stays the same one."""


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


def forget() -> None:
    """Ask again for every shape: one was counted since."""
    _KNOWN.clear()
    _shape.cache_clear()


def towers(architecture: Mapping[str, Any]) -> bool:
    """Whether a config describes more than a language model: what sees or hears has weights too."""
    return any(isinstance(architecture.get(f"{what}_config"), Mapping) for what in TOWERS)


TOWERS: Final = ("vision", "audio")


@cache
def _shape(card: _Frozen) -> Shape:
    kind = kind_of(card.architecture)
    answer = None
    if kind not in FAMILIES or towers(card.architecture):
        answer = counted.known(card.architecture)
    if answer is not None and (found := _read(answer, card)) is not None:
        return found
    if kind not in FAMILIES:
        if answer is not None and "refused" in answer:
            raise UnsupportedError(
                f"model '{card.name}': no arithmetic for it: {answer['refused']}"
            )
        raise UnsupportedError(
            f"model '{card.name}': no arithmetic for {unknown('model type', kind, FAMILIES)}"
        )
    a = settings(card.architecture)
    try:
        made = _count(a, card.name)
        return replace(made, left=_left(card.architecture, made.n_layers))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"model '{card.name}': config: {_what(error)}") from error


def _read(answer: Mapping[str, Any], card: _Frozen) -> Shape | None:
    """The shape that a worker counted; None for a refusal, and for a file that holds no shape."""
    problems: list[str] = []
    made: Shape | None = fields.convert(Shape, answer.get("shape"), "", problems)
    if made is None or problems or not any(m.part == "head" for m in made.matrices):
        return None
    return replace(made, left=_left(card.architecture, made.n_layers), name=card.name)


def _left(architecture: Mapping[str, Any], n_layers: int) -> dict[Part, float]:
    """What a checkpoint leaves in floats; each layer by its weights, where its kind is known."""
    try:
        a = settings(architecture)
        mixers = [(_mixer(a, layer), _mixing(a, layer)) for layer in _plan(a)]
    except (KeyError, TypeError, ValueError, IndexError):
        mixers = []  # a worker counted it
    return left_in_floats(architecture, n_layers, mixers)


def _mixer(a: Mapping[str, Any], layer: Layer) -> str:
    return "latent" if layer.mixer == "full" and is_latent(a) else layer.mixer


def _what(error: Exception) -> str:
    return f"{error.args[0]}: missing" if isinstance(error, KeyError) else str(error)


def _count(a: Mapping[str, Any], name: str) -> Shape:
    hidden, vocab = int(a["hidden_size"]), int(a["vocab_size"])
    plan = _plan(a)
    many = n_experts(a)
    family = FAMILIES[a["model_type"]]
    last = hidden * (2 if family.norm_bias else 1)
    matrices = (
        Matrix(part="embedding", n_out=vocab, n_in=hidden),
        Matrix(part="head", n_out=vocab, n_in=hidden),
        *_mixer_matrices(a, plan),
        *_mlp_matrices(a, plan),
        *_norms(a, plan),
        *_extras(a, len(plan)),
        Matrix(part="small", n_out=last),
    )
    return Shape(
        matrices=matrices,
        attention=tuple(_attention(a, plan)),
        tied=bool(first(a, "tie_embedding", "tie_word_embeddings")),
        hidden_size=hidden,
        n_experts=many if any(layer.sparse for layer in plan) else 0,
        n_active_experts=n_active(a) if many else 0,
        n_layers=len(plan),
        n_mixers=sum(layer.mixer != "none" for layer in plan),
        n_ffns=sum(layer.kind in ("moe", "mlp") for layer in plan) or len(plan),
        n_delta_nets=sum(layer.mixer == "delta" for layer in plan),
        sandwich=family.norms_per_layer >= 4,
        latent=is_latent(a),
        mtp=tuple(_mtp(a, many)),
        name=name,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer: what mixes tokens, and whether its feed-forward part has routed experts."""

    kind: str
    sparse: bool
    shared: bool = False
    """Reads the keys and values of an earlier layer."""
    heads: int | None = None
    """Attention heads, where a config gives each layer its own number."""

    @property
    def mixer(self) -> str:
        """full, sliding, delta, mamba, conv, or none."""
        return MIXERS.get(self.kind, "none")


MIXERS: Final = {
    "full_attention": "full",
    "attention": "full",
    "hybrid": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "sliding",
    "linear_attention": "delta",
    "mamba": "mamba",
    "conv": "conv",
}
"""Kind of layer in a config -> what mixes its tokens; `moe` and `mlp` of Nemotron-H mix none."""


def _plan(a: Mapping[str, Any]) -> list[Layer]:
    n = int(first(a, "num_hidden_layers") or 0)
    kinds = layer_kinds(a, n)
    family = FAMILIES[a["model_type"]]
    n = len(kinds)
    if n == 0:
        raise KeyError("num_hidden_layers")
    sparse = sparse_layers(a, n) if n_experts(a) else [False] * n
    shared_from = n - int(a.get("num_kv_shared_layers") or 0)
    heads = a.get("num_attention_heads_per_layer") or [None] * n
    layers = []
    for i, given in enumerate(kinds):
        kind = "mamba" if family.other == "mamba" and given == "linear_attention" else given
        if kind not in MIXERS and kind not in ("moe", "mlp"):
            raise ValueError(f"layer_types: no arithmetic for a layer of kind '{kind}'")
        routed = kind == "moe" if a["model_type"] == "nemotron_h" else sparse[i]
        layers.append(Layer(kind=kind, sparse=routed, shared=i >= shared_from, heads=heads[i]))
    return layers


def _mixer_matrices(a: Mapping[str, Any], plan: Sequence[Layer]) -> Iterator[Matrix]:
    groups = Counter((layer.mixer, layer.shared, layer.heads) for layer in plan)
    family = FAMILIES[a["model_type"]]
    for (mixer, shared, n_heads), n in groups.items():
        if mixer in ("full", "sliding"):
            heads = heads_of(a, mixer == "sliding", n_heads)
            yield from attention_matrices(a, heads, n, shared=shared)
        if mixer == "delta":
            yield from delta_net_matrices(a, n)
        if mixer == "mamba" or (mixer == "full" and family.parallel == "mamba"):
            yield from mamba_matrices(a, n)
        if mixer == "conv":
            yield from conv_matrices(a, n)


def _mixing(a: Mapping[str, Any], layer: Layer) -> int:
    """Weights of one layer that mix its tokens."""
    return sum(m.n_params for m in _mixer_matrices(a, [layer]) if m.part == "attention")


def _mlp_matrices(a: Mapping[str, Any], plan: Sequence[Layer]) -> Iterator[Matrix]:
    routed = sum(layer.sparse for layer in plan)
    alone = a["model_type"] == "nemotron_h"
    both = a["model_type"].startswith("gemma4") and routed
    dense = [
        layer for layer in plan if both or (layer.kind == "mlp" if alone else not layer.sparse)
    ]
    if a["model_type"] == "granitemoehybrid" and not n_experts(a):
        yield from feed_forward(
            int(a["hidden_size"]), int(a["shared_intermediate_size"]), "mlp", len(plan), True
        )
        return
    double = sum(layer.shared for layer in dense) if a.get("use_double_wide_mlp") else 0
    if dense:
        yield from dense_matrices(a, len(dense), double=double)
    if routed:
        yield from expert_matrices(a, routed)


def _norms(a: Mapping[str, Any], plan: Sequence[Layer]) -> Iterator[Matrix]:
    family = FAMILIES[a["model_type"]]
    width = int(a["hidden_size"]) * (2 if family.norm_bias else 1)
    yield Matrix(part="small", n_out=width, count=len(plan) * family.norms_per_layer)


def _extras(a: Mapping[str, Any], n: int) -> Iterator[Matrix]:
    """Per-layer embeddings of Gemma 3n and 4, their projections, and Gemma 3n's own."""
    hidden, kind = int(a["hidden_size"]), a["model_type"]
    width = int(a.get("hidden_size_per_layer_input") or 0)
    if width:
        vocab = int(a["vocab_size_per_layer_input"])
        yield Matrix(part="embedding", n_out=vocab, n_in=n * width)
        yield Matrix(part="mlp", n_out=n * width, n_in=hidden)
        yield Matrix(part="mlp", n_out=width, n_in=hidden, count=n)
        yield Matrix(part="mlp", n_out=hidden, n_in=width, count=n)
        yield Matrix(part="small", n_out=hidden, count=n)
        yield Matrix(part="small", n_out=width)
    if kind == "gemma3n_text":
        yield from _altup(a, n)
    if kind == "phi" or a.get("lm_head_bias"):
        yield Matrix(part="small", n_out=int(a["vocab_size"]))


def _altup(a: Mapping[str, Any], n: int) -> Iterator[Matrix]:
    """Alternating updates and learned augmented residuals of Gemma 3n."""
    hidden, k, rank = int(a["hidden_size"]), int(a["altup_num_inputs"]), int(a["laurel_rank"])
    yield Matrix(part="mlp", n_out=hidden, n_in=hidden, count=2 * (k - 1))
    yield Matrix(part="mlp", n_out=k, n_in=hidden, count=n)
    yield Matrix(part="small", n_out=2 * hidden + k * k + k**3, count=n)
    yield Matrix(part="mlp", n_out=rank, n_in=hidden, count=n)
    yield Matrix(part="mlp", n_out=hidden, n_in=rank, count=n)
    yield Matrix(part="small", n_out=hidden, count=n)


def _attention(a: Mapping[str, Any], plan: Sequence[Layer]) -> Iterator[Attention]:
    family = FAMILIES[a["model_type"]]
    groups = Counter((layer.mixer, layer.heads) for layer in plan)
    for (mixer, n_heads), n in groups.items():
        if mixer in ("full", "sliding"):
            if is_latent(a):
                yield from latent_attention(a, n)
            else:
                stored = sum(not p.shared for p in plan if (p.mixer, p.heads) == (mixer, n_heads))
                window = window_of(a) if mixer == "sliding" else None
                heads = heads_of(a, mixer == "sliding", n_heads)
                yield full_attention(heads, window, n, stored)
        if mixer == "delta":
            yield delta_net(a, n)
        if mixer == "mamba" or (mixer == "full" and family.parallel == "mamba"):
            yield mamba(a, n)
        if mixer == "conv":
            yield short_conv(a, n)


def _mtp(a: Mapping[str, Any], many: int) -> Iterator[Matrix]:
    """Heads that predict further tokens: a projection of [2 hidden] and one more layer each.

    DeepSeek-V3, arXiv 2412.19437, section 2.2. Loaded for speculation only; embedding and head are
    the model's own.
    """
    n = int(first(a, "mtp_num_hidden_layers", "num_nextn_predict_layers") or 0)
    if n == 0 or a["model_type"] == "nemotron_h":
        return
    hidden, family = int(a["hidden_size"]), FAMILIES[a["model_type"]]
    yield Matrix(part="mlp", n_out=hidden, n_in=2 * hidden, count=n)
    yield Matrix(part="small", n_out=hidden * (family.norms_per_layer + 3), count=n)
    yield from attention_matrices(a, heads_of(a, sliding=False), n)
    yield from expert_matrices(a, n) if many else dense_matrices(a, n)


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
