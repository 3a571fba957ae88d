"""Means of all pairs of values (Walsh averages) by their rank, without making all of them.

n values have n (n + 1) / 2 of them: of 1,000 half a million, of 100,000 five billion. Of sorted
values those below a limit are counted in n log n, so the ranks that are asked for are closed in on,
and only the few between two limits are made. numpy is imported inside, as in all of this room.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

ALL_UP_TO: Final = 160
"""Values of which all means are made."""
MOST: Final = 1 << 21
"""Means that are made at once of more values."""
SAMPLE: Final = 48
"""Values from which the first limits are guessed."""
MARGINS: Final = (0.012, 0.05, 0.2)
"""Shares of all means by which the guess is widened, one after the other."""
STEPS: Final = 200
"""Halvings after which two limits are as near as floats allow."""


def number_of_means(n: int) -> int:
    """How many means of pairs n values have, each with itself too."""
    return n * (n + 1) // 2


def ranked_means(values: Sequence[float], ranks: Sequence[int]) -> list[float]:
    """The means (a + b) / 2 that have these ranks, counted from 0, among all pairs of values."""
    import numpy as np

    d = np.sort(np.asarray(values, dtype=np.float64))
    if d[0] == d[-1]:
        return [float(d[0])] * len(ranks)
    if len(d) <= ALL_UP_TO:
        first, second = _triangle(len(d))
        return _picked(d[first] + d[second], ranks, 0)
    together = _within(d, _guess(d, ranks), ranks)
    if together is not None:
        return together
    return [_alone(d, rank) for rank in ranks]


@cache
def _triangle(n: int) -> tuple[Whole, Whole]:
    import numpy as np

    return np.triu_indices(n)


def _picked(sums: Floats, ranks: Sequence[int], below: int) -> list[float]:
    """Half of the sums of these ranks, of which `below` are not among `sums`."""
    import numpy as np

    found = np.partition(sums, sorted({rank - below for rank in ranks}))
    return [float(found[rank - below]) / 2 for rank in ranks]


def _ends(d: Floats, limit: float) -> Whole:
    """Of each value, where its partners (itself and later ones) end whose sum is below a limit."""
    import numpy as np

    n = len(d)
    return np.maximum(np.searchsorted(d, limit - d), np.arange(n))


def _below(d: Floats, limit: float) -> int:
    n = len(d)
    return int(_ends(d, limit).sum()) - n * (n - 1) // 2


def _guess(d: Floats, ranks: Sequence[int]) -> list[tuple[float, float]]:
    """Limits of sums within which all ranks should lie, from a few of the values."""
    import numpy as np

    some = d[np.linspace(0, len(d) - 1, SAMPLE).round().astype(np.int64)]
    first, second = _triangle(SAMPLE)
    sums, total = np.sort(some[first] + some[second]), number_of_means(len(d))
    last = len(sums) - 1
    found = []
    for margin in MARGINS:
        low = int((min(ranks) / total - margin) * last)
        high = int((max(ranks) / total + margin) * last) + 1
        found.append((float(sums[max(low, 0)]), float(sums[min(high, last)])))
    return found


def _within(
    d: Floats, limits: Sequence[tuple[float, float]], ranks: Sequence[int]
) -> list[float] | None:
    """The ranked means, if some limits hold them all and not too many others."""
    slack = _slack(d)
    for low, high in limits:
        starts, ends = _ends(d, low - slack), _ends(d, high + slack)
        n = len(d)
        below = int(starts.sum()) - n * (n - 1) // 2
        inside = int((ends - starts).sum())
        if below > min(ranks) or below + inside <= max(ranks):
            continue
        return None if inside > MOST else _made(d, starts, ends, ranks, below, (low, high))
    return None


def _slack(d: Floats) -> float:
    """By how much a sum may be off when it is held against a limit, and some more."""
    return float(8 * 2.0**-52 * max(abs(d[0]), abs(d[-1])))


def _made(
    d: Floats,
    starts: Whole,
    ends: Whole,
    ranks: Sequence[int],
    below: int,
    limits: tuple[float, float],
) -> list[float] | None:
    """The ranked means of the sums from `starts` to `ends`; None where one is so near a limit that
    rounding may have put another on the wrong side of it."""
    import numpy as np

    counts = ends - starts
    first = np.repeat(np.arange(len(d)), counts)
    shift = starts - (np.cumsum(counts) - counts)
    second = np.arange(len(first)) + np.repeat(shift, counts)
    found = _picked(d[first] + d[second], ranks, below)
    low, high = limits
    return found if all(low <= 2 * mean <= high for mean in found) else None


def _alone(d: Floats, rank: int) -> float:
    """The mean of one rank: limits are halved until few sums lie between them."""
    slack = _slack(d)
    low, high = float(2 * d[0]) - slack, float(2 * d[-1]) + 2 * slack
    few = max(8 * len(d), MOST // 8)
    for _ in range(STEPS):
        middle = low + (high - low) / 2
        if not low < middle < high:
            break
        if _below(d, middle) <= rank:
            low = middle
        else:
            high = middle
        if _below(d, high) - _below(d, low) <= few:
            near = _within(d, [(low, high)], [rank])
            if near is not None:
                return near[0]
    # So many equal sums that they cannot be told apart: any of them is the mean.
    return low / 2
