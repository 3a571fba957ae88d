"""A service level: limits that a share of all requests must keep, as text: `ttft_p95=0.5,...`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from bench.errors import InputError
from bench.statistics import requests_needed

FIGURES: Final = ("ttft", "tpot", "itl", "e2e")
"""What may be limited: `itl` is a request's longest gap."""
WORD: Final = re.compile(r"(?P<figure>[a-z0-9]+)_p(?P<share>\d{1,2}(\.\d+)?)=(?P<seconds>[^=]+)")
REQUESTS: Final[Mapping[str, int]] = {"quick": 200, "standard": 800, "strict": 1000}
"""Level -> requests of a probe, where the percentiles do not need more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At least `share` of all requests have `figure` at most at `seconds`."""

    figure: str
    share: float
    seconds: float


@cache
def limits(text: str) -> tuple[Limit, ...]:
    """The limits of a text such as `ttft_p95=0.5,tpot_p95=0.05`. Raises InputError."""
    found = [_limit(word.strip()) for word in text.split(",")]
    if len({(one.figure, one.share) for one in found}) < len(found):
        raise InputError(f"slo: a limit is repeated in '{text}'")
    return tuple(found)


def _limit(word: str) -> Limit:
    match = WORD.fullmatch(word)
    if match is None or match["figure"] not in FIGURES:
        names = ", ".join(FIGURES)
        raise InputError(f"slo: '{word}' is not FIGURE_pNN=SECONDS such as ttft_p95=0.5 ({names})")
    try:
        seconds = float(match["seconds"])
    except ValueError:
        seconds = math.nan
    share = float(match["share"]) / 100
    if not (0 < seconds < math.inf and share > 0):
        raise InputError(f"slo: '{word}': the percentile and the seconds must be above 0")
    return Limit(figure=match["figure"], share=share, seconds=seconds)


def shares(text: str) -> tuple[float, ...]:
    """The share that each limit asks for."""
    return tuple(one.share for one in limits(text))


def requests_of(text: str, level: str) -> int:
    """How many requests a probe judges: the level's, or as many as its percentiles need."""
    return max(REQUESTS[level], *(requests_needed(share) for share in shares(text)))


def within(
    text: str,
    *,
    ttft_s: Sequence[float],
    tpot_s: Sequence[float],
    itl_s: Sequence[Sequence[float]],
    e2e_s: Sequence[float],
) -> list[list[bool]]:
    """Of each limit, which requests were within it. One new token has no time per token, and keeps
    a limit of that."""
    longest = [max(gaps, default=0.0) for gaps in itl_s]
    known = {"ttft": ttft_s, "tpot": tpot_s, "itl": longest, "e2e": e2e_s}
    return [[value <= one.seconds for value in known[one.figure]] for one in limits(text)]
