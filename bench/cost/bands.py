"""What a scenario's ranges do to a cost: a band by drawing from them, and what drives it.

The band is apart from the measurement's interval: one says how well the machine was measured, the
other how little is known about its price and use. Reading tower (numpy).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.cost.scenario import Scenario, machine

Array = npt.NDArray[np.float64]
Hourly = Callable[[Mapping[str, float]], float]
"""Dollars for a busy hour under one set of a scenario's values."""

DRAWS = 4096
SEED = 0
COVER = (2.5, 97.5)
"""Percentiles that the band lies between."""
GRID = 2001
"""Points of a range in a tornado."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """One machine's busy hour in each draw: base_usd + usd_per_busy_w W_b + usd_per_idle_w W_i."""

    base_usd: Array
    usd_per_busy_w: Array
    usd_per_idle_w: Array
    values: Mapping[str, Array]
    """The drawn values of each figure."""

    def usd_per_busy_hour(self, busy_w: Any, idle_w: Any) -> Array:
        """Dollars for a busy hour in each draw; watts are numbers or drawn."""
        hourly: Array = self.base_usd + self.usd_per_busy_w * busy_w + self.usd_per_idle_w * idle_w
        return hourly


def draw(
    scenario: Scenario, rates: Mapping[str, float], count: int = DRAWS, seed: int = SEED
) -> Draws:
    """Draw each range `count` times: a Latin hypercube, so that a few thousand are enough."""
    random = np.random.default_rng(seed)
    values: dict[str, Array] = {}
    ranges = scenario.ranges
    for name, likeliest in scenario.values(rates).items():
        if name not in ranges:
            values[name] = np.full(count, likeliest)
            continue
        strata = (random.permutation(count) + random.random(count)) / count
        factor = scenario.usd_factor(name, rates)
        values[name] = np.array([ranges[name].quantile(q) * factor for q in strata])
    base, per_busy, per_idle = (np.empty(count) for _ in range(3))
    for i in range(count):
        one = {name: float(column[i]) for name, column in values.items()}
        made = machine(scenario.basis, one, 0.0, 0.0)
        base[i] = made.usd_per_busy_hour()
        per_busy[i] = made.usd_per_wh * made.pue
        per_idle[i] = per_busy[i] * (made.powered_hours - 1)
    return Draws(base_usd=base, usd_per_busy_w=per_busy, usd_per_idle_w=per_idle, values=values)


def band(hourly: Array) -> tuple[float, float]:
    """The ends between which 95% of the draws lie."""
    low, high = np.percentile(hourly, COVER)
    return float(low), float(high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar of a tornado: what one figure alone does to the cost."""

    name: str
    low_usd: float
    """Dollars for a busy hour at the figure's lowest value, the others at their likeliest."""
    high_usd: float
    share: float
    """Of the variance of the logarithm of the cost, among the bars."""


def tornado(
    scenario: Scenario,
    hourly: Hourly,
    rates: Mapping[str, float],
    throughput_log_sd: float | None = None,
) -> list[Bar]:
    """What drives the cost, largest first: each range moved alone, the others at their likeliest.

    `throughput_log_sd` adds the measurement's own spread as a bar. Exact where the cost is a
    product of the figures, as for rent; otherwise figures that act together are not told apart.
    """
    centre = scenario.values(rates)
    points = (np.arange(GRID) + 0.5) / GRID
    found: list[tuple[str, float, float, float]] = []
    for name, reach in scenario.ranges.items():
        factor = scenario.usd_factor(name, rates)

        def at(value: float, name: str = name, factor: float = factor) -> float:
            return hourly({**centre, name: value * factor})

        variance = float(np.var([math.log(at(reach.quantile(q))) for q in points]))
        found.append((name, at(reach.low), at(reach.high), variance))
    if throughput_log_sd is not None:
        middle, swing = hourly(centre), math.exp(1.96 * throughput_log_sd)
        found.append(("throughput", middle * swing, middle / swing, throughput_log_sd**2))
    total = sum(variance for *_, variance in found)
    bars = [
        Bar(name=name, low_usd=low, high_usd=high, share=variance / total if total else 0.0)
        for name, low, high, variance in found
    ]
    return sorted(bars, key=lambda bar: -bar.share)
