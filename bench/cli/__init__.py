"""The command line: parse, call, print, exit code.

One module a verb, each with `add(verbs)`, which describes its arguments, and `run(args)`, which
returns the exit code. Modules import what they need inside `run`, so that `bench --help` is quick.
"""

from __future__ import annotations

import argparse
import errno
import keyword
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Final

from bench.cli.streams import guarded
from bench.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNSUPPORTED,
    BenchError,
    InputError,
    UnsupportedError,
    of_path,
)
from bench.text import one_line

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

LEAST_BYTES: Final = 512 << 20
"""Of address space: what numpy's library of linear algebra takes at its start on a few cores."""

EPILOG = """\
examples:
  bench run                             the quickstart: a small real model, three schemes
  bench run -q none,int8-dynamic -p 128-512*2 -n 64
  bench plan -m llama-3.1-8b@random -q none,fp8-dynamic
  bench models

exit codes: 0 done, 1 a gate failed, 2 bad input, 3 this machine cannot do it, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return its exit code."""
    with guarded():
        args = parser().parse_args(argv)
        try:
            check_room()
            check_names(args, sys.argv[1:] if argv is None else argv)
            code: int = args.run(args)
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # `bench ... | head`: the reader has seen enough
            return EXIT_OK
        except KeyboardInterrupt:
            print("bench: interrupted; everything finished is kept", file=sys.stderr)
            return EXIT_INTERRUPTED
        except Exception as error:
            told = None if args.debug else _told(error)
            if told is None:
                raise
            code, text = told
            for line in text.splitlines():
                print(f"bench: {line}", file=sys.stderr)
            return code


def check_room() -> None:
    """Refuse an address space in which libraries abort the whole process without a word of ours."""
    try:
        import resource
    except ImportError:  # not POSIX
        return
    for which, least, what in (
        (resource.RLIMIT_AS, LEAST_BYTES, "addresses (`ulimit -v`)"),
        (resource.RLIMIT_DATA, LEAST_BYTES // 8, "data (`ulimit -d`)"),
    ):
        limit, _ = resource.getrlimit(which)
        if limit != resource.RLIM_INFINITY and limit < least:
            raise UnsupportedError(
                f"this process may use {limit >> 20} MiB of {what}, which is too little; "
                f"give it {least >> 20} or more"
            )


COMMANDS: Final = frozenset({"serve", "option"})
"""Flags whose text may have several lines: a shell reads it."""


def check_names(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Refuse a path or name with a line break, which no message and no table can show, an empty one
    (an unset variable of a shell), and `--flag=--`, of which argparse makes an empty list."""
    for before, word in pairwise(("bench", *words)):
        flag, equals, value = word.partition("=")
        if flag.startswith("-") and value == "--":
            raise InputError(f"{flag}: expected a value")
        if not word or (flag.startswith("--") and equals and not value):
            after = flag or before
            raise InputError(f"the value after {after} is empty; is a shell variable not set?")
    for flag, value in vars(args).items():
        for one in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(one, str | Path) or flag in COMMANDS:
                continue
            if set("\n\r\0") & set(str(one)):
                raise InputError(f"{one_line(str(one))}: a name must not contain a line break")


def refuse(args: argparse.Namespace, beside: str, *names: str) -> None:
    """InputError for a flag that is given and has no effect beside another."""
    for name in names:
        if getattr(args, name) not in (None, False):
            raise InputError(f"--{name.replace('_', '-')}: cannot be combined with {beside}")


def _told(error: Exception) -> tuple[int, str] | None:
    """The exit code and what to say of an error that a user can meet; None of a fault of ours."""
    if isinstance(error, BenchError):
        return error.exit_code, str(error)
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package in ("", "bench"):
            return None
        text = f"this needs the package {package}, which is not installed"
        return EXIT_UNSUPPORTED, text
    if isinstance(error, ImportError):  # a library that finds no memory or no file handle
        return EXIT_UNSUPPORTED, f"a package cannot be loaded: {one_line(str(error))}"
    if isinstance(error, MemoryError):
        return EXIT_UNSUPPORTED, "this process is given too little memory (`ulimit -v`)"
    if isinstance(error, OSError) and error.errno is not None:
        hint = "raise `ulimit -n`" if error.errno == errno.EMFILE else ""
        gone = error.errno == errno.ENOENT and error.filename is None
        where = "the current folder" if gone else error.filename or "a file"
        told = of_path(error, where, hint)
        return told.exit_code, str(told)
    return None


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


def progress(text: str) -> None:
    """Say on stderr how far something is that takes its time."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def stop_on_terminate() -> None:
    """Take SIGTERM (`timeout`, a batch system, CI) and SIGHUP (a closed terminal, a dropped ssh)
    for Ctrl-C: what was started is ended too. `nohup` is respected."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for one in taken:  # once is enough: ending the worker must not be interrupted
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    wanted = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    taken = [one for one in wanted if signal.getsignal(one) is not signal.SIG_IGN]
    for one in taken:
        signal.signal(one, interrupt)


def add_output(parser: argparse.ArgumentParser) -> None:
    """The `-o` flag, the same on every verb that prints a table."""
    parser.add_argument(
        "-o",
        "--output",
        choices=("md", "json", "jsonl", "csv"),
        default="md",
        help="format on stdout (default: md, to read)",
    )
