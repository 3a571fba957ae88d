"""What an API asks on a day: the package genai-prices, and our own book where it has no history.

The package (pydantic; some 2,300 models of 47 providers) is imported only when a price is asked
for. A price of it that has no first day counts from the day of its release on: what it was before
is not known, and then our own dated row counts, or none. Standard hours are taken where the
hour decides. Nothing here touches the network.
"""

from __future__ import annotations

import datetime
import re
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.cost import ApiRates
from bench.cost.books import ApiPrice, ApiTier, book, own_book
from bench.cost.prices import none_in_force, unknown_item
from bench.errors import InputError

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

PACKAGE: Final = "genai-prices"
RELEASED: Final = {"0.2.3": datetime.date(2026, 11, 10)}
"""When the versions that were tested came out, by the package index; the package does not say."""
NOON: Final = datetime.time(12, tzinfo=datetime.UTC)
"""Standard hours everywhere that a price depends on the hour (off-peak is at night, UTC)."""

TOKENS: Final = ("input_mtok", "cache_read_mtok", "output_mtok")
BATCH: Final = {"processing": "batch"}
PER_REQUEST: Final = ("requests_kcount",)
"""Asked for beside tokens, whatever is requested: such a model is not priced by tokens alone."""

ROUTES: Final = "huggingface_"
"""Prefix of a hoster's id where Hugging Face passes the request on: the same hoster."""
NOT_HOSTERS: Final = frozenset({"github-copilot", "cursor", "voyageai", "elevenlabs"})
SERVED_AS: Final = frozenset(
    [
        "awq",
        "base",
        "bf16",
        "chat",
        "fast",
        "fp16",
        "fp4",
        "fp8",
        "hf",
        "instant",
        "instruct",
        "int4",
        "int8",
        "it",
        "lite",
        "meta",
        "nvfp4",
        "turbo",
        "versatile",
    ]
)
"""Words of a model's name that say how it is tuned or served: the size and the work are the same.
Numbers that date a model (0528, 2507) are not among them: those are other weights."""


def source() -> str:
    """The package and its version, as a table names it."""
    return f"{PACKAGE} {version(PACKAGE)}"


@cache
def as_of() -> datetime.date:
    """The day as of which the package states its prices: that of its release.

    Of a version that is not in `RELEASED`, the newest first day of a price that is not after its
    installation: a later one was announced, and says nothing about the others.
    """
    known = RELEASED.get(version(PACKAGE))
    if known is not None:
        return known
    import genai_prices

    installed = Path(genai_prices.__file__).stat().st_mtime
    last = datetime.datetime.fromtimestamp(installed, datetime.UTC).date()
    models = (model for provider in _providers() for model in provider.models)
    return max(day for model in models for day in _starts(model, batch=True) if day <= last)


def api_on(model: str, on: datetime.date, *, batch: bool = False) -> ApiPrice:
    """What `provider/model` asks on that day; `batch`: for work that may wait, at its own price.

    InputError if no price is in force: unknown model, a day that nothing reaches, no batch price.
    """
    rows = (*own_book("api"), *book("api"))
    mine = {row.place for row in own_book("api")}
    own = [row for row in rows if row.item == model and isinstance(row, ApiPrice)]
    kept = next((row for row in own if row.offer == "list" and row.in_force(on)), None)
    found = _found(model)
    if found is None and not own:
        raise InputError(unknown_item("api", model, _known(model)))
    packaged = _packaged(model, *found, on, batch=batch) if found else None
    alike = [
        row for row in rows if isinstance(row, ApiPrice) and found and _found(row.item) == found
    ]
    if packaged is not None and _ended(packaged, alike, on):
        packaged, own = None, own or alike
    first = packaged is None or on < as_of() or (kept is not None and kept.place in mine)
    if kept is not None and not batch and first:
        return kept
    if packaged is None:
        raise InputError(_why_none(model, on, own, batch=batch and bool(found or kept)))
    return packaged


def search(text: str, on: datetime.date) -> list[ApiPrice]:
    """The package's prices of that day whose provider/model contains `text`."""
    wanted = text.casefold()
    named = (
        (f"{provider.id}/{model.id}", provider, model)
        for provider in _providers()
        for model in provider.models
    )
    found = (_packaged(*one, on) for one in named if wanted in one[0].casefold())
    return [price for price in found if price is not None]


def hosters(model: str, on: datetime.date) -> list[ApiPrice]:
    """Prices of those who serve this very model, one a hoster. InputError if none is known.

    `model`: a card's name or a repository of the hub. Names are compared without organisation,
    and without what says how it is tuned or served (`SERVED_AS`).
    """
    if not model:
        raise InputError(
            "--against hosted: the results name no model; give --against PROVIDER/MODEL"
        )
    wanted = same_model(model)
    found: dict[str, ApiPrice] = {}
    for provider in _providers():
        if provider.id in NOT_HOSTERS:
            continue
        for one in provider.models:
            if one.deprecated or ":" in one.id or same_model(one.id) != wanted:
                continue
            price = _packaged(f"{provider.id}/{one.id}", provider, one, on)
            name = provider.id.removeprefix(ROUTES)
            if price is not None and (name not in found or _cheaper(price, found[name])):
                found[name] = price
    if not found:
        raise InputError(
            f"--against hosted: {source()} knows no hoster of {model} on {on}; give "
            "--against PROVIDER/MODEL or INPUT:OUTPUT (USD per Mtok)"
        )
    return list(found.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """The cheapest and the median of those who serve a model, at one mix of tokens."""

    cheapest: ApiPrice
    median: ApiPrice
    count: int


def hosted(model: str, on: datetime.date, n_in: float, n_out: float) -> Hosted:
    """The hosters by what `n_in` and `n_out` tokens cost there; the median is one of them."""

    def usd(price: ApiPrice) -> float:
        return price.rates(n_in).usd_per_request(n_in, n_out)

    ranked = sorted(hosters(model, on), key=usd)
    middle = statistics.median_low(range(len(ranked)))
    return Hosted(cheapest=ranked[0], median=ranked[middle], count=len(ranked))


def same_model(name: str) -> tuple[str, ...]:
    """A model's name as its family, version and size: equal for one model served under two names.

    `meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo`, `llama-v3p1-8b-instruct` and `llama3.1-8b` are
    `("llama3.1", "8b")`.
    """
    text = name.casefold().partition("@")[0] if not name.startswith("@") else name.casefold()
    text = text.partition(":")[0].rpartition("/")[2]
    text = re.sub(r"\bv(\d)p(\d)\b", r"\1.\2", text)
    words: list[str] = []
    for word in re.split(r"[-_ ]+", text):
        if word in SERVED_AS or re.fullmatch(r"v0\.\d", word):
            continue
        if words and re.fullmatch(r"\d+(\.\d+)?", word) and words[-1].isalpha():
            words[-1] += word
        else:
            words.append(word)
    return tuple(words)


def _providers() -> list[Provider]:
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot().providers


def _found(model: str) -> tuple[Provider, ModelInfo] | None:
    from genai_prices.data_snapshot import find_provider_by_id

    name, _, ref = model.partition("/")
    provider = find_provider_by_id(_providers(), name) if ref else None
    found = provider.find_model(ref.lower()) if provider else None
    return (provider, found) if provider and found else None


def _known(model: str) -> list[str]:
    """Names to suggest from: those of the provider that was named, else of our own book."""
    name = model.partition("/")[0]
    models = [f"{p.id}/{one.id}" for p in _providers() if p.id == name for one in p.models]
    return models or [row.item for row in book("api")]


def _starts(model: ModelInfo, *, batch: bool = False) -> Iterator[datetime.date]:
    """First days of the standard prices of a model, and of its batch prices if asked for."""
    conditional = model.prices if isinstance(model.prices, list) else []
    variants = [one for one in model.price_variants or () if one.when == BATCH]
    for one in (*conditional, *(variants if batch else ())):
        start = getattr(one.constraint, "start_date", None)
        if start is not None:
            yield start


def _packaged(
    name: str, provider: Provider, model: ModelInfo, on: datetime.date, *, batch: bool = False
) -> ApiPrice | None:
    """The package's price on that day; None where it has none, or does not say since when."""
    at = datetime.datetime.combine(on, NOON)
    if batch and not _has_batch(model, at):
        return None
    since = max((day for day in _starts(model, batch=batch) if day <= on), default=None)
    if since is None and on < as_of():
        return None
    context = BATCH if batch else None
    asked = model.get_prices(at, context)
    amounts = {key: getattr(asked, key, None) for key in TOKENS}
    if not (amounts["input_mtok"] and amounts["output_mtok"]) or _asks_more(asked):
        return None
    base, *tiers = [
        ApiTier(above=start, rates=_rates(amounts, start)) for start in _thresholds(amounts)
    ]
    return ApiPrice(
        kind="api",
        item=name,
        offer="batch" if batch else "list",
        currency="USD",
        unit="Mtok",
        since=since or as_of(),
        until=min((day for day in _starts(model, batch=batch) if day > on), default=None),
        grade="secondary",
        source=source(),
        source_date=as_of(),
        note=f"{model.id} of {provider.name}{'' if since else ', in force by that day'}",
        place=PACKAGE,
        input=base.rates.input,
        cached_input=base.rates.cached_input,
        output=base.rates.output,
        tiers=tuple(tiers),
    )


def _has_batch(model: ModelInfo, at: datetime.datetime) -> bool:
    return any(
        one.when == BATCH and (one.constraint is None or one.constraint.active(at))
        for one in model.price_variants or ()
    )


def _asks_more(asked: ModelPrice) -> bool:
    return any(getattr(asked, key, None) for key in PER_REQUEST)


def _thresholds(amounts: dict[str, Any]) -> list[int]:
    """0, and each number of input tokens above which a request pays other prices."""
    starts = {tier.start for value in amounts.values() for tier in getattr(value, "tiers", ())}
    return [0, *sorted(starts)]


def _rates(amounts: dict[str, Any], above: int) -> ApiRates:
    def at(value: Any) -> float | None:
        if value is None:
            return None
        reached = [tier.price for tier in getattr(value, "tiers", ()) if tier.start <= above]
        return float(reached[-1] if reached else getattr(value, "base", value))

    fresh, cached, output = (at(amounts[key]) for key in TOKENS)
    assert fresh is not None
    assert output is not None
    return ApiRates(input=fresh, output=output, cached_input=cached)


def _ended(packaged: ApiPrice, own: Iterable[ApiPrice], on: datetime.date) -> bool:
    """Whether our book knows the day on which this very price ended; the package has no ends."""
    return any(
        row.until is not None
        and row.until <= on
        and (row.input, row.output) == (packaged.input, packaged.output)
        and not any(later.since and row.until <= later.since <= on for later in own)
        for row in own
        if row.offer == "list"
    )


def _cheaper(one: ApiPrice, other: ApiPrice) -> bool:
    return one.input + one.output < other.input + other.output


def _why_none(model: str, on: datetime.date, own: list[ApiPrice], *, batch: bool) -> str:
    if batch:
        return f"no batch price of {model} is in force on {on}; give --batch-discount SHARE"
    if own:
        return none_in_force("api", model, on, own)
    return (
        f"no price of {model} is in force on {on}: {source()} has no price of its tokens alone "
        f"that is known for that day (undated ones count from {as_of()}); give --on DATE, or "
        "--against INPUT:OUTPUT (USD per Mtok)"
    )
