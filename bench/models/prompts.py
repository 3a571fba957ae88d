"""The prompt's tokens: the same for every engine, drawn without torch.

Engines with torch draw them with `torch.randint` from a generator of the same seed; this module
draws the same numbers where torch is not installed, so that every arm of an experiment is given
the same prompts. Standard library only.
"""

from __future__ import annotations

import random

STATE_WORDS = 624


def random_tokens(seed: int, vocabulary: int, n_prompt: int, n_batch: int) -> list[list[int]]:
    """Tokens [n_batch][n_prompt], each from 0 up to `vocabulary`: what
    `torch.randint(0, vocabulary, (n_batch, n_prompt), generator=...)` draws on a CPU.

    torch and Python share the generator (MT19937, Matsumoto & Nishimura 1998) and differ in how
    a seed becomes its state: torch uses the authors' `init_genrand`.
    """
    state = [seed & 0xFFFFFFFF]
    for number in range(1, STATE_WORDS):
        before = state[-1]
        state.append((1812433253 * (before ^ (before >> 30)) + number) & 0xFFFFFFFF)
    draw = random.Random()
    draw.setstate((3, (*state, STATE_WORDS), None))
    return [[draw.getrandbits(32) % vocabulary for _ in range(n_prompt)] for _ in range(n_batch)]
