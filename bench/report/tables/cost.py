"""Tables of `bench cost` and `bench prices`, and the lines below them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from bench.cost.books import KINDS, AnyPrice, Price
from bench.cost.prices import OLD
from bench.report.tables import Column, Row, column

PRICE_COLUMNS = (
    column("kind"),
    column("item"),
    column("offer"),
    column("price"),
    column("from"),
    column("until"),
    column("grade"),
    column("provider"),
    column("source_date", "source date"),
    Column(heading="source", show=lambda row: _site(row["source"])),
)


def _site(source: str) -> str:
    """The host of an address; other sources as they are."""
    return source.split("/")[2] if "://" in source else source


def price_row(price: AnyPrice) -> dict[str, Any]:
    """One price as a row; dates as text, an API's three prices apart."""
    row: dict[str, Any] = {
        "kind": price.kind,
        "item": price.item,
        "offer": price.offer,
        "currency": price.currency,
        "unit": price.unit,
        "from": price.since.isoformat() if price.since else None,
        "until": price.until.isoformat() if price.until else None,
        "grade": price.grade,
        "source": price.source,
        "source_date": price.source_date.isoformat() if price.source_date else None,
        "note": price.note,
    }
    if isinstance(price, Price):
        amounts: dict[str, Any] = {
            "price": f"{price.amount:g} {price.currency}/{price.unit}"
            + (f" x{price.count}" if price.count > 1 else ""),
            "amount": price.amount,
            "provider": price.provider,
            "listed_as": price.listed_as,
            "region": price.region or None,
            "count": price.count,
        }
    else:
        amounts = {
            "price": f"{price.input:g} in, {price.output:g} out {price.currency}/{price.unit}",
            "input": price.input,
            "cached_input": price.cached_input,
            "output": price.output,
            "provider": price.item.partition("/")[0],
        }
    return row | amounts


def price_columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns of prices; a region only where one is stated."""
    columns = list(PRICE_COLUMNS)
    if any(row.get("region") for row in rows):
        columns.insert(-2, column("region"))
    return columns


def age_notes(prices: Sequence[AnyPrice], on: datetime.date) -> list[str]:
    """How old the newest price of each kind is on that day; a warning past `OLD`."""
    notes = []
    for kind in KINDS:
        dated = [one.source_date for one in prices if one.kind == kind and one.source_date]
        if not dated:
            continue
        newest = max(dated)
        line = f"{kind}: newest price of {newest}, {_age(newest, on)}"
        notes.append(f"{line}; {REFRESH[kind]}" if on - newest > OLD else line)
    return notes


def _age(day: datetime.date, on: datetime.date) -> str:
    days = (on - day).days
    if days < 0:
        return f"{-days} days later"
    return f"{days} day{'s' * (days != 1)} old" + (", which is old" if on - day > OLD else "")


REFRESH = {
    "rent": "`bench prices --update` asks the market",
    "purchase": "docs/cost.md says how to add a row",
    "electricity": "docs/cost.md says how to add a row",
    "api": "`bench cost --against` takes today's from genai-prices",
}
"""Kind of price -> what brings newer ones."""


def _range(low: str, high: str, heading: str) -> Column:
    def show(row: Row) -> str:
        ends = row.get(low), row.get(high)
        return "-" if None in ends else f"{ends[0]:.4g} to {ends[1]:.4g}"

    return Column(heading=heading, show=show)


def _work(row: Row) -> str:
    batch = row.get("n_batch")
    return f"{row['n_prompt']}+{row['n_gen']}" + (f" x{batch}" if batch else "")


def _rate(value: float | None) -> str:
    """Tokens a second: four figures, and never an exponent."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _card(row: Row) -> str:
    """The card that was measured, and how many of it."""
    several = (row.get("gpus") or 1) > 1
    name = row.get("device") or "-"
    return f"{row['gpus']} x {name}" if several else name


def _told_apart(rows: Sequence[Row], key: str) -> bool:
    """Whether the card or the backend tells rows apart, or where other tools' rows come from."""
    known = {row.get(key) for row in rows if row["basis"] != "api"}
    other = any(row.get("origin") not in (None, "measured", "synthetic") for row in rows)
    return known != {None} and (other or len(known) > 1)


def _cheapest(row: Row) -> str:
    value = row.get("usd_per_mtok")
    text = "-" if value is None else format(value, ".4g")
    return f"{text} *" if row.get("cheapest_batch") else text


_COST = (
    (None, column("variant")),
    ("device", Column(heading="card", show=_card)),
    ("backend", column("backend")),
    (None, Column(heading="prompt+gen x batch", show=_work)),
    ("requests", column("requests")),
    ("slo", column("slo", "within")),
    ("requests_s", column("requests_s", "requests/s", ",.3g")),
    ("user_tok_s", column("user_tok_s", "tok/s a user", ",.3g")),
    ("cached_share", column("cached_share", "prompt cached", ".0%")),
    ("total_tok_s", Column(heading="total tok/s", show=lambda row: _rate(row["total_tok_s"]))),
    ("power_limit_w", column("power_limit_w", "limit W", ",.0f")),
    (None, column("scenario", "scenario", missing="list price")),
    ("utilization", column("utilization", "busy", ".0%")),
    ("usd_per_busy_hour", column("usd_per_busy_hour", "USD/busy h", ".4g")),
    ("slo", column("usd_per_available_hour", "USD/h kept ready", ".4g")),
    ("slo", column("usd_per_hour_per_request_s", "USD/h for 1 request/s", ".4g")),
    (None, Column(heading="USD/Mtok", show=_cheapest)),
    ("usd_per_mtok_computed", column("usd_per_mtok_computed", "USD/Mtok computed", ".4g")),
    ("ci_low", _range("ci_low", "ci_high", "95% measured")),
    ("band_low", _range("band_low", "band_high", "95% scenario")),
    ("per_mtok", column("per_mtok", "", ".4g")),
    ("usd_per_mtok_input", column("usd_per_mtok_input", "in", ".3g")),
    ("usd_per_mtok_output", column("usd_per_mtok_output", "out", ".3g")),
    ("split_rho", column("split_method", "split")),
    ("co2_g_per_mtok", column("co2_g_per_mtok", "g CO2/Mtok", ".3g")),
    ("against", column("against")),
    ("break_even_tok_s", column("break_even_utilization", "break-even busy", ".2%")),
    ("break_even_tok_s", column("break_even_tok_s", "break-even tok/s", ",.0f")),
    ("months_to_pay_back", column("months_to_pay_back", "months to pay back", ".3g")),
    ("reasons", column("reasons")),
)
"""Key that must be there in some row for the column to be shown, and the column."""


def cost_columns(rows: Sequence[Mapping[str, Any]], currency: str = "USD") -> list[Column]:
    """The columns that have something to say about these rows."""
    columns = []
    for key, shown in _COST:
        if key is not None and not any(row.get(key) for row in rows):
            continue
        if key == "power_limit_w" and not _limits(rows):
            continue
        if key in ("device", "backend") and not _told_apart(rows, key):
            continue
        if key == "per_mtok":
            shown = Column(heading=f"{currency}/Mtok", show=shown.show)
        if key == "reasons":
            shown = Column(heading="invalid", show=lambda row: ", ".join(row["reasons"]) or "-")
        columns.append(shown)
    return columns


def _limits(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of those that were measured at several power limits of one card; else none."""
    works: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("power_limit_w") and row["usd_per_mtok"] is not None:
            keys = ("variant", "device", "n_prompt", "n_gen", "n_batch", "scenario", "against")
            works.setdefault(tuple(row[key] for key in keys), []).append(row)
    several = (w for w in works.values() if len({row["power_limit_w"] for row in w}) > 1)
    return [row for work in several for row in work]


def _limit_notes(rows: Sequence[Row]) -> list[str]:
    """The power limit at which each arm and workload is cheapest, where several were measured."""
    works: dict[tuple[Any, ...], list[Row]] = {}
    for row in _limits(rows):
        key = (row["variant"], row["scenario"], row["n_prompt"], row["n_gen"], row["n_batch"])
        works.setdefault(key, []).append(row)
    notes = []
    for (variant, scenario, *_), work in works.items():
        best = min(work, key=lambda row: row["usd_per_mtok"])
        worst = max(work, key=lambda row: row["usd_per_mtok"])
        notes.append(
            f"power limit: {variant} {_work(best)} under {scenario} is cheapest at "
            f"{best['power_limit_w']:,.0f} W ({best['usd_per_mtok']:.4g} USD/Mtok; "
            f"{worst['usd_per_mtok']:.4g} at {worst['power_limit_w']:,.0f} W)"
        )
    return notes


def cost_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the figures rest on, and why some are missing: one line each, none twice."""
    notes = [
        f"{row['scenario']}: {row['assumptions']}; price of {row['price_date']}"
        f"{_how_old(row)}: {row['price_source']}"
        for row in rows
        if row["scenario"]
    ]
    notes += [
        f"{row['variant']}: {_listed(row)}; {row['assumptions']}"
        for row in rows
        if row["basis"] == "api"
    ]
    powers = {row["energy_source"] for row in rows if row["basis"] == "own"}
    notes += [f"power: {power}" for power in sorted(powers)]
    idle = {row["idle_source"] for row in rows if row["basis"] == "own"} - {None}
    notes += [f"idle power: {source}" for source in sorted(idle)]
    if any(row.get("cheapest_batch") for row in rows):
        notes.append("*: the cheapest batch of its workload")
    notes += _limit_notes(rows)
    origins = {row["origin"] for row in rows} - {"measured", None}
    notes += [f"not measured by this tool: {origin}" for origin in sorted(origins)]
    missing = [
        f"no {reason}"
        for row in rows
        if row["basis"] != "api"
        for reason in row["absent"]
        if "--against" not in reason and not reason.startswith("ci_high")
    ]
    return list(dict.fromkeys(notes + missing))


def _listed(row: Row) -> str:
    if row["price_date"] is None:
        return str(row["price_source"])
    return f"list price since {row['price_date']}{_how_old(row)}, {row['price_source']}"


def _how_old(row: Row) -> str:
    """Its oldest price's age, where it is not of the day itself."""
    days = row["price_age_days"]
    return f" (oldest price {days} days old)" if days else ""


def old_prices(rows: Sequence[Row]) -> list[str]:
    """A warning for each scenario and API whose oldest price is older than `OLD`."""
    old = {
        row["scenario"] or row["variant"]: row["price_age_days"]
        for row in rows
        if row["price_age_days"] is not None and row["price_age_days"] > OLD.days
    }
    return [
        f"{name}: its oldest price is {days} days old; `bench prices` lists newer ones, "
        "`bench prices --update` fetches rents"
        for name, days in old.items()
    ]


TORNADO_COLUMNS = (
    column("variant"),
    Column(heading="prompt+gen x batch", show=_work),
    column("scenario"),
    column("figure"),
    column("usd_per_mtok_at_low", "USD/Mtok at its lowest", ".4g"),
    column("usd_per_mtok_at_high", "at its highest", ".4g"),
    column("variance_share", "share of variance", ".1%"),
)


def _busy(row: Row) -> str:
    return f"{row['busy_share']:.2%}"


_VOLUME = (
    (None, column("variant")),
    (None, Column(heading="prompt+gen x batch", show=_work)),
    (None, column("scenario")),
    (None, column("tokens_per_day", "tokens/day", ",.0f")),
    (None, column("machines")),
    (None, Column(heading="busy", show=_busy)),
    (None, column("usd_per_month", "USD/month", ",.2f")),
    ("usd_per_month_by_use", column("usd_per_month_by_use", "only hours of use", ",.2f")),
    (None, column("usd_per_mtok", "USD/Mtok", ".4g")),
    ("against", column("against")),
    ("against", column("against_usd_per_month", "API USD/month", ",.2f")),
    ("months_to_pay_back", column("months_to_pay_back", "months to pay back", ",.1f")),
    ("reasons", Column(heading="invalid", show=lambda row: ", ".join(row["reasons"]) or "-")),
)
"""Key that must be there in some row for the column to be shown, and the column."""


def volume_columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns of costs at a number of tokens a day that have something to say."""
    return [shown for key, shown in _VOLUME if key is None or any(row.get(key) for row in rows)]


def volume_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the table takes for granted, and why figures are missing."""
    notes = [
        f"{row['scenario']}: {row['assumptions']}; oldest price {row['price_age_days']} days old"
        for row in rows
    ]
    notes = list(dict.fromkeys(notes))
    notes.append(
        "assumed: the measured batch is full whenever there is work; a month is 365/12 days"
    )
    if any(row["usd_per_month_by_use"] is not None for row in rows):
        notes.append(
            "USD/month: every hour is paid (reserved); only hours of use: idle machines are "
            "returned, and the rest are billed at the scenario's utilization"
        )
    return notes + [f"no {why}" for why in dict.fromkeys(w for row in rows for w in row["absent"])]
