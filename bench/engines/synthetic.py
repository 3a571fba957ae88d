"""An engine whose timings are scripted: for testing the method without waiting for time.

It runs through the same worker, records and analysis as the others, on a clock of its own that no
real time moves. Its records have origin `synthetic`, hold no model's figures, and are never mixed
with measured ones. The script is the grid's `[grid.options]`:

    [grid]
    engine = ["synthetic"]
    quant = ["none", "fast"]          # any names: they tell the arms apart
    [grid.options]
    tpot_s = 0.02                     # see Script for the rest
    "speedup.fast" = 1.5              # this arm is so much faster than the level

Standard library only.
"""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import fields
from bench.engines.messages import Job, Loaded
from bench.errors import InputError, UnsupportedError

FAILURES = ("oom", "crash", "kill", "hang", "miscount", "nonfinite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What the timings are made of."""

    prefill_s: float = 0.05
    tpot_s: float = 0.01
    noise: float = 0.0
    """Standard deviation of each step, as a share."""
    restart: float = 0.0
    """Standard deviation between fresh processes, as a share."""
    outliers: float = 0.0
    """Share of requests that are disturbed."""
    outlier_size: float = 0.2
    """How much longer a disturbed request takes, as a share."""
    drift: float = 0.0
    """How much longer each request takes than the one before, as a share."""
    warmup_requests: int = 0
    """Requests at the start that take twice as long."""
    fail: str = ""
    """One of FAILURES, in the replicate `fail_replicate` of the arm `fail_quant`."""
    fail_replicate: int = 0
    fail_quant: str = "none"


class ScriptedClock:
    """Adds up what the steps say they took."""

    name = "scripted"

    def __init__(self) -> None:
        self._durations: list[float] = []
        self.pending = 0.0

    def start(self) -> None:
        self._durations, self.pending = [], 0.0

    def mark(self) -> None:
        self._durations.append(self.pending)
        self.pending = 0.0

    def stop(self) -> list[float]:
        return self._durations


class SyntheticEngine:
    """See `bench.engines.Engine`; nothing is computed."""

    def __init__(self) -> None:
        self.clock = ScriptedClock()
        self._script = Script()
        self._draw = random.Random()
        self._speed = 1.0
        self._fails = ""
        self._slow = 1.0
        self._requests = self._made = 0
        self._batch = 1

    def load(self, job: Job) -> Loaded:
        options = dict(job.options)
        speedups = {k: options.pop(k) for k in list(options) if k.startswith("speedup.")}
        problems: list[str] = []
        script = fields.build(Script, options, "options", problems)
        if script is not None and script.fail and script.fail not in FAILURES:
            problems.append(f"options.fail: {script.fail!r} is not one of {', '.join(FAILURES)}")
        if script is None or problems:
            raise InputError("; ".join(problems))
        self._script = script
        self._draw = random.Random(f"{job.seed}/{job.replicate}/{job.quant}")
        restart = math.exp(script.restart * self._draw.gauss(0, 1))
        self._speed = float(speedups.get(f"speedup.{job.quant}", 1.0)) * restart
        hit = script.fail_quant == job.quant and script.fail_replicate == job.replicate
        self._fails = script.fail if hit else ""
        why = "scripted timings have no model"
        return Loaded(
            device="synthetic",
            dtype="none",
            n_params=None,
            weights_bytes=None,
            quantized_fraction=None,
            dynamic=None,
            kernel=None,
            absent=dict.fromkeys(("n_params", "weights_bytes", "quantized_fraction"), why),
        )

    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        self._batch, self._requests = n_batch, 0
        if self._fails == "oom":
            raise MemoryError("scripted")
        if self._fails == "crash":
            raise RuntimeError("scripted")
        if self._fails == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fails == "hang":
            time.sleep(3600)
        if self._fails == "nonfinite":
            raise UnsupportedError("scripted", "NONFINITE")

    def reset(self) -> None:
        script, number = self._script, self._requests
        self._slow = (1 + script.drift) ** number / self._speed
        if number < script.warmup_requests:
            self._slow *= 2
        if self._draw.random() < script.outliers:
            self._slow *= 1 + script.outlier_size
        self._requests, self._made = number + 1, 0

    def _take(self, seconds: float) -> None:
        noise = math.exp(self._script.noise * self._draw.gauss(0, 1))
        self.clock.pending += seconds * self._slow * noise
        self._made += 1

    def prefill(self) -> None:
        self._take(self._script.prefill_s)

    def step(self) -> None:
        self._take(self._script.tpot_s)

    def rewind(self) -> None:
        self._made = 1

    def synchronize(self) -> None:
        pass

    def tokens(self) -> list[list[int]]:
        made = self._made - (self._fails == "miscount")
        return [[0] * made for _ in range(self._batch)]

    def notes(self) -> Mapping[str, Any]:
        return {}

    def log_probs(self, window: Sequence[int]) -> Any:
        raise UnsupportedError("scripted timings have no logits")

    def tokenize(self, text: str) -> list[int]:
        raise UnsupportedError("scripted timings have no tokenizer, so quality is not measured")

    def detokenize(self, tokens: Sequence[int]) -> str:
        raise UnsupportedError("scripted timings have no tokenizer")
