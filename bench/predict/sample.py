"""Published rows as what the formula is fitted on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final

from bench.models.shapes import Shape, shape
from bench.predict.placement import (
    PlacedBytes,
    PlacedWorkload,
    host_of,
    memory_of,
    place,
    published_cache,
)
from bench.predict.published import (
    COLLECTED,
    POSTED,
    PublishedRow,
    card,
    rows,
    sized,
    sources,
    spilled,
)
from bench.predict.terms import NEW, Build, Point
from bench.roofline import prefill_work
from bench.roofline.gpus import Gpu, gpus
from bench.roofline.memory import HOST

PREFILL_SHARE: Final = 0.5
"""Share of the dense peak that prefill is taken to reach where a row's latency includes it."""

LATENT: Final = "2025-04"
"""llama.cpp keeps the latent itself in its cache since pull request 12801 of April 2025; before, it
computed latent attention on full heads."""

SMALL_BYTES: Final = 1e9
"""Weights below this make a small model, whose rate launches decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSample:
    """A published row, or a record, with what the formula needs."""

    row: PublishedRow
    placed: PlacedBytes
    step_s: float
    kind: str
    """dense, small, hybrid, moe or offload."""

    @property
    def point(self) -> Point:
        return self.placed.point

    @property
    def group(self) -> tuple[object, ...]:
        """Rows of one group differ in context only and count as one."""
        p = self.point
        return p.gpu.name, p.engine, p.kernel, self.row.model, p.n_batch, self.row.source


def kind_of(s: Shape, placed: PlacedBytes) -> str:
    """The group whose errors say how wide an interval must be."""
    if placed.fit == "offload":
        return "offload"
    if s.n_experts:
        return "moe"
    if s.hybrid:
        return "hybrid"
    return "small" if placed.point.step_bytes < SMALL_BYTES else "dense"


def all_rows() -> list[PublishedRow]:
    """Published, posted and collected rows: what fits may use."""
    return [*rows(), *rows(file=POSTED), *rows(file=COLLECTED)]


def samples(given: Iterable[PublishedRow] | None = None) -> list[FitSample]:
    """The rows that may be used, as decode samples."""
    found = (
        _sample(row)
        for row in (all_rows() if given is None else given)
        if not row.excluded and row.decode_tok_s is not None
    )
    return [sample for sample in found if sample is not None]


@cache
def _date(source: str) -> str:
    """As precisely as the source says, from the year on."""
    known = sources().get(source)
    if known is None:
        return str(NEW)
    return known.date if re.match(r"\d{4}", known.date) else str(known.read)


def is_new(row: PublishedRow, latent: bool = False) -> bool:
    """Whether a row's build is of the newer ones; own records are."""
    date = row.measured or _date(row.source)
    return int(date[:4]) >= NEW and not (latent and date < LATENT)


FUSED: Final = "2026-03-15"
"""From this day on builds of llama.cpp compute a delta net as one operation: on CUDA and the CPU
since pull request 19504, with Vulkan since 20334."""


def build_of(row: PublishedRow, latent: bool = False) -> Build:
    """What a row says of the engine's build."""
    day = row.measured or _date(row.source)
    fused = "fused delta" in row.version or day >= FUSED
    if row.ollama == "own" or "single operations" in row.version:
        fused = False
    return Build(
        new=is_new(row, latent),
        fused=fused or row.engine != "llama.cpp",
        backend=row.backend,
        ollama=row.ollama,
    )


def device(row: PublishedRow) -> Gpu:
    """The card of a row, with the memory that it says."""
    gpu = gpus()[row.gpu]
    return gpu.with_memory(row.memory_gib) if row.memory_gib and gpu.unified else gpu


def _sample(row: PublishedRow) -> FitSample | None:
    assert row.decode_tok_s is not None
    assert row.context is not None
    assert row.n_batch is not None
    gpu, model, quant = device(row), card(row.model), sized(row.quant)
    n_prompt, n_gen = row.n_prompt or 1, row.n_gen or 128
    step_s = row.n_batch / row.decode_tok_s
    positions = max(round(row.context + n_gen / 2), n_prompt + n_gen)
    memory = memory_of(model, quant, row.engine, positions - n_gen, n_gen, row.n_batch)
    work = PlacedWorkload(
        context=row.context,
        positions=positions,
        n_batch=row.n_batch,
        kv=published_cache(row.kv_dtype),
        build=build_of(row, shape(model).latent),
    )
    placed = place(
        model,
        gpu,
        quant,
        row.engine,
        work,
        memory,
        host_of(gpus()[row.host]) if row.host else HOST,
        row.n_gpus,
        spilled(row.on_host),
    )
    if row.measure == "end_to_end":
        flops = prefill_work(
            model, quant, n_prompt=n_prompt, n_batch=row.n_batch, engine=row.engine
        ).flops
        prefill_s = flops / (PREFILL_SHARE * (gpu.peak("bf16") or float("inf")))
        # Requests that do not fit at once are served in waves, which is another measurement.
        if placed.fit in ("no", "offload") or prefill_s > 0.4 * step_s * n_gen:
            return None
        step_s -= prefill_s / n_gen
    if placed.fit == "no":
        return None
    return FitSample(row=row, placed=placed, step_s=step_s, kind=kind_of(shape(model), placed))
