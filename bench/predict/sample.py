"""Published rows as what the efficiency models are fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.models import ModelCard
from bench.models.shapes import shape
from bench.predict.efficiency import Point, PrefillModel, Prompt, kernel
from bench.predict.published import Row, card, rows
from bench.roofline import decode_work, memory_bytes, prefill_work
from bench.roofline.gpus import Gpu, gpus
from bench.schemes.bytes import held

PREFILL_SHARE: Final = 0.5
"""Share of the dense peak that prefill is taken to reach where a row's latency includes it."""

MIN_PROMPT: Final = 64
"""Prompts shorter than this say nothing about prefill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A published row, or a record, with what the models need."""

    row: Row
    point: Point
    step_s: float

    @property
    def group(self) -> tuple[object, ...]:
        """Rows of one group differ in context only and count as one."""
        p = self.point
        return p.gpu.name, p.engine, p.kernel, self.row.model, p.n_batch


def samples(given: Iterable[Row] | None = None) -> list[Sample]:
    """The rows that may be used, as decode samples."""
    found = (
        _sample(row)
        for row in (rows() if given is None else given)
        if not row.excluded and row.decode_tok_s is not None
    )
    return [sample for sample in found if sample is not None]


def _sample(row: Row) -> Sample | None:
    assert row.decode_tok_s is not None
    assert row.context is not None
    assert row.n_batch is not None
    gpu, model = gpus()[row.gpu], card(row.model)
    step_s = row.n_batch / row.decode_tok_s
    if row.measure == "end_to_end":
        assert row.n_prompt is not None
        assert row.n_gen is not None
        needed = memory_bytes(
            model,
            row.quant,
            n_prompt=row.n_prompt,
            n_gen=row.n_gen,
            n_batch=row.n_batch,
            engine=row.engine,
        )
        flops = prefill_work(
            model, row.quant, n_prompt=row.n_prompt, n_batch=row.n_batch, engine=row.engine
        ).flops
        prefill_s = flops / (PREFILL_SHARE * (gpu.peak("bf16") or float("inf")))
        # Requests that do not fit at once are served in waves, which is another measurement.
        if needed > gpu.vram_bytes or prefill_s > 0.4 * step_s * row.n_gen:
            return None
        step_s -= prefill_s / row.n_gen
    at = point(model, gpu, row.quant, row.engine, row.context, row.n_batch)
    return Sample(row=row, point=at, step_s=step_s)


def point(
    model: ModelCard, gpu: Gpu, quant: str, engine: str, context: float, n_batch: int
) -> Point:
    """A decode step of a card's model as the efficiency model sees it."""
    s = shape(model)
    weights = held(s, quant, engine=engine)
    step = weights.step_bytes + weights.expert_bytes * s.experts_read(n_batch)
    work = decode_work(model, quant, context=context, n_batch=n_batch, engine=engine)
    return Point(
        engine=engine,
        kernel=kernel(quant),
        gpu=gpu,
        layers=s.n_layers,
        n_batch=n_batch,
        step_bytes=step,
        kv_bytes=work.n_bytes - step,
        n_weights=s.n_active_params,
        experts="none" if s.n_experts == 0 else "latent" if s.latent else "plain",
    )


def has_prefill(row: Row) -> bool:
    """Whether the prefill model can use a row."""
    return (
        row.prefill_tok_s is not None
        and row.n_gpus == 1
        and row.n_batch == 1
        and (row.n_prompt or 0) >= MIN_PROMPT
    )


def prefill_seconds(row: Row) -> float:
    """Seconds of the whole prompt."""
    assert row.n_prompt is not None
    assert row.prefill_tok_s is not None
    return row.n_prompt / row.prefill_tok_s


def prompt_of(row: Row) -> Prompt:
    """A row as the prefill model sees it."""
    assert row.n_prompt is not None
    model = card(row.model)
    work = prefill_work(model, row.quant, n_prompt=row.n_prompt, engine=row.engine)
    return Prompt(
        gpu=gpus()[row.gpu],
        kernel=kernel(row.quant),
        n_prompt=row.n_prompt,
        layers=shape(model).n_layers,
        flops=work.flops,
    )


def prefill_model(given: Sequence[Row]) -> PrefillModel:
    """The prefill model of some rows."""
    seconds = np.array([prefill_seconds(row) for row in given])
    return PrefillModel([prompt_of(row) for row in given], seconds)
