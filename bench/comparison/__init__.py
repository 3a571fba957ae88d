"""Candidate over baseline, each metric with interval, significance and validity. docs/method.md.

A verdict needs all of: enough pairs, no code that makes them no evidence, an exact interval on one
side of 1, a p-value that stays small after Holm's adjustment over the whole table, and a paired
t-test that sees the difference too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from bench.comparison.judging import Pairs, in_turns, pairs_of, varies
from bench.comparison.row import Compared, RowHead
from bench.comparison.testing import Tested, judge, row_of
from bench.comparison.unpaired import not_paired, ratio_row
from bench.errors import InputError, unknown
from bench.experiment import Gate
from bench.experiment.selectors import chosen, selects
from bench.records.file import Results
from bench.summary import ArmSettings, Row, Sizes, Summary, summarise
from bench.summary.metrics import compared
from bench.summary.pooling import Pooling, joined, pooled
from bench.summary.quality import QualityScores, check_gate

MARGIN: Final = 0.02
"""Differences below this are called `same`; MLPerf calls 2% materially different."""

QUALITY: Final = "quality"
"""Perplexity; its interval comes from the tokens, not from the pairs."""


def metrics() -> tuple[str, ...]:
    """Names of everything that can be compared."""
    return (*compared(), QUALITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a comparison is judged."""

    margin: float = MARGIN
    confidence: float = 0.95
    metrics: tuple[str, ...] = field(default_factory=metrics)
    gate: Gate = field(default_factory=Gate)
    pool: bool = False
    """Whether records of different machines or versions may be compared; they are then marked."""
    in_turns: bool = True
    """Whether pairs must have been measured side by side; a stored baseline never was."""


def compare(
    results: Results | Summary,
    rules: Rules,
    baseline: str | None = None,
    candidate: str | None = None,
    *,
    versus: Mapping[str, str] | None = None,
) -> list[Compared]:
    """Rows for every candidate arm and workload. Raises InputError.

    `versus`: candidate -> its baseline, by name, where that is known already.
    """
    for name in rules.metrics:
        if name not in metrics():
            raise InputError(unknown("metric", name, metrics()))
    summary = summarise(results)
    arms = summary.arms
    _check(summary)
    known = {name: rows[0].arm for name, rows in arms.items()}
    tested: list[Tested | Compared] = []
    for name, base in (versus or opponents(known, baseline, candidate)).items():
        if not rules.pool:
            check_poolable(arms[base], arms[name])
        quality = _quality_against(summary, arms[name], base)
        tested += _compare_arms(arms[base], arms[name], quality, rules)
    if not tested:
        raise InputError("no workload was measured on both the baseline and another arm")
    return judge(tested, rules.margin, rules.confidence)


def _check(summary: Summary) -> None:
    if not summary.rows:
        raise InputError("there are no records to compare")
    origins = {row.origin for row in summary}
    if len(origins) > 1:
        raise InputError(f"records of different origin are not mixed: {', '.join(sorted(origins))}")


def choose(arms: Mapping[str, ArmSettings], selector: str | None, what: str) -> str:
    """The name of the arm that a selector means; without one, the first that is not quantized."""
    if selector is None:
        plain = [name for name, arm in arms.items() if arm.quant == "none"]
        return plain[0] if plain else next(iter(arms))
    found = chosen(selector, _settings(arms))
    if not found:
        known = {text for arm in arms.values() for text in (arm.name, arm.quant, arm.engine)}
        raise InputError(unknown(what, selector, known))
    if len(found) > 1:
        raise InputError(f"{what} '{selector}' means several arms: {', '.join(found)}")
    return found[0]


def _settings(arms: Mapping[str, ArmSettings]) -> dict[str, Mapping[str, object]]:
    return {name: arm.settings for name, arm in arms.items()}


def opponents(
    arms: Mapping[str, ArmSettings], baseline: str | None, candidate: str | None
) -> dict[str, str]:
    """Candidate -> its baseline. Models are not compared with each other unless a name says so.

    A selector that means several arms, such as a scheme on two models or in two modes, means for
    each candidate the one that is most like it.
    """
    if baseline is None:
        bases = [
            choose({name: arm for name, arm in arms.items() if arm.model == model}, None, "")
            for model in dict.fromkeys(arm.model for arm in arms.values())
        ]
    else:
        bases = chosen(baseline, _settings(arms))
    if baseline is not None and (not bases or len(bases) == len(arms) > 1):
        choose(arms, baseline, "baseline")  # says what is wrong
    others = [name for name in arms if name not in bases]
    if not others:
        if len(bases) > 1:
            raise InputError(
                f"each model has one arm; to compare models, give --baseline {arms[bases[0]].model}"
            )
        raise InputError(f"there is only one arm, {bases[0]}; a comparison needs two")
    if candidate is not None:
        known, others = others, [n for n in others if selects(candidate, arms[n].settings)]
        if not others:
            if any(selects(candidate, arms[base].settings) for base in bases):
                raise InputError(f"candidate '{candidate}' is the baseline; name another arm")
            raise InputError(unknown("candidate", candidate, known))
    return {name: _most_like(name, bases, arms) for name in others}


def _most_like(name: str, bases: Sequence[str], arms: Mapping[str, ArmSettings]) -> str:
    """The base that shares most settings with an arm, its model before all."""
    mine = _telling(arms[name])

    def shared(base: str) -> tuple[bool, int]:
        same = [one == other for one, other in zip(mine, _telling(arms[base]), strict=True)]
        return same[0], sum(same)

    best = max(map(shared, bases))
    found = [base for base in bases if shared(base) == best]
    if len(found) > 1:
        raise InputError(
            f"several arms could be the baseline of {name}: {', '.join(found)}; name one"
        )
    return found[0]


def _telling(arm: ArmSettings) -> tuple[object, ...]:
    """The settings by which arms are alike, the model first."""
    return (
        arm.model,
        arm.engine,
        arm.quant,
        arm.mode,
        arm.dtype,
        arm.device,
        arm.threads,
        dict(arm.options),
    )


def _quality_against(summary: Summary, rows: Sequence[Row], base: str) -> QualityScores | None:
    """Quality of an arm against that very baseline, not the one it was recorded with."""
    places = {row.host.id for row in rows}
    # Where an arm was measured on another machine too, its own counts.
    of_arm = {(one.environment in places, one.arm): one for one in summary.qualities}
    name = rows[0].arm.name
    record = of_arm.get((True, name)) or of_arm.get((False, name))
    if record is None:
        return None
    return record.against(base, of_arm.get((True, base)) or of_arm.get((False, base)))


def check_poolable(base: Sequence[Row], other: Sequence[Row]) -> None:
    """Refuse two arms of more than one environment, naming what differs. Raises InputError."""
    hosts = {row.host.id: row.host for row in (*base, *other)}
    if len(hosts) < 2:
        return
    known = [hosts[id_].identity for id_ in sorted(hosts) if hosts[id_].recorded is not None]
    names = dict.fromkeys(name for identity in known for name in identity)
    apart = [name for name in names if len({repr(one.get(name)) for one in known}) > 1]
    told = [f"{name} {' / '.join(str(one.get(name)) for one in known)}" for name in apart[:4]]
    more = [f"{len(apart) - 4} more"] if len(apart) > 4 else []
    what = f" ({', '.join(told + more)})" if told else ""
    raise InputError(
        f"{base[0].arm.name} and {other[0].arm.name} were measured on different "
        f"machines, drivers or versions{what}; --pool compares them anyway and marks the result"
    )


def _compare_arms(
    base: Sequence[Row], other: Sequence[Row], figures: QualityScores | None, rules: Rules
) -> Iterator[Tested | Compared]:
    marks = {"CONFIG_DIFFERS"} if len({row.host.id for row in (*base, *other)}) > 1 else set()
    baseline, candidate = base[0].arm.name, other[0].arm.name
    equal = None
    if figures is not None and figures.ppl_ratio is not None:
        equal = not check_gate(rules.gate, figures)
    others = by_workload(other)
    for sizes, ours in by_workload(base).items():
        if sizes not in others:
            continue
        theirs = others[sizes]
        head = RowHead(sizes=sizes, baseline=baseline, candidate=candidate, equal_quality=equal)
        if not_paired(ours) or not_paired(theirs):
            yield from _unpaired(ours, theirs, head, marks, rules)
            continue
        noise = {"CV"} if varies(ours) or varies(theirs) else set()
        failed = _of_failures(ours) | _of_failures(theirs)
        pairs = _pairs(ours, theirs, rules)
        for name in rules.metrics:
            if name != QUALITY:
                metric = compared()[name]
                yield row_of(metric, pairs, head, marks | noise | failed, rules.confidence)
    if QUALITY in rules.metrics and figures is not None and figures.ppl_ratio is not None:
        head = RowHead(sizes=None, baseline=baseline, candidate=candidate)
        yield _quality_row(figures, head, marks, rules)


def _of_failures(replicates: Pooling) -> set[str]:
    """The codes of what did not finish."""
    found = replicates.part(~replicates.flag("ok")).all_doubts()
    return {doubt.code for doubt in found}


def _pairs(ours: Pooling, theirs: Pooling, rules: Rules) -> Pairs:
    pairs = pairs_of(ours, theirs)
    return in_turns(pairs) if rules.in_turns else pairs


def _unpaired(
    ours: Pooling,
    theirs: Pooling,
    head: RowHead,
    marks: set[str],
    rules: Rules,
) -> Iterator[Compared]:
    for name in rules.metrics:
        if name != QUALITY:
            row = ratio_row(compared()[name], head, ours, theirs, marks)
            if row is not None:
                yield row


def by_workload(rows: Sequence[Row]) -> dict[Sizes, Pooling]:
    """The replicates of an arm's rows; of several machines, together."""
    found: dict[Sizes, list[Pooling]] = {}
    for row in rows:
        found.setdefault(row.sizes, []).append(pooled(row.replicates))
    return {sizes: joined(parts) for sizes, parts in found.items()}


def _quality_row(figures: QualityScores, head: RowHead, marks: set[str], rules: Rules) -> Compared:
    ratio = figures.ppl_ratio
    assert ratio is not None
    clear = ratio.low > 1 or ratio.high < 1
    same = ratio.low >= 1 / (1 + rules.margin) and ratio.high <= 1 + rules.margin
    side: Literal["higher", "lower"] = "higher" if ratio.value > 1 else "lower"
    return Compared(
        metric=QUALITY,
        sizes=None,
        baseline=head.baseline,
        candidate=head.candidate,
        equal_quality=None,
        ratio=ratio.value,
        ci_low=ratio.low,
        ci_high=ratio.high,
        n_pairs=figures.n_tokens,
        better="lower",
        reasons=tuple(sorted(marks)),
        significant=clear,
        verdict="same" if same else side if clear else "ambiguous",
    )
