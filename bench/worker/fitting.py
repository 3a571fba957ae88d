"""The largest batch that fits in memory, found by trying, without ever running into the wall.

Running out is harmless on a GPU, where the allocator raises an error, but on a CPU the system kills
the process or its neighbours; so a batch is tried only if the line through the two before it says
that it will fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

SAFE: Final = 0.92
"""Share of the memory that may be filled; the rest is for fragmentation and what others take."""

MOST: Final = 4096
"""Nobody serves more sequences at once on one device."""

FINENESS: Final = 8
"""The answer is exact to one part in so many."""


@dataclass(frozen=True, slots=True)
class BatchSearch:
    """What fits, and what was seen."""

    n_batch: int
    """0: not even one sequence."""
    peaks: Mapping[int, int] = field(default_factory=dict)
    """Batch -> bytes at the peak, of those that ran."""
    limited_by: str = "memory"
    """`memory`, or `limit` where `MOST` was reached."""


def largest_batch(
    attempt: Callable[[int], int | None], room_bytes: int, most: int = MOST
) -> BatchSearch:
    """Double until it would not fit, then halve the gap.

    `attempt` runs a batch and returns its peak in bytes, or None if memory ran out.
    """
    peaks: dict[int, int] = {}

    def fits(n_batch: int) -> bool:
        if predicted(peaks, n_batch) > SAFE * room_bytes:
            return False
        peak = attempt(n_batch)
        if peak is None:
            return False
        peaks[n_batch] = peak
        return peak <= SAFE * room_bytes

    if not fits(1):
        return BatchSearch(0, peaks)
    good = 1
    while good < most and fits(min(2 * good, most)):
        good = min(2 * good, most)
    if good == most:
        return BatchSearch(good, peaks, "limit")
    bad = min(2 * good, most)
    while bad - good > max(1, good // FINENESS):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return BatchSearch(good, peaks)


def predicted(peaks: Mapping[int, int], n_batch: int) -> float:
    """Bytes at the peak of `n_batch` sequences, on the line through the two largest that ran."""
    if len(peaks) < 2:
        return 0.0  # nothing known: one and two sequences are tried as they are
    small, large = sorted(peaks)[-2:]
    slope = (peaks[large] - peaks[small]) / (large - small)
    return peaks[large] + max(0.0, slope) * (n_batch - large)
