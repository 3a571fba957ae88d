"""The shape of whatever transformers can make: counted from its modules and from the cache they
fill, on the meta device, so that it costs no memory and no formula of a model type is needed.

`bench.models.shapes` has formulas for the types that cards and predictions use; this is for all
others, in a worker (`bench.runner.counting`), which keeps the answer (`bench.models.counted`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bench.engines.transformers import loading
from bench.engines.transformers.eager import Eager, tensors_in
from bench.errors import UnsupportedError
from bench.models.layers import Attention, Matrix
from bench.models.shapes import Shape
from bench.schemes.row import Part

EXPERTS: Final = re.compile(r"(?:^|\.)experts?(?:\.|_|$)")
LISTED: Final = re.compile(r"experts\.(\d+)\.")
SHARED: Final = re.compile(r"shared_?experts?")
ROUTER: Final = re.compile(r"(?:^|\.)(?:\w*router\w*|\w*gate|wg|classifier)(?:\.|$)")
MIXER: Final = re.compile(
    r"(?:^|\.)(?:\w*att\w*|\w*mixer|\w*mamba\w*|\w*ssm\w*|\w*conv\w*|temporal_block|delta_?net)\."
)
CHOSEN: Final = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "top_k_experts",
    "num_selected_experts",
    "top_k",
)
"""What configurations, and modules that route, call the experts that one token goes through."""


def count(architecture: Mapping[str, Any], name: str = "model") -> Shape:
    """The shape of a config.json. Raises InputError and UnsupportedError as loading would."""
    config = loading.config_of(None, architecture)
    model = loading.on_meta(config, loading.auto_class(config, None)).eval()
    causal = {m.is_causal for m in model.get_decoder().modules() if hasattr(m, "is_causal")}
    if causal == {False}:
        raise UnsupportedError(
            f"{type(model).__name__} attends to later tokens: not a causal language model"
        )
    text = model.config.get_text_config(decoder=True)
    with loading.refusing(type(model).__name__):
        attention = tuple(_attention(model, text))
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is None:
        raise UnsupportedError(f"{type(model).__name__} has no output head that could be counted")
    experts = _n_experts(model)
    matrices = _matrices(model, experts)
    tied = head.weight is embedding.weight
    if tied:  # one parameter, counted as the embedding
        n_out, n_in = head.weight.shape
        matrices[Matrix(part="head", n_out=n_out, n_in=n_in)] += 1
    return Shape(
        matrices=tuple(
            Matrix(part=m.part, n_out=m.n_out, n_in=m.n_in, count=n) for m, n in matrices.items()
        ),
        attention=attention,
        tied=tied,
        hidden_size=int(embedding.weight.shape[1]),
        n_experts=experts,
        n_active_experts=_chosen(model, text) if experts else 0,
        n_layers=int(getattr(text, "num_hidden_layers", None) or len(attention)),
        n_mixers=sum(a.layers for a in attention),
        n_ffns=int(getattr(text, "num_hidden_layers", 0)),
        latent=bool(getattr(text, "kv_lora_rank", None)),
        name=name,
    )


def _matrices(model: Any, experts: int) -> Counter[Matrix]:
    """Every parameter as a matrix of its part, each once."""
    import torch

    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    head = model.get_output_embeddings()
    stepped = {id(p) for module in (model.get_decoder(), head) for p in module.parameters()}
    found: Counter[Matrix] = Counter()
    for name, parameter in model.named_parameters():
        part = _part(name, parameter, experts)
        if id(parameter) in tables or id(parameter) not in stepped:
            part = "embedding"  # towers too: they are held, and no step reads them
        elif parameter is head.weight:
            part = "head"
        n_out, n_in, count = _sizes(part, parameter.shape)
        found[Matrix(part=part, n_out=n_out, n_in=n_in)] += count
    return found


def _part(name: str, parameter: Any, experts: int) -> Part:
    """What a parameter of a decoder is for, by the words of its name."""
    sizes = parameter.shape
    if experts and EXPERTS.search(SHARED.sub("", name)) and (len(sizes) > 1 or LISTED.search(name)):
        return "expert"
    if len(sizes) != 2 or name.endswith("bias"):
        return "small"  # vectors, and kernels of convolutions
    if experts and sizes[0] == experts and ROUTER.search(name):
        return "router"
    return "attention" if MIXER.search(name) else "mlp"


def _sizes(part: Part, sizes: Any) -> tuple[int, int, int]:
    """Rows, columns and how many matrices a parameter is; experts are held together."""
    if len(sizes) == 3 and part == "expert":
        return sizes[1], sizes[2], sizes[0]
    if len(sizes) == 2 and part != "small":
        return sizes[0], sizes[1], 1
    return sizes.numel(), 1, 1


def _n_experts(model: Any) -> int:
    """Routed experts of a layer: those of one parameter, or of a list of modules; 0 without."""
    most = 0
    for name, parameter in model.get_decoder().named_parameters():
        if not EXPERTS.search(SHARED.sub("", name)):
            continue
        listed = LISTED.search(name)
        if listed is not None:
            most = max(most, int(listed[1]) + 1)
        elif parameter.dim() == 3:
            most = max(most, parameter.shape[0])
    return most


def _chosen(model: Any, text: Any) -> int:
    """Experts that one token goes through. Raises UnsupportedError where nothing says it."""
    for holder in (text, *model.get_decoder().modules()):
        for name in CHOSEN:
            value = getattr(holder, name, None)
            if type(value) is int and value > 0:
                return value
    raise UnsupportedError(f"{type(model).__name__} does not say how many experts a token takes")


def _attention(model: Any, text: Any) -> Iterator[Attention]:
    """What each kind of layer caches: one token and two of them through the model, compared."""
    for module in model.modules():
        if "xperts" in type(module).__name__:  # which experts a token takes is a matter of values
            module.forward = _as_it_came
        if hasattr(module, "warn_if_padding_and_no_attention_mask"):  # and so is padding
            module.warn_if_padding_and_no_attention_mask = _nothing
    one, two = (_cached(model, n) for n in (1, 2))
    n_heads = getattr(text, "num_attention_heads", None)
    kinds: Counter[tuple[int, int, int, int | None, int | None, int]] = Counter()
    for before, after in zip(one, two, strict=True):
        width = _numbers(after) - _numbers(before)
        state = _numbers(before) - width
        if not width and not state:
            continue  # reads another layer's
        window = getattr(after, "sliding_window", None) if _slides(after) else None
        chosen = getattr(text, "index_topk", None) if "Indexed" in type(after).__name__ else None
        kinds[width, _heads(after), _macs(after, n_heads), window, chosen, state] += 1
    for (width, heads, macs, window, chosen, state), layers in kinds.items():
        yield Attention(
            cache_width=width,
            cache_heads=heads,
            decode_macs=macs,
            prefill_macs=macs,
            window=window,
            chosen=chosen,
            layers=layers,
            state_width=state,
            state_macs=state,
        )


def _as_it_came(hidden: Any, *_: Any, **__: Any) -> Any:
    """In the place of experts: their output has the form of their input."""
    import torch

    return torch.empty_like(hidden)


def _nothing(*_: Any, **__: Any) -> None:
    """In the place of a warning that looks at tokens."""


def _cached(model: Any, n: int) -> list[Any]:
    """What a pass over `n` tokens keeps: each layer of the cache, and last what it holds beside."""
    import torch

    steps = Eager(model)
    steps.reset()
    with torch.inference_mode():
        steps.logits(torch.zeros(1, n, dtype=torch.long, device="meta"))
    layers = list(getattr(steps.kept, "layers", ()))
    inside = tensors_in(layers, {})
    beside = [t for place, t in tensors_in(steps.kept, {}).items() if place not in inside]
    return [*layers, beside]


def _numbers(layer: Any) -> int:
    return sum(tensor.numel() for tensor in tensors_in(layer, {}).values())


def _slides(layer: Any) -> bool:
    return bool(getattr(layer, "is_sliding", False))


def _heads(layer: Any) -> int:
    """Heads of the keys that a layer keeps; 0 for those of another form."""
    keys = getattr(layer, "keys", None)
    return int(keys.shape[1]) if keys is not None and keys.dim() == 4 else 0


def _macs(layer: Any, n_heads: Any) -> int:
    """Multiply-adds of a token with each position: every query head with its keys and values."""
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if keys is None or values is None or keys.dim() != 4:
        return 0
    heads = n_heads if isinstance(n_heads, int) else keys.shape[1]
    return int(heads * (keys.shape[3] + values.shape[3]))
