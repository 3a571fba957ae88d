"""Types of flags that are numbers, for argparse, which says what is wrong with one."""

from __future__ import annotations

import argparse


def weights(text: str) -> int:
    """Bytes of a model's weights: `4.9e9`."""
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


def whole(text: str) -> int:
    """A whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def wholes(text: str) -> list[int]:
    """`1,8`: whole numbers above 0."""
    return [whole(part) for part in text.split(",")]
