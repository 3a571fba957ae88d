"""Price books: CSV files, one dated row a price, and what may be wrong in them.

The shipped books lie in bench/data/prices/; the user's own, which `bench prices --update` writes,
in $XDG_DATA_HOME/gpu-cost-bench/prices/, in the same format. Standard library only; docs/cost.md
says how to add a row.
"""

from __future__ import annotations

import csv
import datetime
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from bench.cost import ApiRates
from bench.data import DATA
from bench.errors import InputError

Kind = Literal["rent", "purchase", "electricity", "api"]
KINDS: Final[tuple[Kind, ...]] = ("rent", "purchase", "electricity", "api")
FOLDER: Final = DATA / "prices"

UNITS: Final[Mapping[str, str]] = MappingProxyType(
    {"rent": "h", "purchase": "card", "electricity": "kWh", "api": "Mtok"}
)
OFFERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "rent": ("on-demand", "spot", "serverless", "assumed"),
        "purchase": ("list", "street", "estimate"),
        "electricity": ("residential", "industrial"),
        "api": ("list", "off-peak"),
    }
)
GRADES: Final = ("primary", "secondary", "estimate")
"""Best first: the seller's own figure, somebody's report of it, somebody's estimate."""

_TEXTS = ("item", "offer", "currency", "unit", "grade", "source", "note")
_COMMON = ("currency", "unit", "from", "until", "grade", "source", "source_date", "note")
OPTIONAL: Final = ("region", "count")
"""Columns that a book of rents may have: offers of a market, `count` at one amount in a region."""
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("rent", "purchase", "electricity"),
            ("item", "provider", "offer", "amount", "listed_as", *_COMMON),
        ),
        "api": ("item", "offer", "input", "cached_input", "output", *_COMMON),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dated:
    """What every price has: what it is for, when it counts, and where it was read."""

    kind: str
    item: str
    """Card, region, or provider/model."""
    offer: str
    currency: str
    unit: str
    since: datetime.date | None
    """First day on which it counts; None if the source has no date: then it never does."""
    until: datetime.date | None
    """First day on which it no longer counts; None if no end is known."""
    grade: str
    source: str
    source_date: datetime.date | None
    """Latest day for which the source states it."""
    note: str
    place: str
    """File and line."""

    def in_force(self, on: datetime.date) -> bool:
        """Whether it counts on that day."""
        return self.since is not None and self.since <= on and (not self.until or on < self.until)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price(Dated):
    """`amount` of `currency` for one `unit` of `item`."""

    provider: str
    amount: float
    listed_as: str
    """The item's name as the source writes it."""
    region: str = ""
    """Where it is offered; stated by offers of a market alone."""
    count: int = 1
    """Offers at this amount."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiTier:
    """What a request pays whose input is longer than `above` tokens: all of it, not the rest."""

    above: int
    rates: ApiRates

    def times(self, factor: float) -> ApiTier:
        """The same tier in another currency."""
        return ApiTier(above=self.above, rates=self.rates.times(factor))


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiPrice(Dated):
    """An API's prices for a million tokens each."""

    input: float
    cached_input: float | None
    output: float
    tiers: tuple[ApiTier, ...] = ()
    """Prices of longer requests, by their threshold."""

    @property
    def said_by(self) -> str:
        """Its source, and for one that is no address what that calls it."""
        return self.source if "://" in self.source else f"{self.source}: {self.note}"

    def rates(self, n_in: float) -> ApiRates:
        """What a request of so many input tokens pays, in the row's currency."""
        for tier in reversed(self.tiers):
            if n_in > tier.above:
                return tier.rates
        return ApiRates(input=self.input, output=self.output, cached_input=self.cached_input)


AnyPrice = Price | ApiPrice


def own_folder() -> Path:
    """The user's price books: $XDG_DATA_HOME/gpu-cost-bench/prices, else below ~/.local/share."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "gpu-cost-bench" / "prices"


def own_book(kind: Kind) -> tuple[AnyPrice, ...]:
    """Every row of the user's own book; none if there is no such file."""
    folder = own_folder()
    return book(kind, folder) if (folder / f"{kind}.csv").is_file() else ()


@cache
def book(kind: Kind, folder: Path = FOLDER) -> tuple[AnyPrice, ...]:
    """Every row of a book. Raises InputError that lists every problem in it."""
    rows, problems = read_book(kind, folder / f"{kind}.csv")
    if problems:
        raise InputError(*problems)
    return tuple(rows)


def validate_prices(folder: Path = FOLDER) -> list[str]:
    """Every problem in every price book, each with file and line; empty if all is well."""
    return [problem for kind in KINDS for problem in read_book(kind, folder / f"{kind}.csv")[1]]


def read_book(kind: Kind, path: Path) -> tuple[list[AnyPrice], list[str]]:
    """The rows of one book, and every problem found in it as `file:line: column: text`."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            table = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], [f"{path}: cannot be read: {error}"]
    head, columns = (table[0] if table else []), COLUMNS[kind]
    if kind == "rent" and set(OPTIONAL) <= set(head):
        columns = (*columns, *OPTIONAL)
    if sorted(head) != sorted(columns):
        missing, extra = sorted(set(columns) - set(head)), sorted(set(head) - set(columns))
        return [], [f"{path}:1: columns: missing {missing}, unknown {extra}, or one is repeated"]
    rows: list[AnyPrice] = []
    problems: list[str] = []
    for number, cells in enumerate(table[1:], start=2):
        place = f"{path}:{number}"
        if len(cells) != len(head):
            problems.append(f"{place}: {len(cells)} cells, expected {len(head)}")
            continue
        parsed = _Cells(dict(zip(head, (cell.strip() for cell in cells), strict=True)))
        row = parsed.row(kind, place)
        problems += [f"{place}: {problem}" for problem in (*parsed.problems, *_faults(row))]
        rows.append(row)
    return rows, problems + list(_clashes(rows))


class _Cells:
    """The cells of one line, turned into figures; what does not parse becomes a problem."""

    def __init__(self, cells: Mapping[str, str]) -> None:
        self.cells = cells
        self.problems: list[str] = []

    def amount(self, column: str) -> float:
        try:
            value = float(self.cells[column])
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            self.problems.append(f"{column}: {self.cells[column]!r} is not an amount above 0")
        return value

    def whole(self, column: str) -> int:
        text = self.cells[column]
        if not (text.isdecimal() and int(text) > 0):
            self.problems.append(f"{column}: {text!r} is not a whole number above 0")
            return 1
        return int(text)

    def date(self, column: str) -> datetime.date | None:
        text = self.cells[column]
        try:
            return datetime.date.fromisoformat(text) if text else None
        except ValueError:
            self.problems.append(f"{column}: {text!r} is not a date (2025-01-31)")
            return None

    def row(self, kind: str, place: str) -> AnyPrice:
        cells = self.cells
        common = {
            "kind": kind,
            "place": place,
            "since": self.date("from"),
            "until": self.date("until"),
            "source_date": self.date("source_date"),
        } | {key: cells[key] for key in _TEXTS}
        if kind == "api":
            cached = self.amount("cached_input") if cells["cached_input"] else None
            return ApiPrice(
                input=self.amount("input"),
                cached_input=cached,
                output=self.amount("output"),
                **common,  # type: ignore[arg-type]  # a mixed table; each value is typed above
            )
        return Price(
            provider=cells["provider"],
            amount=self.amount("amount"),
            listed_as=cells["listed_as"],
            region=cells.get("region", ""),
            count=self.whole("count") if "count" in cells else 1,
            **common,  # type: ignore[arg-type]  # as above
        )


def _faults(row: AnyPrice) -> Iterator[str]:
    """What is wrong within one row."""
    for column in ("item", "source"):
        if not getattr(row, column):
            yield f"{column}: missing"
    if isinstance(row, Price) and not row.provider:
        yield "provider: missing"
    if row.kind == "api" and not re.fullmatch(r"[a-z0-9.-]+/[a-z0-9.-]+", row.item):
        yield f"item: {row.item!r} is not provider/model in lower case"
    for column, value, known in (
        ("offer", row.offer, OFFERS[row.kind]),
        ("unit", row.unit, (UNITS[row.kind],)),
        ("grade", row.grade, GRADES),
    ):
        if value not in known:
            yield f"{column}: {value!r} is not one of {', '.join(known)}"
    if not re.fullmatch(r"[A-Z]{3}", row.currency):
        yield f"currency: {row.currency!r} is not a code such as USD"
    if row.since is None:
        if row.until or not row.note:
            yield "from: missing; a price without a date needs a note that says why, and no until"
    elif row.source_date is None:
        yield "source_date: missing"
    elif row.until is not None and row.until <= row.since:
        yield f"until: {row.until} is not after {row.since}"


def _clashes(rows: Sequence[AnyPrice]) -> Iterator[str]:
    """Rows that stand twice, name two prices of one offer for one day, or mix currencies."""
    seen: dict[tuple[object, ...], list[AnyPrice]] = {}
    first: dict[str, AnyPrice] = {}
    for row in rows:
        other = first.setdefault(row.item.casefold(), row)
        if row.currency != other.currency:
            yield f"{row.place}: currency: {row.currency}, but {other.currency} in {other.place}"
        who = (
            (row.provider, row.region, row.amount if row.region else None)
            if isinstance(row, Price)
            else ""
        )
        undated = row.source if row.since is None else ""
        others = seen.setdefault((row.item.casefold(), row.offer, who, undated), [])
        for other in others:
            if undated or _overlap(row, other):
                yield f"{row.place}: the same item and offer as {other.place}, on the same days"
        others.append(row)


def _overlap(one: AnyPrice, other: AnyPrice) -> bool:
    if one.since is None or other.since is None:
        return False
    end = datetime.date.max
    return one.since < (other.until or end) and other.since < (one.until or end)
