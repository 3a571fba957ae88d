#!/usr/bin/env python3
"""How often the interval of a search holds the truth, on simulated queues: for docs/method.md.

    scripts/slo_queues.py [--runs 200]

Each run is a whole search: replicates with patterns of arrivals of their own, probes by leaps and
bisection, the jackknife's answer with its interval. No clock is in it, so 200 runs take minutes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.queues import SimulatedQueue, md1, mgk, mmk, searched

SETTINGS = (("standard", 8, 800), ("strict", 12, 1000))
"""Level, replicates, requests of a probe."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    print(
        "| queue | rate by theory | level | mean found | within 5% | interval holds the truth "
        "| probes |\n|:--|--:|:--|--:|--:|--:|--:|"
    )
    for queue in (md1(3.0), md1(6.0), mmk(4, 4.0), mgk(4, 2.5, 1_000_000)):
        for level, replicates, n in SETTINGS:
            print(line(queue, level, replicates, n, runs), flush=True)


def line(queue: SimulatedQueue, level: str, replicates: int, n: int, runs: int) -> str:
    """One row: over `runs` searches."""
    found = [searched(queue, run, replicates, n) for run in range(runs)]
    known = [one for one, _ in found if one is not None]
    held = sum(bool(i.low and i.high and i.low <= queue.truth <= i.high) for i in known)
    near = sum(abs(one.value / queue.truth - 1) < 0.05 for one in known)
    mean = fmean(one.value for one in known)
    probes = fmean(count for _, count in found)
    return (
        f"| {queue.name} | {queue.truth:.4f} | {level}, {replicates} x {n} | {mean:.4f} "
        f"| {near / runs:.1%} | {held / runs:.1%} of {runs} | {probes:.0f} |"
    )


if __name__ == "__main__":
    main()
