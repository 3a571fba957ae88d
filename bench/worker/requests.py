"""Requests one after the other: each timed, and when they are steady.

The only timing loop: nothing but the engine's steps and the clock's marks is in it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.devices.clock import Clock
from bench.engines import Engine, Server, Steps, WholeRequests
from bench.engines.messages import Timed
from bench.errors import UnsupportedError
from bench.experiment import Measure, Workload
from bench.worker.steady import has_trend, is_steady


@dataclass(slots=True)
class Request:
    """One prompt and its answer: seconds to the first token, then between tokens."""

    prefill_s: float
    itl_s: list[float]
    host_s: float
    """Wall time on the host around the whole request, with the device synchronised."""


def request(runs: Engine, clock: Clock, n_gen: int) -> Request:
    """Run and time one request. Nothing but the engine's steps and the marks is in the loop."""
    runs.reset()
    runs.synchronize()
    before = time.perf_counter()
    if isinstance(runs, WholeRequests):
        return by_its_own_clock(runs.request(n_gen), time.perf_counter() - before)
    assert isinstance(runs, Steps)
    clock.start()
    runs.prefill()
    clock.mark()
    for _ in range(n_gen - 1):
        runs.step()
        clock.mark()
    first, *gaps = clock.stop()
    return Request(prefill_s=first, itl_s=gaps, host_s=time.perf_counter() - before)


def by_its_own_clock(timed: Timed, host_s: float) -> Request:
    """A request that the engine timed itself, held against the host's clock around it."""
    own_s = timed.prefill_s + sum(timed.itl_s)
    if own_s > host_s * 1.01:
        raise UnsupportedError(
            f"the engine reports {own_s:.6f} s for a request that took {host_s:.6f} s in all"
        )
    return Request(prefill_s=timed.prefill_s, itl_s=timed.itl_s, host_s=host_s)


def check_tokens(runs: Engine, workload: Workload) -> None:
    """Exactly n_gen new tokens for each sequence, or the figures are of other work."""
    if isinstance(runs, Server):  # each answer's count was checked as it came
        return
    made = [len(sequence) for sequence in runs.tokens()]
    if made != [workload.n_gen] * workload.n_batch:
        raise UnsupportedError(
            f"made {made} tokens, not {workload.n_gen} for each of {workload.n_batch} sequences",
            "TOKEN_COUNT",
        )


@dataclass(slots=True)
class Spent:
    """Requests run one after the other, and the time they took by their own clock."""

    requests: list[Request] = field(default_factory=list)

    def add(self, one: Request) -> None:
        self.requests.append(one)

    @property
    def seconds(self) -> float:
        return sum(one.prefill_s + sum(one.itl_s) for one in self.requests)

    @property
    def prefills(self) -> list[float]:
        return [one.prefill_s for one in self.requests]

    @property
    def decodes(self) -> list[float]:
        return [sum(one.itl_s) for one in self.requests]


PHASES: Final = ("prefill", "decode")


def to_steady(runs: Engine, spent: Spent) -> dict[tuple[str, ...], list[float]]:
    """Phases -> the times that must be steady: prefill and decode, each on its own; of a server
    whole requests, as TTFT includes network and queueing, so it never settles."""
    if isinstance(runs, Server):
        return {PHASES: [one.prefill_s + sum(one.itl_s) for one in spent.requests]}
    times: dict[tuple[str, ...], list[float]] = {("prefill",): spent.prefills}
    if spent.requests[0].itl_s:
        times["decode",] = spent.decodes
    return times


def warm_up(runs: Engine, clock: Clock, workload: Workload, rules: Measure) -> dict[str, Any]:
    """Requests until both prefill and decode are steady, or the limit is reached.

    At the limit, what only scatters counts as steady, and what still rises or falls does not;
    `unsteady` names the phases of which that is so: the others stand.
    """
    spent = Spent()
    steady = False
    while not steady and (not spent.requests or spent.seconds < rules.warmup_max_s):
        spent.add(request(runs, clock, workload.n_gen))
        times = to_steady(runs, spent).values()
        steady = all(_agree(each, rules.warmup_window) for each in times)
    check_tokens(runs, workload)
    unsteady = [] if steady else _moving(to_steady(runs, spent))
    return {
        "steady": not unsteady,
        "unsteady": unsteady,
        "agreed": steady,
        "prefill_s": spent.prefills,
        "decode_s": spent.decodes,
    }


NOISY: Final = 12
"""On a machine that others use, a few requests hardly ever agree; the medians of six do."""


def _agree(durations: Sequence[float], window: int) -> bool:
    return any(is_steady(durations, window=n) for n in (window, NOISY))


def _moving(times: Mapping[tuple[str, ...], Sequence[float]]) -> list[str]:
    """The phases whose times still rise or fall."""
    return [phase for phases, each in times.items() if has_trend(each) for phase in phases]


def samples(requests: Sequence[Request]) -> dict[str, Any]:
    """The raw figures of some requests: one list an iteration, nothing carried over."""
    return {
        "prefill_s": [one.prefill_s for one in requests],
        "itl_s": [one.itl_s for one in requests],
        "e2e_s": [one.prefill_s + sum(one.itl_s) for one in requests],
        "host_s": [one.host_s for one in requests],
    }
