"""Energy over a window from a counter that ticks. Pure: live readers and replays use this code.

The counter holds its value between ticks, 20 to 100 ms apart on NVIDIA cards, so a value read at
a moment is up to one tick old. A window therefore opens at a tick. Where it closes, the last tick
before it is known by its value, and its time from the next tick and the counter's period; the
rest of the window, less than one tick, is taken to have drawn the window's mean power:

    E = (value at close - value at open) x (close - open) / (last tick - open)

So what the device draws after the work, while the next tick is waited for, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.devices.figures import Unreadable

SHORT_S = 30.0
"""Windows shorter than this are marked: a published figure needs the longer ones."""

GAP_S = 3.0
"""Samples further apart than this leave the window unwatched (SAMPLE_GAP)."""

CROSS_CHECK_LIMIT = 0.05
"""Share by which the integral of the power samples may differ from the counter."""

LEAST_TICKS = 5
"""Below this the part of a tick that is filled in would be a large share of the figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one look at the device saw; None where this look did not read it."""

    at_s: float
    """Monotonic time."""
    counter_mj: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    sm_mhz: float | None = None
    memory_mhz: float | None = None
    used_bytes: int | None = None
    busy: float | None = None
    """Share of the last moments (up to a second) in which any kernel ran, whosever."""
    events: frozenset[str] | None = None
    """Why the clocks are not at their highest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One end of a window."""

    at_s: float
    """When the window opens or closes."""
    counter_mj: int
    """The counter's value then."""
    tick_s: float
    """When the counter took that value; `at_s` where no tick was seen."""
    uncertain_s: float
    """Width of the time in which that tick fell."""
    aligned: bool
    """Whether a tick was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Energy of one window."""

    energy_j: float
    window_s: float
    edge_error: float
    """Share by which looking for the edges every few ms may have moved the figure, if ticks come
    evenly and power is steady there; uneven ticks or a change of power add up to one tick's share.
    """

    @property
    def mean_power_w(self) -> float:
        return self.energy_j / self.window_s


def is_reset(values: Sequence[int]) -> bool:
    """Whether a counter that only rises went backwards."""
    return any(after < before for before, after in pairwise(values))


def energy_between(opened: Edge, closed: Edge, period_s: float | None) -> Energy:
    """Energy from one edge to the other; `period_s` is the time between ticks, where known.

    Raises Unreadable if the counter went back, stood still, or ticked too seldom.
    """
    window_s = closed.at_s - opened.at_s
    risen_mj = closed.counter_mj - opened.counter_mj
    if risen_mj < 0:
        raise Unreadable("the energy counter went backwards")
    if risen_mj == 0 or window_s <= 0:
        raise Unreadable("the energy counter did not move in the window")
    if period_s is not None and window_s < LEAST_TICKS * period_s:
        raise Unreadable(
            f"a window of {window_s:.2f} s is too short for a counter that ticks every "
            f"{period_s:.2f} s"
        )
    aligned = opened.aligned and closed.aligned
    counted_s = closed.tick_s - opened.tick_s if aligned else window_s
    return Energy(
        energy_j=risen_mj / 1e3 * window_s / counted_s,
        window_s=window_s,
        edge_error=(opened.uncertain_s + closed.uncertain_s) / window_s,
    )


def integral(samples: Sequence[Sample], opened_s: float, closed_s: float) -> float:
    """Energy of the power samples in the window by the trapezium rule, joules.

    The first and last sample stand for the ends of the window. Raises Unreadable if there are
    none, or a gap above `GAP_S`.
    """
    points = [(s.at_s, s.power_w) for s in samples if s.power_w is not None]
    points = [(at, power) for at, power in points if opened_s <= at <= closed_s]
    if not points:
        raise Unreadable("no power sample in the window")
    points = [(opened_s, points[0][1]), *points, (closed_s, points[-1][1])]
    pairs = list(pairwise(points))
    if any(after[0] - before[0] > GAP_S for before, after in pairs):
        raise Unreadable(f"power samples are more than {GAP_S:.0f} s apart")
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairs)


def has_gap(samples: Sequence[Sample], opened_s: float, closed_s: float) -> bool:
    """Whether the window was unwatched for more than `GAP_S`."""
    times = [opened_s, *(s.at_s for s in samples if opened_s <= s.at_s <= closed_s), closed_s]
    return any(after - before > GAP_S for before, after in pairwise(times))
