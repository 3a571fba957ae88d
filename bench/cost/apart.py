"""A prompt timed alone, and new tokens timed alone, as llama-bench does: two rows, one price.

Input is priced by the row of the prompt, output by that of the new tokens, each by its own seconds
and nothing rescaled. Both are of one arm on one machine, so that a depth of context that was filled
before (`n_depth`) is the same in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from bench import cost
from bench.cost.throughput import Throughput


def alone(one: Throughput) -> bool:
    """Whether it is of a prompt alone or of new tokens alone."""
    return one.n_prompt == 0 or one.n_gen == 0


def token_time(
    one: Throughput, others: Iterable[Throughput], mix: tuple[float, float] | None
) -> cost.TokenTime | None:
    """Seconds of an input token and of an output token, one of them from another row.

    Of several such rows it is the one whose length is nearest to what the mix asks beside this one.
    None without one, and for a row of both.
    """
    if not alone(one):
        return None
    prompt = one.n_gen == 0
    partners = [other for other in others if alone(other) and (other.n_gen == 0) != prompt]
    if not partners:
        return None
    other = min(partners, key=_distance(one, mix))
    seconds = [each.request_s / each.request_tokens for each in (one, other)]
    each_in, each_out = seconds if prompt else reversed(seconds)
    return cost.TokenTime(input_s=each_in, output_s=each_out, method="rows-apart")


def _distance(
    one: Throughput, mix: tuple[float, float] | None
) -> Callable[[Throughput], tuple[float, int]]:
    """How far another row's length is from what the mix asks for beside this row."""
    parts = mix if mix and min(mix) > 0 else (1.0, 1.0)
    wanted = (
        one.n_prompt * parts[1] / parts[0] if one.n_gen == 0 else (one.n_gen * parts[0] / parts[1])
    )
    return lambda other: (
        abs(math.log(other.request_tokens / wanted)),
        other.request_tokens,
    )
