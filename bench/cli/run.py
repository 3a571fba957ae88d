"""`bench run`: measure an experiment, or what is missing of it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import add_output, stop_on_terminate
from bench.cli.grid import (
    LARGEST,
    add_fleet,
    add_grid,
    per_machine,
    share,
    wanted_experiment,
)
from bench.cli.streams import Guard
from bench.text import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from bench.experiment import Experiment
    from bench.records import Environment
    from bench.records.file import Results

SIXTEEN_GB = 15 << 30
"""Bytes that a card of 16 GB shows at least."""

EPILOG = """\
examples:
  bench run                                    the quickstart, on the embedded model
  bench run -q none,int8-dynamic -p 128 -n 64  two arms, one workload
  bench run --level standard                   enough replicates for a verdict
  bench run --for int8-dynamic-doubles-speed   what is missing to decide a published claim
  bench run -m Qwen/Qwen3-8B -d cuda           a model of the hub, by name
  bench run -b max -d cuda                     the most sequences that fit in memory
  bench run -m ./my-model -d cuda -o json      your own safetensors
  bench run -m ./base,./base-FP8 --baseline ./base   a quantized folder against its base
  bench run --on ray --select gpu=rtx-4080     on machines of a Ray cluster (docs/fleet.md)

Finished replicates are kept in DIR. To resume, run the same command again.
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "run",
        help="measure an experiment",
        description="Measure each variant in fresh processes, in pairs.",
        epilog=EPILOG,
    )
    add_grid(parser)
    parser.add_argument(
        "--for",
        dest="claim",
        metavar="CLAIM",
        help="measure what is missing to decide the claims of a source (`bench claims`)",
    )
    parser.add_argument(
        "--target",
        type=share,
        metavar="SHARE",
        help="half-width of the interval to aim at: 1%%; a pilot of 4 sets the number of pairs",
    )
    add_fleet(parser)
    parser.add_argument(
        "--into", type=Path, metavar="DIR", help="results folder (default: results/local/NAME)"
    )
    add_output(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Measure, then print the table and what it means."""
    stop_on_terminate()
    per_machine(args)
    if args.claim is None:
        return _measure(wanted_experiment(args), args)
    return max(_measure(experiment, args) for experiment in _deciding(args.claim))


def _measure(experiment: Experiment, args: argparse.Namespace) -> int:
    from bench import runner
    from bench.runner.largest_batch import with_largest_batch
    from bench.runner.naming import named
    from bench.runner.pinning import pinned

    folder = args.into or Path("results/local") / experiment.name
    if args.on is not None:
        return _on_fleet(experiment, folder, args)
    with ProgressLine() as progress:
        experiment = named(pinned(experiment, progress.say))
        if args.n_batch == LARGEST:
            experiment = with_largest_batch(experiment, folder, progress.say)
        if args.target is not None:
            experiment = _planned(experiment, folder, args.target, progress)
        outcome = runner.run(experiment, folder, progress)
    from bench.report.tables import run as summary

    print(summary.show(experiment, outcome.results, folder, args.output), end="")
    if args.experiment is None and (line := _next_after(outcome.results)):
        print(line, file=sys.stderr)
    if outcome.measured or not outcome.failed:
        return 0
    return 2 if outcome.refused == outcome.failed else 3


def _next_after(results: Results) -> str | None:
    """As `_next_on`, where a device that torch calls `cuda` was measured: the arms it names are for
    NVIDIA's and AMD's cards."""
    from bench.experiment.devices import kind_of

    kinds = {kind_of(str(record.variant["device"])) for record in results.records}
    return _next_on(results.environments.values()) if "cuda" in kinds else None


def _next_on(environments: Iterable[Environment]) -> str | None:
    """What a newcomer with a GPU runs after the embedded model; None without one."""
    for environment in environments:
        card, memory = (environment.identity.get(k) for k in ("gpu", "gpu_memory_bytes"))
        if card and memory:
            large = memory >= SIXTEEN_GB
            then = "rtx-4080-8b" if large else "-m llama-3.2-1b -e graph -q none,int8-weight-only"
            return f"bench: next on this {card}: bench run {then} -d cuda"
    return None


def _on_fleet(experiment: Experiment, folder: Path, args: argparse.Namespace) -> int:
    """Measure on a cluster; 3 if a machine was lost, so that scripts know to go on."""
    from bench.cli.fleet import show
    from bench.errors import InputError
    from bench.runner.arms import check_names
    from bench.runner.fleet import run_on_fleet
    from bench.runner.nodes import connect
    from bench.runner.pinning import pinned

    if args.n_batch == LARGEST or args.target is not None:
        raise InputError("--on: -b max and --target work on one machine only; give numbers")
    if experiment.slo:
        raise InputError("--on: --slo measures one server; run it without --on")
    with ProgressLine() as progress:
        experiment = pinned(experiment, progress.say)
    check_names(experiment)
    connect(args.on)
    with ProgressLine() as progress:
        fleet = run_on_fleet(experiment, folder, progress, args.select, per_machine(args))
    print(show(experiment, fleet, args.output), end="")
    for name, why in (fleet.lost | fleet.refused).items():
        print(f"bench: {name}: {why}", file=sys.stderr)
    if fleet.lost:
        print("bench: run the same command again to resume", file=sys.stderr)
    return 0 if not (fleet.lost or fleet.refused) and (fleet.measured or not fleet.failed) else 3


def _planned(
    experiment: Experiment, folder: Path, target: float, progress: ProgressLine
) -> Experiment:
    """The experiment with as many pairs as its pilot shows to be needed."""
    from bench import runner
    from bench.comparison import pilot

    found = runner.run(pilot.pilot(experiment), folder, progress)
    pairs = pilot.pairs_wanted(experiment, found.results, target)
    progress.say(f"the pilot suggests {pairs} pairs for an interval of +-{target:.2%}")
    return pilot.with_pairs(experiment, pairs)


def _deciding(claim: str) -> list[Experiment]:
    """The experiments that would decide a source's claims; the runner leaves out what is done."""
    from bench.claims.files import load_claims
    from bench.claims.measured import missing
    from bench.errors import UnsupportedError
    from bench.experiment import load_experiment
    from bench.records.file import Results

    wanted = missing(load_claims(claim), Results())
    found = [load_experiment(work.experiment) for work in wanted if not work.to_write]
    open_ = "; ".join(f"{work.experiment}: {work.to_write}" for work in wanted if work.to_write)
    if not found:
        why = f" ({open_})" if open_ else ""
        raise UnsupportedError(
            f"claim '{claim}': no experiment that decides it can be run yet{why}"
        )
    if open_:
        print(f"cannot be run yet: {open_}", file=sys.stderr)
    return found


class ProgressLine:
    """Progress on stderr: one live line on a terminal, plain lines elsewhere.

    It draws only when told something, so that the parent sleeps while a worker measures.
    """

    def __init__(self) -> None:
        from rich.console import Console

        stream: Any = sys.stderr.own() if isinstance(sys.stderr, Guard) else sys.stderr
        self._console: Console = Console(file=stream, highlight=False)
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
        self._console.print(plain(text), markup=False, soft_wrap=True)

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
            self._status.update(Text(plain(text)), refresh=True)
        else:
            print(text, file=sys.stderr, flush=True)
