"""Share of its power limit that a card draws while it generates, from published measurements.

`bench/data/published/power.csv` has rows of two data centre cards. Nothing comparable with a
source was found for cards with GDDR, so for them only the limit itself is given. Standard library
only.
"""

from __future__ import annotations

import csv
import statistics
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from bench.errors import InputError
from bench.predict.published import FOLDER
from bench.roofline.gpus import Gpu, gpus

FILE: Final = FOLDER / "power.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRow:
    """Mean board power over a run."""

    gpu: str
    n_batch: int
    power_w: float

    @property
    def share(self) -> float:
        """Of the card's power limit."""
        limit = gpus()[self.gpu].tdp_w
        assert limit is not None
        return self.power_w / limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Median, least and most share of the power limit in comparable rows."""

    median: float
    low: float
    high: float


def power_rows(path: Path = FILE) -> list[PowerRow]:
    """Every published power figure. InputError lists every row that is not what it should be."""
    problems: list[str] = []
    found: list[PowerRow] = []
    with path.open(encoding="utf-8", newline="") as stream:
        for line, cells in enumerate(csv.DictReader(stream), 2):
            try:
                row = PowerRow(
                    gpu=cells["gpu"],
                    n_batch=int(cells["n_batch"]),
                    power_w=float(cells["power_w"]),
                )
            except (KeyError, ValueError) as error:
                problems.append(f"{path}:{line}: {error}")
                continue
            if row.gpu not in gpus():
                problems.append(f"{path}:{line}: gpu: {row.gpu!r} is not in the catalog")
            elif not 0 < row.share <= 1.05:
                problems.append(f"{path}:{line}: power_w: {row.share:.0%} of the power limit")
            found.append(row)
    if problems:
        raise InputError(*problems)
    return found


@cache
def power_share(hbm: bool, batched: bool) -> Share | None:
    """The share for cards with or without HBM, at batch 1 or above; None without measurements."""
    shares = [
        row.share
        for row in power_rows()
        if gpus()[row.gpu].hbm == hbm and (row.n_batch > 1) == batched
    ]
    if not shares:
        return None
    return Share(median=statistics.median(shares), low=min(shares), high=max(shares))


def expected_share(gpu: Gpu, n_batch: int) -> Share | None:
    """What a card is likely to draw while generating; None where nobody measured the kind."""
    return power_share(gpu.hbm, n_batch > 1)


def validate_power(path: Path = FILE) -> list[str]:
    """Every problem in the published power figures, one line each."""
    try:
        power_rows(path)
    except InputError as error:
        return list(error.problems)
    return []
