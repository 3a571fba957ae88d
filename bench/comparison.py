"""Candidate over baseline, each metric with interval, significance and validity. docs/method.md.

A verdict needs all of: enough pairs, no code that makes them no evidence, a significant signed-rank
test, a p-value that stays small after Holm's adjustment over the whole table, and a paired t
interval that holds the point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from bench.analysis import MIN_PAIRS, PairedRatio, holm, paired_ratio
from bench.errors import InputError, unknown
from bench.experiment import Gate
from bench.judging import ENERGY_ONLY, EXCLUDING, Pair, pairs_of, varies
from bench.quality_figures import Figures, check_gate
from bench.records import Record, Results
from bench.summary import quality_of, replicate_figures

Verdict = Literal["higher", "lower", "same", "ambiguous", "invalid"]
Better = Literal["higher", "lower"]
Row = dict[str, Any]

WORKLOAD: Final = ("n_prompt", "n_gen", "n_batch")
MARGIN: Final = 0.02
"""Differences below this are called `same`; MLPerf calls 2% materially different."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure that arms are compared by."""

    name: str
    better: Better
    test: str
    """Metrics of one `test` are one question asked in two units, and count once for Holm."""
    of: Callable[[Record], float | None]


def _speed(key: str) -> Callable[[Record], float | None]:
    return lambda record: replicate_figures(record)[key]


def _memory(record: Record) -> float | None:
    return record.memory.get("peak_device_bytes") or record.memory.get("peak_host_bytes")


def _energy(record: Record) -> float | None:
    window = record.energy.get("decode") or {}
    joules = window.get("energy_j")
    return None if joules is None else joules / window["tokens"]


def _cost(record: Record) -> float | None:
    """Dollars a token at one price an hour for both arms, whatever it is: their ratio is exact."""
    speed = replicate_figures(record)["total_tok_s"]
    return None if speed is None else 1 / speed


METRICS: Final[Mapping[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric(name="prefill", better="higher", test="prefill", of=_speed("prefill_tok_s")),
        Metric(name="decode", better="higher", test="decode", of=_speed("decode_tok_s")),
        Metric(name="ttft", better="lower", test="prefill", of=_speed("ttft_s")),
        Metric(name="tpot", better="lower", test="decode", of=_speed("tpot_s")),
        Metric(name="e2e", better="lower", test="e2e", of=_speed("e2e_s")),
        Metric(name="memory", better="lower", test="memory", of=_memory),
        Metric(name="energy", better="lower", test="energy", of=_energy),
        Metric(name="cost", better="lower", test="e2e", of=_cost),
    )
}
QUALITY: Final = "quality"
"""Perplexity; its interval comes from the tokens, not from the pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a comparison is judged."""

    margin: float = MARGIN
    confidence: float = 0.95
    metrics: tuple[str, ...] = (*METRICS, QUALITY)
    gate: Gate = field(default_factory=Gate)
    pool: bool = False
    """Whether records of different machines or versions may be compared; they are then marked."""


def compare(
    results: Results, rules: Rules, baseline: str | None = None, candidate: str | None = None
) -> list[Row]:
    """Rows with the contract's keys, for every candidate arm and workload. Raises InputError."""
    for name in rules.metrics:
        if name not in (*METRICS, QUALITY):
            raise InputError(unknown("metric", name, (*METRICS, QUALITY)))
    arms = _arms(results)
    base = choose(arms, baseline, "baseline")
    others = [name for name in arms if name != base]
    if candidate is not None:
        others = [name for name in others if _matches(arms[name][0].variant, candidate)]
        if not others:
            raise InputError(unknown("candidate", candidate, [n for n in arms if n != base]))
    if not others:
        raise InputError(f"there is only one arm, {base}; a comparison needs two")
    quality = quality_of(results)
    rows = [
        row
        for name in others
        for row in _compare_arms(arms[base], arms[name], quality, rules)
    ]  # fmt: skip
    if not rows:
        raise InputError(f"no workload was measured on {base} and on another arm")
    return _judge(rows, rules)


def _arms(results: Results) -> dict[str, list[Record]]:
    arms: dict[str, list[Record]] = {}
    for record in results.records:
        arms.setdefault(record.variant["name"], []).append(record)
    if not arms:
        raise InputError("there are no records to compare")
    origins = {record.origin for record in results.records}
    if len(origins) > 1:
        raise InputError(f"records of different origin are not mixed: {', '.join(sorted(origins))}")
    return arms


def _matches(variant: Mapping[str, Any], selector: str) -> bool:
    return selector in (
        variant[k] for k in ("name", "model", "engine", "quant", "mode") if k in variant
    )


def choose(arms: Mapping[str, Sequence[Record]], selector: str | None, what: str) -> str:
    """The name of the arm that a selector means; without one, the first that is not quantized."""
    if selector is None:
        plain = [name for name, group in arms.items() if group[0].variant["quant"] == "none"]
        return plain[0] if plain else next(iter(arms))
    found = [name for name, group in arms.items() if _matches(group[0].variant, selector)]
    if not found:
        known = {str(g[0].variant[k]) for g in arms.values() for k in ("name", "quant", "engine")}
        raise InputError(unknown(what, selector, known))
    if len(found) > 1 and selector not in found:
        raise InputError(f"{what} '{selector}' means several arms: {', '.join(found)}")
    return selector if selector in found else found[0]


def _compare_arms(
    base: Sequence[Record], other: Sequence[Record], quality: Mapping[str, Figures], rules: Rules
) -> Iterator[Row]:
    environments = {record.environment for record in (*base, *other)}
    if len(environments) > 1 and not rules.pool:
        raise InputError(
            f"{base[0].variant['name']} and {other[0].variant['name']} were measured on different "
            "machines, drivers or versions; --pool compares them all the same, and marks it"
        )
    marks = {"CONFIG_DIFFERS"} if len(environments) > 1 else set()
    figures = quality.get(other[0].variant["name"])
    for workload in _workloads(base, other):
        ours = [record for record in base if record.workload == workload]
        theirs = [record for record in other if record.workload == workload]
        head = workload | {
            "baseline": base[0].variant["name"],
            "candidate": other[0].variant["name"],
            "equal_quality": _equal_quality(figures, rules.gate),
        }
        noise = {"CV"} if varies(ours) or varies(theirs) else set()
        pairs = pairs_of(ours, theirs)
        failed = {r for one in (*ours, *theirs) if one.status != "ok" for r in one.reasons}
        for name in rules.metrics:
            if name != QUALITY:
                yield _row(METRICS[name], pairs, head, marks | noise | failed, rules)
    if QUALITY in rules.metrics and figures is not None and figures.ppl_ratio is not None:
        yield _quality_row(figures, base[0], other[0], marks)


def _workloads(base: Sequence[Record], other: Sequence[Record]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for record in base:
        if record.workload not in found and any(r.workload == record.workload for r in other):
            found.append(record.workload)
    return found


def _equal_quality(figures: Figures | None, gate: Gate) -> bool | None:
    """Whether the candidate keeps the gate; None where quality was not measured."""
    return None if figures is None or figures.ppl_ratio is None else not check_gate(gate, figures)


def _row(
    metric: Metric, pairs: Sequence[Pair], head: Row, marks: set[str], rules: Rules
) -> Row:  # fmt: skip
    """Everything but the verdict, which needs all rows that are judged together."""
    excluding = EXCLUDING | (ENERGY_ONLY if metric.name == "energy" else frozenset())
    if metric.name == "memory":
        excluding = frozenset({"TOKEN_COUNT"})
    values = [(metric.of(p.baseline), metric.of(p.candidate), p.reasons) for p in pairs]
    known = [(b, c, r) for b, c, r in values if b is not None and c is not None]
    good = [(b, c, r) for b, c, r in known if not r & excluding]
    # Too little evidence is left: the figures of all are shown, and called invalid.
    invalid = len(good) < min(MIN_PAIRS, len(known)) or not known
    shown = known if invalid else good
    seen = marks.union(*(r & (excluding | ENERGY_ONLY) for _, _, r in known)) if known else marks
    found: PairedRatio | None = None
    if shown:
        found = paired_ratio([b for b, *_ in shown], [c for _, c, _ in shown], rules.confidence)
    return {
        "metric": metric.name,
        **head,
        "ratio": found.ratio if found else None,
        "ci_low": found.ci_low if found else None,
        "ci_high": found.ci_high if found else None,
        "n_pairs": len(shown),
        "n_left_out": len(known) - len(shown),
        "better": metric.better,
        "p_value": found.p_value if found else None,
        "t_p_value": found.t_p_value if found else None,
        "t_agrees": found.t_agrees if found else None,
        "reasons": sorted(seen),
        "_test": (head["candidate"], *(head[k] for k in WORKLOAD), metric.test),
        "_missing": not known,
        "_invalid": invalid,
    }


def _quality_row(figures: Figures, base: Record, other: Record, marks: set[str]) -> Row:
    ratio = figures.ppl_ratio
    assert ratio is not None
    clear = ratio.low > 1 or ratio.high < 1
    return {
        "metric": QUALITY,
        **dict.fromkeys(WORKLOAD),
        "baseline": base.variant["name"],
        "candidate": other.variant["name"],
        "equal_quality": None,
        "ratio": ratio.value,
        "ci_low": ratio.low,
        "ci_high": ratio.high,
        "n_pairs": figures.n_tokens,
        "n_left_out": 0,
        "better": "lower",
        "p_value": None,
        "t_p_value": None,
        "t_agrees": None,
        "reasons": sorted(marks),
        "significant": clear,
        "verdict": ("higher" if ratio.value > 1 else "lower") if clear else "ambiguous",
    }


def _judge(rows: list[Row], rules: Rules) -> list[Row]:
    """Add significance and verdict; rows of metrics that nothing measured are dropped."""
    kept = [row for row in rows if not row.pop("_missing", False)]
    adjusted = _adjusted([row for row in kept if row["t_p_value"] is not None])
    for row in kept:
        test, invalid = row.pop("_test", None), row.pop("_invalid", False)
        if "verdict" in row:
            continue
        row["p_adjusted"] = p = adjusted.get(test)
        alpha = 1 - rules.confidence
        row["significant"] = bool(
            p is not None and p <= alpha and row["p_value"] <= alpha and row["t_agrees"]
        )
        if row["n_pairs"] < MIN_PAIRS or row["ci_low"] is None:
            row["reasons"] = sorted({*row["reasons"], "TOO_FEW_PAIRS"})
        row["verdict"] = "invalid" if invalid else _verdict(row, rules)
        row["significant"] = row["significant"] and not invalid
    return kept


def _adjusted(rows: Sequence[Row]) -> dict[tuple[Any, ...], float]:
    """Holm's p-value of each test; metrics that ask one question in two units are one test.

    The smaller of the exact and the t-test's p-value is adjusted: with few pairs the exact one has
    a floor (2 / 2^n) that no adjustment over a whole table could pass.
    """
    tests = {row["_test"]: min(row["p_value"], row["t_p_value"]) for row in rows}
    return dict(zip(tests, holm(list(tests.values())), strict=True))


def _verdict(row: Row, rules: Rules) -> Verdict:
    if row["n_pairs"] < MIN_PAIRS or row["ci_low"] is None:
        return "ambiguous"
    if row["ci_low"] >= 1 / (1 + rules.margin) and row["ci_high"] <= 1 + rules.margin:
        return "same"
    if not row["significant"]:
        return "ambiguous"
    return "higher" if row["ratio"] > 1 else "lower"
