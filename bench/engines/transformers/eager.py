"""Greedy decoding with a transformers model, step by step: what a mode is, and the eager one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

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


class Eager:
    """Each operation launched from Python, in a cache that grows: what `generate()` does."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None

    @property
    def notes(self) -> Mapping[str, Any]:
        """Bytes of the keys and values that the cache holds now, its state of linear layers too."""
        tensors = [
            value
            for layer in getattr(self._cache, "layers", ())
            for value in vars(layer).values()
            if hasattr(value, "element_size")
        ]
        return {"cache_bytes": sum(t.numel() * t.element_size() for t in tensors)}

    def start(self, prompt: Any, n_gen: int) -> None:  # noqa: ARG002  # the cache grows by itself
        self._prompt = prompt
        self.reset()

    def reset(self) -> None:
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self._model.config)
        self._new: list[Any] = []

    def _next(self, tokens: Any) -> Any:
        # Of layers on several devices the last has the logits, and the first needs the token.
        return self.logits(tokens).argmax(-1, keepdim=True).to(self._prompt.device)

    def logits(self, tokens: Any) -> Any:
        """Logits [batch, vocabulary] after the last of `tokens` [batch, length]."""
        return self._model(
            input_ids=tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        ).logits[:, -1]

    def prefill(self) -> None:
        self._new = [self._next(self._prompt)]

    def step(self) -> None:
        self._new.append(self._next(self._new[-1]))

    def rewind(self) -> None:
        if len(self._new) == 1:
            return
        try:
            self._cache.crop(-(len(self._new) - 1))  # negative: tokens to drop from the end
        except ValueError as error:  # a sliding window has forgotten what it would go back to
            raise UnsupportedError(f"this model's cache cannot go back: {error}") from error
        del self._new[1:]

    def tokens(self) -> Any:
        import torch

        return torch.cat(self._new, dim=1) if self._new else self._prompt[:, :0]
