"""Record what a card shows, as a trace that `tests.replay` plays back.

Polls the counter as fast as it can tell its ticks apart, so it is for learning about a card, not
for measuring beside. Identity leaves out nothing that a person could not read off the card, and
names neither the machine nor its user.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from bench.devices.figures import Figures
from bench.devices.gpu.energy import Sample
from bench.devices.gpu.meter import POLL_S, SAMPLE_S, Pace
from bench.devices.gpu.nvidia import NvidiaCard
from bench.devices.gpu.reader import THOROUGH_EVERY

FORMAT = 1
"""Of trace files; tests/replay.py reads them."""

Series = dict[str, list[tuple[float, Any]]]

FIGURES = ("power_w", "temperature_c", "sm_mhz", "memory_mhz", "used_bytes")

FIELDS = (74, 75, 76, 77, 78, 79, 80, 81, 83, *range(185, 193), *range(251, 254), *range(269, 272))
"""Field numbers whose answers are worth knowing for each card and driver."""


def record(card: NvidiaCard, pace: Pace, seconds: float) -> tuple[Series, dict[str, str]]:
    """Changes of every figure over some seconds, and why the others are missing."""
    begin = pace.now()
    series: Series = {}
    absent = Figures()
    due, looks = begin, 0
    while (at := pace.now()) < begin + seconds:
        if card.no_energy is None:
            value = absent.read("counter_mj", card.counter_mj)
            keep(series, "counter_mj", at - begin, value)
        if at >= due:
            sample = card.sample(at, thorough=looks % THOROUGH_EVERY == 0)
            keep_sample(series, sample, at - begin)
            held = absent.read("held_s", card.held_s)
            keep(series, "held_s", at - begin, None if held is None else dict(held))
            others = absent.read("foreign", card.foreign)
            keep(series, "foreign", at - begin, None if others is None else list(others))
            due, looks = at + SAMPLE_S, looks + 1
        pace.sleep(POLL_S)
    return series, {**card.missing(), **absent.absent}


def keep_sample(series: Series, sample: Sample, at_s: float) -> None:
    """Keep each figure of a sample that has changed."""
    for name in FIGURES:
        keep(series, name, at_s, getattr(sample, name))
    if sample.events is not None:
        keep(series, "events", at_s, sorted(sample.events))


def keep(series: Series, name: str, at_s: float, value: Any) -> None:
    """Add a change, unless there is none."""
    changes = series.setdefault(name, [])
    if value is not None and (not changes or changes[-1][1] != value):
        changes.append((round(at_s, 4), value))


def fields_shown(card: NvidiaCard) -> dict[str, Any]:
    """What each of `FIELDS` answers: its value, or why not."""
    found = Figures()
    for number in FIELDS:
        found.read(str(number), lambda number=number: card.field(number))  # type: ignore[misc]  # mypy infers no lambda with defaults
    return {**found.values, **found.absent}


def ticks(changes: Sequence[tuple[float, Any]]) -> dict[str, float] | None:
    """Seconds between the counter's ticks: median, least, most; None below three ticks."""
    periods = [after[0] - before[0] for before, after in pairwise(changes[1:])]
    if len(periods) < 2:
        return None
    return {
        "median_s": round(statistics.median(periods), 4),
        "min_s": round(min(periods), 4),
        "max_s": round(max(periods), 4),
    }


def idle_lag_s(changes: Sequence[tuple[float, float]], stopped_s: float) -> float | None:
    """Seconds from the end of the work until the shown power is within 10% of its last value."""
    after = [(at, power) for at, power in changes if at >= stopped_s]
    if not after:
        return None
    rest = after[-1][1]
    settled = next(
        at for i, (at, _) in enumerate(after) if all(abs(p / rest - 1) <= 0.1 for _, p in after[i:])
    )
    return round(settled - stopped_s, 3)


def as_trace(
    about: str,
    identity: Mapping[str, Any],
    recorded: tuple[Series, dict[str, str]],
    notes: Mapping[str, Any],
) -> str:
    """The text of a trace file."""
    series, absent = recorded
    whole = {
        "format": FORMAT,
        "origin": "measured",
        "about": about,
        "identity": dict(identity),
        "series": {name: changes for name, changes in series.items() if changes},
        "absent": absent,
        "notes": dict(notes),
    }
    return json.dumps(whole, allow_nan=False) + "\n"
