"""In which order replicates are measured."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.experiment import Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedReplicate:
    """One fresh process of one variant. Replicates of equal `index` are a pair."""

    variant: Variant
    index: int
    position: int
    """Place in the order of measuring, from 0."""


def plan(variants: Sequence[Variant], pairs: int, seed: int) -> list[PlannedReplicate]:
    """Replicates in ABBA order: each block holds every variant once, every second one mirrored.

    Blocks come in twos, an order drawn from `seed` and its mirror image, so that a linear drift
    cancels over each two.
    """
    draw = random.Random(seed)
    order: list[Variant] = []
    steps: list[tuple[Variant, int]] = []
    for index in range(pairs):
        if index % 2 == 0:
            order = list(variants)
            draw.shuffle(order)
        else:
            order = order[::-1]
        steps += [(variant, index) for variant in order]
    return [
        PlannedReplicate(variant=variant, index=index, position=position)
        for position, (variant, index) in enumerate(steps)
    ]
