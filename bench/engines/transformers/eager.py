"""Greedy decoding with a transformers model, step by step: what a mode is, and the eager one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

from bench.engines.transformers import self_check
from bench.engines.transformers.self_check import Full, Judged
from bench.errors import UnsupportedError


class Decoder(Protocol):
    """One way to execute the steps of generation (a mode). All of it runs in inference mode."""

    @property
    def notes(self) -> Mapping[str, Any]:
        """What is known of the workload that was started: `cache_bytes`, seconds to compile, ..."""

    def start(self, prompt: Any, n_gen: int) -> None:
        """Make what requests of `prompt` (tokens [batch, length]) continued by `n_gen` need."""

    def reset(self) -> None:
        """Forget everything but the prompt."""

    def prefill(self) -> None:
        """The first new token of each sequence."""

    def step(self) -> None:
        """One more token for each sequence."""

    def rewind(self) -> None:
        """Back to the state after `prefill`."""

    def tokens(self) -> Any:
        """New tokens since `reset`, a tensor [batch, made]."""

    def plain(self) -> AbstractContextManager[Any]:
        """Meanwhile the model computes as transformers alone has it."""

    def checked(self, full: Full, tolerance: float) -> Judged:
        """Hold the workload that was started against full passes. Raises UnsupportedError."""


CACHES: Final[Mapping[str, str]] = {
    "past_key_values": "past_key_values",
    "cache_params": "cache_params",
    "state": "state",
    "mems": "past_key_values",
    "past_buckets_states": "past_key_values",
}
"""What models call the cache that they return -> the argument that takes it at the next step."""


def new_cache(model: Any) -> dict[str, Any]:
    """The cache that `generate()` would hand the model first, by its argument; {} for a model that
    makes its own."""
    from transformers import DynamicCache

    if not model._supports_default_dynamic_cache():
        return {}
    accepts = inspect.signature(model.forward).parameters
    name = "past_key_values" if "past_key_values" in accepts else "cache_params"
    return {name: DynamicCache(config=model.config.get_text_config(decoder=True))}


def tensors_in(value: Any, seen: dict[int, Any]) -> dict[int, Any]:
    """Every tensor within a cache, keys, values and states of linear layers, by its memory; those
    of the meta device, which have none, each. A position that a layer counts is none of them."""
    if hasattr(value, "element_size"):
        if value.dim() > 1:
            seen[value.data_ptr() or id(value)] = value
    elif isinstance(value, dict):
        for item in value.values():
            tensors_in(item, seen)
    elif isinstance(value, list | tuple):
        for item in value:
            tensors_in(item, seen)
    elif type(value).__module__.startswith("transformers.") and hasattr(value, "__dict__"):
        for item in vars(value).values():
            tensors_in(item, seen)
    return seen


class Eager:
    """Each operation launched from Python, in a cache that grows: what `generate()` does."""

    def __init__(self, model: Any, make_cache: Callable[[], dict[str, Any]] | None = None) -> None:
        """`make_cache`: the model's first cache by its argument; None: as `new_cache`."""
        self._model = model
        self._make_cache = make_cache
        accepts = inspect.signature(model.forward).parameters
        self._positions = "position_ids" in accepts
        self._one = {"logits_to_keep": 1} if "logits_to_keep" in accepts else {}
        self._cache: dict[str, Any] = {}
        self._length = 0

    @property
    def notes(self) -> Mapping[str, Any]:
        """Bytes of the keys and values that the cache holds now, its state of linear layers too."""
        tensors = tensors_in(self._cache, {}).values()
        return {"cache_bytes": sum(t.numel() * t.element_size() for t in tensors)}

    @property
    def kept(self) -> Any:
        """The model's cache as the last pass left it; None without."""
        return next(iter(self._cache.values()), None)

    def start(self, prompt: Any, n_gen: int) -> None:  # noqa: ARG002  # the cache grows by itself
        self._prompt = prompt
        self.reset()

    def reset(self) -> None:
        self._cache = new_cache(self._model) if self._make_cache is None else self._make_cache()
        self._length = 0
        self._new: list[Any] = []

    def _next(self, tokens: Any) -> Any:
        # Of layers on several devices the last has the logits, and the first needs the token.
        return self.logits(tokens).argmax(-1, keepdim=True).to(self._prompt.device)

    def logits(self, tokens: Any) -> Any:
        """Logits [batch, vocabulary] after the last of `tokens` [batch, length]."""
        import torch

        given = dict(self._cache)
        end = self._length + tokens.shape[1]
        if self._positions:  # some models count from 0 at each step without
            given["position_ids"] = torch.arange(self._length, end, device=tokens.device)[None]
        made = self._model(input_ids=tokens, use_cache=True, **given, **self._one)
        self._length = end
        for name, argument in CACHES.items():
            if made.get(name) is not None:
                self._cache = {argument: made[name]}
                break
        return made.logits[:, -1]

    def plain(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def checked(self, full: Full, tolerance: float) -> Judged:
        import torch

        prompt, whole = self_check.rows_of(self._prompt), self._prompt
        self._prompt = prompt
        try:
            self.reset()
            found = [self.logits(prompt)]
            tokens = [prompt]
            for _ in range(self_check.STEPS):
                tokens.append(found[-1].argmax(-1, keepdim=True).to(prompt.device))
                found.append(self.logits(tokens[-1]))
            expected = self_check.finite(full(torch.cat(tokens, dim=1), len(found)))
            what = f"a step of {type(self._model).__name__} with its cache"
            return self_check.judge(torch.stack(found, dim=1), expected, tolerance, what)
        finally:
            self._prompt = whole
            self.reset()

    def prefill(self) -> None:
        self._new = [self._next(self._prompt)]

    def step(self) -> None:
        self._new.append(self._next(self._new[-1]))

    def rewind(self) -> None:
        made = len(self._new) - 1
        if made == 0:
            return
        try:
            for cache in self._cache.values():
                cache.crop(-made)  # negative: tokens to drop from the end
        except (AttributeError, RuntimeError, ValueError, NotImplementedError) as error:
            # A sliding window or a linear layer has forgotten what it would go back to.
            raise UnsupportedError(f"this model's cache cannot be rewound: {error}") from error
        self._length -= made
        del self._new[1:]

    def tokens(self) -> Any:
        import torch

        return torch.cat(self._new, dim=1) if self._new else self._prompt[:, :0]
