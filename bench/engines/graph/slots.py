"""The static cache: keys and values of every layer, in memory that never moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

CACHE_STEP: Final = 256
"""Cache lengths are multiples of this, so that nearby prompts share one compiled step."""


def cache_length(n_prompt: int, n_gen: int) -> int:
    """Positions of the static cache for such a request."""
    return -(-(n_prompt + n_gen) // CACHE_STEP) * CACHE_STEP


class Slots:
    """Keys and values of one layer, [batch, heads, length, dimension]."""

    def __init__(self, length: int, position: Any) -> None:
        self._length = length
        self._position = position
        self.keys: Any = None
        self.values: Any = None

    def make(self, key: Any, value: Any) -> None:
        """Memory for tensors of these shapes."""
        self.keys = key.new_zeros((*key.shape[:2], self._length, *key.shape[3:]))
        self.values = value.new_zeros((*value.shape[:2], self._length, *value.shape[3:]))

    def update(self, key: Any, value: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Keep new keys and values; what attention shall look at.

        Several tokens are a prompt, which starts at 0 and looks at itself; one token goes to
        `position` and looks at everything, under a mask.
        """
        if self.keys is None:
            self.make(key, value)
        n = key.shape[2]
        if n > 1:
            self.keys[:, :, :n].copy_(key)
            self.values[:, :, :n].copy_(value)
            return key, value
        self.keys.index_copy_(2, self._position, key)
        self.values.index_copy_(2, self._position, value)
        return self.keys, self.values

    def tensors(self) -> list[Any]:
        """What it holds."""
        return [tensor for tensor in (self.keys, self.values) if tensor is not None]


class SlotMemory:
    """The static cache of a model: one `Slots` a layer."""

    def __init__(self, layers: Sequence[Slots]) -> None:
        self.layers = layers
        self.made = False
        """Whether the tensors are there: what is compiled must not make them."""

    def update(self, key: Any, value: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """As a transformers cache."""
        return self.layers[layer].update(key, value)

    @property
    def n_bytes(self) -> int:
        tensors = (tensor for slots in self.layers for tensor in slots.tensors())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
