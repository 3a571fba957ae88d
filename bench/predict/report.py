"""How good the predictor is on rows that it had not seen: the tables of docs/predict.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.predict import Predictor
from bench.predict.efficiency import Floats
from bench.predict.published import card
from bench.predict.sample import Sample
from bench.roofline.gpus import gpus

BEGIN: Final = "<!-- made by scripts/validate-predictor -->"
END: Final = "<!-- end -->"

TARGETS: Final[tuple[tuple[str, str, str, Callable[[float], bool]], ...]] = (
    ("median error", "median", "<= 10%", lambda v: v <= 0.10),
    ("rows within 25%", "within_25", ">= 90%", lambda v: v >= 0.90),
    ("interval covers", "covered", "85% .. 95%", lambda v: 0.85 <= v <= 0.95),
)

WHY: Final[dict[str, str]] = {
    "gpt-fast int8-dynamic": "int8 x int8 matmul at batch 1 falls back to a slow path; no other "
    "card or engine in the data shows it",
    "gpt-fast": "measured on one card only, so leaving the card out leaves the engine out",
    "transformers": "eager: launches from the host likely decide, and the two hosts differ",
    "llama.cpp q6_k": "from a cold start, one run",
    "llama.cpp q4_0 2025": "a build of 2025 is much faster than those of 2023 in the same scheme",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Errors of a set of rows: |predicted / measured - 1|, and intervals that hold the figure."""

    rows: int
    median: float
    p90: float
    within_25: float
    covered: float | None


def scores(errors: Floats, covered: NDArray[np.bool_] | None = None) -> Scores:
    """Scores of log errors ln(measured / predicted) of seconds, as errors of rates."""
    size = np.abs(np.expm1(errors))
    return Scores(
        rows=len(size),
        median=float(np.median(size)),
        p90=float(np.quantile(size, 0.9)),
        within_25=float(np.mean(size <= 0.25)),
        covered=None if covered is None else float(np.mean(covered)),
    )


class Validation:
    """Everything that docs/predict.md says about the predictor's errors."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.samples = predictor.samples
        self.single = np.array([_is_target(s) for s in self.samples])

    def gpu_out(self) -> tuple[Floats, NDArray[np.bool_]]:
        """Errors and coverage with each row's card left out, of the fit and of the interval."""
        p = self.predictor
        widths = [
            p.half_width(s.point, new, without=s.point.gpu.name, new_source=False)
            for s, new in zip(self.samples, p.novelties, strict=True)
        ]
        return p.by_gpu, np.abs(p.by_gpu) <= np.array(widths)

    def source_out(self) -> tuple[Floats, NDArray[np.bool_]]:
        """Errors and coverage with each row's source left out of the fit."""
        p = self.predictor
        widths = []
        for s in self.samples:
            seen = [o.point for o in self.samples if o.row.source != s.row.source]
            widths.append(p.half_width(s.point, p.novelty(s.point, seen)))
        return p.by_source, np.abs(p.by_source) <= np.array(widths)

    def headline(self) -> Scores:
        """Leave-one-GPU-out on single-card, batch-1 decode of dense models."""
        errors, covered = self.gpu_out()
        return scores(errors[self.single], covered[self.single])

    def prefill(self) -> Scores:
        """Leave-one-GPU-out on prefill, llama.cpp."""
        _, errors = self.predictor.prefill_errors()
        _, q = self.predictor.prefill
        return scores(errors, np.abs(errors) <= q)

    def markdown(self) -> str:
        """Every table, as the documentation shows it."""
        gpu, source = self.gpu_out(), self.source_out()
        return "\n".join(
            [
                *self._targets(),
                "",
                "Each card left out in turn, by engine and scheme (batch 1 unless it says more):",
                "",
                *self._table(gpu, _engine_scheme),
                "",
                "Each source left out in turn, by engine. Where a source is an engine's only one, "
                "this predicts an engine never seen:",
                "",
                *self._table(source, lambda s: f"{s.point.engine} | {s.row.source}", "source"),
                "",
                "By card, batch 1, each card left out:",
                "",
                *self._table(gpu, lambda s: s.point.gpu.name if _is_target(s) else "", "gpu"),
                "",
                "The worst rows with their card left out, one for each card and scheme:",
                "",
                *self._worst(gpu[0]),
                "",
                "What was fitted, by engine:",
                "",
                *self._parameters(),
                "",
                "RTX 4080 SUPER over other cards, decode of Llama 3.1 8B Q4_K_M on llama.cpp at "
                "batch 1, predicted with a 90% interval, and the ratio of the bounds:",
                "",
                *self._ratios(),
            ]
        )

    def _targets(self) -> Iterator[str]:
        yield "| Each card left out | figure | target | met |"
        yield "| --- | ---: | ---: | --- |"
        found = self.headline()
        for name, key, target, holds in TARGETS:
            value = getattr(found, key)
            met = _yes(holds(value))
            yield f"| decode, batch 1, dense: {name} | {value:.1%} | {target} | {met} |"
        prefill = self.prefill()
        yield (
            f"| prefill: median error | {prefill.median:.1%} | <= 20% "
            f"| {_yes(prefill.median <= 0.2)} |"
        )
        yield ""
        cards = len({s.point.gpu.name for s in self.samples if _is_target(s)})
        yield (
            f"{found.rows} decode rows on {cards} cards, {prefill.rows} prefill rows "
            f"(90% of them within {prefill.p90:.0%})."
        )

    def _table(
        self,
        found: tuple[Floats, NDArray[np.bool_]],
        key: Callable[[Sample], str],
        what: str = "scheme",
    ) -> Iterator[str]:
        heads = "gpu" if what == "gpu" else f"engine | {what}"
        yield f"| {heads} | rows | median | 90% within | interval covers |"
        yield "| --- |" + (" --- |" if what != "gpu" else "") + " ---: | ---: | ---: | ---: |"
        keys = [key(s) for s in self.samples]
        for name in sorted(set(keys) - {""}):
            chosen = np.array([k == name for k in keys])
            at = scores(found[0][chosen], found[1][chosen])
            yield f"| {name} | {at.rows} | {at.median:.1%} | {at.p90:.1%} | {at.covered:.0%} |"

    def _worst(self, errors: Floats) -> Iterator[str]:
        yield "| gpu | engine | scheme | model | tok/s | predicted | error | why |"
        yield "| --- | --- | --- | --- | ---: | ---: | ---: | --- |"
        shown: set[tuple[str, ...]] = set()
        for i in np.argsort(-np.abs(errors)):
            row = self.samples[i].row
            group = (row.gpu, row.engine, row.quant)
            if not self.single[i] or group in shown:
                continue
            shown.add(group)
            assert row.decode_tok_s is not None
            predicted = row.decode_tok_s * float(np.exp(errors[i]))
            yield (
                f"| {row.gpu} | {row.engine} | {row.quant} | {row.model} | {row.decode_tok_s:.4g} "
                f"| {predicted:.4g} | {predicted / row.decode_tok_s - 1:+.0%} | {_why(row)} |"
            )
            if len(shown) == 10:
                return

    def _ratios(self) -> Iterator[str]:
        yield "| baseline | predicted | 90% interval | bound |"
        yield "| --- | ---: | ---: | ---: |"
        for name in BASELINES:
            at = self.predictor.ratio(
                card("llama-3.1-8b"),
                "q4_k_m",
                "llama.cpp",
                gpus()["rtx-4080-super"],
                gpus()[name],
            )
            interval = f"{at.low:.2f} .. {at.high:.2f}"
            yield f"| {name} | {at.ratio:.2f} | {interval} | {at.bound_ratio:.2f} |"

    def _parameters(self) -> Iterator[str]:
        yield "| engine | fixed time, us a layer at 2 GHz | share of bandwidth, GDDR | HBM |"
        yield "| --- | ---: | ---: | ---: |"
        for engine in self.predictor.decode.engines:
            at = self.predictor.decode.parameters(engine)
            yield (
                f"| {engine} | {at['fixed_us_per_layer']:.0f} | {at['share_gddr']:.2f} "
                f"| {at['share_hbm']:.2f} |"
            )


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


def _is_target(sample: Sample) -> bool:
    return sample.row.n_gpus == 1 and sample.point.n_batch == 1 and sample.point.experts == "none"


def _engine_scheme(sample: Sample) -> str:
    batch = "" if sample.point.n_batch == 1 else f", batch {sample.point.n_batch}"
    return f"{sample.point.engine} | {sample.row.quant}{batch}"


def _why(row: Any) -> str:
    keys: Sequence[str] = (
        f"{row.engine} {row.quant} {'2025' if row.source == 'llamacpp-15802' else ''}".strip(),
        f"{row.engine} {row.quant}",
        row.engine,
    )
    return next((WHY[key] for key in keys if key in WHY), "")


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def spliced(text: str, table: str) -> str:
    """The document with the text between the marks replaced."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"the document needs the marks {BEGIN} and {END}"
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"
