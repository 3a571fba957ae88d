"""Throughput of a model on a card nobody here has: fitted on published rows, with an interval.

The interval is conformal: the prediction times and over exp(q), where q is the 90% quantile of the
log errors made on rows that the fit had not seen. Where the question leaves what was measured (an
engine, a kernel family or an architecture without rows), q comes from errors made when all rows
of another engine, family or architecture were left out, and the prediction says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from bench.models import ModelCard
from bench.models.shapes import Shape, shape
from bench.predict.efficiency import DecodeModel, Floats, Point, PrefillModel, Prompt, kernel
from bench.predict.published import Row, rows
from bench.predict.sample import (
    MIN_PROMPT,
    Sample,
    has_prefill,
    point,
    prefill_model,
    prefill_seconds,
    prompt_of,
    samples,
)
from bench.roofline import Bound, bound, mean_context, prefill_work
from bench.roofline.gpus import Gpu

COVERAGE: Final = 0.90
"""Share of new measurements that an interval is meant to hold."""

Fold = Literal["gpu", "source", "engine", "kernel", "arch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What to expect. A figure that cannot be given is None; `absent` says why."""

    gpu: str
    model: str
    engine: str
    quant: str
    n_batch: int
    decode_tok_s: float | None
    low: float | None
    high: float | None
    bound_decode_tok_s: float
    limited_by: str
    fits: bool
    n_gpus: int
    n_prompt: int
    n_gen: int
    prefill_tok_s: float | None
    prefill_low: float | None
    prefill_high: float | None
    bound_prefill_tok_s: float | None
    weights_bytes: int
    memory_bytes: int
    extrapolates: tuple[str, ...]
    """What the question has that no measurement has; the interval is wider for it."""
    absent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Decode rate of one card over another's, with a 90% interval, and the ratio of the bounds."""

    candidate: str
    baseline: str
    ratio: float
    low: float
    high: float
    bound_ratio: float


class Predictor:
    """Both models with their errors on rows that they had not seen."""

    def __init__(self, extra: Sequence[Row] = ()) -> None:
        """Fit on the published rows, and on `extra` ones."""
        usable = [row for row in (*rows(), *extra) if not row.excluded]
        self.samples = samples(usable)
        self.prompts = [row for row in usable if has_prefill(row)]
        self.points = [sample.point for sample in self.samples]
        self.seconds: Floats = np.array([sample.step_s for sample in self.samples])
        counts: dict[object, int] = {}
        for sample in self.samples:
            counts[sample.group] = counts.get(sample.group, 0) + 1
        self.weights: Floats = np.array([counts[s.group] ** -0.5 for s in self.samples])
        self.decode = DecodeModel(self.points, self.seconds, self.weights)

    def errors(self, fold: Fold) -> Floats:
        """ln(measured / predicted) seconds of each sample, its whole group of `fold` left out."""
        keys = [_fold_key(sample, fold) for sample in self.samples]
        found = np.zeros(len(keys))
        for key in sorted(set(keys)):
            out = np.array([k == key for k in keys])
            model = DecodeModel(
                self.points, self.seconds, np.where(out, 0, self.weights), start=self.decode
            )
            found[out] = np.log(self.seconds[out] / model.fitted_seconds()[out])
        return found

    @cached_property
    def by_gpu(self) -> Floats:
        """Errors with each sample's card left out."""
        return self.errors("gpu")

    @cached_property
    def novelties(self) -> list[tuple[Fold, ...]]:
        """What each sample has that no sample of another card has."""
        return [
            self.novelty(s.point, [o for o in self.points if o.gpu.name != s.point.gpu.name])
            for s in self.samples
        ]

    @staticmethod
    def novelty(target: Point, seen: Sequence[Point]) -> tuple[Fold, ...]:
        """Folds whose errors are the right measure for `target`, if `seen` is what was fitted."""
        if all(p.engine != target.engine for p in seen):
            return ("engine",)
        new: list[Fold] = []
        same = [p for p in seen if p.engine == target.engine]
        if all(p.kernel != target.kernel for p in same):
            new.append("kernel")
        if all(p.gpu.arch != target.gpu.arch for p in same):
            new.append("arch")
        return tuple(new)

    def half_width(
        self,
        target: Point,
        new: tuple[Fold, ...],
        *,
        without: str | None = None,
        new_source: bool = True,
    ) -> float:
        """q of the interval x e^-q .. x e^q: the widest that applies.

        Errors of all rows that asked nothing new, of the engine's own rows, and of each fold in
        `new`; and, for what a measurement of one's own would show, errors of rows whose source was
        left out (`new_source`): builds and hosts differ. `without` leaves a card's own errors out.
        """
        batched = target.n_batch > 1
        allowed = np.array(
            [s.point.gpu.name != without and (s.point.n_batch > 1) == batched for s in self.samples]
        )
        known = np.array([not n for n in self.novelties])
        widths = [self._quantile(self.by_gpu, allowed & known)]
        own = allowed & np.array([p.engine == target.engine for p in self.points])
        if own.any():
            widths.append(self._quantile(self.by_gpu, own))
        if new_source:
            widths.append(self._quantile(self.by_source, self._source_known))
        # Few mixtures of experts, or none of this kind: the width of an unseen architecture, or
        # of an unseen engine.
        like: dict[str, tuple[Fold, ...]] = {"none": (), "latent": ("arch",), "plain": ("engine",)}
        folds = (*new, *like[target.experts])
        widths += [self._quantile(self._fold_errors[fold], allowed) for fold in folds]
        return max(widths)

    @cached_property
    def by_source(self) -> Floats:
        """Errors with each sample's source left out."""
        return self.errors("source")

    @cached_property
    def _source_known(self) -> NDArray[np.bool_]:
        """Samples of one card whose engine, kernels and architecture other sources have too."""
        return np.array(
            [
                s.point.n_batch == 1
                and s.point.experts == "none"
                and not self.novelty(
                    s.point, [o.point for o in self.samples if o.row.source != s.row.source]
                )
                for s in self.samples
            ]
        )

    @cached_property
    def _fold_errors(self) -> dict[Fold, Floats]:
        folds: tuple[Fold, ...] = ("engine", "kernel", "arch")
        return {fold: self.errors(fold) for fold in folds}

    def _quantile(self, errors: Floats, chosen: NDArray[np.bool_]) -> float:
        """The smallest q that covers 90% of the groups' weight (each group counts once)."""
        size, weight = np.abs(errors[chosen]), self.weights[chosen] ** 2
        order = np.argsort(size)
        # One more group, of unknown error, as in split conformal prediction.
        reached = np.cumsum(weight[order]) / (weight.sum() + 1)
        at = int(np.searchsorted(reached, COVERAGE))
        return float(size[order][min(at, len(size) - 1)])

    def step(self, target: Point) -> tuple[float, float, tuple[Fold, ...]]:
        """Seconds a step, q of its interval, and what is new about the question."""
        new = self.novelty(target, self.points)
        return float(self.decode.seconds([target])[0]), self.half_width(target, new), new

    def ratio(
        self,
        model: ModelCard,
        quant: str,
        engine: str,
        candidate: Gpu,
        baseline: Gpu,
        *,
        n_prompt: int = 512,
        n_gen: int = 128,
    ) -> Ratio:
        """Batch-1 decode of one card over another, all else equal.

        Errors that both cards share cancel, so the interval is made of differences of errors
        between cards in the same engine, family of schemes and model, both left out of the fit.
        """
        context = mean_context(n_prompt, n_gen)
        ours, theirs = (
            point(model, gpu, quant, engine, context, 1) for gpu in (candidate, baseline)
        )
        seconds = self.decode.seconds([ours, theirs])
        q = self._ratio_width
        new = {n for at in (ours, theirs) for n in self.novelty(at, self.points)}
        if new:
            q = max(q, *(self.half_width(at, tuple(sorted(new))) for at in (ours, theirs)))
        value = float(seconds[1] / seconds[0])
        bounds = [
            bound(model, gpu, quant, n_prompt, n_gen, engine=engine, dtype="float16").decode_tok_s
            for gpu in (candidate, baseline)
        ]
        return Ratio(
            candidate=candidate.name,
            baseline=baseline.name,
            ratio=value,
            low=value * float(np.exp(-q)),
            high=value * float(np.exp(q)),
            bound_ratio=bounds[0] / bounds[1],
        )

    @cached_property
    def _ratio_width(self) -> float:
        """90% quantile of how far the errors of two cards lie apart."""
        sums: dict[tuple[object, ...], dict[str, list[float]]] = {}
        for sample, error, new in zip(self.samples, self.by_gpu, self.novelties, strict=True):
            p = sample.point
            if p.n_batch == 1 and p.experts == "none" and not new:
                key = p.engine, p.kernel, sample.row.model, sample.row.source
                sums.setdefault(key, {}).setdefault(p.gpu.name, []).append(float(error))
        apart = [
            abs(np.mean(cards[a]) - np.mean(cards[b]))
            for cards in sums.values()
            for a, b in combinations(sorted(cards), 2)
        ]
        return float(np.quantile(apart, COVERAGE))

    def prefill_errors(self) -> tuple[list[Row], Floats]:
        """ln(measured / predicted) seconds of each prefill row, its card left out."""
        found = np.zeros(len(self.prompts))
        names = [row.gpu for row in self.prompts]
        for name in sorted(set(names)):
            out = np.array([n == name for n in names])
            model = prefill_model([r for r, o in zip(self.prompts, out, strict=True) if not o])
            for i in np.flatnonzero(out):
                row = self.prompts[i]
                measured = prefill_seconds(row)
                found[i] = np.log(measured / model.seconds([prompt_of(row)])[0])
        return self.prompts, found

    @cached_property
    def prefill(self) -> tuple[PrefillModel, float]:
        """The prefill model, and q of its interval."""
        _, errors = self.prefill_errors()
        size = np.sort(np.abs(errors))
        at = min(int(np.ceil(COVERAGE * (len(size) + 1))), len(size)) - 1
        return prefill_model(self.prompts), float(size[at])

    def predict(
        self,
        model: ModelCard,
        gpu: Gpu,
        quant: str,
        engine: str,
        *,
        n_prompt: int = 128,
        n_gen: int = 128,
        n_batch: int = 1,
        n_gpus: int = 1,
    ) -> Prediction:
        """What to expect of a model in a scheme on an engine and a card."""
        limit = bound(
            model,
            gpu,
            quant,
            n_prompt,
            n_gen,
            n_batch,
            engine=engine,
            dtype="float16",
            n_devices=n_gpus,
        )
        absent = dict(limit.absent)
        context = mean_context(n_prompt, n_gen)
        decode, low, high = None, None, None
        new: tuple[Fold, ...] = ()
        if n_gpus > 1 and engine != "llama.cpp":
            absent["decode_tok_s"] = "several cards: only llama.cpp's split by layers was fitted"
        else:
            at = point(model, gpu, quant, engine, context, n_batch)
            step_s, q, new = self.step(at)
            decode, low, high = _clamped(n_batch / step_s, q, limit.decode_tok_s)
        first = self._predict_prefill(model, gpu, quant, engine, n_prompt, n_batch, limit, absent)
        return Prediction(
            gpu=gpu.name,
            model=model.name,
            engine=engine,
            quant=quant,
            n_batch=n_batch,
            decode_tok_s=decode,
            low=low,
            high=high,
            bound_decode_tok_s=limit.decode_tok_s,
            limited_by=limit.limited_by,
            fits=limit.fits,
            n_gpus=n_gpus,
            n_prompt=n_prompt,
            n_gen=n_gen,
            prefill_tok_s=first[0],
            prefill_low=first[1],
            prefill_high=first[2],
            bound_prefill_tok_s=limit.prefill_tok_s,
            weights_bytes=limit.weights_bytes,
            memory_bytes=limit.memory_bytes,
            absent=absent,
            extrapolates=_explain(new, gpu, engine, quant, shape(model)),
        )

    def _predict_prefill(
        self,
        model: ModelCard,
        gpu: Gpu,
        quant: str,
        engine: str,
        n_prompt: int,
        n_batch: int,
        limit: Bound,
        absent: dict[str, str],
    ) -> tuple[float | None, float | None, float | None]:
        seen = {row.engine for row in self.prompts}
        why = None
        if engine not in seen:
            why = f"no published prefill figures for {engine}, only for {', '.join(sorted(seen))}"
        elif n_batch > 1 or n_prompt < MIN_PROMPT:
            why = f"prefill was fitted on single prompts of {MIN_PROMPT} tokens and more"
        elif shape(model).n_experts or gpu.bf16_tflops is None:
            why = "prefill was fitted on dense models and cards with a known peak"
        if why is not None:
            absent["prefill_tok_s"] = why
            return None, None, None
        fitted, q = self.prefill
        prompt = Prompt(
            gpu=gpu,
            kernel=kernel(quant),
            n_prompt=n_prompt,
            layers=shape(model).n_layers,
            flops=prefill_work(model, quant, n_prompt=n_prompt, engine=engine).flops,
        )
        return _clamped(n_prompt / float(fitted.seconds([prompt])[0]), q, limit.prefill_tok_s)


def _clamped(rate: float, q: float, limit: float | None) -> tuple[float, float, float]:
    """A rate and its interval, none of them above the bound."""
    most = float("inf") if limit is None else limit
    return min(rate, most), min(rate * float(np.exp(-q)), most), min(rate * float(np.exp(q)), most)


def _fold_key(sample: Sample, fold: Fold) -> str:
    p = sample.point
    keys: dict[Fold, Callable[[], str]] = {
        "gpu": lambda: p.gpu.name,
        "source": lambda: sample.row.source,
        "engine": lambda: p.engine,
        "kernel": lambda: p.kernel,
        "arch": lambda: p.gpu.arch,
    }
    return keys[fold]()


def _explain(new: tuple[Fold, ...], gpu: Gpu, engine: str, quant: str, s: Shape) -> tuple[str, ...]:
    texts = {
        "engine": f"no measurement of {engine}",
        "kernel": f"no measurement of {quant} or a scheme like it on {engine}",
        "arch": f"no measurement of {engine} on a {gpu.arch} card",
    }
    found = [texts[fold] for fold in new]
    if s.n_experts and s.latent:
        found.append("few measurements of mixtures of experts, all of DeepSeek R1 on llama.cpp")
    elif s.n_experts:
        found.append("no measurement of a mixture of experts with plain attention")
    return tuple(found)
