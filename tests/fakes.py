"""Stand-ins for what tests must script: a clock, an engine, a reader, a progress display."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

from bench.devices import Reading
from bench.engines.messages import Job, Loaded


class FakeClock:
    """Each step takes the next of the scripted seconds."""

    name = "fake"

    def __init__(self, seconds: Iterable[float]) -> None:
        self._seconds: Iterator[float] = cycle(seconds)
        self._durations: list[float] = []

    def start(self) -> None:
        self._durations = []

    def mark(self) -> None:
        self._durations.append(next(self._seconds))

    def stop(self) -> list[float]:
        return self._durations


class FakeEngine:
    """Counts what is asked of it; makes one token a step, or fewer if told to."""

    def __init__(self, *, lost_tokens: int = 0) -> None:
        self.calls: list[str] = []
        self._made = 0
        self._batch = 1
        self._lost = lost_tokens

    def load(self, job: Job) -> Loaded:
        raise AssertionError("not used")

    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        self._batch = n_batch

    def reset(self) -> None:
        self.calls.append("reset")
        self._made = 0

    def prefill(self) -> None:
        self.calls.append("prefill")
        self._made = 1

    def step(self) -> None:
        self.calls.append("step")
        self._made += 1

    def rewind(self) -> None:
        self.calls.append("rewind")
        self._made = 1

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def tokens(self) -> list[list[int]]:
        return [[0] * (self._made - self._lost)] * self._batch

    def notes(self) -> Mapping[str, Any]:
        return {}

    def log_probs(self, window: Sequence[int]) -> Any:
        raise AssertionError("not used")

    def tokenize(self, text: str) -> list[int]:
        raise AssertionError("not used")

    def detokenize(self, tokens: Sequence[int]) -> str:
        raise AssertionError("not used")


class FakeReader:
    """Windows that read what they are told."""

    def __init__(self, reading: Reading | None = None, *, has_energy: bool = False) -> None:
        self.has_energy = has_energy
        self.windows = 0
        self._reading = reading or Reading()

    def identity(self) -> dict[str, Any]:
        return {}

    def begin(self) -> None:
        pass

    def end(self) -> Reading:
        self.windows += 1
        return self._reading

    def idle(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


class Quiet:
    """A progress display that keeps what it was told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, done: int, total: int, title: str) -> None:
        self.steps.append(title)

    def phase(self, text: str) -> None:
        pass
