"""What the sampler costs the timed loop. Shown, never asserted.

    python -m pytest tests/perf/test_sampler_perf.py --benchmark-enable

`paired` runs a loop without and with the sampler, side by side: `overhead_share` is what it loses,
`nothing_share` what the same comparison shows with no sampler at all, which is the noise of this
machine. Believe the first only where it stands clear of the second. `look` shows the time of one
look, of which there are ten a second. The library
here answers at once: on a card the call waits in the driver, without the interpreter's lock.
"""

from __future__ import annotations

import statistics
import time
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from bench.devices.energy import Sample
from bench.devices.meter import SAMPLE_S, LivePace
from bench.devices.nvidia import NvidiaCard
from tests.fake_nvml import FakeNvml, field_value

BLOCK_S = 0.2
PAIRS = 25


def card() -> NvidiaCard:
    """A card on plain functions: autospecs would cost more than what is measured."""
    power = [field_value(186, 250_000)]
    answers = {name: (lambda *_, value=value: value) for name, value in FakeNvml().answers.items()
               if not callable(value)}  # fmt: skip
    plain = SimpleNamespace(**{**vars(pynvml), **answers})
    plain.nvmlDeviceGetHandleByIndex = lambda _index: "card-0"
    plain.nvmlDeviceGetTotalEnergyConsumption = lambda _handle: 1_000_000
    plain.nvmlDeviceGetFieldValues = lambda _handle, _numbers: power
    return NvidiaCard("cuda:0", plain)


def steps(seconds: float) -> int:
    """A loop that holds the interpreter's lock, as eager decoding does; how often it went round."""
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(1000))
        count += 1
    return count


def lost(reads: NvidiaCard, pace: LivePace, *, sampler: bool) -> float:
    """Share of its rounds that the loop loses in the middle half of a block, in ABBA order."""

    def take() -> Sample:
        return reads.sample(pace.now(), thorough=True)

    def middle() -> int:
        if sampler:
            pace.start(take)
        try:
            return steps(BLOCK_S / 2)
        finally:
            pace.stop()

    before, inside = steps(BLOCK_S / 2), middle() + middle()
    return 1 - inside / (before + steps(BLOCK_S / 2))


def test_sampler_paired(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    reads, pace = card(), LivePace()
    shares: dict[bool, list[float]] = {True: [], False: []}

    def pair() -> None:
        for sampler in (True, False):
            shares[sampler].append(lost(reads, pace, sampler=sampler))

    benchmark.pedantic(pair, rounds=PAIRS, iterations=1)
    for name, values in (("overhead", shares[True]), ("nothing", shares[False])):
        benchmark.extra_info[f"{name}_share"] = round(statistics.median(values), 5)
        if len(values) > 1:
            error = statistics.stdev(values) / len(values) ** 0.5
            benchmark.extra_info[f"{name}_standard_error"] = round(error, 5)


def test_sampler_look(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    reads = card()
    sample = benchmark(reads.sample, 0.0, thorough=True)
    assert sample.power_w == 250.0
    if benchmark.stats is not None:  # none while benchmarks are disabled
        share = benchmark.stats.stats.median / SAMPLE_S
        benchmark.extra_info["share_of_a_core"] = round(share, 6)
