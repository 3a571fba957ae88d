"""Which layer gets how many bits: a choice from measured sensitivities. Standard library only.

Each layer has options of so many bytes at so much divergence. The divergence of a whole allocation
is taken as the sum of its layers' (exact to second order if their errors are independent), so the
choice is a knapsack: from the smallest option of each layer, the step that saves most divergence a
byte is taken first. Steps go along each layer's lower convex hull, which makes the result optimal
for the bytes that it uses.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.errors import InputError

PREFIX: Final = "mixed:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What an allocation must keep: exactly one is set."""

    bits: float | None = None
    """Mean bits a weight over all quantizable layers, scales included: a byte budget."""
    max_kld: float | None = None
    """Mean KL divergence on the calibration text, nats a token."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to hold one layer."""

    level: str
    size_bytes: int
    """Packed, scales included."""
    kld: float
    """Mean divergence of the model when this layer alone is held so, nats a token."""


@dataclass(frozen=True, slots=True)
class Step:
    """From one option of a layer to the next one on its hull."""

    layer: str
    to: Option
    more_bytes: int
    less_kld: float

    @property
    def gain(self) -> float:
        return self.less_kld / self.more_bytes


def parse(name: str) -> Target:
    """The target that a scheme's name states: `mixed:5.0bit` or `mixed:kld<0.02`."""
    stated = name.removeprefix(PREFIX)
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)bit", stated):
        return Target(bits=float(found[1]))
    found = re.fullmatch(r"kld<(\d+(?:\.\d+)?)", stated)
    if found and float(found[1]) > 0:
        return Target(max_kld=float(found[1]))
    raise InputError(
        f"scheme '{name}': state a size or a quality, such as mixed:5.0bit or 'mixed:kld<0.02'"
    )


def hull(options: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull of divergence over bytes, smallest first."""
    best: list[Option] = []
    for option in sorted(options, key=lambda o: (o.size_bytes, o.kld)):
        if best and option.kld >= best[-1].kld:
            continue  # larger, and no better
        while len(best) >= 2 and _slope(best[-2], option) >= _slope(best[-2], best[-1]):
            best.pop()
        best.append(option)
    return best


def _slope(one: Option, other: Option) -> float:
    """Divergence saved a byte from one option to a larger one."""
    return (one.kld - other.kld) / (other.size_bytes - one.size_bytes)


def smallest(layers: Mapping[str, Sequence[Option]]) -> dict[str, Option]:
    """Every layer at its smallest."""
    return {name: hull(options)[0] for name, options in layers.items()}


def steps(layers: Mapping[str, Sequence[Option]]) -> Iterator[Step]:
    """Steps up from `smallest`, best first; those of one layer stay in order, by convexity."""
    found = []
    for name, options in layers.items():
        line = hull(options)
        for one, other in itertools.pairwise(line):
            more = other.size_bytes - one.size_bytes
            found.append(Step(name, other, more, one.kld - other.kld))
    yield from sorted(found, key=lambda step: -step.gain)


def within_bytes(layers: Mapping[str, Sequence[Option]], budget: int) -> dict[str, Option]:
    """The best allocation of at most `budget` bytes. Raises InputError if none is that small."""
    chosen = smallest(layers)
    used = total_bytes(chosen)
    if used > budget:
        raise InputError(
            f"the budget of {budget} bytes is below {used}, the least these layers can take; "
            "state more bits"
        )
    full: set[str] = set()
    for step in steps(layers):
        if step.layer in full:
            continue
        if used + step.more_bytes > budget:
            full.add(step.layer)  # a smaller layer may still fit
            continue
        chosen[step.layer] = step.to
        used += step.more_bytes
    return chosen


def within_kld(layers: Mapping[str, Sequence[Option]], bound: float) -> dict[str, Option]:
    """The smallest allocation whose predicted divergence is at most `bound`.

    If none is (an unquantized layer has no divergence, so this cannot happen where that is an
    option), the best one.
    """
    chosen = smallest(layers)
    for step in steps(layers):
        if total_kld(chosen) <= bound:
            break
        chosen[step.layer] = step.to
    return chosen


def total_bytes(chosen: Mapping[str, Option]) -> int:
    """Bytes of all layers."""
    return sum(option.size_bytes for option in chosen.values())


def total_kld(chosen: Mapping[str, Option]) -> float:
    """Predicted divergence: the sum over layers."""
    return sum(option.kld for option in chosen.values())
