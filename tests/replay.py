"""A recorded trace as a card: the same windows, figures and reasons, without the device.

A trace is JSON: `series` holds for each figure its changes as [seconds, value], `absent` why a
figure was not recorded, `stalls` the times in which looking at the device took long, `power_w` of
`truth` the power that a synthetic trace was made from. `scripts/record-nvml-trace` records one,
`tests/make_traces.py` invents some.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.devices.figures import Figures, Unreadable, above_zero
from bench.devices.gpu.energy import Sample
from bench.devices.gpu.meter import SAMPLE_S
from bench.devices.gpu.reader import GpuReader
from bench.errors import InputError
from scripts.trace_recording import FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What one device showed over some time."""

    origin: str
    """`measured` or `synthetic`."""
    about: str
    identity: Mapping[str, Any] = field(default_factory=dict)
    series: Mapping[str, Sequence[tuple[float, Any]]] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    stalls: Sequence[tuple[float, float]] = ()
    no_energy: str | None = None
    truth: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What was learned while it was recorded: tick period, idle lag, which fields answer."""

    def at(self, name: str, at_s: float) -> Any:
        """The value of a figure at a time. Raises Unreadable if it was not recorded."""
        changes = self.series.get(name)
        if not changes:
            raise Unreadable(self.absent.get(name, "not in the trace"))
        place = bisect.bisect_right(changes, at_s, key=lambda change: change[0])
        return changes[max(place - 1, 0)][1]

    def true_energy_j(self, begin_s: float, end_s: float) -> float:
        """Energy that a synthetic trace's device drew: its power is straight between points."""
        points = self.truth["power_w"]
        knots = sorted({begin_s, end_s, *(at for at, _ in points if begin_s < at < end_s)})
        return sum(
            (b - a) * (_between(points, a) + _between(points, b)) / 2 for a, b in pairwise(knots)
        )


def read_trace(path: Path) -> Trace:
    """Read a trace; InputError if it is not one."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a trace: {error}") from error
    if not isinstance(table, dict) or table.pop("format", None) != FORMAT:
        raise InputError(f"{path}: not a trace of format {FORMAT}")
    try:
        return Trace(**table)
    except TypeError as error:
        raise InputError(f"{path}: {error}") from error


class TracePace:
    """Time that passes when it is told to, with samples at the times a thread would take them."""

    def __init__(self, stalls: Sequence[tuple[float, float]] = (), start_s: float = 0.0) -> None:
        self._now = start_s
        self._stalls = stalls
        self._take: Callable[[], Sample] | None = None
        self._due = 0.0
        self._samples: list[Sample] = []

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        until = self._now + seconds
        while self._take is not None and self._due <= until:
            self._now = max(self._now, self._due)
            self._sample()
        self._now = until

    def start(self, take: Callable[[], Sample]) -> None:
        self._take, self._samples = take, []
        self._sample()

    def stop(self) -> list[Sample]:
        self._take = None
        return self._samples

    def _sample(self) -> None:
        assert self._take is not None
        self._samples.append(self._take())
        due = self._now + SAMPLE_S
        # A look that falls into a stall is answered when the stall is over.
        self._due = next((end for begin, end in self._stalls if begin <= due < end), due)


class TraceCard:
    """A card that shows what a trace recorded."""

    counter = "trace"
    scope = "gpu-board"
    systematic_error: float | None = None

    def __init__(self, trace: Trace, pace: TracePace) -> None:
        self._trace = trace
        self._pace = pace
        self._missing: dict[str, str] = {}
        self.no_energy = trace.no_energy

    def identity(self) -> Mapping[str, Any]:
        return self._trace.identity

    def state(self) -> Mapping[str, Any]:
        return {}

    def counter_mj(self) -> int:
        return int(self._number("counter_mj", self._pace.now()))

    def sample(self, at_s: float, *, thorough: bool) -> Sample:
        slow = ("temperature_c", "sm_mhz", "memory_mhz", "used_bytes") if thorough else ()
        seen = Figures()
        counter = ("counter_mj",) if thorough and self.no_energy is None else ()
        for name in (*counter, "power_w", *slow):
            seen.read(name, lambda name=name: self._number(name, at_s))  # type: ignore[misc]  # mypy infers no lambda with defaults
        seen.read("events", lambda: frozenset(self._trace.at("events", at_s)))
        self._missing |= seen.absent
        return Sample(at_s=at_s, **seen.values)

    def _number(self, name: str, at_s: float) -> float:
        value = self._trace.at(name, at_s)
        if name in ("power_w", "sm_mhz", "memory_mhz"):
            above_zero(name, value)
        if not isinstance(value, int | float):
            raise Unreadable(f"{name}: {value!r} is not a number")
        return value

    def held_s(self) -> Mapping[str, float]:
        held: Mapping[str, float] = self._trace.at("held_s", self._pace.now())
        return held

    def foreign(self) -> Sequence[int]:
        others: Sequence[int] = self._trace.at("foreign", self._pace.now())
        return others

    def missing(self) -> Mapping[str, str]:
        return self._missing

    def close(self) -> None:
        """Nothing is held."""


class ReplayReader(GpuReader):
    """Reads windows of a trace; `work` stands for the work between `begin` and `end`."""

    def __init__(self, trace: Trace, *, start_s: float = 0.0, align: bool = True) -> None:
        self.pace = TracePace(trace.stalls, start_s)
        super().__init__(TraceCard(trace, self.pace), pace=self.pace, align=align)

    def work(self, seconds: float) -> None:
        """Let the trace run on."""
        self.pace.sleep(seconds)


def _between(points: Sequence[tuple[float, float]], at_s: float) -> float:
    """The value at a time on the straight lines between points; the ends hold on."""
    place = bisect.bisect_right(points, at_s, key=lambda point: point[0])
    if place == 0:
        return points[0][1]
    if place == len(points):
        return points[-1][1]
    (a, before), (b, after) = points[place - 1], points[place]
    return before + (after - before) * (at_s - a) / (b - a)
