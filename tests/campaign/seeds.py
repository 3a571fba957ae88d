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


TRIED: dict[str, int] = {}
"""What was tried in this process, by part; `tests/campaign/conftest.py` prints it."""
MUTATED = ("records", "validate", "page", "peaks", "config.json", "stamps", "shapes", "messages")
MUTATED += ("toml", "servers/events", "servers/about")
"""Parts whose inputs are mutated."""
WORDS = ("keys", "texts", "characters")
"""Parts of hostile words; what is neither is an injected fault."""


def counted() -> tuple[int, int, int]:
    """Faults, hostile words and mutated inputs that were tried."""
    words, inputs = (
        sum(n for part, n in TRIED.items() if part.startswith(kind)) for kind in (WORDS, MUTATED)
    )
    return sum(TRIED.values()) - words - inputs, words, inputs


def report(part: str, tried: int, failures: list[str]) -> None:
    """Count what was tried; fail with a line a failure, and the seed that gives them again."""
    TRIED[part] = TRIED.get(part, 0) + tried
    lines = "\n".join(failures)
    assert not failures, (
        f"{part}: {len(failures)} of {tried} harm (BENCH_CAMPAIGN_SEED={SEED}):\n{lines}"
    )
