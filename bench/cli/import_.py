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
  bench import vllm result.json --into results/local/vllm --gpu 'RTX 4090' --quant fp8-dynamic
  bench cost results/local/llama --rent 0.42

Flags say what the file does not; none of them replaces what the file itself says of the machine.
Imported records have an `origin`: they are priced, bounded and compared, but are never evidence
that something was measured here. docs/exchange.md has every definition that is mapped.
exit codes: 0 done, 2 a file that cannot be read as one of that tool
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    from bench.exchange import OURS, TOOLS

    parser: argparse.ArgumentParser = verbs.add_parser(
        "import",
        help="other tools' results as records",
        epilog=EPILOG,
        description="Append another tool's results to a results folder. The same file twice adds "
        "nothing; a file that cannot be read adds nothing either.",
    )
    parser.add_argument(
        "tool",
        choices=(*TOOLS, OURS),
        metavar="TOOL",
        help=f"{', '.join(TOOLS)}, or {OURS} for records of our own",
    )
    parser.add_argument("file", type=Path, metavar="FILE")
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
    for flag, what in (("-p", "n-prompt"), ("-n", "n-gen"), ("-b", "n-batch")):
        parser.add_argument(
            flag,
            f"--{what}",
            type=int,
            metavar="N",
            help=f"{what.replace('-', '_')}, for files that lack it",
        )
    return parser


def run(args: argparse.Namespace) -> int:
    """Import the file and say how many records that made."""
    from bench.errors import InputError
    from bench.exchange import OURS
    from bench.exchange.foreign import Given
    from bench.exchange.importing import import_file
    from bench.roofline.gpus import resolve_gpu

    names = ("model", "quant", "engine", "n_prompt", "n_gen", "n_batch")
    said = {name: getattr(args, name) for name in names}
    for name in ("n_prompt", "n_gen", "n_batch"):
        if said[name] is not None and said[name] < 1:
            raise InputError(f"--{name.replace('_', '-')}: must be at least 1")
    gpu = resolve_gpu(args.gpu).title if args.gpu else None
    given = Given(**said, gpu=gpu)
    if args.tool == OURS and given != Given():
        raise InputError("our own records say all that; no other flag goes with jsonl")
    done = import_file(args.tool, args.file, args.into, given)
    for name in done.without_card:
        print(
            f"bench: {name} has no model card, so no bound: --model NAME of `bench models` gives "
            "one",
            file=sys.stderr,
        )
    was = f", {done.known} were there already" if done.known else ""
    print(f"{done.added} records added to {done.folder}{was}")
    return 0
