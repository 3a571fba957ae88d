"""`bench models`: the model cards, their sizes, and what fits here."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from bench.cli import add_output

SHOWN = ("none", "int8-weight-only", "int4-weight-only")
EPILOG = """\
examples:
  bench models                         does each model fit on this machine's device?
  bench models --gpu rtx-4080-super    ... or on a card that is not here
  bench models -o json                 bytes in every scheme

A model is NAME, NAME@SOURCE (one of its weight sources), ORG/NAME[@REVISION] or ORG/NAME:Q4_K_M
of the hub, a folder of safetensors, or a GGUF file (docs/models.md).
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "models",
        help="list the model cards",
        epilog=EPILOG,
        description="List the model cards: parameters, bytes in each scheme, and whether they fit.",
    )
    parser.add_argument(
        "-d",
        "--device",
        default="auto",
        help="device of this machine (default: auto)",
    )
    parser.add_argument(
        "--gpu", metavar="NAME", help="use a catalogued card instead (`bench gpus`)"
    )
    add_output(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print one row a card."""
    from bench.models import load_card, model_cards
    from bench.report.tables import Column, column, render
    from bench.runner.here import here

    place = here(args.device, args.gpu)
    rows = [_row(load_card(path), place) for path in model_cards().values()]
    columns = [
        column("model"),
        column("n_params", "parameters", ",d"),
        *(Column(heading=f"{scheme} GB", show=partial(_size, scheme)) for scheme in SHOWN),
        Column(heading="weights from", show=lambda row: ", ".join(row["sources"])),
        column("license", "licence"),
    ]
    print(render(rows, columns, args.output), end="")
    if args.output == "md":
        memory = f"{place.memory_bytes / 1e9:.1f} GB" if place.memory_bytes else "unknown memory"
        print(f"\n`!` does not fit on {place.name} ({memory}); `none` is {place.dtype} there.")
    return 0


def _row(card: Any, place: Any) -> dict[str, Any]:
    from bench.experiment import Variant, Workload
    from bench.roofline import active_params, n_params, weights_bytes
    from bench.runner.fits import needs
    from bench.schemes.bytes import sized

    work = Workload(n_prompt=128, n_gen=32)

    sizes = {scheme: weights_bytes(card, scheme, place.dtype) for scheme in sized()}
    fit = {
        scheme: needs(Variant(model=card.name, quant=scheme), work, card, place).fit
        for scheme in sized()
    }
    return {
        "model": card.name,
        "title": card.title,
        "license": card.license,
        "sources": card.weights.sources(),
        "n_params": n_params(card),
        "n_active_params": active_params(card),
        "device": place.name,
        "weights_bytes": sizes,
        "fits": {
            scheme: None if word is None else word in ("yes", "tight")
            for scheme, word in fit.items()
        },
        "fit": fit,
        "note": card.note,
    }


def _size(scheme: str, row: Any) -> str:
    mark = "!" if row["fits"][scheme] is False else ""
    return f"{row['weights_bytes'][scheme] / 1e9:,.2f}{mark}"
