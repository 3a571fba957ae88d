"""Errors on rows left out of the fit, and the widths of intervals that they call for. Needs numpy.

Each card, each model, each source, each engine, family of schemes and architecture is left out in
turn. An interval is x e^-q .. x e^q, with q the 90% quantile of the log errors of the group of rows
that the question belongs to (split conformal prediction).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import combinations
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from bench.predict.artefact import COVERAGE, FEW, LEAST, WIDEST, FittedModel, Seen, groups_of
from bench.predict.fitting import (
    SIGMA,
    SIGMA_BATCH,
    SIGMA_HOST,
    SIGMA_HOST_STATED,
    SIGMA_POSTED,
    Design,
    Floats,
    fit,
    parameters,
)
from bench.predict.prefill import prefill_fit
from bench.predict.published import PublishedRow
from bench.predict.sample import FitSample, all_rows, samples
from bench.predict.terms import fixed_share

Fold = Literal["gpu", "model", "source", "engine", "kernel", "arch"]
FOLDS: Final[dict[Fold, Callable[[FitSample], str]]] = {
    "gpu": lambda s: s.point.gpu.name,
    "model": lambda s: s.row.model,
    "source": lambda s: owner(s.row),
    "engine": lambda s: s.point.engine,
    "kernel": lambda s: s.point.kernel,
    "arch": lambda s: s.point.gpu.arch,
}
POSTS: Final = frozenset({"localmaxxing", "qwen38-mtp"})
"""Sources whose rows owners of cards posted, each of their own."""
WIDENING: Final[tuple[Fold, ...]] = ("gpu", "model", "source")
"""What is left out in turn for an interval; the widest counts."""
LAUNCHED: Final = 0.3
"""Share of fixed time from which a step counts as bound by launches."""
SERVERS: Final = frozenset({"vllm", "tensorrt-llm"})
"""Engines whose rows come from one source each, in batches all of them, whose server, scheduler and
clients made them: how far they lie from what the rest of the data says tells how far others may."""


def owner(row: PublishedRow) -> str:
    """Who measured: of posts, the owner of that card."""
    return f"{row.source}, {row.gpu}" if row.source in POSTS else row.source


def _sigma(sample: FitSample) -> float:
    if sample.point.host_bytes:
        stated = sample.row.host and "/" in sample.row.on_host
        return SIGMA_HOST_STATED if stated else SIGMA_HOST
    if sample.point.n_batch > 1:
        return SIGMA_BATCH
    return SIGMA_POSTED if sample.row.measured else SIGMA


class Calibration:
    """The fit on all rows, and errors with each group of rows left out."""

    def __init__(self, extra: Sequence[PublishedRow] = ()) -> None:
        """Fit on the shipped rows, and on `extra` ones."""
        self.rows = [row for row in (*all_rows(), *extra) if not row.excluded]
        self.samples = samples(self.rows)
        self.design = Design.of([s.point for s in self.samples])
        self.seconds: Floats = np.array([s.step_s for s in self.samples])
        self.sigma: Floats = np.array([_sigma(s) for s in self.samples])
        counts = Counter(s.group for s in self.samples)
        # Rows that differ in context only count as the root of their number.
        self.weights: Floats = np.array([counts[s.group] ** -0.5 for s in self.samples])

    @cached_property
    def x(self) -> Floats:
        """The fit on all rows."""
        return fit(self.design, self.seconds, self.sigma, self.weights)

    def errors(self, fold: Fold) -> Floats:
        """ln(measured / predicted) seconds of each sample, its whole group of `fold` left out."""
        keys = [FOLDS[fold](s) for s in self.samples]
        found = np.zeros(len(keys))
        for key in sorted(set(keys)):
            out = np.array([k == key for k in keys])
            x = fit(
                self.design,
                self.seconds,
                self.sigma,
                np.where(out, 0, self.weights),
                start=self.x,
                max_steps=12,
            )
            found[out] = np.log(self.seconds[out] / self.design.of_points(out).seconds(x))
        return found

    @cached_property
    def by_gpu(self) -> Floats:
        """Errors with each sample's card left out."""
        return self.errors("gpu")

    @cached_property
    def by_model(self) -> Floats:
        """Errors with each sample's model left out."""
        return self.errors("model")

    @cached_property
    def by_source(self) -> Floats:
        """Errors with all that the same owner measured left out."""
        return self.errors("source")

    def width(self, chosen: NDArray[np.bool_], errors: Floats) -> float:
        """The smallest q that covers 90% of the errors of the chosen rows.

        Rows of one owner err alike, so they count as the root of their number.
        """
        owners = [owner(s.row) for s, out in zip(self.samples, chosen, strict=True) if out]
        counts = Counter(owners)
        trust = np.array([counts[name] ** -0.5 for name in owners])
        size = np.abs(errors[chosen])
        order = np.argsort(size)
        share = np.cumsum(trust[order]) / trust.sum()
        at = int(np.searchsorted(share, COVERAGE - 1e-9))
        return round(float(size[order][at]), 4)

    @cached_property
    def widths(self) -> dict[str, float]:
        """q of every group with LEAST rows or more: the widest of what is left out."""
        return self._widths(LEAST, len(self.samples))

    @cached_property
    def few(self) -> dict[str, float]:
        """q of every group with FEW rows or more, but not LEAST."""
        return self._widths(FEW, LEAST - 1)

    def _widths(self, least: int, most: int) -> dict[str, float]:
        keys = [groups_of(s.kind, s.point) for s in self.samples]
        found = {}
        for name in sorted({key for one in keys for key in one}):
            chosen = np.array([name in one for one in keys])
            if least <= chosen.sum() <= most:
                wide = self._widest(chosen)
                capped = name.startswith("offload") or self._single(chosen)
                found[name] = min(wide, WIDEST) if capped else wide
        return found

    def _single(self, chosen: NDArray[np.bool_]) -> bool:
        """Whether these are all of servers or in batches, which one source measures each."""
        points = [s.point for s, out in zip(self.samples, chosen, strict=True) if out]
        return all(p.n_batch > 1 or p.engine in SERVERS for p in points)

    def _widest(self, chosen: NDArray[np.bool_]) -> float:
        """q of some rows, with each card, model or source of theirs left out."""
        errors = {"gpu": self.by_gpu, "model": self.by_model, "source": self.by_source}
        found = [0.0]
        for fold in WIDENING:
            alone = fold == "source" and self._single(chosen)
            told = chosen if alone else chosen & self._told(fold)
            members = {FOLDS[fold](s) for s, out in zip(self.samples, told, strict=True) if out}
            # Of one member alone, leaving it out would leave the whole group out.
            if alone or len(members) > 1:
                found.append(self.width(told, errors[fold]))
        return max(found)

    def _told(self, fold: Fold) -> NDArray[np.bool_]:
        """Rows whose engine has others of their family of schemes and load if theirs are left out.

        Without any, the question is a new one, which `novel` is for.
        """

        def like(s: FitSample) -> tuple[str, str, bool]:
            return s.point.engine, s.point.kernel, s.point.n_batch > 1

        members: dict[tuple[str, str, bool], set[str]] = {}
        for s in self.samples:
            members.setdefault(like(s), set()).add(FOLDS[fold](s))
        return np.array([len(members[like(s)]) > 1 for s in self.samples])

    def novel(self, fold: Fold) -> float:
        """q of questions with an engine, family or architecture that no row has."""
        single = np.array([s.point.n_batch == 1 and not s.point.host_bytes for s in self.samples])
        return self.width(single, self.errors(fold))

    def launches(self) -> float:
        """90% quantile of errors over the share of fixed time, where that is LAUNCHED or more.

        Of current builds of llama.cpp, which many owners measured.
        """
        table = parameters(self.design, self.x)
        shares = np.array([fixed_share(s.point, table) for s in self.samples])
        chosen = np.array(
            [
                p.engine == "llama.cpp" and p.new and p.n_batch == 1 and not p.host_bytes
                for p in (s.point for s in self.samples)
            ]
        )
        chosen &= shares >= LAUNCHED
        errors = np.maximum(np.abs(self.by_gpu), np.abs(self.by_source))
        return self.width(chosen, errors / np.maximum(shares, LAUNCHED))

    def ratio_width(self) -> float:
        """90% quantile of how far the errors of two cards lie apart, all else equal."""
        sums: dict[tuple[object, ...], dict[str, list[float]]] = {}
        for sample, error in zip(self.samples, self.by_gpu, strict=True):
            p = sample.point
            if p.n_batch == 1 and sample.kind in ("dense", "small"):
                key = p.engine, p.kernel, sample.row.model, sample.row.source
                sums.setdefault(key, {}).setdefault(p.gpu.name, []).append(float(error))
        apart = [
            abs(np.mean(cards[a]) - np.mean(cards[b]))
            for cards in sums.values()
            for a, b in combinations(sorted(cards), 2)
        ]
        return round(float(np.quantile(apart, COVERAGE)), 4)

    def seen(self) -> Seen:
        """Engines with their families of schemes and architectures.

        A family counts if two owners measured it, or one in FEW rows: one figure says little.
        """
        kernels: dict[str, set[str]] = {}
        archs: dict[str, set[str]] = {}
        owners: dict[tuple[str, str], set[str]] = {}
        counts = Counter((s.point.engine, s.point.kernel) for s in self.samples)
        for s in self.samples:
            family = s.point.engine, s.point.kernel
            owners.setdefault(family, set()).add(owner(s.row))
            archs.setdefault(s.point.engine, set()).add(s.point.gpu.arch)
            if len(owners[family]) > 1 or counts[family] >= FEW:
                kernels.setdefault(s.point.engine, set()).add(s.point.kernel)
        return Seen(kernels=_sorted(kernels), archs=_sorted(archs))

    def inputs(self) -> str:
        """SHA-256 of all that the fit rests on: terms, seconds, trust and prompts."""
        prefill = prefill_fit(self.rows)
        figures = [
            *(f"{value:.5g}" for value in self.design.base.ravel()),
            *self.design.names,
            "".join(str(int(v)) for v in np.atleast_1d(self.design.uses.sum(axis=(0, 1)))),
            *(f"{value:.5g}" for value in (*self.seconds, *self.sigma, *self.weights)),
            *(f"{value:.4g}" for value in prefill.inputs),
        ]
        return hashlib.sha256("\n".join(figures).encode()).hexdigest()

    def model(self) -> FittedModel:
        """Everything that a prediction needs, as it is shipped."""
        prefill = prefill_fit(self.rows)
        return FittedModel(
            inputs_sha256=self.inputs(),
            n_rows=len(self.samples),
            parameters=parameters(self.design, self.x),
            widths=self.widths,
            few=self.few,
            novel={fold: self.novel(fold) for fold in ("engine", "kernel", "arch")},
            launches=self.launches(),
            ratio=self.ratio_width(),
            seen=self.seen(),
            prefill=prefill.parameters,
            prefill_width=prefill.width,
            prefill_engines=prefill.engines,
        )


def _sorted(table: dict[str, set[str]]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(sorted(table[key])) for key in sorted(table)}
