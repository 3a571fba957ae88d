"""Synthetic traces of an invented card: `python tests/make_traces.py` writes them anew.

No device was read for these. Each is made from a known power, so that what a reader finds can be
compared with the truth: the counter is the integral of that power, in whole millijoules, shown
anew at every tick. tests/devices/test_devices.py checks that the files are what this makes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data" / "traces"
END_S = 42.0
POINT_S = 0.25
"""Distance of the points between which the power is straight."""

Points = Sequence[tuple[float, float]]


def idle_then(power: Callable[[float], float], idle: float = 70.0) -> Points:
    """At rest for a second, at work until 36 s, then at rest again."""
    steps = round(END_S / POINT_S)
    times = [i * POINT_S for i in range(steps + 1)]
    return [(at, round(power(at) if 1.0 <= at <= 36.0 else idle, 3)) for at in times]


def energy_j(points: Points) -> Callable[[float], float]:
    """The integral of the power from the first point on."""
    sums = [0.0]
    for (a, before), (b, after) in pairwise(points):
        sums.append(sums[-1] + (b - a) * (before + after) / 2)

    def until(at: float) -> float:
        i = min(int(at / POINT_S), len(points) - 2)
        (a, before), (b, after) = points[i], points[i + 1]
        here = before + (after - before) * (at - a) / (b - a)
        return sums[i] + (at - a) * (before + here) / 2

    return until


def counter(points: Points, tick_s: float, start_mj: int = 123_456_789) -> list[tuple[float, int]]:
    """The counter's value at each tick."""
    until = energy_j(points)
    ticks = [0.013 + k * tick_s for k in range(int((END_S - 0.02) / tick_s))]
    return [(0.0, start_mj)] + [(round(t, 4), start_mj + int(until(t) * 1e3)) for t in ticks]


def power_shown(points: Points) -> list[tuple[float, float]]:
    """Instant power as a sensor shows it, anew every 100 ms."""
    until = energy_j(points)
    times = [round(0.1 * k, 1) for k in range(1, int(END_S * 10))]
    return [(t, round((until(t) - until(t - 0.1)) / 0.1, 1)) for t in times]


def trace(about: str, points: Points, tick_s: float = 0.1, **more: Any) -> dict[str, Any]:
    """One trace; `more` changes its parts, `series` is merged."""
    series: dict[str, Any] = {
        "counter_mj": counter(points, tick_s),
        "power_w": power_shown(points),
        "temperature_c": [(0.0, 41.0), (6.0, 52.0), (15.0, 58.0), (25.0, 60.0)],
        "sm_mhz": [(0.0, 345.0), (1.0, 1980.0), (36.0, 345.0)],
        "memory_mhz": [(0.0, 2619.0)],
        "used_bytes": [(0.0, 1 << 30), (1.0, 17 << 30)],
        "events": [(0.0, ["gpu_idle"]), (1.0, []), (36.0, ["gpu_idle"])],
        "held_s": [(0.0, {"sw_power_cap": 12.0, "sw_thermal_slowdown": 3.0})],
        "foreign": [(0.0, [])],
    }
    series |= more.pop("series", {})
    absent = more.pop("absent", {})
    whole = {
        "format": 1,
        "origin": "synthetic",
        "about": about,
        "identity": {"gpu": "Invented 100", "gpu_driver": "0.0", "gpu_power_limit_w": 500.0},
        "series": {name: values for name, values in series.items() if name not in absent},
        "absent": absent,
        "truth": {"power_w": points},
    }
    return whole | more


def steady(_: float) -> float:
    return 312.0


def waves(at: float) -> float:
    """Power that rises with heat and swings with the work."""
    return 300.0 + 2.0 * at + 90.0 * math.sin(2.1 * at)


def jump_back(points: Points) -> list[tuple[float, int]]:
    """A counter that starts again from 0 at 12 s."""
    values = counter(points, 0.1)
    base = next(value for at, value in values if at >= 12.0)
    return [(at, value if at < 12.0 else value - base) for at, value in values]


def traces() -> dict[str, dict[str, Any]]:
    """Every trace by name."""
    even, swinging = idle_then(steady), idle_then(waves)
    hot = ["hw_slowdown", "hw_thermal_slowdown"]
    brake = ["hw_slowdown", "hw_power_brake_slowdown"]
    return {
        "steady": trace("312 W, ticks every 100 ms", even),
        "fast-ticks": trace("312 W, ticks every 20 ms", even, 0.02),
        "waves": trace("power that rises and swings, ticks every 100 ms", swinging),
        "reset": trace(
            "the counter starts again at 12 s", even, series={"counter_mj": jump_back(even)}
        ),
        "stuck": trace("the counter never moves", even, series={"counter_mj": [(0.0, 5)]}),
        "gap": trace("no answer from 10 s to 15 s", even, stalls=[(10.0, 15.0)]),
        "throttle": trace(
            "hot from 14 s to 15 s, seen by samples",
            swinging,
            series={"events": [(0.0, []), (14.0, hot), (15.0, [])]},
        ),
        "throttle-counted": trace(
            "hot between samples, seen by the counter alone",
            swinging,
            series={
                "held_s": [
                    (0.0, {"sw_thermal_slowdown": 3.0}),
                    (9.0, {"sw_thermal_slowdown": 3.08}),
                ]
            },
        ),
        "brake": trace(
            "power brake from 8 s to 9 s",
            swinging,
            series={"events": [(0.0, []), (8.0, brake), (9.0, [])]},
        ),
        "clock-change": trace(
            "hw_slowdown in a single sample",
            even,
            series={"events": [(0.0, []), (8.0, ["hw_slowdown"]), (8.08, [])]},
        ),
        "power-cap": trace(
            "at the power limit all the time", even, series={"events": [(0.0, ["sw_power_cap"])]}
        ),
        "shared": trace(
            "another process from 5 s on", even, series={"foreign": [(0.0, []), (5.0, [4711])]}
        ),
        "no-power": trace(
            "a card without instant power",
            even,
            absent={"power_w": "nvmlDeviceGetPowerUsage: Not Supported"},
        ),
        "bare": trace(
            "a card that shows its counter and nothing else",
            even,
            absent=dict.fromkeys(
                (
                    "power_w",
                    "temperature_c",
                    "sm_mhz",
                    "memory_mhz",
                    "used_bytes",
                    "events",
                    "held_s",
                    "foreign",
                ),
                "Not Supported",
            ),
        ),
        "no-counter": trace(
            "a card older than the counter",
            even,
            absent={"counter_mj": "Not Supported"},
            no_energy="no energy counter (Not Supported)",
        ),
    }


def as_text(whole: dict[str, Any]) -> str:
    """JSON with one line for each series."""
    series = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(values, separators=(',', ':'))}"
        for name, values in whole["series"].items()
    )
    rest = {name: value for name, value in whole.items() if name not in ("series", "truth")}
    head = json.dumps(rest, indent=1)[:-2]
    truth = json.dumps(whole["truth"], separators=(",", ":"))
    return f'{head},\n "series": {{\n{series}\n }},\n "truth": {truth}\n}}\n'


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, whole in traces().items():
        (FOLDER / f"{name}.json").write_text(as_text(whole), encoding="utf-8")
