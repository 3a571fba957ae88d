"""Own records as evidence: the paired ratio of two schemes on one machine, the unpaired one of two
cards, or the rate of one card, with its interval.

Of schemes only replicates that were measured in pairs of one environment count; a record with a
reason against it makes the evidence invalid and is named. Cards are compared as `bench compare
--across machine` does. A rate has the t interval of its replicates. docs/claims.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.claims import ByRecords, ClaimFile, SubClaim
from bench.claims.verdicts import Evidence
from bench.comparison.machines import DRIFT_APART, between_cards
from bench.comparison.row import Compared
from bench.comparison.sides import card_of
from bench.errors import InputError
from bench.experiment import experiments, load_experiment
from bench.experiment.plan import plan
from bench.experiment.selectors import PINNED
from bench.models.hub import is_meant
from bench.records.codes import Part
from bench.records.file import Results
from bench.roofline.gpus import match
from bench.statistics import log_interval
from bench.statistics.paired import PairedRatio, paired_ratio
from bench.summary import METRICS, ArmSettings, Replicate, Row, Sizes, Summary, summarise
from bench.summary.pooling import once
from bench.summary.quality import check_gate
from bench.summary.replicate import against

FINAL: Final = frozenset({"UNSUPPORTED", "OOM"})
"""Failures that measuring again does not mend."""

FIGURES: Final = {"usd_per_mtok": "machine_s_per_token"}
"""A claim's figure -> the metric whose ratio is the same: at one price an hour a token's price is
the machine's time for it. Others have the metric's own name."""

COUNTED: Final = "weights_bytes"
"""Counted, not timed: the same in every replicate."""

Group = tuple[str, tuple[tuple[str, str], ...], Sizes]
"""Environment, every setting of the arm but its scheme, and the workload."""


def measured(part: SubClaim, baseline: str | None, summary: Summary) -> list[Evidence]:
    """One for each model, workload and machine on which both schemes were measured."""
    way = part.decided_by.records
    if way is None:
        return []
    if baseline is None:
        return list(_rates(part, way, summary))
    if way.across is not None:
        return list(_of_cards(part, way, baseline, summary))
    groups: dict[Group, dict[str, dict[int, Replicate]]] = {}
    rows: dict[Group, Row] = {}
    for row in summary:
        if row.arm.quant not in (part.treatment, baseline) or not _of_card(row, way):
            continue
        for one in _counted(row, way):
            key = _group(one)
            groups.setdefault(key, {}).setdefault(one.arm.quant, {})[one.index] = one
            if one.arm.quant == part.treatment:
                rows[key] = row
    return [
        _evidence(part, way, arms[baseline], arms[part.treatment], rows[key])
        for key, arms in groups.items()
        if baseline in arms and part.treatment in arms
    ]


def _rates(part: SubClaim, way: ByRecords, summary: Summary) -> Iterator[Evidence]:
    """One for each arm and workload that was measured on the claim's cards."""
    for row in summary:
        kept = list(_counted(row, way))
        if kept and card_of(row.host) == _card(part, way) and not row.arm.on_cpu:
            yield _rate(part, way, row, kept)


def _card(part: SubClaim, way: ByRecords) -> str:
    """The treatment's card, as `card_of` names it, where it is one."""
    return part.treatment if way.n_gpus == 1 else f"{way.n_gpus} x {part.treatment}"


def _rate(part: SubClaim, way: ByRecords, row: Row, kept: Sequence[Replicate]) -> Evidence:
    scope = _scope(row)
    reasons = against([doubt for one in kept for doubt in one.doubts], _parts(way.figure))
    values = [value for one in kept if (value := figure(one, way.figure)) is not None]
    if reasons or len(values) < len(kept):
        failed = next((one.message for one in kept if not one.ok), None)
        why = ", ".join(reasons) or failed or f"{way.figure} is not known in every replicate"
        return Evidence(level="measured", value=None, invalid=f"{why} ({scope})", scope=scope)
    found = log_interval(values)
    interval = "none" if found.low is None else f"{found.low:.4g} to {found.high:.4g}"
    return Evidence(
        level="measured",
        value=found.value,
        low=found.low,
        high=found.high,
        scope=scope,
        gate_problems=_gate(part, row),
        note=f"{len(values)} replicates{': too few for an interval' * (found.low is None)}",
        source=f"records of {way.experiment}",
        steps=(
            f"{scope}: {len(values)} replicates of {way.figure}, mean {found.value:.4g}",
            f"95% interval: {interval}",
        ),
    )


def _of_cards(
    part: SubClaim, way: ByRecords, baseline: str, summary: Summary
) -> Iterator[Evidence]:
    """One for each arm, workload and pair of machines of the two cards."""
    rows = tuple(
        replace(row, replicates=kept)
        for row in summary
        if (kept := tuple(_counted(row, way))) and not row.arm.on_cpu
    )
    try:
        found = between_cards(
            replace(summary, rows=rows), METRICS[way.figure], baseline, part.treatment
        )
    except InputError as error:
        yield Evidence(level="measured", value=None, invalid=str(error), scope=part.scope)
        return
    for row in found:
        yield _evidence_of_cards(row, way)


def _evidence_of_cards(row: Compared, way: ByRecords) -> Evidence:
    across, found, sizes = row.across, row.unpaired, row.sizes
    assert across is not None
    assert sizes is not None
    work = f"{sizes.n_prompt}+{sizes.n_gen} tokens, batch {sizes.n_batch}"
    scope = (
        f"{row.candidate}, {work}, {across.candidate_machine} over {across.baseline_machine}: "
        f"{across.scope}"
    )
    if row.verdict == "invalid" or found is None:
        why = ", ".join(row.reasons) or "no figures"
        return Evidence(level="measured", value=None, invalid=f"{why} ({scope})", scope=scope)
    # What the machines may have drifted by between their times is no difference.
    slack = 1.0 if across.interleaved else 1 + DRIFT_APART
    low = None if row.ci_low is None or not found.enough else row.ci_low / slack
    high = None if row.ci_high is None or not found.enough else row.ci_high * slack
    counted = f"{found.n_candidate} and {found.n_baseline} replicates"
    named = f"; not the same on both: {'; '.join(across.differs)}" if across.differs else ""
    interval = "none" if low is None else f"{low:.4g} to {high:.4g}"
    apart = "" if across.interleaved else f", measured apart in time: widened by {DRIFT_APART:.0%}"
    return Evidence(
        level="measured",
        value=row.ratio,
        low=low,
        high=high,
        scope=scope,
        note=f"{counted}{': too few for an interval' * (low is None)}{named}",
        source=f"records of {way.experiment}",
        steps=(
            f"{scope}: {counted} of {way.figure}, ratio {row.ratio:.4g}",
            f"95% interval, unpaired: {interval}{apart}",
        ),
    )


def _counted(row: Row, way: ByRecords) -> Iterator[Replicate]:
    """Those that were measured, in that experiment, at that batch size."""
    names = {way.experiment, *way.also}
    if row.origin != "measured" or way.n_batch not in (None, row.sizes.n_batch):
        return iter(())
    if names.isdisjoint(once(row.replicates, "experiment")):
        return iter(())
    return (one for one in row.replicates if one.experiment in names)


def _of_card(row: Row, way: ByRecords) -> bool:
    """Whether it ran on the card that the claim is about; never a CPU, or several cards."""
    if way.gpu is None:
        return True
    if row.host.gpu is None or row.arm.on_cpu or row.host.gpus > 1:
        return False
    card = match(row.host.gpu)
    return card is not None and card.name == way.gpu


def _group(one: Replicate) -> Group:
    settings = tuple(
        sorted((k, str(v)) for k, v in one.arm.settings.items() if k not in ("name", "quant"))
    )
    settings += (("experiment", one.experiment),)  # pairs are those of one experiment
    return one.environment, settings, one.sizes


def _evidence(
    part: SubClaim,
    way: ByRecords,
    base: Mapping[int, Replicate],
    ours: Mapping[int, Replicate],
    row: Row,
) -> Evidence:
    both = sorted(base.keys() & ours.keys())
    scope = _scope(row)
    pairs = [(base[i], ours[i]) for i in both]
    doubts = [doubt for pair in pairs for one in pair for doubt in one.doubts]
    reasons = against(doubts, _parts(way.figure))
    failed = [one for pair in pairs for one in pair if not one.ok]
    if reasons or failed or not pairs:
        why = ", ".join(reasons) or (failed[0].message if failed else "no replicates in pairs")
        return Evidence(level="measured", value=None, invalid=f"{why} ({scope})", scope=scope)
    values = [(figure(one, way.figure), figure(other, way.figure)) for one, other in pairs]
    known = [(b, a) for b, a in values if b is not None and a is not None]
    if len(known) < len(pairs):
        reason = f"{way.figure} is not known in every replicate ({scope})"
        return Evidence(level="measured", value=None, invalid=reason, scope=scope)
    found = paired_ratio([b for b, _ in known], [a for _, a in known])
    return Evidence(
        level="measured",
        value=found.ratio,
        low=found.ci_low,
        high=found.ci_high,
        scope=scope,
        exact=way.figure == COUNTED,
        gate_problems=_gate(part, row),
        note=f"{found.n_pairs} pairs{': too few for an interval' * (found.ci_low is None)}",
        source=f"records of {next(iter(ours.values())).experiment}",
        steps=(
            f"{scope}: {found.n_pairs} pairs of {way.figure}, ratio {found.ratio:.4g}",
            f"95% interval: {_interval(found)}",
        ),
    )


def _interval(found: PairedRatio) -> str:
    if found.ci_low is None or found.ci_high is None:
        return "none"
    return f"{found.ci_low:.4g} to {found.ci_high:.4g}"


def _parts(name: str) -> frozenset[Part]:
    """What a claim's figure is made of."""
    if name == COUNTED:
        return frozenset({"memory"})
    return METRICS[FIGURES.get(name, name)].parts


def figure(one: Replicate, name: str) -> float | None:
    """A replicate's figure, or one whose ratio is the same."""
    if name == COUNTED:
        return one.loaded.weights_bytes
    return one.figures[FIGURES.get(name, name)]


def _scope(row: Row) -> str:
    sizes, device = row.sizes, row.arm.device
    if row.host.recorded is not None:
        device = (row.host.cpu if row.arm.on_cpu else row.host.gpu) or device
    work = f"{sizes.n_prompt}+{sizes.n_gen} tokens, batch {sizes.n_batch}"
    return f"{row.arm.model}, {work}, on {device}"


def _gate(part: SubClaim, row: Row) -> tuple[str, ...] | None:
    """Why quality is not equal; None where it was not measured or is no part of the claim."""
    if part.quality_gate is None or row.quality is None:
        return None
    return tuple(check_gate(part.quality_gate, row.quality))


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Work that would decide sub-claims and has not been done."""

    experiment: str
    sub_claims: tuple[str, ...]
    n_missing: int | None
    """Replicates and workloads still to measure; None where the experiment cannot be run yet."""
    to_write: str = ""
    cards: tuple[str, ...] = ()
    """Where: cards that each have to measure it; any machine if empty."""


def missing(claims: ClaimFile, results: Results | Summary) -> list[Missing]:
    """What is still to be measured for the claims of one source, an experiment each."""
    wanted: dict[str, list[SubClaim]] = {}
    for claim in claims.claims:
        for part in claim.sub_claims:
            if part.decided_by.records is not None:
                wanted.setdefault(part.decided_by.records.experiment, []).append(part)
    return list(_missing(wanted, summarise(results)))


def _missing(wanted: Mapping[str, Sequence[SubClaim]], summary: Summary) -> Iterator[Missing]:
    for name, parts in wanted.items():
        ids = tuple(part.id for part in parts)
        if name not in experiments():
            ways = [part.decided_by.records for part in parts if part.decided_by.records]
            yield Missing(
                experiment=name, sub_claims=ids, n_missing=None, to_write=ways[0].to_write
            )
            continue
        cards = tuple(_cards(parts))
        left = {card: _left(name, summary, card) for card in cards or (None,)}
        if any(left.values()):
            lacking = tuple(card for card in cards if left[card])
            yield Missing(
                experiment=name, sub_claims=ids, n_missing=sum(left.values()), cards=lacking
            )


def _cards(parts: Sequence[SubClaim]) -> dict[str, None]:
    """The cards that have to measure it, each once."""
    found: dict[str, None] = {}
    for part in parts:
        way = part.decided_by.records
        if way is not None and way.across:
            found |= dict.fromkeys((part.treatment, *part.baselines))
        elif way is not None and not part.baselines:
            found[_card(part, way)] = None
    return found


def _left(name: str, summary: Summary, card: str | None) -> int:
    """Replicates and workloads of an experiment still to measure, on a card if one is named."""
    experiment = load_experiment(name)
    models = {variant.model for variant in experiment.variants}
    done = {
        (_as_planned(one.arm, models), one.index, *one.sizes[:3])
        for row in summary
        if card is None or card_of(row.host) == card
        if name in once(row.replicates, "experiment")
        for one in row.replicates
        if one.experiment == name and (one.ok or FINAL & set(one.reasons))
    }
    todo = [
        (step.variant.name, step.index, w.n_prompt, w.n_gen, w.n_batch)
        for step in plan(experiment.variants, experiment.measuring.pairs, experiment.seed)
        for w in experiment.workloads
    ]
    return sum(item not in done for item in todo)


def _as_planned(arm: ArmSettings, models: Iterable[str]) -> str:
    """An arm's name with its model as the experiment has it, whichever commit and file it was."""
    for model in models:
        if is_meant(arm.model, model):
            return model + arm.name.removeprefix(arm.model)
    return PINNED.sub(r"\1\2", arm.name)
