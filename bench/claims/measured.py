"""Own records as evidence: the paired ratio of two schemes on one machine, with its interval.

Only replicates that were measured in pairs of one environment count; a record with a reason
against it makes the evidence invalid and is named. docs/claims.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.claims import ByRecords, ClaimFile, SubClaim
from bench.claims.verdicts import Evidence
from bench.experiment import experiments, load_experiment
from bench.experiment.devices import on_cpu
from bench.experiment.plan import plan
from bench.records import Record
from bench.records.file import Results
from bench.roofline.gpus import match
from bench.summary import replicate_figures
from bench.summary.quality import all_figures, check_gate
from bench.summary.statistics import paired_ratio

FINAL = frozenset({"UNSUPPORTED", "OOM"})
"""Failures that measuring again does not mend."""

SIZES = ("n_prompt", "n_gen", "n_batch")

Group = tuple[str, tuple[tuple[str, str], ...], int, int, int]
"""Environment, every setting of the variant but its scheme, and the workload."""


def measured(part: SubClaim, baseline: str | None, results: Results) -> list[Evidence]:
    """One for each model, workload and machine on which both schemes were measured."""
    way = part.decided_by.records
    if way is None or baseline is None:
        return []
    groups: dict[Group, dict[str, dict[int, Record]]] = {}
    for record in results.records:
        if _counts(record, way, results) and record.variant.get("quant") in (
            part.treatment,
            baseline,
        ):
            arms = groups.setdefault(_group(record), {})
            arms.setdefault(str(record.variant["quant"]), {})[record.replicate] = record
    return [
        _evidence(part, way, arms[baseline], arms[part.treatment], results)
        for arms in groups.values()
        if baseline in arms and part.treatment in arms
    ]


def _counts(record: Record, way: ByRecords, results: Results) -> bool:
    """Whether it was measured, in that experiment, at that batch size, on that card."""
    if record.experiment not in (way.experiment, *way.also) or record.origin != "measured":
        return False
    if way.n_batch not in (None, record.workload.get("n_batch")):
        return False
    return way.gpu is None or way.gpu == _card(record, results)


def _card(record: Record, results: Results) -> str | None:
    """Catalog name of the card it ran on; None on a CPU, or on several cards."""
    environment = results.environments.get(record.environment)
    if environment is None or on_cpu(str(record.variant.get("device", ""))):
        return None
    if environment.identity.get("gpus", 1) > 1:
        return None
    card = match(str(environment.identity.get("gpu") or ""))
    return None if card is None else card.name


def _group(record: Record) -> Group:
    work = record.workload
    settings = tuple(
        sorted((k, str(v)) for k, v in record.variant.items() if k not in ("name", "quant"))
    )
    settings += (("experiment", record.experiment),)  # pairs are those of one experiment
    return record.environment, settings, work["n_prompt"], work["n_gen"], work["n_batch"]


def _evidence(
    part: SubClaim,
    way: ByRecords,
    base: Mapping[int, Record],
    ours: Mapping[int, Record],
    results: Results,
) -> Evidence:
    both = sorted(base.keys() & ours.keys())
    first = next(iter(ours.values()))
    scope = _scope(first, results)
    pairs = [(base[i], ours[i]) for i in both]
    reasons = sorted({code for pair in pairs for record in pair for code in record.reasons})
    failed = [record for pair in pairs for record in pair if record.status != "ok"]
    if reasons or failed or not pairs:
        why = ", ".join(reasons) or (failed[0].message if failed else "no replicates in pairs")
        return Evidence(level="measured", value=None, invalid=f"{why} ({scope})", scope=scope)
    below = [figure(record, way.figure) for record, _ in pairs]
    above = [figure(record, way.figure) for _, record in pairs]
    known = [(b, a) for b, a in zip(below, above, strict=True) if b is not None and a is not None]
    if len(known) < len(pairs):
        reason = f"{way.figure} is not known in every replicate ({scope})"
        return Evidence(level="measured", value=None, invalid=reason, scope=scope)
    found = paired_ratio([b for b, _ in known], [a for _, a in known])
    note = f"{found.n_pairs} pairs"
    if found.ci_low is None:
        note += ": too few for an interval"
    return Evidence(
        level="measured",
        value=found.ratio,
        low=found.ci_low,
        high=found.ci_high,
        scope=scope,
        exact=way.figure == "weights_bytes",  # counted, not timed: the same in every replicate
        gate_problems=_gate(part, first, results),
        note=note,
        source=f"records of {first.experiment}",
        steps=(
            f"{scope}: {found.n_pairs} pairs of {way.figure}, ratio {found.ratio:.4g}",
            "95% interval: "
            + (
                "none"
                if found.ci_low is None or found.ci_high is None
                else f"{found.ci_low:.4g} to {found.ci_high:.4g}"
            ),
        ),
    )


def figure(record: Record, name: str) -> float | None:
    """A replicate's figure; at one price an hour, a token's price is the inverse of its rate."""
    if name == "weights_bytes":
        held = record.model.get("weights_bytes")
        return None if held is None else float(held)
    found = replicate_figures(record)
    if name == "usd_per_mtok":
        total = found["total_tok_s"]
        return 1 / total if total else None
    return found[name]


def _scope(record: Record, results: Results) -> str:
    work, environment = record.workload, results.environments.get(record.environment)
    device: Any = record.variant.get("device", "this machine")
    if environment is not None:
        part = "cpu" if on_cpu(str(device)) else "gpu"
        device = environment.identity.get(part) or device
    sizes = f"{work['n_prompt']}+{work['n_gen']} tokens, batch {work['n_batch']}"
    return f"{record.variant['model']}, {sizes}, on {device}"


def _gate(part: SubClaim, ours: Record, results: Results) -> tuple[str, ...] | None:
    """Why quality is not equal; None where it was not measured or is no part of the claim."""
    if part.quality_gate is None:
        return None
    records = [r for r in results.qualities if r.environment == ours.environment]
    figures = all_figures(records)
    for record in records:
        if record.variant["name"] == ours.variant["name"]:
            return tuple(check_gate(part.quality_gate, figures[record.key]))
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Work that would decide sub-claims and has not been done."""

    experiment: str
    sub_claims: tuple[str, ...]
    n_missing: int | None
    """Replicates and workloads still to measure; None where the experiment cannot be run yet."""
    to_write: str = ""


def missing(claims: ClaimFile, results: Results) -> list[Missing]:
    """What is still to be measured for the claims of one source, an experiment each."""
    wanted: dict[str, list[SubClaim]] = {}
    for claim in claims.claims:
        for part in claim.sub_claims:
            if part.decided_by.records is not None:
                wanted.setdefault(part.decided_by.records.experiment, []).append(part)
    return list(_missing(wanted, results))


def _missing(wanted: Mapping[str, Sequence[SubClaim]], results: Results) -> Iterator[Missing]:
    for name, parts in wanted.items():
        ids = tuple(part.id for part in parts)
        if name not in experiments():
            ways = [part.decided_by.records for part in parts if part.decided_by.records]
            yield Missing(
                experiment=name, sub_claims=ids, n_missing=None, to_write=ways[0].to_write
            )
            continue
        experiment = load_experiment(name)
        done = {
            (r.variant["name"], r.replicate, *(r.workload[key] for key in SIZES))
            for r in results.records
            if r.experiment == name and (r.status == "ok" or FINAL & set(r.reasons))
        }
        todo = [
            (step.variant.name, step.index, w.n_prompt, w.n_gen, w.n_batch)
            for step in plan(experiment.variants, experiment.measuring.pairs, experiment.seed)
            for w in experiment.workloads
        ]
        left = sum(item not in done for item in todo)
        if left:
            yield Missing(experiment=name, sub_claims=ids, n_missing=left)
