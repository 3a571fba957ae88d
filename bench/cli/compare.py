"""`bench compare`: candidate over baseline, with intervals, and whether to believe them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import add_output
from bench.cli.grid import texts

if TYPE_CHECKING:
    from bench.records.file import Results

EPILOG = """\
examples:
  bench compare results/local/quickstart
  bench compare results/local/mine --baseline none --candidate int8-dynamic --metric decode,memory
  bench compare results/local/mine --candidate int8-dynamic --fail-below 1.5    for CI
  bench compare results/local/new --against results/old --fail-below 0.97    as it was earlier
  bench compare results/mixed-cpu --pareto --rent 0.10      what each scheme gives for its loss

The gate is on the interval: --fail-below 1.5 fails unless the whole interval is at or above 1.5.
exit codes: 0 done and gates hold, 1 a gate failed, 2 bad input
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "compare",
        help="candidate over baseline, with intervals and verdicts",
        epilog=EPILOG,
        description="Compare arms over pairs of fresh replicates.",
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS")
    arm = "an arm's full name, scheme, engine, mode or model"
    parser.add_argument("--baseline", metavar="NAME", help=f"{arm} (default: the unquantized one)")
    parser.add_argument("--candidate", metavar="NAME", help=f"{arm} (default: all others)")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="results of another run: each arm against itself there",
    )
    parser.add_argument("--metric", type=texts, metavar="LIST", help="only these, such as decode")
    parser.add_argument(
        "--margin",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="differences below this are `same` (default: 0.02)",
    )
    parser.add_argument("--confidence", type=float, default=0.95, metavar="SHARE")
    parser.add_argument(
        "--max-ppl-ratio",
        type=float,
        default=1.02,
        metavar="RATIO",
        help="what counts as equal quality (default: 1.02)",
    )
    pool = "compare records of different machines or versions, marked"
    parser.add_argument("--pool", action="store_true", help=pool)
    parser.add_argument(
        "--pareto",
        action="store_true",
        help="size, speed and cost against divergence, of every arm",
    )
    parser.add_argument(
        "--rent",
        type=float,
        metavar="USD_PER_HOUR",
        help="price of an hour of the machine, for --pareto",
    )
    gate = "exit 1 unless the whole interval (of decode, or of --metric) is at or {} RATIO"
    ratio: dict[str, Any] = {"type": float, "metavar": "RATIO"}
    parser.add_argument("--fail-below", **ratio, help=gate.format("above"))
    parser.add_argument("--fail-above", **ratio, help=gate.format("below"))
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.svg|FILE.png",
        help="also draw the ratios with their intervals",
    )
    add_output(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the comparison; return 1 if a gate failed."""
    from bench.comparison import Rules, compare, metrics
    from bench.comparison.stored import beside
    from bench.errors import InputError
    from bench.experiment import Gate
    from bench.report.tables import render
    from bench.report.tables.compare import columns, gate_failures, table, to_read, words

    for name in ("margin", "confidence"):
        if not 0 < getattr(args, name) < 1:
            raise InputError(f"--{name}: {getattr(args, name)} is not between 0 and 1")
    for name in ("max_ppl_ratio", "fail_below", "fail_above", "rent"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"--{name.replace('_', '-')}: {value} is not a number above 0")
    if args.pareto:
        return _pareto(args)
    rules = Rules(
        margin=args.margin,
        confidence=args.confidence,
        metrics=args.metric or metrics(),
        gate=Gate(max_ppl_ratio=args.max_ppl_ratio),
        pool=args.pool,
    )
    if args.against is not None and args.baseline is not None:
        raise InputError("--baseline: with --against each arm's baseline is the one there")
    results = _read(*args.results)
    if args.against is None:
        rows = compare(results, rules, args.baseline, args.candidate)
    else:
        rows = beside(results, _read(args.against), rules, args.candidate)
    if args.plot is not None:
        from bench.report.page.evidence import plot

        plot(rows, args.plot)
    shown = to_read(rows) if args.output == "md" and args.metric is None else rows
    print(render(shown, columns(shown, rules), args.output, table), end="")
    if args.output == "md":
        print("".join(f"\n- {line}" for line in words(rows, rules)))
    gated = args.metric or ("decode",)
    failures = gate_failures(rows, gated, args.fail_below, args.fail_above)
    for failure in failures:
        print(f"bench: gate failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _read(*paths: Path) -> Results:
    from bench.records.file import read

    results = read(*paths)
    for problem in results.problems:
        print(f"bench: skipped a broken line: {problem}", file=sys.stderr)
    return results


def _pareto(args: argparse.Namespace) -> int:
    from bench.cost.hour import stated
    from bench.report.tables import pareto, render

    rows = pareto.rows(_read(*args.results), stated(args.rent))
    print(render(rows, pareto.columns(rows), args.output, pareto.table), end="")
    if args.output == "md":
        print("".join(f"\n- {line}" for line in pareto.words(rows)))
    return 0
