"""`bench export`: records in other tools' formats."""

from __future__ import annotations

import argparse
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import progress, refuse

if TYPE_CHECKING:
    from bench.records.file import Results
    from bench.summary import Summary

EPILOG = """\
examples:
  bench export results/local/mine --to csv > mine.csv
  bench export results/local/mine --to parquet --out mine.parquet
  bench export results/local/mine --to pytest-benchmark --rent 0.42 --out mine.json
  pytest-benchmark compare mine.json

  bench export results/local/mine --share mine.tar.gz

What a format cannot hold is left out and listed on stderr. See docs/exchange.md and docs/data.md.
exit codes: 0 done, 2 bad input, 3 a package is missing (parquet needs pyarrow)
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    from bench.exchange import FORMATS

    parser: argparse.ArgumentParser = verbs.add_parser(
        "export",
        help="write records in other tools' formats",
        epilog=EPILOG,
        description="Write results for a notebook, a test suite, a dashboard or another folder.",
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    where.add_argument(
        "--share",
        type=Path,
        metavar="FILE",
        help="write one .tar.gz to share, and list its contents first",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: stdout)")
    parser.add_argument(
        "--rent",
        type=float,
        metavar="USD_PER_HOUR",
        help="price of the machine, for formats with $ per Mtok",
    )
    parser.add_argument(
        "--utilization",
        type=float,
        metavar="SHARE",
        help="busy share of the paid hours, with --rent (default: 1)",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the results; say on stderr what is not in them."""
    from bench.cost.hour import stated
    from bench.errors import InputError
    from bench.exchange import BINARY
    from bench.exchange.exporting import export
    from bench.saving import save
    from bench.summary import Summary

    _check(args)
    if args.share is not None:
        return _share(args.results, args.share)
    price = stated(args.rent, args.utilization)
    if args.to in BINARY and args.out is None:
        raise InputError(f"--to {args.to} is a binary format; give --out FILE")
    results = _read(args.results, args.to)
    for problem in results.problems:
        print(f"bench: skipped a broken line: {problem}", file=sys.stderr)
    if not (results.rows if isinstance(results, Summary) else results.records):
        raise InputError(f"{', '.join(map(str, args.results))}: holds no record")
    made = export(results, args.to, price)
    if args.out is None:
        for part in chain((made.data,), made.more):
            print(part.decode(), end="")
    else:
        save(made.data, args.out, "choose with --out", made.more)
    for line in made.dropped:
        print(f"bench: not in {args.to}: {line}", file=sys.stderr)
    return 0


def _check(args: argparse.Namespace) -> None:
    """InputError for a flag without effect, and for a target that holds the results themselves."""
    from bench.errors import InputError
    from bench.experiment.kept import AS_RUN, BY_HAND
    from bench.records.file import results_file

    flag, target = ("share", args.share) if args.share is not None else ("out", args.out)
    if flag == "share":
        refuse(args, "--share", "out", "rent", "utilization")
    if target is None or not target.is_file():
        return
    for file in map(results_file, args.results):
        held = (file, file.with_name(AS_RUN), file.with_name(BY_HAND))
        if any(one.is_file() and target.samefile(one) for one in held):
            raise InputError(f"--{flag}: {target} belongs to the results; choose another file")


def _read(paths: list[Path], to: str) -> Results | Summary:
    """The results; only where the records themselves are written, large ones too as records."""
    from bench.exchange import OURS
    from bench.exchange.copied import large_or_records
    from bench.records.file import read

    return read(*paths) if to == OURS else large_or_records(*paths, say=progress)


def _share(results: list[Path], to: Path) -> int:
    """Say what the archive will hold, then write it."""
    from bench.errors import InputError
    from bench.exchange.sharing import archive, listed, members
    from bench.saving import save

    if to.is_dir():
        raise InputError(f"--share: {to} is a folder; name the archive, such as {to}/share.tar.gz")
    found = members(results)
    for line in listed(found):
        print(line)
    sys.stdout.flush()
    save(archive(found), to, "choose with --share")
    print(
        f"written to {to}; it holds no home folder, user name, host name or API key",
        file=sys.stderr,
    )
    return 0
