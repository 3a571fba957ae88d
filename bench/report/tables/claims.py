"""Verdicts as text: a table a source, a sentence a claim, and the reasoning step by step."""

from __future__ import annotations

from collections.abc import Sequence

from bench.claims import ClaimFile, SubClaim
from bench.claims.findings import Finding
from bench.claims.measured import Missing
from bench.report.tables import Row, column
from bench.report.tables import to_markdown as table

SIGNS = {"at_least": "at least", "at_most": "at most", "equals": "="}

WORDS = {
    "released": "newer cards",
    "memory_bytes": "held by it alone",
    "price_usd_per_mtok": "list price",
    "usd_per_mtok": "cost of a token",
    "usd_per_solved_task": "cost of a task",
    "decode_tok_s": "decode",
    "prefill_tok_s": "prefill",
    "output_tok_s": "output rate",
    "weights_bytes": "size of the weights",
}


def to_markdown(
    file: ClaimFile, found: Sequence[Finding], said: Sequence[str], todo: Sequence[Missing]
) -> str:
    """Heading, table, sentences and what is still to be measured."""
    source = file.source
    lines = [f"## {file.name}: {source.publisher}, {source.date}", ""]
    lines += [f"> {claim.id}. {claim.translation}" for claim in file.claims]
    lines += ["", table(rows(found), COLUMNS), *said, ""]
    for item in todo:
        parts = ", ".join(item.sub_claims)
        if item.n_missing is None:
            lines.append(f"- {parts}: experiment {item.experiment} is still to be written")
        else:
            on = f" on {', '.join(item.cards)}" if item.cards else ""
            lines.append(
                f"- {parts}: `bench run {item.experiment}`{on} "
                f"({item.n_missing} measurements missing)"
            )
    if todo:
        lines.append("")
    return "\n".join(lines) + "\n"


COLUMNS = (
    column("sub_claim", ""),
    column("claimed"),
    column("against"),
    column("verdict"),
    column("evidence"),
    column("found"),
)


def rows(found: Sequence[Finding]) -> list[Row]:
    """One row for each sub-claim, threshold, verdict and evidence; baselines share a row."""
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for item in found:
        verdict = item.verdict
        level = verdict.decided_by.level if verdict.decided_by else None
        key = (item.part.id, verdict.threshold, verdict.outcome, level)
        groups.setdefault(key, []).append(item)
    order = {part: place for place, part in enumerate(dict.fromkeys(f.part.id for f in found))}

    def place(group: list[Finding]) -> tuple[int, float]:
        return order[group[0].part.id], group[0].verdict.threshold or 0.0

    return [_row(group) for group in sorted(groups.values(), key=place)]


def _row(group: Sequence[Finding]) -> Row:
    first = group[0]
    part, verdict = first.part, first.verdict
    decided = verdict.decided_by
    return {
        "sub_claim": part.id,
        "claimed": claimed(part, verdict.threshold),
        "against": ", ".join(f.baseline for f in group if f.baseline) or None,
        "verdict": verdict.outcome.replace("_", " "),
        "evidence": None if decided is None else _evidence(first),
        "found": _figures(group),
    }


def _figures(group: Sequence[Finding]) -> str:
    """One figure a baseline, in their order; one for all where they agree."""
    shown = [figure(found) for found in group]
    if len(set(shown)) == 1:
        return shown[0]
    return ", ".join(shown).replace(", at most", ",")


def _evidence(found: Finding) -> str:
    """The level in words; a verdict by date says so."""
    assert found.verdict.decided_by is not None
    if found.part.decided_by.date is not None:
        return "date"
    return found.verdict.decided_by.level.replace("_", " ")


def claimed(part: SubClaim, threshold: float | None) -> str:
    """What a sub-claim says, at one threshold."""
    if threshold is None:
        return WORDS.get(part.metric, part.metric)
    return (
        f"{WORDS.get(part.metric, part.metric)} {SIGNS[part.direction]} {amount(part, threshold)}"
    )


def amount(part: SubClaim, value: float) -> str:
    """A figure in the sub-claim's unit; small ratios as percentages."""
    if part.unit == "tok/s":
        return f"{value:.4g} tok/s"
    if part.unit == "cards":
        return f"{value:g}"
    return f"{value:.2%}" if max(part.thresholds, default=0) < 0.1 else f"{value:.3g}x"


def figure(found: Finding) -> str:
    """The deciding evidence's interval, or its value; '-' where there is none."""
    item = found.verdict.decided_by
    if item is None or item.value is None:
        return "-"
    low, high = item.interval
    if low is not None and high is not None:
        if low == high:
            return amount(found.part, low)
        return f"{amount(found.part, low)} to {amount(found.part, high)}"
    if high is not None:
        return f"at most {amount(found.part, high)}"
    end = item.value if low is None else low
    return ("" if low is None else "at least ") + amount(found.part, end)


def explained(found: Finding) -> str:
    """Why the verdict is what it is, a line each."""
    part, verdict = found.part, found.verdict
    against = f" against {found.baseline}" if found.baseline else ""
    at = "" if verdict.threshold is None else f" at {amount(part, verdict.threshold)}"
    lines = [f"### {part.id}{against}{at}: {verdict.outcome.replace('_', ' ')}", "", part.text, ""]
    lines += [f"- claimed: {part.treatment}; {part.workload}", f"- scope: {part.scope}"]
    lines += [f"- assumed: {text}" for text in part.assumptions]
    for item in found.evidence:
        lines.append(f"- {item.level}: {item.invalid or item.scope}")
        lines += [f"  - {step}" for step in item.steps]
        lines += [f"  - source: {item.source}"] * bool(item.source)
    lines += [f"- judged: {step}" for step in verdict.steps]
    lines += [f"- {found.note}"] * bool(found.note)
    lines += [f"- would change it: {part.would_change}"]
    lines += [f"- claim file: sha256 {found.file.sha256}", ""]
    return "\n".join(lines)
