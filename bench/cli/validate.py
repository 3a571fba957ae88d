"""`bench validate`: check every card, experiment, claim, price and result."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.cli import add_output, progress

EPILOG = """\
examples:
  bench validate                      everything that ships with the project
  bench validate results/local/mine   a results folder, a card, an experiment or a claim

exit codes: 0 no problem, 2 problems found (one line each)
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "validate",
        help="check cards, experiments, claims, prices and results",
        epilog=EPILOG,
        description="List every problem in the given files, or in everything that ships.",
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH")
    add_output(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the number of things checked and every problem."""
    from bench.doctor import shipped as validation
    from bench.report.tables import column, render

    checks = [validation.check_path(p, progress) for p in args.paths] or validation.check_shipped()
    rows: list[dict[str, Any]] = [
        {"what": check.what, "checked": check.n_checked, "problems": list(check.problems)}
        for check in checks
    ]
    if args.output == "md":
        shown = [row | {"problems": len(row["problems"])} for row in rows]
        columns = [column("what"), column("checked"), column("problems")]
        print(render(shown, columns, "md"), end="")
        for problem in _all(rows):
            print(f"- {problem}")
    else:
        print(render(rows, [], args.output), end="")
    return 2 if any(_all(rows)) else 0


def _all(rows: Iterable[dict[str, Any]]) -> list[str]:
    return [problem for row in rows for problem in row["problems"]]
