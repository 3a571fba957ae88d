"""What a card, a kilowatt-hour or an API's tokens cost on a given day, from the price books.

A price counts from its first day up to, but not including, its `until`; without a price in force
there is no figure, and the message names the flag that gives one. Standard library only.
"""

from __future__ import annotations

import datetime
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from bench.cost.books import FOLDER, GRADES, OFFERS, AnyPrice, ApiPrice, Kind, Price, book, own_book
from bench.errors import InputError, unknown
from bench.records import now
from bench.roofline.gpus import match

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


OLD: Final = datetime.timedelta(days=90)
"""A price that is older is warned about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """The prices in force for one item on one day: a range, not a number.

    Of a book's rows `low` and `high` are the ends, `mode` the median of the best grade among them.
    Of a market's offers they are the 10th and 90th percentile and the median.
    """

    low: float
    mode: float
    high: float
    currency: str
    prices: tuple[Price, ...]


def gpu_rent(
    gpu: str, on: datetime.date, offer: str = "on-demand", *, shipped: bool = False
) -> Market:
    """Price of an hour of a rented card. InputError if none is in force.

    The user's own rows come first, unless only the shipped ones are asked for, as claims do.
    """
    return _market("rent", gpu, on, (offer,), shipped=shipped)


def market_rent(gpu: str, on: datetime.date, offer: str = "on-demand") -> Market | None:
    """The offers of `bench prices --update` that are in force; None if there is none."""
    rows = [
        row
        for row in _named(own_book("rent"), gpu)
        if isinstance(row, Price) and row.region and row.offer == offer and row.in_force(on)
    ]
    return _of_offers(rows) if rows else None


def gpu_purchase(gpu: str, on: datetime.date) -> Market:
    """Price of a card. InputError if none is in force."""
    return _market("purchase", gpu, on, OFFERS["purchase"])


def electricity(region: str, on: datetime.date, offer: str = "residential") -> Market:
    """Price of a kilowatt-hour. InputError if none is in force."""
    return _market("electricity", region, on, (offer,))


def api_price(model: str, on: datetime.date, offer: str = "list") -> ApiPrice:
    """Prices of an API's tokens, `model` as provider/model. InputError if none is in force."""
    found = [row for row in _named(book("api"), model) if isinstance(row, ApiPrice)]
    if not found:
        raise InputError(unknown_item("api", model, {row.item for row in book("api")}))
    offered = [row for row in found if row.offer == offer]
    rows = [row for row in offered if row.in_force(on)]
    if not rows:
        raise InputError(none_in_force("api", model, on, offered or found))
    return rows[0]


def find(
    kind: Kind, text: str = "", on: datetime.date | None = None, folder: Path = FOLDER
) -> list[AnyPrice]:
    """Rows of a book whose item contains `text`, and, given a day, only those in force.

    The shipped book's come with those of the user's own, before them.
    """
    rows = (*own_book(kind), *book(kind)) if folder == FOLDER else book(kind, folder)
    return [
        row
        for row in rows
        if text.casefold() in row.item.casefold() and (on is None or row.in_force(on))
    ]


def to_usd(amount: float, currency: str, rates: Mapping[str, float]) -> float:
    """An amount in US dollars; `rates` holds dollars for one unit of each other currency."""
    if currency == "USD":
        return amount
    if currency not in rates:
        raise InputError(
            f"a price is in {currency}: give --rate {currency}=USD (dollars for 1 {currency})"
        )
    return amount * rates[currency]


def today() -> datetime.date:
    """The day by UTC, whose prices count where none is named."""
    return now().date()


def parse_date(text: str, flag: str = "--on") -> datetime.date:
    """The day that a user wrote for a flag."""
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise InputError(f"{flag}: {text!r} is not a date (2025-01-31)") from None


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
    text = re.sub(r"(?<=\d)[ -]gb\b", "gb", text)
    return " ".join(re.sub(r"[^a-z0-9./]+", " ", text).split())


_VENDORS: Final = re.compile(r"\b(nvidia|geforce|amd|instinct|generation)\b", re.IGNORECASE)


def _market(
    kind: Kind, item: str, on: datetime.date, offers: Sequence[str], *, shipped: bool = False
) -> Market:
    books = (book(kind),) if shipped else (own_book(kind), book(kind))
    found: list[Price] = []
    for rows in books:
        named = [row for row in _named(rows, item) if isinstance(row, Price)]
        found += named
        offered = [row for row in named if row.offer in offers and row.in_force(on)]
        if offered:
            return _of_offers(offered)
    if not found:
        raise InputError(unknown_item(kind, item, {row.item for row in book(kind)}))
    raise InputError(
        none_in_force(kind, item, on, [row for row in found if row.offer in offers] or found)
    )


def _of_offers(rows: Sequence[Price]) -> Market:
    best = min(GRADES.index(row.grade) for row in rows)
    graded = [row for row in rows if GRADES.index(row.grade) == best]
    low, high = min(row.amount for row in rows), max(row.amount for row in rows)
    offers = [row.amount for row in graded for _ in range(row.count)]
    if any(row.region for row in rows) and len(offers) > 1:
        deciles = statistics.quantiles(offers, n=10, method="inclusive")
        low, high = deciles[0], deciles[-1]
    return Market(
        low=low,
        mode=statistics.median(offers),
        high=high,
        currency=rows[0].currency,
        prices=tuple(rows),
    )


def _named(rows: Iterable[AnyPrice], item: str) -> list[AnyPrice]:
    wanted = plain(card_name(item))
    return [row for row in rows if plain(row.item) == wanted]


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
