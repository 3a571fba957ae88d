"""The self-check of an import: figures that cannot all be right, without knowing which is wrong.

It needs no truth: rates that contradict each other, a figure that a file gives twice, requests that
do not add up, streams that make more than they decode, replicates of different models. A record
with such figures gets CONTRADICTION, and `absent.self_check` names the two that disagree; what
needs another file or another flag is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bench.errors import InputError
from bench.exchange.foreign import ForeignRun, Twice
from bench.exchange.naming import fits, shape_name
from bench.exchange.values import spread_of
from bench.records import Record
from bench.summary.replicate import speeds

CODE: Final = "CONTRADICTION"
ALONE: Final = 1.05
"""A single stream's rate over its decode rate that rounding and medians may explain."""
TOGETHER: Final = 1.10
"""The same of several at once."""
SKEW: Final = 1.35
"""How far medians of requests that differ in length may be from a sum of such medians."""


def marked(record: Record, found: ForeignRun) -> Record:
    """The record, with CONTRADICTION and the figures that disagree if some do."""
    why = [*_twice(found.twice), *_figures(record, found), *_size(found)]
    if not why:
        return record
    return dataclasses.replace(
        record,
        reasons=tuple(dict.fromkeys((*record.reasons, CODE))),
        absent=record.absent | {"self_check": "; ".join(why)},
    )


def _twice(pairs: Sequence[Twice]) -> Iterator[str]:
    """Figures that a file gives in two ways which do not agree."""
    for one in pairs:
        if abs(one.stated - one.made) > one.within * max(abs(one.stated), abs(one.made)):
            yield (f"{one.what} is {spread_of(one.stated)}, but {one.of} is {spread_of(one.made)}")


def _figures(record: Record, found: ForeignRun) -> Iterator[str]:
    """Figures of the record that exclude one another."""
    known = speeds(record)
    ttft, tpot, e2e = (known[name] for name in ("ttft_s", "tpot_s", "e2e_s"))
    output, decode, total = (known[f"{name}_tok_s"] for name in ("output", "decode", "total"))
    n_prompt, n_gen, n_batch = (record.workload[k] for k in ("n_prompt", "n_gen", "n_batch"))
    room = ALONE if n_batch == 1 else TOGETHER
    # The first token comes with the prompt: n - 1 steps make n tokens.
    if output and decode and n_gen > 1 and output > decode * room * n_gen / (n_gen - 1):
        more = "one stream makes more than it decodes"
        if n_batch != 1:
            more = f"{n_batch} streams make more than they decode"
        yield (
            f"output_tok_s is {spread_of(output)}, but decode_tok_s is {spread_of(decode)}: {more}"
        )
    if output and total and n_gen:
        made = output * (n_prompt + n_gen) / n_gen
        rounding = 0.02 + 0.5 / n_gen + 0.5 / (n_prompt + n_gen)
        yield from _twice(
            [
                Twice(
                    what="total_tok_s",
                    stated=total,
                    made=made,
                    of=f"output_tok_s x ({n_prompt} + {n_gen})/{n_gen}",
                    within=rounding,
                )
            ]
        )
    if ttft and e2e and e2e < ttft * 0.99:
        whole = f"e2e_s is {spread_of(e2e, 4)}"
        yield f"{whole}, but ttft_s is {spread_of(ttft, 4)}: more than the whole"
    if output and e2e and n_batch and n_gen and output > n_batch * n_gen / e2e * SKEW:
        yield (
            f"output_tok_s is {spread_of(output)}, but {n_batch} requests of {n_gen} tokens in "
            f"e2e_s {spread_of(e2e, 4)} make {spread_of(n_batch * n_gen / e2e)}"
        )
    if ttft and tpot and e2e and n_gen > 1:
        made = ttft + tpot * (n_gen - 1)
        room = 2.5 if found.mean_lengths else SKEW
        if not e2e / room <= made <= e2e * room:
            yield (
                f"e2e_s is {spread_of(e2e, 4)}, but ttft_s + {n_gen - 1} x tpot_s is "
                f"{spread_of(made, 4)}"
            )


def _size(found: ForeignRun) -> Iterator[str]:
    """A scheme that the size of the weights excludes."""
    size, n_params = found.loaded.get("weights_bytes"), found.loaded.get("n_params")
    if size and n_params and fits(found.quant or "", size, n_params) is False:
        yield (
            f"the scheme is {found.quant}, but {size / 1e9:.3g} GB for {n_params / 1e9:.3g} B "
            f"parameters are {8 * size / n_params:.3g} bits each"
        )


def one_model_an_arm(records: Sequence[Record]) -> None:
    """InputError where an arm would pool replicates of different models."""
    seen: dict[tuple[Any, ...], Record] = {}
    for record in records:
        key = (record.environment, record.variant["name"])
        first = seen.setdefault(key, record)
        names = [str(one.model["named"]) for one in (first, record) if one.model.get("named")]
        if len({shape_name(name) for name in names}) > 1:
            raise InputError(
                f"{record.variant['name']} would hold more than one model: {' and '.join(names)}; "
                "give each file its own --model"
            )
        for name, unit in (("n_params", "parameters"), ("weights_bytes", "bytes of weights")):
            one, other = _held(first.model, name), _held(record.model, name)
            if one and other and abs(one / other - 1) > 0.005:
                raise InputError(
                    f"{record.variant['name']} would hold more than one model: {one:,.0f} and "
                    f"{other:,.0f} {unit}; give each file its own --model, or --quant"
                )


def _held(model: Mapping[str, Any], name: str) -> float | None:
    value = model.get(name)
    return float(value) if isinstance(value, int | float) and value > 0 else None
