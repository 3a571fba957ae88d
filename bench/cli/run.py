"""`bench run`: measure an experiment, or what is missing of it."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from bench.cli import add_output
from bench.cli.grid import add_grid, wanted_experiment

if TYPE_CHECKING:
    from rich.console import Console

EPILOG = """\
examples:
  bench run                                    the quickstart, on the embedded model
  bench run -q none,int8-dynamic -p 128 -n 64  two arms, one workload
  bench run --level standard                   enough replicates for a verdict
  bench run -m ./my-model -d cuda -o json      your own safetensors

Finished replicates are kept in DIR and not run again; run the same command to go on.
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "run", help="measure", description="Measure each variant in fresh processes, in pairs.",
        epilog=EPILOG,
    )  # fmt: skip
    add_grid(parser)
    parser.add_argument(
        "--into", type=Path, metavar="DIR", help="results folder (default: results/local/NAME)"
    )
    add_output(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure, then print the table and what it means."""
    from bench import runner

    experiment = wanted_experiment(args)
    folder = args.into or Path("results/local") / experiment.name
    signal.signal(signal.SIGTERM, _interrupt)
    with ProgressLine() as progress:
        outcome = runner.run(experiment, folder, progress)
    from bench.report import summary

    print(summary.show(experiment, outcome.results, folder, args.output), end="")
    return 3 if outcome.failed and not outcome.measured else 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class ProgressLine:
    """Progress on stderr: one live line on a terminal, plain lines elsewhere.

    It draws only when told something, so that the parent sleeps while a worker measures.
    """

    def __init__(self) -> None:
        from rich.console import Console

        self._console: Console = Console(stderr=True, highlight=False)
        self._status: Any = None
        self._title = ""
        self._began = time.monotonic()
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> ProgressLine:
        if self._console.is_terminal:
            from rich.live import Live

            self._status = Live(console=self._console, auto_refresh=False, transient=True)
            self._status.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def step(self, done: int, total: int, title: str) -> None:
        now = time.monotonic()
        if done == 0 or self._first is None:
            self._first = (done, now)
        self._title = f"[{done + 1}/{total}] {title}{self._left(done, total, now)}"
        self._draw(self._title)

    def phase(self, text: str) -> None:
        if self._status is not None:
            self._draw(f"{self._title}: {text}")

    def _left(self, done: int, total: int, now: float) -> str:
        """Estimated time left, from what the replicates so far took."""
        assert self._first is not None
        first, began = self._first
        if done == first:
            return ""
        seconds = (now - began) / (done - first) * (total - done)
        return (
            f" (about {seconds / 60:.0f} min left)"
            if seconds > 90
            else f" (about {seconds:.0f} s left)"
        )

    def _draw(self, text: str) -> None:
        from rich.text import Text

        if self._status is not None:
            self._status.update(Text(text), refresh=True)
        else:
            print(text, file=sys.stderr, flush=True)
