"""Amounts that flags state: numbers, ranges, mixes, tokens, currencies' rates, days."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.errors import InputError

if TYPE_CHECKING:
    from bench.cost.scenario import Range


def number(flag: str, text: str) -> float:
    """A finite number."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{flag}: {text!r} is not a number")
    return found


def value(flag: str, text: str) -> float | Range:
    """A number, or a range LOW:MODE:HIGH."""
    from bench.cost.scenario import Range

    if ":" not in text:
        return number(flag, text)
    ends = [number(flag, part) for part in text.split(":")]
    if len(ends) != 3:
        raise InputError(f"{flag}: {text!r} is neither a number nor LOW:MODE:HIGH")
    return Range(low=ends[0], mode=ends[1], high=ends[2])


def parts(flag: str, text: str) -> tuple[float, float]:
    """IN:OUT, two amounts of which one is above 0."""
    two = [number(flag, part) for part in text.split(":")]
    if len(two) != 2 or min(two) < 0 or not sum(two) > 0:
        raise InputError(f"{flag}: {text!r} is not IN:OUT, such as 3:1")
    return two[0], two[1]


def tokens(text: str) -> float:
    """A number of tokens: 200k, 1M, 2G, 1e7."""
    factor = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text.strip()[-1:], 1.0)
    digits = text.strip() if factor == 1.0 else text.strip()[:-1]
    found = number("--tokens-per-day", digits) * factor
    if not found > 0:
        raise InputError(f"--tokens-per-day: {text!r} must be above 0")
    return found


def rates(texts: Sequence[str]) -> dict[str, float]:
    """Dollars for one unit of each currency, from `CODE=USD` or `CODE=USD@DATE`."""
    found = {}
    for text in texts:
        code, _, rate = text.partition("@")[0].partition("=")
        dollars = number("--rate", rate)
        if not (len(code) == 3 and code.isupper() and dollars > 0):
            raise InputError(f"--rate: {text!r} is not CODE=USD, such as JPY=0.0067")
        found[code] = dollars
    return found


def rate_notes(texts: Sequence[str], on: datetime.date) -> list[str]:
    """Each rate that was stated, with its day."""
    from bench.cost.prices import parse_date

    notes = []
    for text in texts:
        rate, _, dated = text.partition("@")
        code, _, dollars = rate.partition("=")
        known = parse_date(dated, "--rate") if dated else on
        notes.append(f"1 {code} = {dollars} USD on {known}, by --rate")
    return notes


def day(text: str | None) -> datetime.date:
    """The day whose prices count: that of `--on`, else today."""
    from bench.cost.prices import parse_date, today

    return parse_date(text) if text else today()
