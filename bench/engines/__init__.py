"""Engines: load a model, take the two steps of generation, return logits.

An engine has no clock and no policy: `bench.worker` decides what is repeated and what is timed.
One file an engine; a file imports its packages only inside functions. What an engine can do beyond
`Engine` are powers, each a protocol here; an engine has one by having its members:

    Engine                      loads a model, starts workloads, tells what it made
    ├── Steps                   prefill and step, timed apart by the worker
    └── WholeRequests           a request at a time, by a clock of its own
        └── Server              many requests in flight
    Batches                     requests that differ, many at once
    OwnClock, WaitsOn           what its steps are timed by
    Limited, Spread             sequences at most, further processes
    bench.quality.Continues     a given prompt, for a look at the text
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from bench.engines.messages import Job, Loaded, Served, Timed

if TYPE_CHECKING:
    from bench.devices.clock import Clock
    from bench.devices.several import Others
    from bench.experiment import Workload


class Engine(Protocol):
    """One loaded model in one scheme.

    `start` once a workload; then for each request `reset`, what its kind of engine does, `tokens`.
    """

    def load(self, job: Job) -> Loaded:
        """Load the weights and apply the scheme. Raises UnsupportedError."""

    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        """Make the prompt and whatever memory the requests of this workload need."""

    def reset(self) -> None:
        """Forget everything but the prompt."""

    def prefill(self) -> None:
        """Process the prompt and choose the first new token of each sequence (greedy)."""

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


@runtime_checkable
class Steps(Engine, Protocol):
    """Takes the steps of a request one by one: `prefill`, then `step` for each further token."""

    def step(self) -> None:
        """One more token for each sequence. Must not wait for the device."""

    def rewind(self) -> None:
        """Back to the state after `prefill`. Raises UnsupportedError where that is forgotten."""


@runtime_checkable
class WholeRequests(Engine, Protocol):
    """Can only do whole requests; its `prefill` is a request of one token."""

    def request(self, n_gen: int) -> Timed:
        """One request of the workload, by the engine's own clock."""


@runtime_checkable
class Server(WholeRequests, Protocol):
    """Has many requests in flight, and counts its answers' tokens itself."""

    def expect(self, workload: Workload) -> None:
        """Told before `start`: what is asked for where requests differ, and the rate of arrivals.
        Raises InputError."""

    def serve(self, rounds: int, seconds: float) -> Served:
        """The measured window: at least `rounds` for each of `n_batch` sequences, and `seconds`."""


@runtime_checkable
class Batches(Protocol):
    """Computes requests that differ together: each joins the batch when another has ended."""

    def together(self, sizes: Sequence[tuple[int, int]], at_once: int) -> Served:
        """Requests of so many prompt and new tokens each, `at_once` of them at a time, in order.
        Raises UnsupportedError."""


@runtime_checkable
class OwnClock(Protocol):
    """Is timed by a clock of its own."""

    clock: Clock


@runtime_checkable
class WaitsOn(Protocol):
    """Steps return only when the device has done them, by queues that torch does not see."""

    clock_device: str
    """The device whose clock sees all of a step: `cpu`."""


@runtime_checkable
class Limited(Protocol):
    """Holds only so many sequences at once."""

    most_sequences: int


@runtime_checkable
class Spread(Protocol):
    """May have other processes compute a part of the model."""

    others: Others | None


def others_of(runs: Engine) -> Others | None:
    """The other processes that hold a part of its model, if there are any."""
    return runs.others if isinstance(runs, Spread) else None
