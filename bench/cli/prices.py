"""`bench prices`: the dated price books that costs are computed from."""

from __future__ import annotations

import argparse
from typing import Any

from bench.cli import add_output

EPILOG = """\
examples:
  bench prices                          every price, in force or not
  bench prices --on 2025-05-01          what was in force on that day
  bench prices --kind rent 4090         what a rented RTX 4090 costs
  bench prices --kind api openai -o json
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the arguments of `bench prices`."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "prices",
        help="what cards, kilowatt-hours and API tokens cost, with date and source",
        description="List the price books. A price without a date is listed, but never counts.",
        epilog=EPILOG,
    )
    parser.add_argument("text", nargs="?", default="", help="show only items that contain this")
    parser.add_argument(
        "--kind", choices=("rent", "purchase", "electricity", "api"), help="show only this book"
    )
    parser.add_argument("--on", metavar="DATE", help="only prices in force on this day, YYYY-MM-DD")
    add_output(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the prices; an empty list is said, not shown as an empty table."""
    import sys

    from bench.cost.prices import KINDS, find, parse_date
    from bench.report.tables import render
    from bench.report.tables.cost import PRICE_COLUMNS, price_row

    on = parse_date(args.on) if args.on else None
    kinds = (args.kind,) if args.kind else KINDS
    rows = [price_row(found) for kind in kinds for found in find(kind, args.text, on)]
    if not rows:
        print("bench: no such price; `bench prices` lists every one", file=sys.stderr)
    if rows or args.output != "md":
        print(render(rows, PRICE_COLUMNS, args.output), end="")
    return 0
