"""What the sampler costs the timed loop. Shown, never asserted.

    python -m pytest tests/perf/test_sampler_perf.py --benchmark-enable

`paired` runs a loop without and with the sampler, side by side: `overhead_share` is what it loses,
`nothing_share` what the same comparison shows with no sampler at all, which is the noise of this
machine. Believe the first only where it stands clear of the second.

`each_look` compares the stretch of the loop from a look on with the one just before it:
`bound_share` is what ten looks a second cost at most (upper end of the one-sided 95% signed-rank
interval over some hundred looks). Rare dear looks do not move that; they do move `mean_share` and
`mean_bound_share`, the same of the mean, as does whatever else disturbs a stretch. Run it
on a machine at rest (`others_cores` says what others
used): where processes wait for a core, the loop's thread loses its own whenever it hands over the
lock, which it would have lost a moment later.

`look` shows the time of one look, of which there are ten a second. The library here answers at
once: on a card the call waits in the driver, without the interpreter's lock.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from bench.devices.gpu import meter
from bench.devices.gpu.energy import Sample
from bench.devices.gpu.meter import SAMPLE_S, LivePace
from bench.devices.gpu.nvidia import NvidiaCard
from bench.devices.host import load
from bench.statistics.paired import paired_ratio
from tests.fake_nvml import FakeNvml, field_value

BLOCK_S = 0.2
PAIRS = 25
LOOKS = 300
STRETCH_S = 0.004
"""Of the loop around a look: longer than the interpreter's lock is waited for after it."""


def card() -> NvidiaCard:
    """A card on plain functions: autospecs would cost more than what is measured."""
    power = [field_value(186, 250_000)]
    answers = {
        name: (lambda *_, value=value: value)
        for name, value in FakeNvml().answers.items()
        if not callable(value)
    }
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


def around_looks(reads: NvidiaCard, looks: int) -> list[tuple[float, float]]:
    """Seconds of equally many rounds of the loop just before a look, and from it on."""
    pace, seen = LivePace(), []

    def take() -> Sample:
        seen.append(time.perf_counter())
        return reads.sample(pace.now(), thorough=True)

    marks = [time.perf_counter()]
    pace.start(take)
    try:
        while len(seen) < looks:
            sum(range(1000))
            marks.append(time.perf_counter())
    finally:
        pace.stop()
    typical = statistics.median(b - a for a, b in itertools.pairwise(marks))
    rounds = max(1, round(STRETCH_S / typical))
    places = (bisect.bisect(marks, at) - 1 for at in seen)  # the round in which the look began
    return [
        (marks[at] - marks[at - rounds], marks[at + rounds] - marks[at])
        for at in places
        if rounds <= at < len(marks) - rounds
    ]


def mean_with_bound(values: Sequence[float], z: float = 1.645) -> tuple[float, float]:
    """The mean, and the upper end of its one-sided 95% interval (normal; for hundreds)."""
    mean = statistics.fmean(values)
    return mean, mean + z * statistics.stdev(values) / len(values) ** 0.5


def test_sampler_each_look(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(meter, "SAMPLE_S", 0.02)  # more looks in less time; each costs the same
    reads = card()
    looks = LOOKS if benchmark.enabled else 10
    begun = load.times()
    pairs = benchmark.pedantic(around_looks, args=(reads, looks), rounds=1, iterations=1)
    others = load.between(begun, load.times())
    before, after = zip(*pairs, strict=True)
    found = paired_ratio(before, after, confidence=0.90)
    stretch = statistics.median(before)
    for name, ratio in (("share", found.ratio), ("bound_share", found.ci_high)):
        assert ratio is not None
        benchmark.extra_info[name] = round((ratio - 1) * stretch / SAMPLE_S, 6)
    mean, bound = mean_with_bound([b - a for a, b in pairs])
    benchmark.extra_info["mean_share"] = round(mean / SAMPLE_S, 6)
    benchmark.extra_info["mean_bound_share"] = round(bound / SAMPLE_S, 6)
    benchmark.extra_info["looks"] = len(pairs)
    benchmark.extra_info["others_cores"] = round(others.foreign_cores + others.steal_cores, 2)


def test_sampler_look(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    reads = card()
    sample = benchmark(reads.sample, 0.0, thorough=True)
    assert sample.power_w == 250.0
    if benchmark.stats is not None:  # none while benchmarks are disabled
        share = benchmark.stats.stats.median / SAMPLE_S
        benchmark.extra_info["share_of_a_core"] = round(share, 6)
