"""Quality records -> figures with their intervals, the gate, and the Pareto front. No torch.

Errors are paired: both arms scored the same tokens, so what makes a token hard is common to both
and cancels in the difference, as in llama.cpp's perplexity tool. Intervals are 95% and normal
(Wilson's for shares); they take tokens as independent, and speak of this text, not of others.
docs/quality.md has the definitions and their limits. Standard library only.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bench.experiment import Gate
from bench.records import QualityRecord
from bench.statistics import Estimate, mean, percentile, wilson

EXP_LIMIT: Final = 700.0
"""exp of more than this is near the end of what a number can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityScores:
    """Quality of one arm. None where it is not known; `absent` says why."""

    n_tokens: int = 0
    """Scored tokens."""
    ppl: Estimate | None = None
    """Perplexity: exp of the mean negative log likelihood."""
    ppl_ratio: Estimate | None = None
    """Perplexity over the baseline's, on the same tokens."""
    mean_kld: Estimate | None = None
    """Mean KL divergence from the baseline, nats a token."""
    median_kld: float | None = None
    p99_kld: float | None = None
    max_kld: float | None = None
    same_top1: Estimate | None = None
    """Share of tokens at which the most likely token is the baseline's."""
    continuation_agreement: float | None = None
    """Mean share of a greedy continuation that is the baseline's before the first difference."""
    is_baseline: bool = False
    baseline_model: str | None = None
    """Model of the arm that it was compared with; None: not compared, or it is the baseline."""
    absent: Mapping[str, str] = field(default_factory=dict)


def summarise(record: QualityRecord, baseline: QualityRecord | None) -> QualityScores:
    """Figures of one record; `baseline` is the record of the arm it names as its baseline."""
    if record.status != "ok" or len(record.nll) < 2:
        why = record.message or "fewer than 2 scored tokens"
        return QualityScores(
            absent=dict.fromkeys(("ppl", "ppl_ratio", "mean_kld", "same_top1"), why)
        )
    absent = dict(record.absent)
    if record.baseline == record.variant["name"]:
        return _of_baseline(record, absent)
    if differs := mismatch(record, baseline):
        absent["ppl_ratio"] = differs
    ppl = perplexity(record.nll)
    ratio = None if differs else paired_ratio(record.nll, _nll(baseline))
    for name, figure in (("ppl", ppl), ("ppl_ratio", ratio)):
        if figure is None:
            absent.setdefault(name, "too large to state")
    kld, same = record.kld, record.same_top1
    if not kld:
        absent["mean_kld"] = absent["same_top1"] = absent.pop("kld", "not compared")
    return QualityScores(
        n_tokens=len(record.nll),
        ppl=ppl,
        ppl_ratio=ratio,
        mean_kld=mean(kld) if kld else None,
        median_kld=statistics.median(kld) if kld else None,
        p99_kld=percentile(kld, 0.99),
        max_kld=max(kld) if kld else None,
        same_top1=wilson(sum(same), len(same)) if same else None,
        continuation_agreement=continuation_agreement(record.figures.get("continuations", ())),
        baseline_model=baseline.variant.get("model") if baseline and not differs else None,
        absent=absent,
    )


def _of_baseline(record: QualityRecord, absent: dict[str, str]) -> QualityScores:
    """The baseline agrees with itself by definition; nothing was measured for that."""
    absent.pop("kld", None)
    nothing, everything = Estimate(0.0, 0.0, 0.0), Estimate(1.0, 1.0, 1.0)
    return QualityScores(
        n_tokens=len(record.nll),
        ppl=perplexity(record.nll),
        ppl_ratio=everything,
        mean_kld=nothing,
        median_kld=0.0,
        p99_kld=0.0,
        max_kld=0.0,
        same_top1=everything,
        continuation_agreement=1.0,
        is_baseline=True,
        absent=absent,
    )


def _nll(baseline: QualityRecord | None) -> tuple[float, ...]:
    assert baseline is not None, "a mismatch was not looked for"
    return baseline.nll


def mismatch(record: QualityRecord, baseline: QualityRecord | None) -> str | None:
    """Why the two cannot be compared token by token, or None."""
    if record.baseline is None:
        return "there is no baseline arm"
    if baseline is None or baseline.status != "ok":
        return f"the baseline arm '{record.baseline}' has no quality record"
    for name in ("sha256", "max_tokens", "window"):
        if record.text.get(name) != baseline.text.get(name):
            return f"the baseline arm was measured on another text or windows ({name} differs)"
    if len(record.nll) != len(baseline.nll):
        return "the baseline arm scored another number of tokens"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmQuality:
    """Quality of one arm on one machine."""

    arm: str
    environment: str
    record: QualityRecord
    """As it is on disk, to be written out again."""
    figures: QualityScores

    @property
    def baseline(self) -> str | None:
        """The arm that divergences were taken from."""
        return self.record.baseline

    def against(self, name: str, baseline: ArmQuality | None) -> QualityScores | None:
        """Figures against the arm `name`, whatever this one was recorded with.

        Perplexities pair by tokens; divergences were only taken from the recorded baseline. None
        where that arm has no quality record.
        """
        if name == self.baseline:
            return self.figures
        if baseline is None:
            return None
        other = replace(self.record, baseline=name, kld=(), same_top1=())
        return summarise(other, baseline.record)


def arm_qualities(records: Sequence[QualityRecord]) -> list[ArmQuality]:
    """The quality of each record; each is compared with the baseline it names."""
    by_arm: dict[tuple[Any, ...], list[QualityRecord]] = {}
    for record in records:
        by_arm.setdefault(_arm(record, record.variant["name"]), []).append(record)
    return [
        ArmQuality(
            arm=record.variant["name"],
            environment=record.environment,
            record=record,
            figures=summarise(record, _baseline(record, by_arm)),
        )
        for record in records
    ]


def _baseline(
    record: QualityRecord, by_arm: Mapping[tuple[Any, ...], Sequence[QualityRecord]]
) -> QualityRecord | None:
    """The latest of the arm that it names: of the same weights, if that is the same model."""
    named = by_arm.get(_arm(record, record.baseline), ()) if record.baseline else ()
    model, weights = record.variant.get("model"), record.variant.get("weights")
    fitting = [
        one
        for one in named
        if one.variant.get("model") != model or one.variant.get("weights") == weights
    ]
    return fitting[-1] if fitting else None


def _arm(record: QualityRecord, name: str) -> tuple[Any, ...]:
    """What an arm and its baseline have in common, and the arm's name."""
    rules = tuple(record.text.get(part) for part in ("sha256", "max_tokens", "window"))
    return (record.environment, rules, name)


def perplexity(nll: Sequence[float]) -> Estimate | None:
    """exp(mean NLL); the interval is symmetric in the logarithm. None if it overflows."""
    return _exp(mean(nll))


def paired_ratio(nll: Sequence[float], baseline: Sequence[float]) -> Estimate | None:
    """Ratio of perplexities over the same tokens. None if it overflows.

    ln ratio = mean(a - b), and its variance (var a + var b - 2 cov(a, b)) / n is that of the
    differences, so the covariance term of llama.cpp's formula is in it.
    """
    return _exp(mean([a - b for a, b in zip(nll, baseline, strict=True)]))


def _exp(of: Estimate) -> Estimate | None:
    if of.high > EXP_LIMIT:
        return None
    return Estimate(math.exp(of.value), math.exp(of.low), math.exp(of.high))


def continuation_agreement(continuations: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean over continuations of (tokens before the first difference) / tokens made."""
    shares = [c["agreed_tokens"] / c["new_tokens"] for c in continuations if c.get("new_tokens")]
    return statistics.fmean(shares) if shares else None


def check_gate(gate: Gate, figures: QualityScores) -> list[str]:
    """Why an arm may not be called equal in quality; empty if it may.

    A bound holds if the whole 95% interval keeps it: 'equal quality' is a claim, and what is not
    known for certain does not support one.
    """
    upper = (("ppl_ratio", gate.max_ppl_ratio), ("mean_kld", gate.max_mean_kld))
    problems = []
    for name, bound in (*upper, ("same_top1", gate.min_same_top1)):
        if bound is None:
            continue
        found: Estimate | None = getattr(figures, name)
        most = name != "same_top1"
        rule = f"{'max' if most else 'min'}_{name} = {bound:g}"
        if found is None:
            problems.append(f"{name} is not known ({figures.absent.get(name)}); gate: {rule}")
        elif (found.value > bound) if most else (found.value < bound):
            problems.append(f"{name} {found} is outside the gate {rule}")
        elif (found.high > bound) if most else (found.low < bound):
            problems.append(f"{name} {found} is not certain to be inside the gate {rule}")
    return problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """What an arm loses, and what that buys."""

    mean_kld: float | None
    packed_bytes: float | None
    decode_tok_s: float | None
    usd_per_mtok: float | None


MEASURES: Final[Mapping[str, bool]] = {
    "packed_bytes": False,
    "decode_tok_s": True,
    "usd_per_mtok": False,
}
"""What is bought -> whether more of it is better."""


def fronts(trades: Sequence[Trade]) -> list[tuple[str, ...]]:
    """For each arm the measures in which no other is better at equal or lower divergence.

    An arm without a figure is on no front that needs it.
    """
    return [tuple(name for name in MEASURES if _on_front(one, trades, name)) for one in trades]


def _on_front(one: Trade, trades: Sequence[Trade], name: str) -> bool:
    place = _place(one, name)
    if place is None:
        return False
    others = [found for other in trades if (found := _place(other, name)) is not None]
    return not any(
        other != place and other[0] <= place[0] and other[1] <= place[1] for other in others
    )


def _place(one: Trade, name: str) -> tuple[float, float] | None:
    """Divergence and the measure, both so that less is better."""
    value: float | None = getattr(one, name)
    if one.mean_kld is None or value is None:
        return None
    return one.mean_kld, -value if MEASURES[name] else value
