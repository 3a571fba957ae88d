"""What the tokens would cost at an API today, and when a bought card has paid for itself.

Reads only priced rows and throughputs. Prices are of the day on which the page is made, dated in
every caption; months take the card's price from the book and all else from a shipped scenario.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.cost import TOKENS_PER_MTOK
from bench.cost.apis import api_on, as_of, source
from bench.cost.books import ApiPrice
from bench.cost.prices import gpu_purchase, plain
from bench.cost.pricing import Against, Terms
from bench.cost.row import CostRow
from bench.cost.scenario import FOLDER, Scenario, SourcedFigure, load_scenario
from bench.cost.throughput import Throughput
from bench.cost.volume import volume_rows
from bench.errors import InputError
from bench.report.page import pictures
from bench.report.page.blocks import Block, Cell, ChartLine, Head, Picture, Section, Table
from bench.report.page.words import cell, number, rate

MODELS: Final = (
    "openai/gpt-6.1-sol",
    "openai/gpt-5",
    "openai/gpt-5-mini",
    "openai/gpt-4o",
    "anthropic/claude-haiku-5.5",
    "google/gemini-2.5-pro",
)
"""APIs that are shown; one without a price in force that day is left out, and said."""
CLAIMED: Final = 0.037
"""Share of OpenAI's price that the article claims ("3.7%")."""
HOME: Final = "home-rtx4080-us"
DAYS: Final = (1e6, 1e7, 1e8)
"""Tokens a day of the table."""
CURVE: Final = tuple(10 ** (5 + i / 8) for i in range(29))
"""Tokens a day of the curve: 100,000 to 300 million."""
MOST_MONTHS: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """An API and its price that day."""

    api: Against
    price: ApiPrice


def section(
    machine: str, costs: Iterable[CostRow], items: Sequence[Throughput], on: datetime.date
) -> Section:
    """One machine's cheapest arm against the APIs of that day."""
    head = Section(id=f"{machine}-apis", title="Against today's APIs")
    rivals, left = _rivals(on)
    if not rivals:
        return replace(head, missing=f"No API has a price on {on}: {'; '.join(left)}.")
    blocks: list[Block] = []
    priced = [row for row in costs if row.usd_per_mtok]
    if priced:
        blocks.append(_shares(machine, priced, rivals))
    fastest = _fastest(items)
    scenario, why = _bought(fastest, on) if fastest else (None, "nothing valid was measured")
    if fastest is not None and scenario is not None:
        blocks += _months(machine, fastest, scenario, rivals, on)
    age = (on - as_of()).days
    lead = f"Prices on {on}, from {source()} of {as_of()} ({age} days before)."
    if not priced:
        lead += " What the machine costs was not given: `bench report --rent USD_PER_HOUR`."
    if scenario is None:
        lead += f" Months to pay back are not shown: {why}."
    for line in left:
        lead += f" Left out: {line}."
    if not blocks:
        return replace(head, missing=lead)
    return replace(head, lead=lead, blocks=tuple(blocks))


def _rivals(on: datetime.date) -> tuple[list[Rival], list[str]]:
    found, left = [], []
    for name in MODELS:
        try:
            price = api_on(name, on)
        except InputError as error:
            left.append(str(error).partition(";")[0])
            continue
        api = Against(name=name, rates=price.rates(0), tiers=price.tiers, price=price)
        found.append(Rival(api=api, price=price))
    return found, left


def _shares(machine: str, costs: Sequence[CostRow], rivals: Sequence[Rival]) -> Table:
    """The cheapest arm's price over each API's, and what the article's share would take."""
    valid = [row for row in costs if row.valid] or list(costs)
    best = min(valid, key=lambda row: row.usd_per_mtok or math.inf)
    assert best.usd_per_mtok is not None
    assert best.total_tok_s is not None
    lines = []
    for one in rivals:
        asked = one.api.usd_per_mtok(best.n_prompt, best.n_gen)
        share = best.usd_per_mtok / asked
        needed = best.total_tok_s * best.usd_per_mtok / (CLAIMED * asked)
        lines.append(
            ChartLine(
                cells=(
                    Cell(text=one.api.name, detail=f"{one.price.since}"),
                    cell(asked),
                    Cell(text=f"{share:.1%}", value=share),
                    cell(needed, rate),
                )
            )
        )
    work = best.slo or f"{best.n_prompt}+{best.n_gen} ×{best.n_batch or '?'}"
    return Table(
        id=f"{machine}-api-shares",
        caption=f"{best.variant}, {work}: ${number(best.usd_per_mtok)} a million tokens, "
        f"{rate(best.total_tok_s)} tok/s",
        heads=(
            Head(text="API", note="price known since"),
            Head(text="asks", numeric=True, note="$ per million tokens"),
            Head(text="this machine", numeric=True, note="share of that price"),
            Head(text=f"for {CLAIMED:.1%} of it", numeric=True, note="tok/s it would take"),
        ),
        lines=tuple(lines),
        notes=(
            "List prices without caching or batches; as many tokens by the API's tokenizer as by "
            "the model's, which was not checked; models differ in what they can do.",
            *([] if best.valid else [f"No arm was valid: {', '.join(best.reasons)}."]),
        ),
    )


def _fastest(items: Sequence[Throughput]) -> Throughput | None:
    return max((one for one in items if one.valid), key=lambda one: one.total_tok_s, default=None)


def _bought(one: Throughput, on: datetime.date) -> tuple[Scenario | None, str]:
    """The card that was measured, bought today for a home; or why its price is not known."""
    if one.device is None:
        return None, "the results name no card"
    try:
        market = gpu_purchase(one.device, on)
    except InputError as error:
        return None, str(error).partition(";")[0]
    if market.currency != "USD":
        return None, f"the price of {one.device} is in {market.currency}"
    home = load_scenario(str(FOLDER / f"{HOME}.toml"))
    price = SourcedFigure(
        value=market.mode,
        source="; ".join(dict.fromkeys(row.source for row in market.prices)),
        date=max(row.source_date for row in market.prices if row.source_date),
    )
    same = plain(home.gpu or "") == plain(one.device)
    return (
        dataclasses.replace(
            home,
            gpu=one.device,
            price=price,
            watts_busy=home.watts_busy if same else None,
        ),
        "",
    )


def _months(
    machine: str,
    one: Throughput,
    scenario: Scenario,
    rivals: Sequence[Rival],
    on: datetime.date,
) -> Iterator[Block]:
    """Months until the card has paid for itself: a table, and a curve over tokens a day."""
    terms = Terms(against=tuple(rival.api for rival in rivals), on=on)
    try:
        rows = volume_rows([one], scenario, terms, (*DAYS, *CURVE))
    except InputError:  # no power is known: then there is no cost, and no month
        return
    months = {(row["against"], row["tokens_per_day"]): row for row in rows}
    assert scenario.price is not None
    caption = (
        f"{one.device} at ${scenario.price.likeliest:,.0f} ({scenario.price.date}), host, power "
        f"and electricity as in {HOME}; {one.variant} at {rate(one.total_tok_s)} tok/s"
    )
    table = Table(
        id=f"{machine}-months",
        caption=f"Months until the card has paid for itself. {caption}",
        heads=(
            Head(text="API"),
            *(Head(text=f"{n / TOKENS_PER_MTOK:g}M", numeric=True, note="a day") for n in DAYS),
        ),
        lines=tuple(
            ChartLine(
                cells=(
                    Cell(text=rival.api.name),
                    *(_month_cell(months[rival.api.name, n]) for n in DAYS),
                )
            )
            for rival in rivals
        ),
        notes=(
            "Simple payback: no interest, no resale. The measured batch is full when it works.",
        ),
    )
    drawn = [
        {"variant": rival.api.name, "x": n, "y": paid}
        for rival in rivals
        for n in CURVE
        if (paid := months[rival.api.name, n]["months_to_pay_back"]) and paid <= MOST_MONTHS
    ]
    yield Picture(
        id=f"{machine}-pay-back",
        title="When a bought card has paid for itself",
        caption=f"Months against tokens a day, up to {MOST_MONTHS:g} months. {caption}",
        alt="; ".join(
            f"{rival.api.name}: {_spoken(months[rival.api.name, DAYS[1]])}" for rival in rivals
        ),
        spec=pictures.pay_back(drawn, [rival.api.name for rival in rivals]) if drawn else None,
        missing="" if drawn else f"not within {MOST_MONTHS:g} months against any API",
        table=table,
    )


def _month_cell(row: dict[str, object]) -> Cell:
    found, machines = row["months_to_pay_back"], row["machines"]
    detail = f"{machines} cards" if machines != 1 else ""
    if not isinstance(found, float):
        return Cell(text="never", detail="running it costs more")
    return Cell(text=number(found), detail=detail, value=found)


def _spoken(row: dict[str, object]) -> str:
    found = row["months_to_pay_back"]
    if not isinstance(found, float):
        return "never"
    return f"{number(found)} months at {DAYS[1] / TOKENS_PER_MTOK:g} million tokens a day"
