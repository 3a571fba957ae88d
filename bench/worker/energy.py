"""Energy of prefill and of decode apart, each in windows of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from bench.devices import Reader, Reading
from bench.engines import Engine, Server, Steps
from bench.errors import UnsupportedError
from bench.experiment import Measure, Workload
from bench.worker.messages import Event, Phase

Emit = Callable[[Event], None]


def energy(
    runs: Engine,
    reader: Reader,
    workload: Workload,
    rules: Measure,
    phase: Emit,
    reasons: set[str],
) -> dict[str, Any]:
    """Energy of prefill and of decode apart, each repeated to fill a window; {} if unreadable.

    A server's cannot be told apart: the energy of its whole window is all there is.
    """
    if not reader.has_energy or isinstance(runs, Server):
        return {}

    decode_tokens = workload.n_gen - 1

    def prefill() -> int:
        runs.reset()
        runs.prefill()
        return workload.n_prompt * workload.n_batch

    def decode() -> int:
        if not isinstance(runs, Steps):
            raise UnsupportedError("the engine does whole requests, not single steps")
        runs.rewind()
        return decode_after_prefill()

    def decode_after_prefill() -> int:
        assert isinstance(runs, Steps)
        for _ in range(decode_tokens):
            runs.step()
        return decode_tokens * workload.n_batch

    def again() -> int:
        prefill()
        return decode_after_prefill()

    def figures_of(work: Callable[[], int]) -> dict[str, Any]:
        reading, tokens = fill(reader, runs, work, rules.window_s)
        reasons.update(reading.reasons)
        return dict(reading.energy) | {"tokens": tokens, "absent": dict(reading.absent)}

    phase(Phase(phase="energy of prefill"))
    figures = {"prefill": figures_of(prefill)}
    if workload.n_gen == 1:
        return figures
    phase(Phase(phase="energy of decode"))
    try:
        figures["decode"] = figures_of(decode)
    except UnsupportedError as error:  # the engine cannot repeat this part alone
        if not isinstance(runs, Steps):
            return figures | {"decode": {"absent": {"energy_j": str(error)}}}
        prompts = figures["prefill"]["tokens"] / (workload.n_prompt * workload.n_batch)
        passes = decode_tokens * workload.n_batch
        figures["decode"] = without_prefill(figures_of(again), passes, figures["prefill"], prompts)
    return figures


def without_prefill(
    whole: Mapping[str, Any], a_pass: int, prefill: Mapping[str, Any], prompts: float
) -> dict[str, Any]:
    """The energy of decoding, as whole requests take less their prefills: of a cache that cannot
    go back, where a prompt is read again before each pass.

    `a_pass`: tokens that a pass makes; `prompts`: passes over the prompt in `prefill`. Errors that
    are shares grow as the difference is smaller than what it was taken from.
    """
    why = "the energy of whole requests less that of their prefills is not above zero"
    passes = whole["tokens"] / a_pass
    if "energy_j" not in whole or "energy_j" not in prefill:
        return {"tokens": whole["tokens"], "absent": dict(whole["absent"] or prefill["absent"])}
    left = {
        name: whole[name] - passes * prefill[name] / prompts
        for name in ("energy_j", "window_s")
        if name in whole and name in prefill
    }
    if left["energy_j"] <= 0 or left.get("window_s", 1.0) <= 0:
        return {"tokens": whole["tokens"], "absent": {**whole["absent"], "energy_j": why}}
    found = dict(whole) | left | {"measured_as": "whole requests less their prefills"}
    grown = whole["energy_j"] / left["energy_j"]
    for name in ("systematic_error", "edge_error"):
        if found.get(name) is not None:
            found[name] *= grown
    if "window_s" in left:
        found["mean_power_w"] = left["energy_j"] / left["window_s"]
    for name in ("cross_check_j", "cross_check_ratio", "cross_check_agrees"):
        found.pop(name, None)  # of the whole window, not of this part
    return found


def fill(
    reader: Reader, runs: Engine, work: Callable[[], int], seconds: float
) -> tuple[Reading, int]:
    """Repeat `work` for at least `seconds` between the reader's edges; the tokens it made."""
    tokens = 0
    work()  # fails, if it must, before the window is open
    runs.synchronize()
    reader.begin()
    end = time.perf_counter() + seconds
    while tokens == 0 or time.perf_counter() < end:
        tokens += work()
        runs.synchronize()
    return reader.end(), tokens
