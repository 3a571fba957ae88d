"""What a config.json may say of a model's shape: types, and sizes that a model can have.

A file of others' may name a billion layers, each of which would be made. Other keys may stand
beside those named here. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypedDict

from bench.fields import Between, converter

Layers = Annotated[int, Between(1, 10_000)]
Width = Annotated[int, Between(1, 1 << 20)]
Heads = Annotated[int, Between(1, 1 << 16)]
Words = Annotated[int, Between(1, 1 << 26)]


class Architecture(TypedDict, total=False):
    """Keys that arithmetic or loading use, where a file has them."""

    model_type: Annotated[str, Between(1, 200)]
    num_hidden_layers: Layers
    n_layer: Layers
    num_layers: Layers
    encoder_layers: Annotated[int, Between(0, 10_000)]
    decoder_layers: Annotated[int, Between(0, 10_000)]
    hidden_size: Width
    n_embd: Width
    d_model: Width
    intermediate_size: Annotated[int, Between(0, 1 << 22)] | list[int] | None
    num_attention_heads: Heads | list[int]
    num_key_value_heads: Heads | list[int] | None
    head_dim: Width | None
    vocab_size: Words
    max_position_embeddings: Annotated[int, Between(1, 1 << 31)] | None
    num_experts: Annotated[int, Between(0, 1 << 16)] | None
    num_local_experts: Annotated[int, Between(0, 1 << 16)] | None
    n_routed_experts: Annotated[int, Between(0, 1 << 16)] | None
    tie_word_embeddings: bool | None
    quantization_config: Mapping[str, Any] | None
    text_config: Mapping[str, Any]


CONVERT: Final = converter(Architecture)


def problems(table: object, at: str = "") -> list[str]:
    """What is wrong with it, each with its key path; those of a language model within it too."""
    found: list[str] = []
    CONVERT(table, at, found)
    if not found and isinstance(table, Mapping) and "text_config" in table:
        CONVERT(table["text_config"], f"{at}.text_config" if at else "text_config", found)
    return found
