"""The command line: parse, call, print, exit code.

One module a verb, each with `add(verbs)`, which describes its arguments, and `run(args)`, which
returns the exit code. Modules import what they need inside `run`, so that `bench --help` is quick.
"""

from __future__ import annotations

import argparse
import keyword
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType

from bench.errors import EXIT_INTERRUPTED, EXIT_UNSUPPORTED, BenchError

VERBS = (
    "run",
    "plan",
    "compare",
    "cost",
    "claims",
    "report",
    "predict",
    "import",
    "export",
    "models",
    "engines",
    "gpus",
    "prices",
    "doctor",
    "validate",
)

EPILOG = """\
examples:
  bench run                             the quickstart: a small real model, four schemes
  bench run -q none,int8-dynamic -p 128-512*2 -n 64
  bench plan -m llama-3.1-8b@random -q none,fp8-dynamic
  bench models

exit codes: 0 done, 1 a gate failed, 2 bad input, 3 this machine cannot do it, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return its exit code."""
    args = parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except BenchError as error:
        if args.debug:
            raise
        for line in str(error).splitlines():
            print(f"bench: {line}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if args.debug or package in ("", "bench"):
            raise
        print(f"bench: this needs the package {package}, which is not installed", file=sys.stderr)
        return EXIT_UNSUPPORTED
    except BrokenPipeError:  # `bench ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("bench: interrupted; everything finished is kept", file=sys.stderr)
        return EXIT_INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The parser of every verb."""
    from bench import __version__

    top = argparse.ArgumentParser(
        prog="bench",
        description="What does a token really cost on this card, and does quantization make it "
        "faster and cheaper at equal quality, as claimed?",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"bench {__version__}")
    verbs = top.add_subparsers(metavar="VERB", required=True)
    for verb in VERBS:
        # `import` is a keyword, and so no name of a module.
        module = import_module(f"bench.cli.{verb}{'_' * keyword.iskeyword(verb)}")
        sub = module.add(verbs)
        sub.set_defaults(run=module.run)
        sub.formatter_class = argparse.RawDescriptionHelpFormatter
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return top


def stop_on_terminate() -> None:
    """Take SIGTERM (`timeout`, a batch system, CI) for Ctrl-C: what was started is ended too."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def add_output(parser: argparse.ArgumentParser) -> None:
    """The `-o` flag, the same on every verb that prints a table."""
    parser.add_argument(
        "-o",
        "--output",
        choices=("md", "json", "jsonl", "csv"),
        default="md",
        help="format on stdout (default: md, to read)",
    )
