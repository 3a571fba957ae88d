"""`bench cost`: $ per million tokens of what was measured, under stated assumptions."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import add_output, amounts, progress, refuse
from bench.cli.rivals import against, cached_share, check
from bench.errors import InputError

if TYPE_CHECKING:
    from bench.cost.prices import Market
    from bench.cost.pricing import Terms
    from bench.cost.row import CostRow
    from bench.cost.scenario import Basis, Scenario, SourcedFigure
    from bench.cost.throughput import Throughput
    from bench.report.tables import Column
    from bench.summary import Summary

EPILOG = """\
examples:
  bench cost results/local/quickstart --rent 0.42 --utilization 0.3
  bench cost results/local/quickstart --rent 0.34:0.42:0.60 --utilization 0.1:0.3:0.6 --tornado
  bench cost RESULTS --own 1200 --years 3 --rate-of-return 0.08 --salvage 0.3 --host 800 \\
      --kwh 0.17 --watts-busy 420 --watts-idle 80 --utilization 0.3 --against openai/gpt-4o
  bench cost RESULTS --scenario home-rtx4080-japan --rate JPY=0.0067 --against 2.50:10 --mix 3:1
  bench cost RESULTS --rent book --gpu 'H200 SXM' --on 2026-06-01
  bench cost RESULTS --scenario home-rtx4080-us --against openai/gpt-5 --tokens-per-day 1M,10M
  bench cost RESULTS --rent 0.42 --against openai/gpt-5 --cached 0.5 --against hosted

A figure is a number or a range LOW:MODE:HIGH; ranges give the band. `book` takes the dated price
of the card (`bench prices`). Figures not given are neutral (no interest, no resale, PUE 1).
"""

FIGURES: Mapping[str, tuple[str, str, str]] = {
    "utilization": ("--utilization", "SHARE", "busy share of powered or billed hours (default: 1)"),
    "rent_per_hour": ("--rent", "USD_PER_HOUR", "rent of the machine, or `book`"),
    "storage_per_hour": (
        "--storage",
        "USD_PER_HOUR",
        "price of storage, billed in addition to the rent",
    ),
    "egress_per_busy_hour": ("--egress", "USD_PER_HOUR", "price of egress in a busy hour"),
    "price": ("--own", "USD", "purchase price of the card, or `book`; needs --years and --kwh"),
    "years": ("--years", "YEARS", "years until the card is sold"),
    "rate_of_return": ("--rate-of-return", "SHARE", "yearly cost of capital"),
    "salvage_share": ("--salvage", "SHARE", "resale value of the card over its price"),
    "host_price": ("--host", "USD", "price of the rest of the machine"),
    "opex_per_year": ("--opex", "USD_PER_YEAR", "yearly cost of room, repairs and labour"),
    "powered_share": ("--powered", "SHARE", "share of the year that the machine is on"),
    "electricity_per_kwh": ("--kwh", "USD_PER_KWH", "price of electricity, or a region"),
    "pue": ("--pue", "RATIO", "power of the site over power of the machine"),
    "watts_busy": ("--watts-busy", "WATTS", "power at the wall while busy"),
    "watts_idle": ("--watts-idle", "WATTS", "power at the wall while idle"),
    "watts_host": (
        "--watts-host",
        "WATTS",
        "power of the host, added to the measured power of the card",
    ),
}
"""Figure of a scenario -> flag, its placeholder and help. Limits: `bench.cost.scenario.RULES`."""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the arguments of `bench cost`."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "cost",
        help="compute $ per million tokens: owned, rented, against an API",
        description="Compute what measured tokens cost. The measurement's interval and the "
        "scenario's band stay separate.",
        epilog=EPILOG,
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS")
    parser.add_argument(
        "--scenario",
        action="append",
        default=[],
        metavar="NAME|FILE",
        help="a shipped scenario or a .toml file; may be repeated; flags replace its figures",
    )
    for name, (flag, placeholder, text) in FIGURES.items():
        parser.add_argument(flag, dest=name, metavar=placeholder, help=text)
    parser.add_argument(
        "--gpus", type=int, metavar="N", help="cards that worked as one, if records do not say it"
    )
    parser.add_argument(
        "--gpu", metavar="NAME", help="use this card's prices, whatever card was measured"
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="PROVIDER/MODEL|hosted|IN:OUT",
        help="compare with an API, with the hosts of the measured model, or with USD per "
        "million input:output tokens; may be repeated",
    )
    parser.add_argument(
        "--cached",
        metavar="SHARE|measured",
        help="share of the API's input that is cached; `measured`: the measured server's share",
    )
    parser.add_argument(
        "--slo",
        metavar="LIMITS",
        help="price a search (--slo) at other limits than its own, such as ttft_p95=1",
    )
    parser.add_argument("--batch", action="store_true", help="use the API's batch prices")
    parser.add_argument("--batch-discount", metavar="SHARE", help="use this discount for batches")
    parser.add_argument("--on", metavar="DATE", help="use the prices of this day (default: today)")
    parser.add_argument(
        "--mix", metavar="IN:OUT", help="mix of input and output tokens, such as 3:1"
    )
    parser.add_argument("--currency", default="USD", help="also show costs in this currency")
    parser.add_argument(
        "--rate",
        action="append",
        default=[],
        metavar="CODE=USD[@DATE]",
        help="dollars for one unit of a currency, and the day of this rate (default: --on), "
        "such as JPY=0.0067@2026-11-28",
    )
    parser.add_argument("--co2", metavar="G_PER_KWH", help="grams of CO2 per kilowatt-hour")
    parser.add_argument(
        "--tornado", action="store_true", help="show what drives the cost instead of the cost"
    )
    parser.add_argument(
        "--tokens-per-day",
        metavar="N,N...",
        help="show a month at this load (1M, 200k, 1e7): number of machines, cost of reserved and "
        "of used hours, months until a purchase pays back against --against",
    )
    add_output(parser)
    return parser


Groups = Sequence[tuple[str, Sequence["Throughput"]]]
"""The throughputs of each model; all of them under no name where models do not matter."""


def run(args: argparse.Namespace) -> int:
    """Price the results and print one table; old prices are warned about on stderr."""
    from bench.report.tables.cost import old_prices

    _check(args)
    items, models = _measured(args.results, args.slo)
    scenarios = _scenarios(args, items)
    groups: Groups = _of_models(items, models) if "hosted" in args.against else [("", items)]
    if args.tornado:
        rows = _tornado(args, scenarios, groups)
    elif args.tokens_per_day:
        rows = _volume(args, scenarios, groups)
    else:
        rows = _priced(args, scenarios, groups)
    for line in old_prices(rows):
        print(f"bench: {line}", file=sys.stderr)
    return 0


def _check(args: argparse.Namespace) -> None:
    """InputError for flags without effect, and for amounts that cannot be."""
    check(args)
    if args.tornado:
        refuse(args, "--tornado", "tokens_per_day", "co2", "mix")
        if args.currency != "USD":
            raise InputError("--currency: cannot be combined with --tornado")
    if args.co2 is not None and amounts.number("--co2", args.co2) < 0:
        raise InputError(f"--co2: {args.co2} must not be negative")
    if args.gpus is not None and args.gpus < 1:
        raise InputError(f"--gpus: {args.gpus} must be at least 1")


def _priced(
    args: argparse.Namespace, scenarios: Sequence[Scenario], groups: Groups
) -> list[dict[str, Any]]:
    """Print the cost of each throughput, and of each API."""
    from bench.cost import pricing
    from bench.report.tables.cost import cost_columns, cost_notes

    priced: list[CostRow] = []
    listed: list[CostRow] = []
    for model, part in groups:
        terms = _terms(args, part, model)
        priced += [row for one in scenarios for row in pricing.price(part, one, terms)]
        listed += pricing.api_rows(part, terms)
    rows = [row.table() for row in (*priced, *listed)]
    _in_currency(rows, args.currency, amounts.rates(args.rate))
    _show(args, rows, cost_columns(rows, args.currency), cost_notes(rows))
    return rows


def _tornado(
    args: argparse.Namespace, scenarios: Sequence[Scenario], groups: Groups
) -> list[dict[str, Any]]:
    """Print what drives the cost."""
    from bench.cost.pricing import tornado_rows
    from bench.report.tables.cost import TORNADO_COLUMNS

    if not scenarios:
        raise InputError("--tornado: needs --scenario, or --rent or --own with ranges")
    if not any(one.ranges for one in scenarios):
        raise InputError("--tornado: no figure is a range; write LOW:MODE:HIGH")
    rows = [
        row
        for model, part in groups
        for one in scenarios
        for row in tornado_rows(part, one, _terms(args, part, model))
    ]
    _show(args, rows, TORNADO_COLUMNS, [])
    return rows


def _volume(
    args: argparse.Namespace, scenarios: Sequence[Scenario], groups: Groups
) -> list[dict[str, Any]]:
    """Print what so many tokens a day cost."""
    from bench.cost.volume import volume_rows
    from bench.report.tables.cost import volume_columns, volume_notes

    if not scenarios:
        raise InputError("--tokens-per-day: needs --scenario, --rent or --own")
    if args.mix or args.currency != "USD":
        raise InputError(
            "--tokens-per-day: works in USD at the measured mix; remove --mix and --currency"
        )
    days = [amounts.tokens(text) for text in args.tokens_per_day.split(",")]
    rows = [
        row
        for model, part in groups
        for one in scenarios
        for row in volume_rows(part, one, _terms(args, part, model), days)
    ]
    _show(args, rows, volume_columns(rows), volume_notes(rows))
    return rows


def _show(
    args: argparse.Namespace,
    rows: Sequence[dict[str, Any]],
    columns: Sequence[Column],
    notes: Sequence[str],
) -> None:
    """Print a table, and below it, to read, what it rests on."""
    from bench.report.tables import render

    print(render(rows, columns, args.output), end="")
    lines = [*notes, *amounts.rate_notes(args.rate, amounts.day(args.on))]
    if args.output == "md" and lines:
        print("\n" + "\n".join(f"- {line}" for line in lines))


def _measured(paths: Sequence[Path], slo: str | None) -> tuple[list[Throughput], dict[str, str]]:
    """What the results hold, in the experiment's order, and the model of each variant; unreadable
    lines go to stderr."""
    from bench.cost.throughput import throughputs
    from bench.experiment.kept import kept
    from bench.experiment.selectors import arm_order
    from bench.summary import load
    from bench.summary.service import unheld

    summary = load(*paths, say=progress) if slo is None else _at_limits(paths, slo)
    summary = summary.in_order(arm_order(kept(paths)[0].values()))
    for problem in summary.problems:
        print(f"bench: {problem}", file=sys.stderr)
    items = throughputs(summary)
    for why in unheld(summary):
        print(f"bench: {why}", file=sys.stderr)
    if not items:
        names = ", ".join(map(str, paths))
        raise InputError(f"{names}: no finished measurement there; `bench run` makes them")
    models = {row.arm.name: row.arm.model for row in summary}
    return items, models


def _at_limits(paths: Sequence[Path], slo: str) -> Summary:
    """The results with their searches held against other limits."""
    from bench.records.file import read
    from bench.summary import summarise
    from bench.summary.service import judged_by

    return summarise(judged_by(read(*paths), slo))


def _of_models(
    items: Sequence[Throughput], models: Mapping[str, str]
) -> list[tuple[str, list[Throughput]]]:
    """The throughputs of each model apart, so that each meets its own hosters."""
    parts: dict[str, list[Throughput]] = {}
    for one in items:
        parts.setdefault(models[one.variant], []).append(one)
    return list(parts.items())


def _terms(args: argparse.Namespace, items: Sequence[Throughput], model: str) -> Terms:
    from bench.cost.pricing import Terms

    mix = amounts.parts("--mix", args.mix) if args.mix else None
    if "hosted" in args.against and mix is None:
        tokens = [sum(getattr(one, name) for one in items) for name in ("n_prompt", "n_gen")]
        weights = (float(tokens[0]), float(tokens[1]))
    else:
        weights = mix or (1.0, 1.0)
    return Terms(
        rates=amounts.rates(args.rate),
        against=tuple(
            api
            for text in args.against
            for api in against(text, args, model, weights, cached_share(args.cached, items))
        ),
        mix=mix,
        co2_g_per_kwh=amounts.number("--co2", args.co2) if args.co2 else None,
        on=amounts.day(args.on),
        any_card=args.gpu is not None,
    )


def _scenarios(args: argparse.Namespace, items: Sequence[Throughput]) -> list[Scenario]:
    """The scenarios that are asked for, flags applied. InputError if nothing says the price."""
    from bench.cost.prices import plain
    from bench.cost.scenario import adapt, load_scenario

    on = amounts.day(args.on)
    made: list[Scenario] = []
    for ref in args.scenario:
        base = load_scenario(ref)
        if args.gpu and base.gpu and plain(args.gpu) != plain(base.gpu):
            raise InputError(f"--gpu: scenario '{base.name}' prices a {base.gpu}, not {args.gpu}")
        given = _given(args, on, base.gpu, items)
        if base.basis == "rent" and "rent_per_hour" not in given and not ref.endswith(".toml"):
            given |= _rent_of_the_market(args.gpu or base.gpu, on)
        made.append(adapt(base, base.basis, given, gpus=args.gpus))
    if not args.scenario:
        both: tuple[tuple[Basis, str | None], ...] = (
            ("rent", args.rent_per_hour),
            ("own", args.price),
        )
        for basis, price in both:
            if price is not None:
                figures = _of_basis(_given(args, on, args.gpu, items), basis, both)
                card = args.gpu or (_only_card(items) if price == "book" else None)
                made.append(adapt(None, basis, figures, gpu=card, gpus=args.gpus))
    if not made and not args.against:
        raise InputError(
            "nothing says what the machine costs; give --rent USD_PER_HOUR (or `--rent book`), "
            "--own USD, or --scenario NAME"
        )
    return made


def _of_basis(
    given: Mapping[str, SourcedFigure], basis: Basis, both: Sequence[tuple[Basis, str | None]]
) -> dict[str, SourcedFigure]:
    """With --rent and --own together each takes its own figures; alone, all, to be checked."""
    from bench.cost.scenario import RULES

    if all(price is not None for _, price in both):
        return {name: one for name, one in given.items() if basis in RULES[name].bases}
    return dict(given)


def _given(
    args: argparse.Namespace, on: datetime.date, gpu: str | None, items: Sequence[Throughput]
) -> dict[str, SourcedFigure]:
    """The figures that flags give."""
    from bench.cost.scenario import SourcedFigure

    texts = {name: getattr(args, name) for name in FIGURES if getattr(args, name) is not None}
    if not args.scenario:
        texts.setdefault("utilization", "1")
    figures: dict[str, SourcedFigure] = {}
    for name, text in texts.items():
        flag = FIGURES[name][0]
        if text == "book" and name in ("rent_per_hour", "price"):
            figures[name] = _from_book(name, args.gpu or gpu or _only_card(items), on)
        elif name == "electricity_per_kwh" and text[:1].isalpha():
            figures[name] = _from_book(name, text, on)
        else:
            figures[name] = SourcedFigure(value=amounts.value(flag, text), source=flag, date=on)
    return figures


def _from_book(name: str, item: str, on: datetime.date) -> SourcedFigure:
    """A figure from the price book: the prices in force on that day, as a range if they differ."""
    from bench.cost import prices

    books: dict[str, Callable[[str, datetime.date], prices.Market]] = {
        "rent_per_hour": prices.gpu_rent,
        "price": prices.gpu_purchase,
        "electricity_per_kwh": prices.electricity,
    }
    return _figure(books[name](item, on))


def _rent_of_the_market(gpu: str | None, on: datetime.date) -> dict[str, SourcedFigure]:
    """The rent that a shipped scenario takes where `bench prices --update` found offers."""
    from bench.cost.prices import market_rent

    market = market_rent(gpu, on) if gpu else None
    return {} if market is None else {"rent_per_hour": _figure(market)}


def _figure(market: Market) -> SourcedFigure:
    from bench.cost.scenario import Range, SourcedFigure

    value: float | Range = market.mode
    if market.low < market.high:
        value = Range(low=market.low, mode=market.mode, high=market.high)
    return SourcedFigure(
        value=value,
        source="; ".join(dict.fromkeys(one.source for one in market.prices)),
        date=max(one.source_date for one in market.prices if one.source_date),
        currency=market.currency,
    )


def _only_card(items: Sequence[Throughput]) -> str:
    cards = {one.device for one in items}
    card = cards.pop() if len(cards) == 1 else None
    if card is None:
        raise InputError("`book`: the results name no card, or several; give --gpu NAME")
    return card


def _in_currency(rows: Sequence[dict[str, Any]], currency: str, rates: Mapping[str, float]) -> None:
    """Add the cost in another currency to each row."""
    if currency == "USD":
        return
    from bench.cost.prices import to_usd

    rate = to_usd(1.0, currency, rates)
    for row in rows:
        value = row["usd_per_mtok"]
        row["currency"] = currency
        row["per_mtok"] = None if value is None else value / rate
