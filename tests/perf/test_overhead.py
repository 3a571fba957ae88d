"""What the harness adds to the timed loop, against a bare loop over the same calls.

    scripts/test tests/perf --benchmark-enable -k overhead

Paired in one process: a bare generation and one through the worker's loop, in turn, on the embedded
model. `overhead` in the benchmark's extra info is the median of the pairs' ratios minus 1.
"""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.devices.clock import HostClock
from bench.engines.messages import Job
from bench.engines.transformers.engine import TransformersEngine
from bench.worker import request

N_PROMPT, N_GEN = 16, 17


def bare(model: Any, prompt: Any) -> float:
    """Seconds of N_GEN - 1 decode steps by the plainest loop there is."""
    import torch
    from transformers import DynamicCache

    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        step = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
        token = model(input_ids=prompt, **step).logits[:, -1].argmax(-1, keepdim=True)
        began = time.perf_counter()
        for _ in range(N_GEN - 1):
            token = model(input_ids=token, **step).logits[:, -1].argmax(-1, keepdim=True)
        return time.perf_counter() - began


@pytest.mark.model
def test_overhead_of_the_timed_loop(benchmark: BenchmarkFixture, embedded_folder: Path) -> None:
    runs = TransformersEngine()
    runs.load(
        Job(
            architecture={},
            folder=embedded_folder,
            random_seed=0,
            initializer_range=0.02,
            quant="none",
            mode="eager",
            dtype="auto",
            device="cpu",
            threads=None,
            seed=0,
            replicate=0,
        )
    )
    runs.start(N_PROMPT, N_GEN, 1)
    clock, ratios, turn = HostClock(), [], count()

    def pair() -> None:
        # AB BA: whichever goes second would otherwise profit from warm caches.
        if next(turn) % 2:
            plain = bare(runs._model, runs._prompt)
            ours = sum(request(runs, clock, N_GEN).itl_s)
        else:
            ours = sum(request(runs, clock, N_GEN).itl_s)
            plain = bare(runs._model, runs._prompt)
        ratios.append(ours / plain)

    benchmark.pedantic(pair, rounds=20, warmup_rounds=2)
    benchmark.extra_info["overhead"] = median(ratios) - 1
    benchmark.extra_info["pairs"] = len(ratios)
    assert len(runs.tokens()[0]) == N_GEN  # the same work: 16 gaps each


def test_overhead_of_an_empty_step(benchmark: BenchmarkFixture) -> None:
    """What a mark costs: every gap holds one besides the model's work."""
    clock = HostClock()

    def marks() -> None:
        clock.start()
        for _ in range(1000):
            clock.mark()

    benchmark(marks)
    benchmark.extra_info["steps"] = 1000
    assert len(clock.stop()) == 1000


def test_the_parent_while_a_worker_measures(
    benchmark: BenchmarkFixture, tiny_folder: Path, tmp_path: Path
) -> None:
    """Share of a core that the parent uses over a whole run of real workers."""
    from bench import runner
    from tests.fakes import Quiet
    from tests.runner.test_runner import tiny

    shares = []

    def run() -> None:
        experiment = tiny(tiny_folder, measure={"pairs": 1, "window_s": 5.0})
        cpu, wall = time.process_time(), time.perf_counter()
        outcome = runner.run(experiment, tmp_path / str(len(shares)), Quiet())
        shares.append((time.process_time() - cpu) / (time.perf_counter() - wall))
        assert outcome.failed == 0

    benchmark.pedantic(run, rounds=1)
    benchmark.extra_info["parent_share_of_a_core"] = max(shares)
