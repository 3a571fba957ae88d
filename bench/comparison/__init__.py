"""Candidate over baseline, each metric with interval, significance and validity. docs/method.md.

A verdict needs all of: enough pairs, no code that makes them no evidence, an exact interval on one
side of 1, a p-value that stays small after Holm's adjustment over the whole table, and a paired
t-test that sees the difference too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from bench.comparison.judging import ENERGY_ONLY, EXCLUDING, Pair, in_turns, pairs_of, varies
from bench.comparison.unpaired import not_paired, ratio_row
from bench.errors import InputError, unknown
from bench.experiment import Gate
from bench.experiment.selectors import chosen, selects
from bench.records import Environment, Record
from bench.records.file import Results
from bench.summary import peak_memory, quality_of, replicate_figures
from bench.summary.quality import Figures, check_gate, summarise
from bench.summary.statistics import MIN_PAIRS, PairedRatio, adjustable_p, holm, paired_ratio

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


def _of_one_memory(pair: Pair) -> bool:
    """Memory of a device is not compared with that of a host."""
    held = [bool(r.memory.get("peak_device_bytes")) for r in (pair.baseline, pair.candidate)]
    return held[0] == held[1]


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
        Metric(name="memory", better="lower", test="memory", of=peak_memory),
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
    in_turns: bool = True
    """Whether pairs must have been measured side by side; a stored baseline never was."""


def compare(
    results: Results,
    rules: Rules,
    baseline: str | None = None,
    candidate: str | None = None,
    *,
    versus: Mapping[str, str] | None = None,
) -> list[Row]:
    """Rows with the contract's keys, for every candidate arm and workload. Raises InputError.

    `versus`: candidate -> its baseline, by name, where that is known already.
    """
    for name in rules.metrics:
        if name not in (*METRICS, QUALITY):
            raise InputError(unknown("metric", name, (*METRICS, QUALITY)))
    arms = _arms(results)
    rows: list[Row] = []
    for name, base in (versus or opponents(arms, baseline, candidate)).items():
        quality = _quality_against(results, name, base)
        if not rules.pool:
            check_poolable(arms[base], arms[name], results.environments)
        rows += _compare_arms(arms[base], arms[name], quality, rules)
    if not rows:
        raise InputError("no workload was measured on the baseline and on another arm")
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


def choose(arms: Mapping[str, Sequence[Record]], selector: str | None, what: str) -> str:
    """The name of the arm that a selector means; without one, the first that is not quantized."""
    if selector is None:
        plain = [name for name, group in arms.items() if group[0].variant["quant"] == "none"]
        return plain[0] if plain else next(iter(arms))
    found = chosen(selector, {name: group[0].variant for name, group in arms.items()})
    if not found:
        known = {str(g[0].variant[k]) for g in arms.values() for k in ("name", "quant", "engine")}
        raise InputError(unknown(what, selector, known))
    if len(found) > 1:
        raise InputError(f"{what} '{selector}' means several arms: {', '.join(found)}")
    return found[0]


def opponents(
    arms: Mapping[str, Sequence[Record]], baseline: str | None, candidate: str | None
) -> dict[str, str]:
    """Candidate -> its baseline. Models are not compared with each other unless a name says so.

    A selector that means several arms, such as a scheme on two models or in two modes, means for
    each candidate the one that is most like it.
    """
    variants = {name: group[0].variant for name, group in arms.items()}
    if baseline is None:
        bases = [
            choose({n: arms[n] for n in arms if variants[n]["model"] == model}, None, "")
            for model in dict.fromkeys(v["model"] for v in variants.values())
        ]
    else:
        bases = chosen(baseline, variants)
    if baseline is not None and (not bases or len(bases) == len(arms) > 1):
        choose(arms, baseline, "baseline")  # says what is wrong
    others = [name for name in arms if name not in bases]
    if not others:
        if len(bases) > 1:
            raise InputError(
                "each model has one arm, and models are compared only if told to: "
                f"--baseline {variants[bases[0]]['model']}"
            )
        raise InputError(f"there is only one arm, {bases[0]}; a comparison needs two")
    if candidate is not None:
        known, others = others, [n for n in others if selects(candidate, variants[n])]
        if not others:
            raise InputError(unknown("candidate", candidate, known))
    return {name: _most_like(name, bases, variants) for name in others}


ALIKE: Final = ("model", "engine", "quant", "mode", "dtype", "device", "threads", "options")


def _most_like(name: str, bases: Sequence[str], variants: Mapping[str, Mapping[str, Any]]) -> str:
    """The base that shares most settings with an arm, its model before all."""
    mine = variants[name]

    def shared(base: str) -> tuple[bool, int]:
        theirs = variants[base]
        same = [mine.get(key) == theirs.get(key) for key in ALIKE]
        return same[0], sum(same)

    best = max(map(shared, bases))
    found = [base for base in bases if shared(base) == best]
    if len(found) > 1:
        raise InputError(f"the baseline of {name} may be any of: {', '.join(found)}; name one")
    return found[0]


def _quality_against(results: Results, name: str, base: str) -> Figures | None:
    """Quality of an arm against that very baseline, not the one it was recorded with."""
    by_name = {record.variant["name"]: record for record in results.qualities}
    record, other = by_name.get(name), by_name.get(base)
    if record is None or record.baseline == base:
        return quality_of(results).get(name)
    if other is None:
        return None
    # Perplexities pair by tokens; divergences were only taken from the recorded baseline.
    return summarise(replace(record, baseline=base, kld=(), same_top1=()), other)


def check_poolable(
    base: Sequence[Record], other: Sequence[Record], environments: Mapping[str, Environment]
) -> None:
    """Refuse two arms of more than one environment, naming what differs. Raises InputError."""
    ids = sorted({record.environment for record in (*base, *other)})
    if len(ids) < 2:
        return
    known = [environments[one].identity for one in ids if one in environments]
    names = dict.fromkeys(name for identity in known for name in identity)
    apart = [name for name in names if len({repr(one.get(name)) for one in known}) > 1]
    told = [f"{name} {' / '.join(str(one.get(name)) for one in known)}" for name in apart[:4]]
    more = [f"{len(apart) - 4} more"] if len(apart) > 4 else []
    what = f" ({', '.join(told + more)})" if told else ""
    raise InputError(
        f"{base[0].variant['name']} and {other[0].variant['name']} were measured on different "
        f"machines, drivers or versions{what}; --pool compares them all the same, and marks it"
    )


def _compare_arms(
    base: Sequence[Record], other: Sequence[Record], figures: Figures | None, rules: Rules
) -> Iterator[Row]:
    environments = {record.environment for record in (*base, *other)}
    marks = {"CONFIG_DIFFERS"} if len(environments) > 1 else set()
    by_workload = _by_workload(other)
    for work, ours in _by_workload(base).items():
        if work not in by_workload:
            continue
        theirs = by_workload[work]
        head = dict(zip(WORKLOAD, work, strict=True)) | {
            "baseline": base[0].variant["name"],
            "candidate": other[0].variant["name"],
            "equal_quality": _equal_quality(figures, rules.gate),
        }
        if not_paired((*ours, *theirs)):
            yield from _unpaired(ours, theirs, head, marks, rules)
            continue
        noise = {"CV"} if varies(ours) or varies(theirs) else set()
        pairs = pairs_of(ours, theirs)
        pairs = in_turns(pairs) if rules.in_turns else pairs
        failed = {r for one in (*ours, *theirs) if one.status != "ok" for r in one.reasons}
        for name in rules.metrics:
            if name != QUALITY:
                yield _row(METRICS[name], pairs, head, marks | noise | failed, rules)
    if QUALITY in rules.metrics and figures is not None and figures.ppl_ratio is not None:
        yield _quality_row(figures, base[0], other[0], marks, rules)


def _unpaired(
    ours: Sequence[Record], theirs: Sequence[Record], head: Row, marks: set[str], rules: Rules
) -> Iterator[Row]:
    for name in rules.metrics:
        if name != QUALITY:
            metric = METRICS[name]
            named = {"metric": name, **head, "better": metric.better}
            row = ratio_row(named, metric.of, ours, theirs, marks)
            if row is not None:
                yield row


def _by_workload(records: Sequence[Record]) -> dict[tuple[int, ...], list[Record]]:
    found: dict[tuple[int, ...], list[Record]] = {}
    for record in records:
        found.setdefault(tuple(record.workload[key] for key in WORKLOAD), []).append(record)
    return found


def _equal_quality(figures: Figures | None, gate: Gate) -> bool | None:
    """Whether the candidate keeps the gate; None where quality was not measured."""
    return None if figures is None or figures.ppl_ratio is None else not check_gate(gate, figures)


def _row(metric: Metric, pairs: Sequence[Pair], head: Row, marks: set[str], rules: Rules) -> Row:
    """Everything but the verdict, which needs all rows that are judged together."""
    any_pair = bool(pairs)
    excluding = EXCLUDING | (ENERGY_ONLY if metric.name == "energy" else frozenset())
    if metric.name == "memory":
        excluding = frozenset({"TOKEN_COUNT"})
        pairs = [pair for pair in pairs if _of_one_memory(pair)]
    values = [(metric.of(p.baseline), metric.of(p.candidate), p.reasons) for p in pairs]
    # A figure of 0 was not measured (a counter that did not move): it has no ratio.
    known = [(b, c, r) for b, c, r in values if b and c and b > 0 and c > 0]
    good = [(b, c, r) for b, c, r in known if not r & excluding]
    # Too little evidence is left: the figures of all are shown, and called invalid.
    invalid = len(good) < min(MIN_PAIRS, len(known)) or not known
    shown = known if invalid else good
    hidden = EXCLUDING - excluding  # what does not touch this metric
    seen = marks.union(*(r - hidden for _, _, r in known))
    error = 0.0
    if metric.name == "energy":
        error, disagrees = _energy_error(pairs)
        seen |= {"ENERGY_DISAGREES"} if disagrees else set()
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
        "_found": found,
        "p_value": found.p_value if found else None,
        "t_p_value": found.t_p_value if found else None,
        "t_agrees": found.t_agrees if found else None,
        "reasons": sorted(seen),
        "_test": (head["candidate"], *(head[k] for k in WORKLOAD), metric.test),
        "_missing": not known and any_pair,
        "_invalid": invalid,
        "_error": error,
    }


def _energy_error(pairs: Sequence[Pair]) -> tuple[float, bool]:
    """Share by which the counter may be off, and not by the same share in both arms.

    It is what is published of such counters, or what the card's own power samples say against it
    in one of the windows, if that is more; then the second value is True.
    """
    windows = [
        record.energy.get("decode") or {} for p in pairs for record in (p.baseline, p.candidate)
    ]
    stated = max((window.get("systematic_error") or 0.0 for window in windows), default=0.0)
    disagreeing = [w for w in windows if w.get("cross_check_agrees") is False]
    seen = max((abs(w["cross_check_ratio"] - 1) for w in disagreeing), default=0.0)
    return max(stated, seen), bool(disagreeing)


def _quality_row(
    figures: Figures, base: Record, other: Record, marks: set[str], rules: Rules
) -> Row:
    ratio = figures.ppl_ratio
    assert ratio is not None
    clear = ratio.low > 1 or ratio.high < 1
    verdict: Verdict = "ambiguous"
    if _within(ratio.low, ratio.high, rules):
        verdict = "same"
    elif clear:
        verdict = "higher" if ratio.value > 1 else "lower"
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
        "verdict": verdict,
    }


def _judge(rows: list[Row], rules: Rules) -> list[Row]:
    """Add significance and verdict. Rows of metrics that nothing measures are dropped, unless all
    replicates failed: that is a result."""
    kept = [row for row in rows if not row.pop("_missing", False)]
    adjusted = _adjusted([row for row in kept if row.get("_found")])
    for row in kept:
        if "verdict" in row:
            continue
        found, invalid, error = row.pop("_found"), row.pop("_invalid"), row.pop("_error")
        row["p_adjusted"] = p = adjusted.get(row.pop("_test"))
        clear = found is not None and found.excludes_one and found.t_agrees
        row["significant"] = clear and p is not None and p <= 1 - rules.confidence and not invalid
        if row["n_pairs"] < MIN_PAIRS or row["ci_low"] is None:
            row["reasons"] = sorted({*row["reasons"], "TOO_FEW_PAIRS"})
        row["verdict"] = "invalid" if invalid else _verdict(row, rules)
        if found is not None and row["verdict"] in ("higher", "lower") and _near(found, error):
            row |= {"verdict": "ambiguous", "significant": False}
            row["reasons"] = sorted({*row["reasons"], "SYSTEMATIC_ERROR"})
    return kept


def _adjusted(rows: Sequence[Row]) -> dict[tuple[Any, ...], float]:
    """Holm's p-value of each test; metrics that ask one question in two units are one test."""
    tests = {row["_test"]: row["_found"] for row in rows}
    p = {test: adjustable_p(found, len(tests)) for test, found in tests.items()}
    known = {test: value for test, value in p.items() if value is not None}
    return dict(zip(known, holm(list(known.values())), strict=True))


def _verdict(row: Row, rules: Rules) -> Verdict:
    if row["n_pairs"] < MIN_PAIRS or row["ci_low"] is None:
        return "ambiguous"
    if _within(row["ci_low"], row["ci_high"], rules):
        return "same"
    if not row["significant"]:
        return "ambiguous"
    return "higher" if row["ratio"] > 1 else "lower"


def _near(found: PairedRatio, error: float) -> bool:
    return 1 / (1 + error) < found.ratio < 1 + error


def _within(low: float, high: float, rules: Rules) -> bool:
    return low >= 1 / (1 + rules.margin) and high <= 1 + rules.margin
