"""What a captured step should take: its bytes at the copy rate, and a pause after each launch."""

from __future__ import annotations

from collections.abc import Mapping

from bench.models import ModelCard
from bench.models.shapes import shape
from bench.roofline import MeasuredRates, bound
from bench.schemes import scheme

GAP_S = 1.5e-6
"""A card rests so long between the kernels of a graph (est.; no card has said it yet)."""
UNKNOWN_LAUNCHES = 10
SHEET_SHARE = 0.9
"""Of the data sheet's bandwidth that a copy reaches, where none was measured on the card."""


APART = 2
"""Launches more where rotation and cache are not in attention's own (docs/modes.md)."""


def launches(quant: str, options: Mapping[str, object]) -> int:
    """Launches of a compiled layer in a scheme; of one that was never looked at, a guess.

    `options`: of engine graph.
    """
    apart = options.get("merge") == "norms" or options.get("attention") == "sdpa"
    return (scheme(quant).launches or UNKNOWN_LAUNCHES) + APART * apart


def step_s(
    card: ModelCard,
    quant: str,
    copy_bytes_s: float,
    sizes: tuple[int, int, int],
    dtype: str,
    options: Mapping[str, object],
) -> float:
    """Seconds of a decode step of `sizes`: n_prompt, n_gen, n_batch. Raises BenchError."""
    here = MeasuredRates(name="card", bandwidth=copy_bytes_s, vram_bytes=0)
    most = bound(card, here, quant, *sizes, dtype=dtype)
    layers = sum(attention.layers for attention in shape(card).attention)
    return sizes[2] / most.decode_tok_s + layers * launches(quant, options) * GAP_S
