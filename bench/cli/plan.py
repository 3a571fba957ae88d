"""`bench plan`: what `bench run` would do, without doing it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import add_output
from bench.cli.grid import LARGEST, add_fleet, add_grid, per_machine, wanted_experiment

if TYPE_CHECKING:
    from bench.experiment import Experiment

EPILOG = """\
examples:
  bench plan                                              the quickstart
  bench plan -m llama-3.1-8b@random -q none,int8-dynamic --gpu rtx-4080-super
  bench plan --level strict -o json
  bench plan --on ray                                     the machines of a Ray cluster, and hours
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "plan",
        help="show what would be measured, in which order, for how long",
        epilog=EPILOG,
        description="Show the plan of an experiment: order, time, memory and bound. "
        "Touches no device.",
    )
    add_grid(parser)
    add_fleet(parser)
    parser.add_argument("--gpu", metavar="NAME", help="plan for a catalogued card (`bench gpus`)")
    parser.add_argument(
        "--into", type=Path, metavar="DIR", help="results folder; finished work in it is left out"
    )
    add_output(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    from bench.errors import InputError
    from bench.experiment import started_by
    from bench.records import FILE
    from bench.records.file import Results, read
    from bench.report.tables import Column, column, render
    from bench.runner.arms import check_names
    from bench.runner.forecast import forecast, order, total_s
    from bench.runner.here import here
    from bench.runner.naming import named
    from bench.runner.pinning import pinned

    per_machine(args)
    if args.n_batch == LARGEST:
        raise InputError("-b max: only `bench run` can find it, by trying; a plan needs numbers")
    experiment = wanted_experiment(args)
    experiment = named(pinned(experiment, partial(print, file=sys.stderr), planning=True))
    check_names(experiment)
    if args.on is not None:
        return _on_fleet(experiment, args)
    folder = args.into or Path("results/local") / experiment.name
    before = read(folder) if (folder / FILE).is_file() else Results()
    rows = forecast(experiment, here(experiment.grid.device, args.gpu), before)
    columns = [
        column("variant"),
        column("n_prompt", "prompt"),
        column("n_gen", "new"),
        column("n_batch", "batch"),
        column("replicates"),
        Column(heading="memory GB", show=lambda r: _gigabytes(r["memory_bytes"])),
        Column(heading="loading GB", show=lambda r: _gigabytes(r["loading_bytes"])),
        Column(heading="fits", show=_fits),
        column("bound_decode_tok_s", "decode at most, tok/s", ",.1f"),
        column("estimate_s", "about, s", ".0f"),
    ]
    print(render(rows, columns, args.output), end="")
    if args.output == "md":
        print(f"\n{experiment.question}\n")
        print(f"Order: {', '.join(order(experiment))}")
        bases = dict.fromkeys(row["estimate_basis"] for row in rows if not row["refusal"])
        print(f"About {total_s(rows) / 60:.1f} minutes ({'; '.join(bases) or 'nothing will run'}).")
        for line in started_by(variant.options for variant in experiment.variants):
            print(line)
    for reason in dict.fromkeys(row["refusal"] for row in rows if row["refusal"]):
        print(f"bench: will be refused: {reason}", file=sys.stderr)
    if any(row["fits"] is False for row in rows):
        print("bench: some of this does not fit in memory; see the table", file=sys.stderr)
    return 0


def _on_fleet(experiment: Experiment, args: argparse.Namespace) -> int:
    """The machines that would do it, and how long each takes."""
    from bench.cli.fleet import plan_of
    from bench.runner.nodes import connect

    connect(args.on)
    print(plan_of(experiment, args.select, per_machine(args), args.output), end="")
    return 0


def _fits(row: Mapping[str, Any]) -> str:
    return "REFUSED" if row["refusal"] else row["fit"] or "-"


def _gigabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e9:.2f}"
