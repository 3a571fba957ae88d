"""Prefill: achieved FLOP/s as a straight line in logarithms of the card's figures.

Fitted with numpy (`prefill_fit`), used without (`prefill_seconds`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.models.shapes import shape
from bench.predict.published import PublishedRow, card, sized
from bench.predict.terms import PROCESSORS, kernel
from bench.roofline import prefill_work
from bench.roofline.gpus import Gpu, gpus

MIN_PROMPT: Final = 64
"""Prompts shorter than this say nothing about prefill."""
PENALTY: Final = (0.0, 0.1, 0.1, 0.3, 0.3, 0.1, 0.1, 0.3)
CENTRE: Final = (0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
HUBER: Final = 0.15
COVERAGE: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prefill on one card."""

    gpu: Gpu
    kernel: str
    n_prompt: int
    layers: int
    flops: float

    def features(self) -> tuple[float, ...]:
        """What the line is in; GeForce cards may sum in 16 bits at twice the rate."""
        peak = (self.gpu.bf16_tflops or 1) * (2 if self.gpu.geforce else 1)
        length = math.log(self.n_prompt / 1024)
        return (
            1.0,
            float(self.kernel == "float"),
            math.log(peak),
            math.log((self.gpu.sms or PROCESSORS) * (self.gpu.boost_mhz or 2000)),
            math.log(self.gpu.bandwidth_gb_s / 1000),
            length,
            length**2,
            float(self.layers > 60),
        )


def prefill_seconds(prompt: Prompt, parameters: Sequence[float]) -> float:
    """Predicted seconds of a prefill."""
    line = zip(prompt.features(), parameters, CENTRE, strict=True)
    return prompt.flops / math.exp(sum(f * (x + c) for f, x, c in line))


def has_prefill(row: PublishedRow) -> bool:
    """Whether the prefill line is fitted on a row: single prompts of dense models, published."""
    return (
        row.prefill_tok_s is not None
        and not row.measured
        and row.n_gpus == 1
        and row.n_batch == 1
        and (row.n_prompt or 0) >= MIN_PROMPT
        and gpus()[row.gpu].bf16_tflops is not None
        and not shape(card(row.model)).n_experts
    )


def prompt_of(row: PublishedRow) -> Prompt:
    """A row as the line sees it."""
    assert row.n_prompt is not None
    model, quant = card(row.model), sized(row.quant)
    work = prefill_work(model, quant, n_prompt=row.n_prompt, engine=row.engine)
    return Prompt(
        gpu=gpus()[row.gpu],
        kernel=kernel(quant),
        n_prompt=row.n_prompt,
        layers=shape(model).n_layers,
        flops=work.flops,
    )


def measured_seconds(row: PublishedRow) -> float:
    """Seconds of the whole prompt."""
    assert row.n_prompt is not None
    assert row.prefill_tok_s is not None
    return row.n_prompt / row.prefill_tok_s


def line(prompts: Sequence[Prompt], seconds: Sequence[float]) -> tuple[float, ...]:
    """The line's parameters, robust against single odd rows."""
    import numpy as np

    a = np.array([p.features() for p in prompts])
    y = np.log([p.flops for p in prompts]) - np.log(seconds) - a @ np.array(CENTRE)
    weights = np.ones(len(y))
    x = np.zeros(len(CENTRE))
    for _ in range(20):
        left = a.T @ (a * weights[:, None]) + np.diag(PENALTY)
        x = np.linalg.solve(left, a.T @ (y * weights))
        weights = 1 / np.maximum(1, np.abs(y - a @ x) / HUBER)
    return tuple(round(float(value), 6) for value in x)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillFit:
    """The line, and its errors on rows whose card was left out."""

    rows: tuple[PublishedRow, ...]
    parameters: tuple[float, ...]
    errors: tuple[float, ...]
    """ln(measured / predicted) seconds."""
    engines: tuple[str, ...]
    inputs: tuple[float, ...]

    @property
    def width(self) -> float:
        """q of the interval."""
        size = sorted(map(abs, self.errors))
        at = min(math.ceil(COVERAGE * (len(size) + 1)), len(size)) - 1
        return round(size[at], 4)


def prefill_fit(given: Sequence[PublishedRow]) -> PrefillFit:
    """Fit on all rows that have a prefill rate, and with each card left out."""
    kept = [row for row in given if not row.excluded and has_prefill(row)]
    prompts, seconds = [prompt_of(row) for row in kept], [measured_seconds(row) for row in kept]
    errors = [0.0] * len(kept)
    for name in sorted({row.gpu for row in kept}):
        inside = [i for i, row in enumerate(kept) if row.gpu != name]
        x = line([prompts[i] for i in inside], [seconds[i] for i in inside])
        for i, row in enumerate(kept):
            if row.gpu == name:
                errors[i] = math.log(seconds[i] / prefill_seconds(prompts[i], x))
    return PrefillFit(
        rows=tuple(kept),
        parameters=line(prompts, seconds),
        errors=tuple(errors),
        engines=tuple(sorted({row.engine for row in kept})),
        inputs=tuple(v for p, s in zip(prompts, seconds, strict=True) for v in (*p.features(), s)),
    )
