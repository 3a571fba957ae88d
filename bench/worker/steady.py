"""Whether durations look like one steady state. Standard library only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

STEADY_MEDIAN_LIMIT = 0.05
"""Two halves of a steady series have medians within this share (pyperf's limit)."""


def is_steady(durations: Sequence[float], *, window: int = 4) -> bool:
    """Whether the last `window` durations look like one steady state (two-halves test).

    The halves' medians agree within `STEADY_MEDIAN_LIMIT`, and the first value is no outlier
    (within twice that of the rest's median). Source of the idea: pyperf's calibration.
    """
    if window < 2 or len(durations) < window:
        return False
    recent = list(durations[-window:])
    half = window // 2
    first, second = statistics.median(recent[:half]), statistics.median(recent[-half:])
    rest = statistics.median(recent[1:])
    return (
        abs(first / second - 1) <= STEADY_MEDIAN_LIMIT
        and abs(recent[0] / rest - 1) <= 2 * STEADY_MEDIAN_LIMIT
    )


def has_trend(durations: Sequence[float]) -> bool:
    """Whether the later half of them (4 at least) still rises or falls; True if that is unknown.

    It does if the one half of these lies wholly above the other, and their medians differ by more
    than `STEADY_MEDIAN_LIMIT`. Noise alone sets halves of 2 apart in 1 series of 3, of 3 in 1 of
    10, of 4 in 1 of 35.
    """
    if len(durations) < 4:
        return True
    half = max(2, len(durations) // 4)
    first, second = durations[-2 * half : -half], durations[-half:]
    apart = max(first) < min(second) or max(second) < min(first)
    change = statistics.median(first) / statistics.median(second) - 1
    return apart and abs(change) > STEADY_MEDIAN_LIMIT
