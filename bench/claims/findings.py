"""Claims and evidence -> a finding a sub-claim, baseline and threshold, and a sentence a claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.claims import Claim, ClaimFile, SubClaim
from bench.claims.evidence import gather
from bench.claims.measured import measured
from bench.claims.verdicts import Evidence, Verdict, decide, readings
from bench.records.file import Results
from bench.summary import Summary, summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The verdict on one sub-claim against one baseline at one threshold."""

    file: ClaimFile
    claim: Claim
    part: SubClaim
    baseline: str | None
    verdict: Verdict
    evidence: tuple[Evidence, ...]
    """All that was looked at, the deciding one among it."""
    note: str


def findings(file: ClaimFile, results: Results | Summary | None = None) -> list[Finding]:
    """Every finding on the claims of one source, in the file's order."""
    have = summarise(Results() if results is None else results)
    return [
        found
        for claim in file.claims
        for part in claim.sub_claims
        for baseline in part.baselines or (None,)
        for found in _against(file, claim, part, baseline, have)
    ]


def _against(
    file: ClaimFile, claim: Claim, part: SubClaim, baseline: str | None, summary: Summary
) -> list[Finding]:
    why = part.decided_by.not_testable
    if why:
        verdicts = [Verdict(outcome="not_testable", threshold=None, note=why, steps=(why,))]
        evidence: list[Evidence] = []
    else:
        evidence = gather(part, baseline) + measured(part, baseline, summary)
        verdicts = [
            decide(
                evidence,
                threshold,
                part.direction,
                rounding=part.rounding,
                gated=part.quality_gate is not None,
                up_to=part.up_to,
            )
            for threshold in part.thresholds
        ]
    differ = readings(verdicts)
    return [
        Finding(
            file=file,
            claim=claim,
            part=part,
            baseline=baseline,
            verdict=verdict,
            evidence=tuple(evidence),
            note=_note(part, verdict, differ),
        )
        for verdict in verdicts
    ]


def _note(part: SubClaim, verdict: Verdict, differ: str) -> str:
    """What the figures do not say: the evidence's own words, and what would decide."""
    item = verdict.decided_by
    said = [item.note] if item is not None and item.note else []
    said += [verdict.note, differ]
    if verdict.outcome == "undecided":
        said.append(what_would_decide(part))
    return "; ".join(dict.fromkeys(text for text in said if text))


def what_would_decide(part: SubClaim) -> str:
    """The experiment that decides it, else what would change the verdict."""
    way = part.decided_by.records
    if way is None:
        return f"would decide: {part.would_change}"
    if way.to_write:
        return f"would decide: experiment {way.experiment}, still to be written: {way.to_write}"
    on = f" on {part.treatment} and the other card" if way.across else ""
    return f"would decide: bench run {way.experiment}{on}"


KINDS: Final[Mapping[str, str]] = {"predicted": "published"}
"""What scripts are told: a prediction rests on published measurements; `predicted` marks it."""


def as_row(found: Finding) -> dict[str, Any]:
    """The contract's keys, and more."""
    verdict, part, item = found.verdict, found.part, found.verdict.decided_by
    low, high = item.interval if item is not None else (None, None)
    return {
        "claim": found.file.name,
        "sub_claim": part.id,
        "verdict": verdict.outcome,
        "evidence": None if item is None else KINDS.get(item.level, item.level),
        "value": None if item is None else item.value,
        "threshold": verdict.threshold,
        "ci_low": low,
        "ci_high": high,
        "note": found.note,
        "predicted": item is not None and item.level == "predicted",
        "baseline": found.baseline,
        "treatment": part.treatment,
        "direction": part.direction,
        "metric": part.metric,
        "unit": part.unit,
        "margin": verdict.margin,
        "text": part.text,
        "workload": part.workload,
        "scope": part.scope if item is None or not item.scope else f"{part.scope}; {item.scope}",
        "assumptions": list(part.assumptions),
        "would_change": part.would_change,
        "source": None if item is None else item.source,
        "steps": list(verdict.steps),
        "claim_sha256": found.file.sha256,
    }


def sentences(file: ClaimFile, found: Sequence[Finding]) -> list[str]:
    """For each claim of a source one honest sentence: what stands, what fails, what is open."""
    return [_sentence(claim, [f for f in found if f.claim is claim]) for claim in file.claims]


def _sentence(claim: Claim, found: Sequence[Finding]) -> str:
    by_part: dict[str, list[Finding]] = {}
    for item in found:
        by_part.setdefault(item.part.id, []).append(item)
    said: dict[str, list[str]] = {}
    for name, items in by_part.items():
        for outcome, count in Counter(item.verdict.outcome for item in items).items():
            share = "" if count == len(items) else f", {count} of {len(items)} readings"
            ours = ", not the source's words" if items[0].part.concluded else ""
            said.setdefault(outcome, []).append(f"{items[0].part.short} ({name}{share}{ours})")
    parts = [f"{word} {', '.join(said[key])}" for key, word in WORDS.items() if key in said]
    stated: set[str] = {item.verdict.outcome for item in found if not item.part.concluded}
    whole = f"Claim {claim.id} {_whole(stated)}" if stated else "What people conclude from it"
    return f"{whole}: {'; '.join(parts)}."


WORDS = {
    "supported": "supported for",
    "refuted": "refuted for",
    "undecided": "undecided for",
    "not_testable": "not testable for",
}


def _whole(outcomes: set[str]) -> str:
    """What may be said of the whole claim."""
    if outcomes == {"supported"}:
        return "holds as interpreted here"
    if "supported" in outcomes:
        return "holds only in part"
    if outcomes == {"refuted"}:
        return "does not hold as interpreted here"
    if "refuted" in outcomes:
        return "is not supported by this evidence, and is partly false"
    return "is not decided"
