"""`bench gpus`: the catalog of cards."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from bench.cli import add_output

if TYPE_CHECKING:
    from bench.roofline.gpus import Gpu

EPILOG = """\
examples:
  bench gpus
  bench gpus rtx-4080-super h200-sxm
  bench gpus -o json                    every figure with its source

A card is a table in bench/data/gpus.toml; `bench validate` checks it.
"""


def add(verbs: Any) -> argparse.ArgumentParser:
    """Describe the verb."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "gpus",
        help="list the catalog of cards: peaks, bandwidth, memory, power, price",
        description="List the cards: dense peaks in TFLOP/s (int8: TOP/s), bandwidth and memory.",
        epilog=EPILOG,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these cards")
    add_output(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the catalog."""
    from bench.report.tables import Column, column, render
    from bench.roofline.gpus import gpus, resolve_gpu

    cards = [resolve_gpu(name) for name in args.names] or list(gpus().values())
    cards.sort(key=lambda card: (card.kind, str(card.released or "9999"), card.name))
    columns: list[Column] = [
        column("gpu"),
        column("arch"),
        column("vram_gib", "memory GiB", ".0f"),
        column("bandwidth_gb_s", "GB/s", ".0f"),
        column("bf16_tflops", "bf16", ".0f"),
        column("fp8_tflops", "fp8", ".0f"),
        column("int8_tops", "int8", ".0f"),
        column("tdp_w", "W", ".0f"),
        column("launch_usd", "launch $", ".0f"),
        column("released"),
    ]
    print(render([_row(card) for card in cards], columns, args.output), end="")
    return 0


def _row(card: Gpu) -> dict[str, Any]:
    from bench.roofline.gpus import FIGURES

    figures = {name: getattr(card, name) for name in FIGURES}
    return {
        "gpu": card.name,
        "title": card.title,
        "arch": card.arch,
        "compute_capability": card.compute_capability,
        "kind": card.kind,
        **figures,
        "released": card.released and card.released.isoformat(),
        "power_range_w": list(card.power_range_w) or None,
        "memory": card.memory,
        "memory_choices_gib": list(card.memory_choices_gib) or None,
        "source": card.source,
        "sources": [f"{figure}: {text}" for figure, text in card.sources.items()],
        "absent": [f"{figure}: {text}" for figure, text in card.absent.items()],
        "note": card.note,
    }
