"""Share of its power limit that a card draws while it generates, from published measurements.

HBM: `bench/data/published/power.csv` has rows of two data centre cards. GDDR: posts of one card
with watts show a straight line in the share of time that its memory is read. Standard library
only.
"""

from __future__ import annotations

import csv
import statistics
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.errors import InputError
from bench.predict.published import FOLDER, POSTED, card, rows, sized
from bench.roofline import decode_work
from bench.roofline.gpus import Gpu, gpus

if TYPE_CHECKING:
    from bench.predict import Prediction

FILE: Final = FOLDER / "power.csv"
OTHER_CARDS: Final = 0.3
"""How much smaller the share of other GDDR cards may be: an assumption, because one card of 170 W
was measured, and cards with higher limits leave more of them unused while memory binds."""


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
def power_share(batched: bool) -> Share | None:
    """The share for cards with HBM, at batch 1 or above; None without measurements."""
    shares = [
        row.share for row in power_rows() if gpus()[row.gpu].hbm and (row.n_batch > 1) == batched
    ]
    if not shares:
        return None
    return Share(median=statistics.median(shares), low=min(shares), high=max(shares))


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLine:
    """Share of the limit = idle + slope x share of a step in which memory is read."""

    idle: float
    slope: float
    spread: float
    """Largest distance of a row from the line."""
    rows: int


@cache
def gddr_line() -> PowerLine:
    """The line through posts of GDDR cards that state watts, by least squares."""
    points = []
    for row in rows(file=POSTED):
        limit = gpus()[row.gpu].tdp_w if row.gpu in gpus() else None
        if row.excluded or row.power_w is None or limit is None or row.decode_tok_s is None:
            continue
        assert row.context is not None
        quant = sized(row.quant)
        work = decode_work(
            card(row.model), quant, context=row.context, engine=row.engine, dtype="float16"
        )
        read = work.n_bytes * row.decode_tok_s / gpus()[row.gpu].bandwidth
        points.append((read, row.power_w / limit))
    line = statistics.linear_regression(*zip(*points, strict=True))
    off = max(abs(y - line.intercept - line.slope * x) for x, y in points)
    return PowerLine(idle=line.intercept, slope=line.slope, spread=off, rows=len(points))


def expected_share(gpu: Gpu, n_batch: int, read_share: float | None = None) -> Share | None:
    """What a card is likely to draw while generating; None where nobody measured the kind.

    `read_share`: share of a step in which a GDDR card reads its memory.
    """
    if gpu.hbm:
        return power_share(n_batch > 1)
    if read_share is None or n_batch > 1 or gpu.kind not in ("consumer", "laptop", "workstation"):
        return None
    line = gddr_line()
    middle = min(1.0, line.idle + line.slope * min(read_share, 1.0))
    return Share(
        median=middle,
        low=max(0.0, middle - OTHER_CARDS),
        high=min(1.0, middle + 2 * line.spread),
    )


def validate_power(path: Path = FILE) -> list[str]:
    """Every problem in the published power figures, one line each."""
    try:
        power_rows(path)
    except InputError as error:
        return list(error.problems)
    return []


def joules(gpu: Gpu, found: Prediction) -> tuple[dict[str, float | None], str]:
    """Power and joules for each new token of all boards, None where there is no figure, and why."""
    figures: dict[str, float | None] = dict.fromkeys(FIGURES)
    rate = found.decode_tok_s
    if rate is None or found.low is None or found.high is None:
        return figures, "there is no decode rate"
    if gpu.tdp_w is None:
        return figures, f"the catalog has no power limit of {gpu.title}"
    limit_w = gpu.tdp_w * found.n_gpus
    figures["energy_per_output_token_j_max"] = limit_w / found.low
    read = None if found.host_bytes else rate / found.bound_decode_tok_s
    share = expected_share(gpu, found.n_batch, read)
    if share is None:
        return figures, f"no published power at this load of a card like {gpu.title}"
    figures["power_w"] = limit_w * share.median
    figures["energy_per_output_token_j"] = limit_w * share.median / rate
    figures["energy_low_j"] = limit_w * share.low / found.high
    figures["energy_high_j"] = limit_w * share.high / found.low
    return figures, ""


FIGURES: Final = (
    "energy_per_output_token_j_max",
    "power_w",
    "energy_per_output_token_j",
    "energy_low_j",
    "energy_high_j",
)
