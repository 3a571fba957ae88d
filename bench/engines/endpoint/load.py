"""What a pattern of requests amounts to while it runs: which answers are measured, and when to end.

A judge is told of each request as it is sent and as it ends, by one process or by several
(`bench.engines.endpoint.sending`), and says whether more are to be sent.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bench.engines.endpoint.client import Answer

Command = Literal["go", "drain", "stop"]
"""Send on; send no more and wait for what is in flight; leave that as well."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request is being sent."""

    place: int
    """Which one of the load."""
    at_ns: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A request was answered, or failed."""

    place: int
    answer: Answer
    delay_s: float | None
    """How late it was begun: against its plan, or after the one before it; None for the first."""


@dataclass(slots=True)
class ClientLoad:
    """What one client process says of itself after a load. Times are of its own event loop."""

    lags_s: list[float] = field(default_factory=list)
    """How late the event loop woke up, at each beat."""
    stamps_late_s: list[float] = field(default_factory=list)
    """How late the stamp of each arrival may be at most."""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int | None = None
    """Most memory that it has held; None where the system does not say."""


@dataclass(slots=True)
class Window:
    """What a load pattern saw. Times are of `time.perf_counter_ns`."""

    answers: list[Answer] = field(default_factory=list)
    """Those that ended within the window, in that order."""
    begin_ns: int = 0
    end_ns: int = 0
    delays_s: list[float] = field(default_factory=list)
    """How late each request was begun: against its plan, or after the one before it had ended."""
    clients: Sequence[ClientLoad] = ()
    """One of each client process."""
    n_ramp: int = 0
    """Requests that were answered before the window began: the loop was filling."""
    last_ns: int = 0
    """When the last of `answers` ended."""
    cut_short: bool = False
    """Whether so many requests were beyond their limits that the rest was not waited for."""
    served_share: float | None = None
    """Requests that ended while the judged ones arrived, as a share of those; None where a request
    takes too long to tell."""

    @property
    def wall_s(self) -> float:
        return (self.end_ns - self.begin_ns) / 1e9

    @property
    def n_failed(self) -> int:
        return sum(answer.failure is not None for answer in self.answers)

    def fails(self, planned: int, allowed: float) -> bool:
        """Whether a larger share failed than may, of those planned or ended, whichever is more."""
        return self.n_failed > allowed * max(planned, len(self.answers))


class Judge(ABC):
    """Fills a window with what it is told of, and says when it is enough."""

    def __init__(self) -> None:
        self.window = Window()
        self.command: Command = "go"

    def begin(self, begin_ns: int) -> None:  # noqa: B027  # a closed loop has no plan
        """Times of a plan count from here."""

    @abstractmethod
    def take(self, happened: Sent | Ended) -> None:
        """Of several processes what each tells is in order, and all of it nearly so."""

    def closed(self, clients: Sequence[ClientLoad]) -> Window:
        """The window, once all requests have ended or been left."""
        self.window.clients = clients
        return self.window


class ClosedWindow(Judge):
    """A window in the midst of a closed loop of `concurrency` requests in flight.

    It begins when the first `concurrency` requests have been answered and ends with the last answer
    of a whole number of such rounds: requests of equal length tend to stay in step, and a window
    that cut a round would count more or less of it than of its time. Where more requests fail than
    may, no more are sent, and those in flight are waited for, to be counted.
    """

    def __init__(
        self, concurrency: int, *, rounds: int, seconds: float, allow_failed: float
    ) -> None:
        super().__init__()
        self._concurrency = concurrency
        self._least, self._seconds = rounds * concurrency, seconds
        self._allow_failed = allow_failed

    def take(self, happened: Sent | Ended) -> None:
        if isinstance(happened, Sent) or self.command == "stop":
            return
        window, answer = self.window, happened.answer
        if window.begin_ns and happened.delay_s is not None:
            window.delays_s.append(happened.delay_s)
        if not window.begin_ns and answer.failure is None:
            window.n_ramp += 1
            window.last_ns = max(window.last_ns, answer.ended_ns)
            if window.n_ramp == self._concurrency:
                window.begin_ns = window.last_ns
            return
        window.answers.append(answer)
        window.end_ns = max(window.end_ns, answer.ended_ns)
        self.command = self._next_command()

    def _next_command(self) -> Command:
        window = self.window
        if self.command == "drain" or window.fails(self._least, self._allow_failed):
            return "drain"
        answered = len(window.answers) - window.n_failed
        whole = answered >= self._least and answered % self._concurrency == 0
        full = window.begin_ns and whole and window.wall_s >= self._seconds
        return "stop" if full else "go"


class OpenWindow(Judge):
    """A window of all requests of a plan, from the first arrival to the last answer, as vLLM's
    benchmark has it. Where more of the `planned` fail than may, no more are sent."""

    def __init__(self, planned: int, *, allow_failed: float) -> None:
        super().__init__()
        self._planned, self._allow_failed = planned, allow_failed

    def begin(self, begin_ns: int) -> None:
        self.window.begin_ns = begin_ns

    def take(self, happened: Sent | Ended) -> None:
        if isinstance(happened, Sent):
            return
        window = self.window
        if happened.delay_s is not None:
            window.delays_s.append(happened.delay_s)
        window.answers.append(happened.answer)
        window.end_ns = max(window.end_ns, happened.answer.ended_ns)
        if window.fails(self._planned, self._allow_failed):
            self.command = "drain"


def arrivals(rate: float, count: int, seed: str) -> list[float]:
    """Seconds at which `count` requests of a Poisson process arrive; the first at 0."""
    draw = random.Random(seed)
    times = [0.0]
    while len(times) < count:
        times.append(times[-1] + draw.expovariate(rate))
    return times
