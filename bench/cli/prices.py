"""`bench prices`: the dated price books that costs are computed from."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from bench.cli import add_output
from bench.errors import InputError

EPILOG = """\
examples:
  bench prices                          every price, in force or not
  bench prices --on 2025-05-01          what was in force on that day
  bench prices --kind rent 4090         what a rented RTX 4090 costs
  bench prices --kind api qwen3 -o json  with a text: also the prices of genai-prices
  bench prices --update                 fetch today's rents (needs gpuhunt)
  bench prices --update --provider runpod --provider vastai

--update writes dated rows to $XDG_DATA_HOME/gpu-cost-bench/prices/rent.csv (~/.local/share). They
take precedence over shipped rows, as do your own purchase.csv, electricity.csv and api.csv there.
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the arguments of `bench prices`."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "prices",
        help="list prices of cards, electricity and API tokens, with date and source",
        description="List the price books. A price without a date is never used.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "text", nargs="?", default="", help="show only items that contain this text"
    )
    parser.add_argument(
        "--kind", choices=("rent", "purchase", "electricity", "api"), help="show only this book"
    )
    parser.add_argument("--on", metavar="DATE", help="only prices in force on this day, YYYY-MM-DD")
    parser.add_argument(
        "--update", action="store_true", help="fetch today's rents from providers, then list"
    )
    parser.add_argument(
        "--provider",
        action="append",
        default=[],
        metavar="NAME",
        help="with --update: ask only this one; may be repeated",
    )
    add_output(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the prices and how old they are; an empty list is said, not shown as an empty table."""
    from bench.cost.books import KINDS
    from bench.cost.prices import find, parse_date, today
    from bench.report.tables import render
    from bench.report.tables.cost import age_notes, price_columns, price_row

    if args.provider and not args.update:
        raise InputError("--provider: needs --update")
    if args.update:
        _update(args.provider)
    on = parse_date(args.on) if args.on else None
    kinds = (args.kind,) if args.kind else KINDS
    found = [one for kind in kinds for one in find(kind, args.text, on)]
    if args.text and "api" in kinds:
        from bench.cost.apis import search

        found += search(args.text, on or today())
    if not found:
        print("bench: no such price; `bench prices` lists all prices", file=sys.stderr)
    rows = [price_row(one) for one in found]
    if rows or args.output != "md":
        print(render(rows, price_columns(rows), args.output), end="")
    notes = age_notes(found, on or today())
    if notes and args.output == "md":
        print("\n" + "\n".join(f"- {note}" for note in notes))
    return 0


def _update(providers: list[str]) -> None:
    """Ask the market; what did not answer is said, and the rows that there were go on counting."""
    from bench.cost.books import own_folder
    from bench.cost.market import update
    from bench.cost.prices import today

    found = update(today(), providers)
    for name, why in found.failures.items():
        print(f"bench: {name} gave no prices: {why}", file=sys.stderr)
    for why in found.skipped.values():
        print(f"bench: not asked: {why}", file=sys.stderr)
    if found.written:
        offers = ", ".join(f"{name} {count}" for name, count in found.offers.items())
        place = own_folder() / "rent.csv"
        print(f"bench: {found.written} prices of today in {place}: {offers}", file=sys.stderr)
    else:
        print("bench: no provider answered; earlier prices are still used", file=sys.stderr)
