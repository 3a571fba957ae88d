"""Cards as people write them: `2x 3090`, `4080S`, `4090 mobile`, `MacBook Pro M4 Max 64GB`.

Only words are taken apart here; `bench.roofline.gpus` knows which cards there are. Standard library
only.
"""

from __future__ import annotations

import re
from typing import Final

WORDS: Final = {"dual": 2, "triple": 3, "quad": 4}
BEFORE: Final = re.compile(r"(?:(\d{1,2})\s*x|(dual|triple|quad))\s*(\S.*)")
"""`2x 3090`, `dual 3090`; a count has two digits at most, the number of a card has more."""
AFTER: Final = re.compile(r"(.*[^\sx])\s*x\s*(\d{1,2})")
"""`3090 x 2`, `t4x2`."""
SIZE: Final = re.compile(r"(.*?[^\s(-])[\s(-]*\b(\d+)\s*gi?b?\)?")
"""`4060 Ti 16g`, `M4 Max (64GB)`."""
COMPUTER: Final = re.compile(
    r"(?:apple\s+)?(?:macbook(?:\s+(?:pro|air))?|mac(?:\s+\w+)?|imac)\s+(?=m\d)"
)
"""A Mac's name before its chip's."""
LAPTOP: Final = re.compile(r"\s*\b(?:mobile|notebook)\b|(?<=\d{4})m\b|(?<=ti)\s*m\b")
SUPER: Final = re.compile(r"(?<=\d{4})\s*s\b|(?<=ti)\s*s\b")


def count_of(said: str) -> tuple[int, str] | None:
    """How many cards, and which one: (2, '3090') of `2x 3090`, `3090 x2` and `dual 3090`."""
    if found := BEFORE.fullmatch(said):
        return int(found[1] or WORDS[found[2]]), found[3]
    if found := AFTER.fullmatch(said):
        return int(found[2]), found[1]
    return None


def size_of(said: str) -> tuple[str, int] | None:
    """The card and its memory in GiB, where a name ends with a size."""
    found = SIZE.fullmatch(said)
    return (found[1], int(found[2])) if found else None


def spelled_out(said: str) -> str:
    """The name without a Mac's, and with short forms of `Laptop` and `Super` spelled out."""
    plain = COMPUTER.sub("", said)
    return SUPER.sub(" super", LAPTOP.sub(" laptop", plain))
