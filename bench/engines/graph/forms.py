"""Which models a static cache can step, told by their form before they are loaded."""

from __future__ import annotations

from typing import Any

from bench.engines.transformers.eager import new_cache
from bench.errors import UnsupportedError


def layers_of(model: Any) -> Any:
    """The decoder layers. Raises UnsupportedError where they are not built as expected."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    layers = getattr(decoder, "layers", None)
    if layers is None or any(getattr(x, "self_attn", None) is None for x in layers):
        kind = type(model).__name__
        raise UnsupportedError(
            f"{kind} has no decoder layers of the known form: use -e transformers"
        )
    return layers


def refuse_form(model: Any) -> None:
    """Refuse a model that a static cache of this form cannot step; it may be on the meta device.

    What its layers keep is asked of the cache that transformers makes for it. Raises
    UnsupportedError.
    """
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    kind, other = type(model).__name__, "use -e transformers"
    made = list(new_cache(model).values())
    if not made:
        raise UnsupportedError(f"{kind} has its own kind of cache: {other}")
    for layer in made[0].layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise UnsupportedError(
                f"{kind} keeps a {type(layer).__name__}, which the static cache does not support: "
                f"{other}"
            )
    layers = layers_of(model)
    if len(layers) != len(made[0].layers):
        raise UnsupportedError(f"{kind} has layers that share keys and values: {other}")
    if any(hasattr(layer.self_attn, "sinks") for layer in layers):
        raise UnsupportedError(
            f"{kind} has attention sinks, which the static cache's attention does not have: {other}"
        )
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        raise UnsupportedError(
            f"{kind} caps the scores of attention, which the static cache's attention does not do: "
            f"{other}"
        )
    if getattr(model.get_decoder(), "norm", None) is None or model.get_output_embeddings() is None:
        raise UnsupportedError(f"{kind} has no final norm or output head: {other}")


def check_window(model: Any, length: int) -> None:
    """A window shorter than the sequence needs a cache that forgets: not built here."""
    (cache,) = new_cache(model).values()
    windows = [layer.sliding_window for layer in cache.layers if layer.is_sliding]
    if windows and length > min(windows):
        raise UnsupportedError(
            f"{length} tokens are more than this model's sliding window of {min(windows)}, "
            "which the static cache does not have: use -e transformers"
        )
