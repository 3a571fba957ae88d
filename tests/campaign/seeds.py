"""One seed a week, by date and printed, so that what is tried moves on and can be tried again."""

from __future__ import annotations

import datetime
import os
from random import Random

WEEK = datetime.datetime.now(datetime.UTC).isocalendar()
SEED = int(os.environ.get("BENCH_CAMPAIGN_SEED") or f"{WEEK.year}{WEEK.week:02}")


def rng(part: str) -> Random:
    """The random numbers of one part of the campaign."""
    return Random(f"{SEED}/{part}")


def report(part: str, tried: int, failures: list[str]) -> None:
    """Fail with a line for each failure, and the seed that gives them again."""
    lines = "\n".join(failures)
    assert not failures, (
        f"{part}: {len(failures)} of {tried} harm (BENCH_CAMPAIGN_SEED={SEED}):\n{lines}"
    )
