"""Throughput of a model on a device nobody here has: fitted on measurements, with an interval.

`bench.predict.terms` has the formula, `bench.predict.artefact` the fit that ships. The interval
holds 90 of 100 measurements that were left out (`bench.predict.calibration`). What does not fit is
split between card and host; what cannot run gets no rate. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bench.models import ModelCard
from bench.models.shapes import Shape, shape
from bench.predict.artefact import FittedModel, Novelty, shipped
from bench.predict.placement import PlacedBytes, PlacedWorkload, Spilled, memory_of, place
from bench.predict.prefill import MIN_PROMPT, Prompt, prefill_seconds
from bench.predict.published import PublishedRow, sized
from bench.predict.sample import kind_of
from bench.predict.terms import CURRENT, Build, kernel, seconds
from bench.roofline import Bound, bound, mean_context, prefill_work
from bench.roofline.gpus import Gpu
from bench.roofline.memory import HOST, Fit, HostMemory
from bench.schemes.bytes import has_layout
from bench.schemes.cache import AUTO, type_of


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
    fit: Fit
    """`yes`; `tight`: within 7% of the memory; `offload`: the host holds and computes a part;
    `no`: it cannot run, so there is no rate."""
    n_gpus: int
    n_prompt: int
    n_gen: int
    prefill_tok_s: float | None
    prefill_low: float | None
    prefill_high: float | None
    bound_prefill_tok_s: float | None
    weights_bytes: int
    memory_bytes: int
    host_bytes: int
    """Read by each step from the host's memory, where a part is left there."""
    kind: str
    """dense, small, hybrid, moe or offload: whose errors the interval is made of."""
    bound_sure: bool
    """Whether a figure above the bound must be wrong: bytes of weights and cache are known."""
    extrapolates: tuple[str, ...]
    """What the question has that no measurement has; the interval is wider for it."""
    kv_cache_dtype: str = AUTO
    """Type of the cache (`bench.schemes.cache`); `auto`: 16 bits."""
    absent: dict[str, str] = field(default_factory=dict)

    def against(self, measured_tok_s: float) -> str | None:
        """Whether a rate lies `below`, `within` or `above` the interval; None without one."""
        if self.low is None or self.high is None:
            return None
        if measured_tok_s < self.low:
            return "below"
        return "above" if measured_tok_s > self.high else "within"


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
    """Predictions from the fit that ships, or from one on one's own records as well."""

    def __init__(
        self, extra: Sequence[PublishedRow] = (), model: FittedModel | None = None
    ) -> None:
        """Read the fit; with `extra` rows it is made anew, which takes seconds."""
        self.model = model or shipped()
        if extra:
            from bench.predict.calibration import Calibration
            from bench.predict.fitting import parameters

            made = Calibration(extra)
            self.model = replace(
                self.model,
                parameters=parameters(made.design, made.x),
                n_rows=len(made.samples),
                seen=made.seen(),
            )

    @property
    def n_rows(self) -> int:
        """Decode rates that the fit rests on."""
        return self.model.n_rows

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
        host: HostMemory = HOST,
        spilled: Spilled | None = None,
        bytes_known: bool = True,
        kv_cache_dtype: str = AUTO,
        build: Build = CURRENT,
        reserved: int | None = None,
    ) -> Prediction:
        """What to expect of a model in a scheme on an engine and a device.

        `spilled`: what is told to stay on the host, in place of as little as possible.
        `bytes_known` False: the card was made up to a size, so that its cache is a guess.
        `kv_cache_dtype`: a type of `bench.schemes.cache`. Raises UnsupportedError for another.
        `build`: of the engine. `reserved`: tokens that Ollama reserves the cache for (`num_ctx`).
        """
        s, held_as = shape(model), sized(quant)
        limit = bound(
            model,
            gpu,
            held_as,
            n_prompt,
            n_gen,
            n_batch,
            engine=engine,
            dtype="float16",
            kv_dtype=kv_cache_dtype,
            n_devices=n_gpus,
        )
        placed = self._place(
            model,
            gpu,
            held_as,
            engine,
            n_prompt,
            n_gen,
            n_batch,
            n_gpus,
            host,
            spilled,
            kv_cache_dtype,
            build,
            reserved,
        )
        kind, new = kind_of(s, placed), self.model.novelty(placed.point)
        absent = dict(limit.absent)
        rate = self._decode(placed, kind, n_gpus, limit, absent)
        first = self._prefill(model, gpu, held_as, n_prompt, n_batch, placed, limit, absent)
        return Prediction(
            gpu=gpu.name,
            model=model.name,
            engine=engine,
            quant=quant,
            n_batch=n_batch,
            decode_tok_s=rate[0],
            low=rate[1],
            high=rate[2],
            bound_decode_tok_s=limit.decode_tok_s,
            limited_by=limit.limited_by,
            fits=placed.fit in ("yes", "tight"),
            fit=placed.fit,
            n_gpus=n_gpus,
            n_prompt=n_prompt,
            n_gen=n_gen,
            prefill_tok_s=first[0],
            prefill_low=first[1],
            prefill_high=first[2],
            bound_prefill_tok_s=limit.prefill_tok_s,
            weights_bytes=limit.weights_bytes,
            memory_bytes=placed.memory.needed_bytes(n_gpus),
            host_bytes=round(placed.point.host_bytes + placed.point.host_kv_bytes),
            kind=kind,
            bound_sure=bytes_known and has_layout(quant) and (n_batch == 1 or not s.n_experts),
            extrapolates=_explain(new, gpu, engine, quant, s, held_as),
            kv_cache_dtype=kv_cache_dtype,
            absent=absent,
        )

    def _place(
        self,
        model: ModelCard,
        gpu: Gpu,
        quant: str,
        engine: str,
        n_prompt: int,
        n_gen: int,
        n_batch: int,
        n_gpus: int,
        host: HostMemory,
        spilled: Spilled | None = None,
        kv_cache_dtype: str = AUTO,
        build: Build = CURRENT,
        reserved: int | None = None,
    ) -> PlacedBytes:
        work = PlacedWorkload(
            context=mean_context(n_prompt, n_gen),
            positions=n_prompt + n_gen,
            n_batch=n_batch,
            kv=type_of(kv_cache_dtype),
            build=build,
            reserved=reserved,
        )
        memory = memory_of(model, quant, engine, n_prompt, n_gen, n_batch, kv_cache_dtype)
        return place(model, gpu, quant, engine, work, memory, host, n_gpus, spilled)

    def _decode(
        self, placed: PlacedBytes, kind: str, n_gpus: int, limit: Bound, absent: dict[str, str]
    ) -> tuple[float | None, float | None, float | None]:
        p = placed.point
        if placed.fit == "no":
            absent["decode_tok_s"] = _why_not(placed, p.engine, p.gpu, n_gpus)
        elif n_gpus > 1 and p.engine != "llama.cpp":
            absent["decode_tok_s"] = "several cards: only llama.cpp's split by layers is predicted"
        else:
            step_s = seconds(p, self.model.parameters)
            q = self.model.width(kind, p)
            return _clamped(p.n_batch / step_s, q, limit.decode_tok_s)
        return None, None, None

    def _prefill(
        self,
        model: ModelCard,
        gpu: Gpu,
        quant: str,
        n_prompt: int,
        n_batch: int,
        placed: PlacedBytes,
        limit: Bound,
        absent: dict[str, str],
    ) -> tuple[float | None, float | None, float | None]:
        engine, s = placed.point.engine, shape(model)
        seen = self.model.prefill_engines
        why = None
        if placed.fit in ("no", "offload"):
            why = "prefill was fitted on models that fit the card"
        elif engine not in seen:
            why = f"no published prefill figures for {engine}, only for {', '.join(seen)}"
        elif n_batch > 1 or n_prompt < MIN_PROMPT:
            why = f"prefill was fitted on single prompts of {MIN_PROMPT} tokens and more"
        elif s.n_experts or s.hybrid or gpu.bf16_tflops is None:
            why = "prefill was fitted on dense models and cards with a known peak"
        if why is not None:
            absent["prefill_tok_s"] = why
            return None, None, None
        work = prefill_work(model, quant, n_prompt=n_prompt, engine=engine)
        prompt = Prompt(
            gpu=gpu, kernel=kernel(quant), n_prompt=n_prompt, layers=s.n_layers, flops=work.flops
        )
        rate = n_prompt / prefill_seconds(prompt, self.model.prefill)
        return _clamped(rate, self.model.prefill_width, limit.prefill_tok_s)

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
        held_as = sized(quant)
        places = [
            self._place(model, gpu, held_as, engine, n_prompt, n_gen, 1, 1, HOST)
            for gpu in (candidate, baseline)
        ]
        ours, theirs = (placed.point for placed in places)
        q = max(
            self.model.ratio,
            *(
                self.model.width(kind_of(shape(model), placed), placed.point)
                for placed in places
                if self.model.novelty(placed.point)
            ),
            0.0,
        )
        table = self.model.parameters
        value = seconds(theirs, table) / seconds(ours, table)
        bounds = [
            bound(model, gpu, held_as, n_prompt, n_gen, engine=engine, dtype="float16").decode_tok_s
            for gpu in (candidate, baseline)
        ]
        return Ratio(
            candidate=candidate.name,
            baseline=baseline.name,
            ratio=value,
            low=value * math.exp(-q),
            high=value * math.exp(q),
            bound_ratio=bounds[0] / bounds[1],
        )


def _clamped(rate: float, q: float, limit: float | None) -> tuple[float, float, float]:
    """A rate and its interval, none of them above the bound."""
    most = math.inf if limit is None else limit
    return min(rate, most), min(rate * math.exp(-q), most), min(rate * math.exp(q), most)


def _why_not(placed: PlacedBytes, engine: str, gpu: Gpu, n_gpus: int) -> str:
    needed = placed.memory.needed_bytes(n_gpus) / 2**30
    there = gpu.usable_bytes * n_gpus / 2**30
    beside = "" if gpu.unified else f", and {engine} cannot leave the rest to this host"
    return f"does not fit: needs {needed:.1f} GiB of {there:.1f} GiB{beside}"


def _explain(
    new: tuple[Novelty, ...], gpu: Gpu, engine: str, quant: str, s: Shape, held_as: str
) -> tuple[str, ...]:
    texts = {
        "engine": f"no measurement of {engine}",
        "kernel": f"almost no measurement of {quant}, or of a scheme like it, on {engine}",
        "arch": f"no measurement of {engine} on {gpu.arch} cards",
    }
    found = [texts[fold] for fold in new]
    if s.n_experts and s.latent:
        found.append(
            "few measurements of experts with latent attention: GLM-4.7-Flash on one device, and "
            "DeepSeek R1 by builds of January 2025"
        )
    if held_as != quant.lower():
        found.append(f"the bytes of {quant} depend on the file; assumed to be {held_as}'s")
    return tuple(found)
