"""Price books: what a card, a kilowatt-hour or an API's tokens cost on a given day.

A book is a CSV file in bench/data/prices/, one dated row a price. A price counts from its first
day up to, but not including, its `until`; without a price in force there is no figure, and the
message names the flag that gives one. Standard library only; docs/cost.md says how to add a row.
"""

from __future__ import annotations

import csv
import datetime
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, TypeVar

from bench.cost import ApiRates
from bench.data import DATA
from bench.errors import InputError, unknown
from bench.roofline.gpus import match

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

FLAGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "rent": "--rent USD_PER_HOUR",
        "purchase": "--own USD",
        "electricity": "--kwh USD_PER_KWH",
        "api": "--on DATE of a day when it was sold, or --against INPUT:OUTPUT (USD per Mtok)",
    }
)
_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"rent": "card", "purchase": "card", "electricity": "region", "api": "API model"}
)
_TEXTS = ("item", "offer", "currency", "unit", "grade", "source", "note")
_COMMON = ("currency", "unit", "from", "until", "grade", "source", "source_date", "note")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """The prices in force for one item on one day: a range, not a number.

    `low` and `high` are the ends of all of them, `mode` the median of the best grade among them.
    """

    low: float
    mode: float
    high: float
    currency: str
    prices: tuple[Price, ...]


AnyPrice = Price | ApiPrice
_Row = TypeVar("_Row", Price, ApiPrice)


def gpu_rent(gpu: str, on: datetime.date, offer: str = "on-demand") -> Market:
    """Price of an hour of a rented card. InputError if none is in force."""
    return _market("rent", gpu, on, (offer,))


def gpu_purchase(gpu: str, on: datetime.date) -> Market:
    """Price of a card. InputError if none is in force."""
    return _market("purchase", gpu, on, OFFERS["purchase"])


def electricity(region: str, on: datetime.date, offer: str = "residential") -> Market:
    """Price of a kilowatt-hour. InputError if none is in force."""
    return _market("electricity", region, on, (offer,))


def api_price(model: str, on: datetime.date, offer: str = "list") -> ApiPrice:
    """Prices of an API's tokens, `model` as provider/model. InputError if none is in force."""
    found = [row for row in _named("api", model) if isinstance(row, ApiPrice)]
    offered = [row for row in found if row.offer == offer]
    rows = [row for row in offered if row.in_force(on)]
    if not rows:
        raise InputError(none_in_force("api", model, on, offered or found))
    return rows[0]


def find(
    kind: Kind, text: str = "", on: datetime.date | None = None, folder: Path = FOLDER
) -> list[AnyPrice]:
    """Rows of a book whose item contains `text`, and, given a day, only those in force."""
    return [
        row
        for row in book(kind, folder)
        if text.casefold() in row.item.casefold() and (on is None or row.in_force(on))
    ]


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


def to_usd(amount: float, currency: str, rates: Mapping[str, float]) -> float:
    """An amount in US dollars; `rates` holds dollars for one unit of each other currency."""
    if currency == "USD":
        return amount
    if currency not in rates:
        raise InputError(
            f"a price is in {currency}: give --rate {currency}=USD (dollars for 1 {currency})"
        )
    return amount * rates[currency]


def parse_date(text: str) -> datetime.date:
    """The day that a user wrote for `--on`."""
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise InputError(f"--on: {text!r} is not a date (2025-01-31)") from None


def card_name(device: str) -> str:
    """The catalog's name of a card from what its driver calls it, or `device` as it is.

    `NVIDIA GeForce RTX 4080 SUPER` -> `RTX 4080 SUPER`, `NVIDIA H200` -> `H200 SXM`. Books also
    price cards that the catalog does not describe: those are found by `plain`.
    """
    card = match(device)
    return device if card is None else card.title


@cache
def plain(name: str) -> str:
    """A name without case, punctuation and vendor: `rtx-4080-super` is `RTX 4080 SUPER`."""
    text = re.sub(r"sxm[45]", "sxm", _VENDORS.sub(" ", name).lower())
    return " ".join(re.sub(r"[^a-z0-9./]+", " ", text).split())


_VENDORS: Final = re.compile(r"\b(nvidia|geforce|amd|instinct|generation)\b", re.IGNORECASE)


def _market(kind: Kind, item: str, on: datetime.date, offers: Sequence[str]) -> Market:
    found = [row for row in _named(kind, item) if isinstance(row, Price)]
    offered = [row for row in found if row.offer in offers]
    rows = [row for row in offered if row.in_force(on)]
    if not rows:
        raise InputError(none_in_force(kind, item, on, offered or found))
    best = min(GRADES.index(row.grade) for row in rows)
    return Market(
        low=min(row.amount for row in rows),
        mode=statistics.median(row.amount for row in rows if GRADES.index(row.grade) == best),
        high=max(row.amount for row in rows),
        currency=rows[0].currency,
        prices=tuple(rows),
    )


def _named(kind: Kind, item: str) -> list[AnyPrice]:
    wanted = plain(card_name(item))
    rows = [row for row in book(kind) if plain(row.item) == wanted]
    if not rows:
        raise InputError(unknown_item(kind, item, {row.item for row in book(kind)}))
    return rows


def unknown_item(kind: Kind, item: str, known: Iterable[str]) -> str:
    """One line: no such item, what is near it, and the flag that gives a price."""
    listed = f"`bench prices --kind {kind}` lists them"
    return f"{unknown(_NAMES[kind], item, known)}; {listed}, or give {FLAGS[kind]}"


def none_in_force(kind: Kind, item: str, on: datetime.date, rows: Sequence[AnyPrice]) -> str:
    """One line: which prices there are, why none counts, and the flag that gives one."""
    dated = [row for row in rows if row.since is not None]
    if dated:
        nearest = min(dated, key=lambda row: _distance(row, on))
        span = f"{nearest.since} to {nearest.until or 'now'}"
        there = f"the nearest counts from {span} ({nearest.offer})"
    else:
        there = "those listed have no date"
    if isinstance(rows[0], Price):
        amounts = sorted({f"{row.amount:g}" for row in rows if isinstance(row, Price)}, key=float)
        there += f"; listed: {', '.join(amounts)} {rows[0].currency}/{rows[0].unit}"
    name = {"rent": "rent", "purchase": "purchase price"}.get(kind, "price")
    return f"no {name} of {item} is in force on {on}: {there}; give {FLAGS[kind]}"


def _distance(row: AnyPrice, on: datetime.date) -> int:
    assert row.since is not None
    last = row.until or datetime.date.max
    return max((row.since - on).days, (on - last).days, 0)


def read_book(kind: Kind, path: Path) -> tuple[list[AnyPrice], list[str]]:
    """The rows of one book, and every problem found in it as `file:line: column: text`."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            table = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], [f"{path}: cannot be read: {error}"]
    head, columns = (table[0] if table else []), COLUMNS[kind]
    if sorted(head) != sorted(columns):
        missing, extra = sorted(set(columns) - set(head)), sorted(set(head) - set(columns))
        return [], [f"{path}:1: columns: missing {missing}, unknown {extra}, or one stands twice"]
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
        who = row.provider if isinstance(row, Price) else ""
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
