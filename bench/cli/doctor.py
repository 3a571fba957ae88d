"""`bench doctor`: can this machine measure honestly?"""

from __future__ import annotations

import argparse
from typing import Any

from bench.cli import add_output
from bench.errors import EXIT_GATE, EXIT_OK

EPILOG = """\
examples:
  bench doctor                the first GPU, or the CPU
  bench doctor -d cpu -o json
  bench doctor --peaks        also measure copy bandwidth and matmul rate (seconds)

exit codes: 0 every check is ok or warn, 1 a check is bad, 3 no such device
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "doctor",
        help="check whether this machine can measure: device, driver, clocks, load, versions",
        description="Check everything on this machine that would spoil a figure; say what was "
        "found, what it means for the figures, and what to do. Changes nothing.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "-d",
        "--device",
        metavar="DEVICE",
        help="cpu, cuda:0, ... (default: the first GPU, or the CPU)",
    )
    parser.add_argument(
        "--peaks", action="store_true", help="also measure copy bandwidth and matmul rate"
    )
    add_output(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Examine, print, and say by the exit code whether something is bad."""
    from bench.doctor import examine, rows
    from bench.report.tables import column, render

    checks = examine(args.device, with_peaks=args.peaks)
    columns = [
        column("check"),
        column("state"),
        column("found"),
        column("meaning", "what it means"),
        column("advice", "what to do"),
    ]
    print(render(rows(checks), columns, args.output), end="")
    return EXIT_GATE if any(check.state == "bad" for check in checks) else EXIT_OK
