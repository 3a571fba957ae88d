"""How good the predictor is on rows that it had not seen: the tables of docs/predict.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.models.shapes import shape
from bench.predict import Predictor
from bench.predict.artefact import FittedModel
from bench.predict.calibration import POSTS, Calibration
from bench.predict.fitting import Floats
from bench.predict.peers import llmfit_tok_s
from bench.predict.prefill import prefill_fit
from bench.predict.published import card
from bench.predict.sample import FitSample
from bench.roofline.gpus import gpus

BEGIN: Final = "<!-- made by scripts/validate-predictor -->"
END: Final = "<!-- end -->"

TARGETS: Final[tuple[tuple[str, str, float], ...]] = (
    ("dense, fits", "dense", 0.10),
    ("hybrid", "hybrid", 0.20),
    ("mixture of experts", "moe", 0.20),
    ("offload", "offload", 0.30),
)
"""What is held, the kind of row, and its target for the median; 90% within three times that."""

LEFT_OUT: Final = ("gpu", "model", "source")
"""What is left out in turn."""

BASELINES: Final = (
    "rtx-3070",
    "rtx-3080",
    "rtx-3080-ti",
    "rtx-3090",
    "rtx-4070-ti",
    "rtx-4070-ti-super",
    "rtx-4080",
    "rtx-4090",
)
"""Cards that the RTX 4080 SUPER is compared with in claims about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Errors of a set of rows: |predicted / measured - 1|, and intervals that hold the figure."""

    rows: int
    median: float
    p90: float
    within_25: float
    covered: float | None
    wide: float | None
    """Median of high over low."""


def scores(
    errors: Floats, covered: NDArray[np.bool_] | None = None, widths: Floats | None = None
) -> Scores:
    """Scores of log errors ln(measured / predicted) of seconds, as errors of rates."""
    size = np.abs(np.expm1(errors))
    return Scores(
        rows=len(size),
        median=float(np.median(size)),
        p90=float(np.quantile(size, 0.9)),
        within_25=float(np.mean(size <= 0.25)),
        covered=None if covered is None else float(np.mean(covered)),
        wide=None if widths is None else float(np.exp(2 * np.median(widths))),
    )


class Validation:
    """Everything that docs/predict.md says about the predictor's errors."""

    def __init__(self, calibration: Calibration, model: FittedModel) -> None:
        self.calibration, self.model = calibration, model
        self.samples = calibration.samples
        self.widths: Floats = np.array([model.width(s.kind, s.point) for s in self.samples])
        self.single = np.array([s.point.n_batch == 1 for s in self.samples])

    @cached_property
    def errors(self) -> dict[str, Floats]:
        """Log errors of all rows by what is left out."""
        made = self.calibration
        return {"gpu": made.by_gpu, "model": made.by_model, "source": made.by_source}

    @cached_property
    def peer(self) -> Floats:
        """Log errors of llmfit's formula on the same rows."""
        rates = [
            llmfit_tok_s(shape(card(s.row.model)), s.row.quant, s.placed) for s in self.samples
        ]
        found: Floats = np.log(self.calibration.seconds * np.array(rates))
        return found

    def of(self, errors: Floats, chosen: NDArray[np.bool_]) -> Scores:
        """Scores of some rows, with the intervals that the shipped model gives."""
        widths = self.widths[chosen]
        return scores(errors[chosen], np.abs(errors[chosen]) <= widths, widths)

    def kind(self, kind: str, fold: str = "gpu") -> Scores:
        """Batch-1 rows of a kind, each card, model or source left out."""
        chosen = self.single & np.array([s.kind == kind for s in self.samples])
        return self.of(self.errors[fold], chosen)

    def problems(self) -> list[str]:
        """Targets that are missed."""
        found = []
        for name, kind, target in TARGETS:
            for fold in LEFT_OUT:
                at = self.kind(kind, fold)
                if at.median > target:
                    found.append(f"{name}, each {fold} left out: median {at.median:.1%}")
        return found

    def markdown(self) -> str:
        """Every table, as the documentation shows it."""
        return "\n".join(
            [
                *self._targets(),
                "",
                "By kind of model, engine, load and who measured; each card, each model and each "
                "source left out in turn; llmfit's formula on the same rows (it knows one sequence "
                "only):",
                "",
                *self._table(_group),
                "",
                "By card, one sequence:",
                "",
                *self._table(lambda s: s.point.gpu.name if s.point.n_batch == 1 else ""),
                "",
                "The worst rows with their card left out, one for each card, scheme and model:",
                "",
                *self._worst(),
                "",
                "RTX 4080 SUPER over other cards, decode of Llama 3.1 8B Q4_K_M on llama.cpp at "
                "batch 1, predicted with a 90% interval, and the ratio of the bounds:",
                "",
                *self._ratios(),
            ]
        )

    def _targets(self) -> Iterator[str]:
        yield (
            "| one sequence | rows | card left out: median | 90% within | model left out: median "
            "| 90% within | source left out: median | 90% within | target | met |"
        )
        yield "| --- |" + " ---: |" * 8 + " --- |"
        for name, kind, target in TARGETS:
            found = [self.kind(kind, fold) for fold in LEFT_OUT]
            met = all(at.median <= target and at.p90 <= 3 * target for at in found)
            figures = " | ".join(f"{at.median:.1%} | {at.p90:.1%}" for at in found)
            yield (
                f"| {name} | {found[0].rows} | {figures} | {target:.0%}, {3 * target:.0%} "
                f"| {'yes' if met else 'no'} |"
            )
        found = prefill_fit(self.calibration.rows)
        at = scores(np.array(found.errors))
        yield ""
        yield (
            f"Prefill, {at.rows} rows, each card left out: median {at.median:.1%}, 90% within "
            f"{at.p90:.0%}."
        )

    def _table(self, key: Callable[[FitSample], str]) -> Iterator[str]:
        yield (
            "| rows of | rows | card out: median | 90% within | covered | model out: median "
            "| 90% within | covered | source out: median | 90% within | covered "
            "| interval, high / low | llmfit: median | 90% within |"
        )
        yield "| --- |" + " ---: |" * 13
        keys = [key(s) for s in self.samples]
        for name in sorted(set(keys) - {""}):
            chosen = np.array([k == name for k in keys])
            found = [self.of(self.errors[fold], chosen) for fold in LEFT_OUT]
            figures = " | ".join(
                f"{at.median:.1%} | {at.p90:.1%} | {at.covered:.0%}" for at in found
            )
            peer = scores(self.peer[chosen])
            one = bool(self.single[chosen].all())
            beside = f"{peer.median:.0%} | {peer.p90:.0%}" if one else "- | -"
            yield f"| {name} | {found[0].rows} | {figures} | {found[0].wide:.1f} | {beside} |"

    def _worst(self) -> Iterator[str]:
        yield "| gpu | engine | scheme | model | context | tok/s | predicted | error |"
        yield "| --- | --- | --- | --- | ---: | ---: | ---: | ---: |"
        errors = self.calibration.by_gpu
        shown: set[tuple[str, ...]] = set()
        for i in np.argsort(-np.abs(errors)):
            row = self.samples[i].row
            group = (row.gpu, row.engine, row.quant, row.model)
            if not self.single[i] or group in shown:
                continue
            shown.add(group)
            assert row.decode_tok_s is not None
            predicted = row.decode_tok_s * float(np.exp(errors[i]))
            yield (
                f"| {row.gpu} | {row.engine} | {row.quant} | {row.model} | {row.context:.0f} "
                f"| {row.decode_tok_s:.4g} | {predicted:.4g} "
                f"| {predicted / row.decode_tok_s - 1:+.0%} |"
            )
            if len(shown) == 10:
                return

    def _ratios(self) -> Iterator[str]:
        yield "| baseline | predicted | 90% interval | bound |"
        yield "| --- | ---: | ---: | ---: |"
        predictor = Predictor(model=self.model)
        for name in BASELINES:
            at = predictor.ratio(
                card("llama-3.1-8b"),
                "q4_k_m",
                "llama.cpp",
                gpus()["rtx-4080-super"],
                gpus()[name],
            )
            interval = f"{at.low:.2f} .. {at.high:.2f}"
            yield f"| {name} | {at.ratio:.2f} | {interval} | {at.bound_ratio:.2f} |"


def _group(sample: FitSample) -> str:
    load = "one sequence" if sample.point.n_batch == 1 else "batch"
    who = "posted 2026" if sample.row.source in POSTS else "published"
    return f"{sample.kind}, {sample.point.engine}, {load}, {who}"


def spliced(text: str, table: str) -> str:
    """The document with the text between the marks replaced."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"the document needs the marks {BEGIN} and {END}"
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"
