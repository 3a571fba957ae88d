"""Engines: load a model, take the two steps of generation, return logits.

An engine has no clock and no policy: `bench.worker` decides what is repeated and what is timed.
One file an engine; a file imports its packages only inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bench.engines.messages import Job, Loaded


class Engine(Protocol):
    """One loaded model in one scheme.

    An engine that can only do whole requests has one more method, `request(n_gen) -> Timed`, which
    the worker then calls in place of the steps; its `prefill` is a request of one token, its `step`
    and `rewind` raise UnsupportedError, and its `clock` has the name of what timed it. An engine
    whose steps return only when the device has done them, by queues that torch does not see, sets
    `clock_device` to `cpu`; one that holds only so many sequences, `most_sequences`; one that has
    other processes compute a part of the model, `others` (a `Ranks`).

    A server, which has many requests in flight, has `request` for the warm-up and one method more,
    `serve(rounds, seconds) -> Served`, for the measured window: at least `rounds` for each of
    `n_batch` sequences, and at least `seconds`. It counts its answers' tokens itself.

    The steps are `start` once a workload; then for each request `reset`, `prefill`, and
    `n_gen - 1` times `step`, then `tokens`. `rewind` goes back to the state just after `prefill`.
    """

    def load(self, job: Job) -> Loaded:
        """Load the weights and apply the scheme. Raises UnsupportedError."""

    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        """Make the prompt and whatever memory the requests of this workload need."""

    def reset(self) -> None:
        """Forget everything but the prompt."""

    def prefill(self) -> None:
        """Process the prompt and choose the first new token of each sequence (greedy)."""

    def step(self) -> None:
        """One more token for each sequence. Must not wait for the device."""

    def rewind(self) -> None:
        """Back to the state after `prefill`."""

    def synchronize(self) -> None:
        """Wait until the device has done everything asked of it."""

    def tokens(self) -> list[list[int]]:
        """New tokens of each sequence since `reset`."""

    def notes(self) -> Mapping[str, Any]:
        """What is known of the workload that was started: seconds of compiling, kernels, ..."""

    def log_probs(self, window: Sequence[int]) -> Any:
        """Log-probabilities of the next token at each position of `window` but the last.

        A float32 array or tensor [len(window) - 1, vocabulary], on the host. Raises
        UnsupportedError where the engine cannot return logits.
        """

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text, without special tokens added. Raises UnsupportedError."""

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of some tokens."""
