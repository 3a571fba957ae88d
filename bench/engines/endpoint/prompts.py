"""Prompts of exactly so many tokens, none like another.

A server keeps the work on prompts that it has seen, and would seem to read them in no time. Caches
go by how prompts begin, so the first few tokens of each are drawn anew in every process, the very
first in turn from all there are; the rest comes from the seed and is the same for every arm.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

HEAD = 4
"""Tokens at the beginning of a prompt that no other prompt begins with (as good as never)."""

_TEXT = """
the of and to in is for that it with as on was be by are this from at or have an not they which one
you we all their has would what will there if can more when who so no she other its may these some
than time into only do such new about out first two them then could over after people most our work
year made how well way even because good many those same life world state still both between own
part place great high small large house water long where through back much before must under never
number night left head hand
"""
WORDS: tuple[str, ...] = tuple(_TEXT.split())
"""Common words that tokenizers of English hold whole; what a prompt of them has is checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What the prompts of one workload are made of."""

    seed: str
    """Equal seeds, equal prompts but for their heads."""
    n: int
    """Tokens or words."""
    size: int | None = None
    """Of the model's vocabulary, for token numbers; None makes words."""
    distinct: bool = True
    fresh: str = field(default_factory=lambda: secrets.token_hex(8))
    """What the heads of this process are drawn from."""

    def prompt(self, index: int) -> list[int] | str:
        """The prompt of request `index`: token numbers, or words."""
        at = self._draws(index if self.distinct else 0)
        if self.size is None:
            return " ".join(WORDS[one % len(WORDS)] for one in at)
        # The middle half of a vocabulary: special tokens stand at its ends.
        return [self.size // 4 + one % max(self.size // 2, 1) for one in at]

    def pieces(self, parts: Sequence[tuple[str, int]]) -> list[int] | str:
        """A prompt of the first tokens of some streams, one after the other (`Asked.parts`).

        Streams of equal name are equal within a process; of another process, their first tokens
        are others, as all caches go by how a prompt begins.
        """
        at = [one for name, n in parts for one in self._stream(name, n)]
        if self.size is None:
            return " ".join(WORDS[one % len(WORDS)] for one in at)
        return [self.size // 4 + one % max(self.size // 2, 1) for one in at]

    def _stream(self, name: str, n: int) -> list[int]:
        drawn = random.Random(f"{self.seed}/{name}")
        at = [drawn.getrandbits(32) for _ in range(n)]
        head = random.Random(f"{self.fresh}/{name}")
        at[:HEAD] = [head.getrandbits(32) for _ in at[:HEAD]]
        return at

    def _draws(self, number: int) -> list[int]:
        drawn = random.Random(f"{self.seed}/{number}")
        at = [drawn.getrandbits(32) for _ in range(self.n)]
        if self.distinct:
            head = random.Random(f"{self.fresh}/{number}")
            at[:HEAD] = [head.getrandbits(32) for _ in at[:HEAD]]
            # In turn, not by chance: a server that compares single tokens would find the same one
            # among some hundred prompts.
            at[0] = random.Random(self.fresh).getrandbits(32) + number
        return at


def next_length(tried: Sequence[tuple[int, int]], wanted: int) -> int | None:
    """How many words to try next for a prompt of `wanted` tokens; None where it is of no use.

    `tried`: words and the tokens that the server counted. A word is taken for one token, and what
    is beyond them (a template) for a constant.
    """
    words, tokens = tried[-1]
    following = words + wanted - tokens
    known = {one for one, _ in tried}
    return following if following >= 1 and following not in known else None
