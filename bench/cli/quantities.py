"""Types of the arguments of `bench predict`: one line says what is wrong with a value."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.predict.placement import Spilled


def n_bytes(text: str) -> int:
    """Bytes of a model's weights."""
    try:
        value = int(float(text))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes") from None
    if not 10**7 <= value <= 10**14:
        raise argparse.ArgumentTypeError(f"{text}: a language model has 10 MB to 100 TB")
    return value


def amount(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def host_rate(text: str) -> float:
    """GB/s, stated or of a processor of the catalog, whose name may lack `cpu-`."""
    name = text.strip().lower()
    if "ddr" not in name and not name.startswith("cpu-"):
        return amount(text)
    from bench.errors import unknown
    from bench.predict.placement import host_of
    from bench.roofline.gpus import gpus

    known = {name: card for name, card in gpus().items() if card.kind == "cpu"}
    card = known.get(name) or known.get(f"cpu-{name}")
    if card is None:
        raise argparse.ArgumentTypeError(unknown("memory", text, known))
    return host_of(card).bandwidth / 1e9


def spilled(text: str) -> Spilled:
    """What stays on the host."""
    from bench.predict import published

    found = published.spilled(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 'experts 14/40' or 'layers 9/41'")
    return found


def whole(text: str) -> int:
    """A whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def wholes(text: str) -> list[int]:
    """Whole numbers above 0, separated by commas."""
    return [whole(part) for part in text.split(",")]
