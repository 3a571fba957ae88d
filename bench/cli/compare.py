"""`bench compare`: candidate over baseline, with intervals, and whether to believe them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.cli import add_output, progress, refuse
from bench.cli.grid import texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.comparison import Rules
    from bench.comparison.row import Compared
    from bench.comparison.sides import Prices
    from bench.summary import Summary

EPILOG = """\
examples:
  bench compare results/local/quickstart
  bench compare results/local/mine --baseline none --candidate int8-dynamic --metric decode,memory
  bench compare results/local/mine --candidate int8-dynamic --fail-below 1.5    for CI
  bench compare results/local/new --against results/old --fail-below 0.97    against an earlier run
  bench compare results/left results/right --across machine    two machines, speed and cost
  bench compare results/mixed-cpu --pareto --rent 0.10      the trade-off of each scheme

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
    parser.add_argument("--baseline", metavar="NAME", help=f"{arm} (default: the experiment's)")
    parser.add_argument("--candidate", metavar="NAME", help=f"{arm} (default: all others)")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="results of another run: each arm against itself there",
    )
    parser.add_argument(
        "--across",
        choices=["machine"],
        help="the same arm on different machines, unpaired; --baseline and --candidate then name "
        "a card, a machine or an environment",
    )
    parser.add_argument("--metric", type=texts, metavar="LIST", help="only these, such as decode")
    parser.add_argument(
        "--margin",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="`same` if the whole interval is within this margin (default: 0.02)",
    )
    parser.add_argument("--confidence", type=float, default=0.95, metavar="SHARE")
    parser.add_argument(
        "--max-ppl-ratio",
        type=float,
        default=1.02,
        metavar="RATIO",
        help="largest perplexity ratio that counts as equal quality (default: 1.02)",
    )
    pool = "also compare records of different machines or versions, and mark them"
    parser.add_argument("--pool", action="store_true", help=pool)
    parser.add_argument(
        "--pareto",
        action="store_true",
        help="show size, speed and cost of every arm against its divergence",
    )
    parser.add_argument(
        "--rent",
        metavar="USD_PER_HOUR",
        help="price of an hour of the machine, for --pareto and --across; --across also takes "
        "CARD=USD,CARD=USD (its default: the price book)",
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
    from bench.comparison import Rules, metrics
    from bench.comparison.stored import beside
    from bench.errors import InputError
    from bench.experiment import Gate, started_by
    from bench.report.tables import render
    from bench.report.tables.compare import columns, table, to_read, words

    for name in ("margin", "confidence"):
        if not 0 < getattr(args, name) < 1:
            raise InputError(f"--{name}: {getattr(args, name)} is not between 0 and 1")
    for name in ("max_ppl_ratio", "fail_below", "fail_above"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"--{name.replace('_', '-')}: {value} is not a number above 0")
    if args.pareto:
        refuse(args, "--pareto", "across", *PAIRED, "pool")
        return _pareto(args)
    rules = Rules(
        margin=args.margin,
        confidence=args.confidence,
        metrics=args.metric or metrics(),
        gate=Gate(max_ppl_ratio=args.max_ppl_ratio),
        pool=args.pool,
    )
    if args.across:
        return _across(args, rules)
    if args.rent is not None:
        raise InputError("--rent: needs --pareto or --across machine")
    if args.against is not None and args.baseline is not None:
        raise InputError(
            "--baseline: cannot be combined with --against, which has a baseline for each arm"
        )
    results = _read(*args.results)
    if args.against is None:
        rows = _compared(args, results, rules)
    else:
        rows = beside(results, _read(args.against), rules, args.candidate)
    if args.plot is not None:
        from bench.report.page.evidence import plot

        plot(rows, args.plot)
    shown = to_read(rows) if args.output == "md" and args.metric is None else rows
    print(render(shown, columns(shown, rules), args.output, table), end="")
    if args.output == "md":
        lines = [*words(rows, rules), *started_by(row.arm.options for row in results)]
        print("".join(f"\n- {line}" for line in lines))
    return _gate(args, rows)


PAIRED: Final = (
    "against",
    "baseline",
    "candidate",
    "metric",
    "fail_below",
    "fail_above",
    "plot",
)
"""Flags of a table of ratios: a table without them would drop a gate in silence."""


def _compared(args: argparse.Namespace, results: Summary, rules: Rules) -> list[Compared]:
    """With --baseline, or the baseline of the experiment, or the unquantized arm; the arms in the
    experiment's order."""
    from bench.comparison import compare
    from bench.errors import InputError
    from bench.experiment.kept import asked_baseline, kept
    from bench.experiment.selectors import arm_order

    found, _ = kept(args.results)
    results = results.in_order(arm_order(found.values()))
    if args.baseline is None:
        asked = asked_baseline(found, found)
        try:
            return compare(results, rules, asked, args.candidate)
        except InputError:  # an arm that was not measured, or that --candidate names
            pass
    return compare(results, rules, args.baseline, args.candidate)


def _gate(args: argparse.Namespace, rows: Sequence[Compared]) -> int:
    from bench.report.tables.compare import gate_failures

    gated = args.metric or ("decode",)
    failures = gate_failures(rows, gated, args.fail_below, args.fail_above)
    for failure in failures:
        print(f"bench: gate failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _across(args: argparse.Namespace, rules: Rules) -> int:
    from bench.comparison.machines import across
    from bench.report.tables import render
    from bench.report.tables.across import columns, words
    from bench.report.tables.compare import table

    refuse(args, "--across", "against", "plot")
    summary = _read(*args.results)
    rows = across(summary, rules, args.baseline, args.candidate, _prices(args.rent, summary))
    print(render(rows, columns(rows, rules), args.output, table), end="")
    if args.output == "md":
        print("".join(f"\n- {line}" for line in words(rows, rules)))
    return _gate(args, rows)


def _prices(rent: str | None, summary: Summary) -> Prices:
    """What `--rent` states; without it what the price book has for each card today."""
    from bench.comparison.sides import Prices, card_of
    from bench.cost.prices import gpu_rent, today
    from bench.errors import InputError

    cards = {card_of(row.host) for row in summary}
    if rent is None:
        found = {}
        for card in cards:
            try:
                market = gpu_rent(card, today())
            except InputError:
                continue
            if market.currency == "USD":
                found[card] = market.mode
        return Prices(usd_per_hour=found, source=f"rents of the price book, {today()}")
    stated = dict(part.rpartition("=")[::2] for part in rent.split(","))
    for card in stated.keys() - {""} - cards:
        raise InputError(f"--rent: no machine here is a {card}; there are: {', '.join(cards)}")
    usd = {card: _usd(text) for card, text in stated.items()}
    return Prices(usd_per_hour=usd, source="--rent")


def _usd(text: str) -> float:
    from bench.errors import InputError

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"--rent: {text!r} is not a number above 0")
    return value


def _read(*paths: Path) -> Summary:
    from bench.summary import load

    summary = load(*paths, say=progress)
    for problem in summary.problems:
        print(f"bench: skipped a broken line: {problem}", file=sys.stderr)
    return summary


def _pareto(args: argparse.Namespace) -> int:
    from bench.cost.hour import stated
    from bench.report.tables import pareto, render

    rows = pareto.rows(_read(*args.results), stated(None if args.rent is None else _usd(args.rent)))
    print(render(rows, pareto.columns(rows), args.output, pareto.table), end="")
    if args.output == "md":
        print("".join(f"\n- {line}" for line in pareto.words(rows)))
    return 0
