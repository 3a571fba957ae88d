"""A key-value cache in 8 bits: what its numbers become, and what they stand for.

`int8`: whole numbers to 127, and for each head's keys of a token, and for its values, what 1 is
worth (float32). `fp8`: e4m3 without a scale, as vLLM's where none was calibrated; what lies beyond
448 is 448. A prompt attends to itself before it is rounded; every later token attends to what the
cache holds, to itself as well. Imports torch and transformers only inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from bench.engines.graph.slots import Slots
from bench.engines.transformers.eager import new_cache

LEVELS: Final = 127
LARGEST: Final = 448.0
"""Of e4m3. Versions of torch differ in what they make of a number beyond it."""
TINY: Final = 1e-12
"""Stands for the largest number of a head that is all zeros."""


class Codes(NamedTuple):
    """Keys or values [batch, heads, places, dimension] in 8 bits."""

    numbers: Any
    """int8; or uint8, the bits of e4m3."""
    scales: Any
    """[batch, heads, places] in float32; None where a number stands for itself."""


def narrowed(x: Any, kind: str) -> Codes:
    """Keys or values as a cache of that kind holds them."""
    import torch

    if kind == "fp8":
        small = x.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
        return Codes(small.view(torch.uint8), None)
    scales = x.float().abs().amax(-1).clamp_min(TINY) / LEVELS
    return Codes((x.float() / scales[..., None]).round().to(torch.int8), scales)


def widened(codes: Codes, dtype: Any) -> Any:
    """What the codes stand for."""
    import torch

    numbers, scales = codes
    if scales is None:
        return numbers.view(torch.float8_e4m3fn).to(dtype)
    return (numbers.float() * scales[..., None]).to(dtype)


def rounded(x: Any, kind: str) -> Any:
    """Keys or values as they come back from a cache of that kind."""
    return widened(narrowed(x, kind), x.dtype)


class NarrowSlots(Slots):
    """Keys and values of one layer in 8 bits; both are `Codes`."""

    def __init__(self, length: int, position: Any, kind: str) -> None:
        super().__init__(length, position)
        self._kind = kind

    def make(self, key: Any, value: Any) -> None:
        self.keys, self.values = self._room(key), self._room(value)

    def _room(self, x: Any) -> Codes:
        numbers, scales = narrowed(x, self._kind)
        longer = (*x.shape[:2], self._length)
        return Codes(
            numbers.new_zeros((*longer, x.shape[3])),
            None if scales is None else scales.new_zeros(longer),
        )

    def update(self, key: Any, value: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        if self.keys is None:
            self.make(key, value)
        n = key.shape[2]
        for held, new in ((self.keys, key), (self.values, value)):
            for room, part in zip(held, narrowed(new, self._kind), strict=True):
                if part is None:
                    continue
                if n > 1:
                    room[:, :, :n].copy_(part)
                else:
                    room.index_copy_(2, self._position, part)
        return (key, value) if n > 1 else (self.keys, self.values)

    def tensors(self) -> list[Any]:
        held = (*(self.keys or ()), *(self.values or ()))
        return [tensor for tensor in held if tensor is not None]


def rounding_cache(model: Any, kind: str, *, prompt_too: bool) -> dict[str, Any]:
    """The cache that `generate()` would hand the model, by its argument, which rounds what it keeps
    to what a cache of that kind holds: transformers' own arithmetic over our numbers.

    `prompt_too`: the first tokens, where they are several, attend to rounded numbers as well.
    """
    made = new_cache(model)
    for cache in made.values():
        for layer in cache.layers:
            layer.update = _rounding(layer, kind, prompt_too=prompt_too)
    return made


def _rounding(layer: Any, kind: str, *, prompt_too: bool) -> Callable[..., Any]:
    keep = layer.update

    def update(key: Any, value: Any, *args: Any, **options: Any) -> Any:
        prompt = not prompt_too and key.shape[2] > 1 and layer.get_seq_length() == 0
        held = keep(rounded(key, kind), rounded(value, kind), *args, **options)
        return (key, value) if prompt else held

    return update


def in_two_passes(run: Callable[..., Any], tokens: Any, n_prompt: int, cache: Any) -> list[Any]:
    """What `run` makes of the prompt, and of the tokens after it, over one cache."""
    import torch

    made = []
    for first, last in ((0, n_prompt), (n_prompt, tokens.shape[1])):
        if last > first:
            positions = torch.arange(first, last, device=tokens.device)[None]
            part = tokens[:, first:last]
            made.append(run(input_ids=part, position_ids=positions, use_cache=True, **cache))
    return made
