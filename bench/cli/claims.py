"""`bench claims`: what published claims are worth, with the evidence each verdict rests on."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import add_output, progress

if TYPE_CHECKING:
    from bench.claims.findings import Finding
    from bench.summary import Summary

EPILOG = """\
examples:
  bench claims                                  decided by dates, prices, bounds, published figures
  bench claims results/local/mine               also by your own measurements, which count most
  bench claims --claim hawk-insight-2025 --explain
  bench claims --claim mine.toml --strict       exit 1 if anything in it is refuted

Evidence, strongest first: measured here, published measurements, a physical bound, list prices, a
vendor's own figure. A point estimate never supports a claim; docs/claims.md has the rules.
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "claims",
        help="judge published claims, with the evidence",
        description="Judge every part of every published claim in claims/.",
        epilog=EPILOG,
    )
    parser.add_argument("results", nargs="*", type=Path, metavar="RESULTS")
    parser.add_argument(
        "--claim",
        action="append",
        default=[],
        metavar="CLAIM",
        help="only this source: a shipped name or a .toml file; may be repeated",
    )
    parser.add_argument("--explain", action="store_true", help="show the reasoning, step by step")
    parser.add_argument("--strict", action="store_true", help="exit 1 if anything is refuted")
    add_output(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the verdicts; with --strict, fail on a refuted one."""
    import sys

    from bench.claims.files import claim_files, load_claims
    from bench.claims.findings import as_row, findings, sentences
    from bench.claims.measured import missing
    from bench.errors import EXIT_GATE, EXIT_OK
    from bench.report.tables import render
    from bench.report.tables.claims import to_markdown

    files = [load_claims(name) for name in args.claim or claim_files()]
    results = _results(args.results)
    judged = [(file, findings(file, results)) for file in files]
    rows = [as_row(found) for _, found_all in judged for found in found_all]
    if args.output == "md":
        for file, found_all in judged:
            todo = missing(file, results)
            print(to_markdown(file, found_all, sentences(file, found_all), todo), end="")
            if args.explain:
                _print_reasons(found_all)
    else:
        print(render(rows, [], args.output), end="")
        if args.explain:
            print("bench: --explain prints with -o md; the JSON rows hold 'steps'", file=sys.stderr)
    refuted = any(row["verdict"] == "refuted" for row in rows)
    return EXIT_GATE if args.strict and refuted else EXIT_OK


def _results(paths: Sequence[Path]) -> Summary:
    import sys

    from bench.records.file import Results
    from bench.summary import load, summarise

    results = load(*paths, say=progress) if paths else summarise(Results())
    for problem in results.problems:
        print(f"bench: {problem}", file=sys.stderr)
    for origin in sorted({row.origin for row in results} - {"measured"}):
        print(
            f"bench: records of origin {origin} are not evidence; only pairs measured by "
            "`bench run` are",
            file=sys.stderr,
        )
    return results


def _print_reasons(found_all: Iterable[Finding]) -> None:
    from bench.report.tables.claims import explained

    for found in found_all:
        print(explained(found))
