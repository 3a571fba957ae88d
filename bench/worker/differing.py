"""Requests that differ, on an engine that loads the model itself: one by one, or as a batch that
each joins when another has ended, where the engine can do that.

Every arm measures whole rounds of the same requests, so that a fast arm and a slow one have the
same mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.demand import Asked, demand
from bench.devices.clock import Clock
from bench.engines import Batches, Engine, Server
from bench.engines.messages import Answered, Served
from bench.errors import UnsupportedError
from bench.experiment import Measure, Workload
from bench.worker.requests import Request, check_tokens, request, samples
from bench.worker.window import MeasuringWindow, of_served

NO_ENERGY = "requests that differ are each run once before they are measured, in the same window"


def differing(runs: Engine, workload: Workload, rules: Measure, seed: str) -> list[Asked]:
    """The requests of a round, `iterations` for each sequence; [] where all are alike, or a server
    draws its own. Equal seeds, equal requests, in every arm. Raises UnsupportedError."""
    if isinstance(runs, Server):
        return []
    if workload.slo:
        raise UnsupportedError("--slo needs a server (--url or --serve)")
    if not workload.requests:
        return []
    count = rules.iterations * workload.n_batch
    return demand(workload.requests).requests(f"{seed}/{workload.requests}", count)


def identity(workload: Workload, seed: str) -> dict[str, str]:
    """By which one sees that two arms were asked the same, where requests differ."""
    if not workload.requests:
        return {}
    return {"requests_sha256": demand(workload.requests).sha256(f"{seed}/{workload.requests}")}


def shortest(workload: Workload, asked: Sequence[Asked]) -> Workload:
    """The one that is repeated until its times are steady; the workload itself if all are alike."""
    return _one(workload, min(asked, key=_length)) if asked else workload


def _one(workload: Workload, asked: Asked) -> Workload:
    """A request as a workload of its own."""
    return replace(workload, n_prompt=asked.n_prompt, n_gen=asked.n_gen, requests="")


def _length(asked: Asked) -> int:
    return asked.n_prompt + asked.n_gen


def one_by_one(
    runs: Engine, clock: Clock, workload: Workload, asked: Sequence[Asked], rules: Measure
) -> MeasuringWindow:
    """Rounds of requests one after the other, until they fill the window.

    An engine makes its memory for one size of request, so each is run once before it is measured.
    `wall_s` is the sum of the requests' own times: what is between them is preparation. Notes are
    those of the largest request.
    """
    found: list[Request] = []
    notes: dict[str, Any] = {}
    largest = max(asked, key=_length)
    while not found or _seconds(found) < rules.window_s:
        for one in asked:
            found.append(_measured(runs, clock, _one(workload, one)))
            if one is largest:
                notes = dict(runs.notes())
    n_rounds = len(found) // len(asked)
    lengths = {
        "n_prompt": [one.n_prompt for one in asked] * n_rounds,
        "n_gen": [one.n_gen for one in asked] * n_rounds,
        "n_shared": [0] * len(found),  # prompts are read whole, whatever they begin with
        "n_cached": [0] * len(found),
    }
    told = samples(found) | lengths | {"wall_s": _seconds(found)}
    return MeasuringWindow(samples=told, absent={"energy_j": NO_ENERGY}, notes=notes)


def _seconds(requests: Sequence[Request]) -> float:
    return sum(one.prefill_s + sum(one.itl_s) for one in requests)


def _measured(runs: Engine, clock: Clock, workload: Workload) -> Request:
    runs.start(workload.n_prompt, workload.n_gen, workload.n_batch)
    request(runs, clock, workload.n_gen)
    found = request(runs, clock, workload.n_gen)
    check_tokens(runs, workload)
    return found


def in_batches(
    runs: Batches, workload: Workload, asked: Sequence[Asked], seconds: float
) -> MeasuringWindow:
    """Rounds in which `n_batch` requests are computed at a time, for at least so many seconds.

    `wall_s` is of whole rounds, in which the batch fills and empties.
    """
    sizes = [(one.n_prompt, one.n_gen) for one in asked]
    answered: list[Answered] = []
    wall_s = 0.0
    while not answered or wall_s < seconds:
        served = runs.together(sizes, workload.n_batch)
        answered += served.requests
        wall_s += served.wall_s
    return of_served(Served(requests=answered, wall_s=wall_s))
