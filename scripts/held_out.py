"""Predictions of rows that no fit has read: bench/data/published/held-out.csv."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from bench.predict import Prediction, Predictor
from bench.predict.placement import host_of
from bench.predict.published import HELD_OUT, PublishedRow, card, rows, spilled
from bench.predict.sample import device
from bench.predict.terms import Build, vendor
from bench.roofline.gpus import gpus
from bench.roofline.memory import HOST
from bench.schemes.cache import AUTO, TYPES

TARGETS: Final[tuple[tuple[str, str, float], ...]] = (
    ("dense, fits", "dense", 0.10),
    ("hybrid", "hybrid", 0.20),
    ("mixture of experts", "moe", 0.20),
    ("offload", "offload", 0.30),
    ("small", "small", 0.20),
)
"""What is held, the kind of row, and its target for the median; 90% within three times that."""

WORST: Final = 0.3
"""Errors from which a row is listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A row and what `bench predict` says of it."""

    row: PublishedRow
    found: Prediction

    @property
    def measured(self) -> float:
        assert self.row.decode_tok_s is not None
        return self.row.decode_tok_s

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        assert self.found.decode_tok_s is not None
        return self.found.decode_tok_s / self.measured - 1

    @property
    def size(self) -> float:
        return abs(self.error)

    @property
    def covered(self) -> bool:
        assert self.found.low is not None
        assert self.found.high is not None
        return self.found.low <= self.measured <= self.found.high

    @property
    def width(self) -> float:
        assert self.found.low is not None
        assert self.found.high is not None
        return self.found.high / self.found.low

    @property
    def group(self) -> str:
        if self.found.kind == "offload" or self.row.engine != "llama.cpp":
            return f"{self.found.kind}, {self.row.engine}"
        return f"{self.found.kind}, {self.row.engine}, {vendor(gpus()[self.row.gpu])}"


def predicted(predictor: Predictor, row: PublishedRow) -> Prediction:
    """What `bench predict` says, with the host and the split where the row states them."""
    assert row.context is not None
    n_gen = row.n_gen or 128
    return predictor.predict(
        card(row.model),
        device(row),
        row.quant,
        row.engine,
        n_prompt=max(1, round(row.context - n_gen / 2)),
        n_gen=n_gen,
        n_batch=row.n_batch or 1,
        n_gpus=row.n_gpus,
        host=host_of(gpus()[row.host]) if row.host else HOST,
        spilled=spilled(row.on_host),
        kv_cache_dtype=row.kv_dtype if row.kv_dtype in TYPES else AUTO,
        build=Build(backend=row.backend, ollama=row.ollama, fused=row.ollama != "own"),
    )


def held(predictor: Predictor) -> list[HeldOut]:
    """Every row that may be used, with its prediction."""
    found = [
        HeldOut(row=row, found=predicted(predictor, row))
        for row in rows(file=HELD_OUT)
        if not row.excluded
    ]
    return [one for one in found if one.found.decode_tok_s is not None]


def p90(values: Sequence[float]) -> float:
    """The smallest value that nine of ten do not exceed."""
    return sorted(values)[math.ceil(0.9 * len(values)) - 1]


def table(all_held: Sequence[HeldOut]) -> Iterator[str]:
    """The tables of docs/predict.md."""
    yield (
        f"{len(all_held)} rows of {len({one.row.source for one in all_held})} other sources, which "
        "no fit reads (`bench/data/published/held-out.csv`):"
    )
    yield ""
    yield (
        "| one sequence | rows | median error | 90% within | covered | interval, high / low "
        "| target | met |"
    )
    yield "| --- |" + " ---: |" * 6 + " --- |"
    for name, kind, target in TARGETS:
        ours = [one for one in all_held if one.found.kind == kind]
        at, most = median(_sizes(ours)), p90(_sizes(ours))
        met = at <= target and most <= 3 * target
        yield (f"{_line(name, ours)} | {target:.0%}, {3 * target:.0%} | {'yes' if met else 'no'} |")
    yield ""
    yield "| rows of | rows | median error | 90% within | covered | interval, high / low |"
    yield "| --- |" + " ---: |" * 5
    for name in sorted({one.group for one in all_held}):
        yield f"{_line(name, [one for one in all_held if one.group == name])} |"
    yield ""
    yield from _worst(all_held)


def _sizes(chosen: Sequence[HeldOut]) -> list[float]:
    return [one.size for one in chosen]


def _line(name: str, chosen: Sequence[HeldOut]) -> str:
    shares = [one.covered for one in chosen]
    return (
        f"| {name} | {len(chosen)} | {median(_sizes(chosen)):.1%} | {p90(_sizes(chosen)):.1%} "
        f"| {sum(shares) / len(shares):.0%} | {median(one.width for one in chosen):.1f}"
    )


def _worst(all_held: Sequence[HeldOut]) -> Iterator[str]:
    far = sorted((one for one in all_held if one.size > WORST), key=lambda one: -one.size)
    yield f"Errors above {WORST:.0%}:"
    yield ""
    yield "| gpu | engine | scheme | model | on the host | tok/s | predicted | error | source |"
    yield "| --- | --- | --- | --- | --- | ---: | ---: | ---: | --- |"
    for one in far:
        row, where = one.row, one.row.on_host
        if one.found.kind == "offload" and not where:
            where = "the least"
        yield (
            f"| {row.gpu} | {row.engine} | {row.quant} | {row.model} | {where or '-'} "
            f"| {one.measured:.4g} | {one.found.decode_tok_s:.4g} | {one.error:+.0%} "
            f"| {row.source} |"
        )
