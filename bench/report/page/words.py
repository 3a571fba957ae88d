"""Figures as text, the same everywhere in a report."""

from __future__ import annotations

from collections.abc import Callable

from bench.report.page.blocks import Cell, Tone

NOTHING = "–"
Show = Callable[[float], str]


def number(value: float, digits: int = 3) -> str:
    """At least `digits` significant figures, thousands apart, never an exponent above 0.0001."""
    size = abs(value)
    if size >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    if size >= 1:
        return f"{value:,.{digits - len(str(int(size)))}f}"
    return f"{value:#.{digits}g}" if value else "0"


def rate(value: float) -> str:
    """Tokens a second."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def gigabytes(value: float) -> str:
    """Bytes as GB, 10^9."""
    return number(value / 1e9)


def ratio(value: float) -> str:
    return f"{value:.2f}×" if value >= 0.095 else f"{value:.3f}×"


def between(low: float | None, high: float | None, show: Show = number) -> str:
    """Both ends of an interval, or nothing where one is missing."""
    if low is None or high is None:
        return ""
    first, last = show(low), show(high)
    return first if first == last else f"{first} to {last}"


def cell(
    value: float | None,
    show: Show = number,
    low: float | None = None,
    high: float | None = None,
    *,
    why: str = "",
    tone: Tone = "",
) -> Cell:
    """A figure with its interval below it; a missing one says why."""
    if value is None:
        return Cell(text=NOTHING, detail=why)
    return Cell(text=show(value), detail=between(low, high, show), value=value, tone=tone)


def listed(items: list[str]) -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
