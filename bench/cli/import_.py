"""`bench import`: other tools' results as records, marked with where they come from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

EPILOG = """\
examples:
  llama-bench -m model.gguf -o json > bench.json
  bench import llama-bench bench.json --into results/local/llama --model llama-3.1-8b
  bench import auto downloads/ --into results/local/others
  llama-bench -m model.gguf | bench import llama-bench - --into results/local/llama
  bench import vllm result.json --into results/local/vllm --gpu 'H100 SXM' --n-gpus 8 --quant fp8
  bench cost results/local/llama --rent 0.42

A FILE may be a folder, a .gz, or - for stdin. Log lines around the results, tables pasted into an
issue and UTF-16 are fine. Flags add what the file lacks; a flag that contradicts the file is
refused. Figures of a file that contradict each other get the reason CONTRADICTION.
Imported records are priced, bounded and compared, but never count as measured here.
docs/exchange.md maps every figure.
exit codes: 0 done, 2 not a file of that tool
"""

COUNTS = (
    ("-p", "n-prompt", "prompt tokens of a request"),
    ("-n", "n-gen", "new tokens of a request"),
    ("-b", "n-batch", "requests at once"),
    (None, "n-gpus", "cards that held the model together"),
)


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    from bench.exchange import AUTO, OURS, TOOLS

    parser: argparse.ArgumentParser = verbs.add_parser(
        "import",
        help="read other tools' results as records",
        epilog=EPILOG,
        description="Append other tools' results to a results folder. Importing a file twice adds "
        "nothing; an unreadable file adds nothing.",
    )
    parser.add_argument(
        "tool",
        choices=(AUTO, *TOOLS, OURS),
        metavar="TOOL",
        help=f"{', '.join(TOOLS)}; {AUTO} to detect the tool; or {OURS} for records of bench",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="results folder")
    parser.add_argument(
        "-m",
        "--model",
        metavar="NAME",
        help="the model, by its name in the catalog (`bench models`)",
    )
    parser.add_argument("-q", "--quant", metavar="NAME", help="the scheme of the weights")
    parser.add_argument("-e", "--engine", metavar="NAME", help="the engine that served it")
    parser.add_argument("--gpu", metavar="NAME", help="the card (`bench gpus`)")
    for short, name, what in COUNTS:
        flags = [flag for flag in (short, f"--{name}") if flag]
        parser.add_argument(
            *flags, type=int, metavar="N", help=f"{what}, for files that do not say it"
        )
    return parser


def run(args: argparse.Namespace) -> int:
    """Import the files and say how many records that made."""
    from bench.errors import InputError
    from bench.exchange import OURS
    from bench.exchange.foreign import Given
    from bench.exchange.importing import import_files
    from bench.roofline.gpus import resolve_gpu

    names = ("model", "quant", "engine", *(name.replace("-", "_") for _, name, _ in COUNTS))
    said = {name: getattr(args, name) for name in names}
    for _, name, _ in COUNTS:
        value = said[name.replace("-", "_")]
        if value is not None and value < 1:
            raise InputError(f"--{name}: must be at least 1")
    gpu = resolve_gpu(args.gpu).title if args.gpu else None
    given = Given(**said, gpu=gpu)
    if args.tool == OURS and given != Given():
        raise InputError("jsonl takes no such flag: records already hold these facts")
    done = import_files(args.tool, args.files, args.into, given)
    for note in done.notes:
        print(f"bench: {note}", file=sys.stderr)
    for name in done.without_card:
        print(
            f"bench: {name} has no model card, so no bound: --model NAME of `bench models` gives "
            "one",
            file=sys.stderr,
        )
    was = f", {done.known} were there already" if done.known else ""
    print(f"{done.added} records added to {done.folder}{was}")
    return 0
