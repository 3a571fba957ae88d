"""Distributions of lengths, as text: `512`, `uniform:64:256`, `histogram:FILE`, ..."""

from __future__ import annotations

import csv
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

from bench.errors import InputError
from bench.fields import read_text

MOST: Final = 1 << 20
"""Tokens; longer draws are cut to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Whole numbers of at least 1, drawn one by one."""

    text: str
    one: Callable[[random.Random], float]

    def draw(self, draw: random.Random) -> int:
        return min(max(round(self.one(draw)), 1), MOST)


def lengths(text: str, at: str) -> Lengths:
    """The distribution that a text names; `at` names the key in errors. Raises InputError.

    `N`, `uniform:LOW:HIGH` (both ends included), `normal:MEAN:SD`, `lognormal:MEDIAN:SIGMA` (SIGMA
    of the natural logarithm), `histogram:FILE` (CSV, lines LENGTH,COUNT),
    `quantiles:VALUE@PERCENT:...` (from 0 to 100 percent, straight lines between). Below 1 counts
    as 1.
    """
    kind, *words = text.split(":")
    if kind == "quantiles" and words:
        return Lengths(text=text, one=_quantiles(words, text, at))
    if kind == "histogram" and words:
        return Lengths(text=text, one=_histogram(Path(":".join(words)), at))
    if not words:
        kind, words = "fixed", [kind]
    if kind not in KINDS or len(words) != KINDS[kind][0]:
        raise InputError(
            f"requests: {at}: '{text}' is not N, uniform:LOW:HIGH, normal:MEAN:SD, "
            "lognormal:MEDIAN:SIGMA, quantiles:VALUE@PERCENT:... or histogram:FILE"
        )
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = [math.nan]
    if not all(0 <= number <= MOST for number in numbers) or numbers[0] < 1:
        raise InputError(f"requests: {at}: '{text}' needs numbers; the first at least 1")
    if kind == "uniform" and numbers[0] > numbers[1]:
        raise InputError(f"requests: {at}: '{text}': the first is above the second")
    return Lengths(text=text, one=KINDS[kind][1](*numbers))


KINDS: Final[dict[str, tuple[int, Callable[..., Callable[[random.Random], float]]]]] = {
    "fixed": (1, lambda n: lambda _: n),
    "uniform": (2, lambda low, high: lambda draw: draw.randint(round(low), round(high))),
    "normal": (2, lambda mean, sd: lambda draw: draw.gauss(mean, sd)),
    "lognormal": (2, lambda mid, sigma: lambda draw: draw.lognormvariate(math.log(mid), sigma)),
}
"""Name -> how many numbers it takes, and what draws."""


def _quantiles(words: Sequence[str], text: str, at: str) -> Callable[[random.Random], float]:
    """Draws from the distribution whose quantiles these are."""
    try:
        pairs = [word.split("@") for word in words]
        values = [float(value) for value, _ in pairs]
        percents = [float(percent) for _, percent in pairs]
    except ValueError:
        raise InputError(f"requests: {at}: '{text}' is not quantiles:VALUE@PERCENT:...") from None
    rising = values == sorted(values) and percents == sorted({*percents})
    whole = percents[0] == 0 and percents[-1] == 100 and values[0] >= 0 and values[-1] <= MOST
    if not (rising and whole):
        raise InputError(
            f"requests: {at}: '{text}' needs values that do not fall (0 to {MOST}) and percents "
            "that rise from 0 to 100"
        )

    def one(draw: random.Random) -> float:
        percent = 100 * draw.random()
        above = max(bisect_right(percents, percent), 1)
        low, high = percents[above - 1], percents[above]
        share = (percent - low) / (high - low)
        return values[above - 1] + share * (values[above] - values[above - 1])

    return one


def _histogram(path: Path, at: str) -> Callable[[random.Random], float]:
    values: list[int] = []
    counts: list[int] = []
    for number, row in enumerate(csv.reader(read_text(path).splitlines()), 1):
        if not row or (number == 1 and not row[0].strip().isdecimal()):
            continue
        if len(row) != 2 or not all(cell.strip().isdecimal() for cell in row):
            raise InputError(f"requests: {at}: {path}:{number}: expected LENGTH,COUNT")
        values.append(int(row[0]))
        counts.append(int(row[1]))
    if not sum(counts):
        raise InputError(f"requests: {at}: {path}: has no count above 0")
    totals = list(accumulate(counts))
    return lambda draw: draw.choices(values, cum_weights=totals)[0]
