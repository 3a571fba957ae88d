"""What a report rests on: several machines side by side, claims, environment, method, records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.claims import ClaimFile
from bench.claims.findings import Finding, sentences
from bench.report.page.blocks import Cell, ChartLine, Head, Prose, Section, Table, Tone
from bench.report.page.machines import Machine, work_of
from bench.report.page.words import NOTHING, cell, gigabytes, rate, ratio
from bench.report.tables.claims import rows as claim_rows
from bench.report.tables.row import Shown
from bench.summary import Replicate, Sizes

MOST_RECORDS = 400
"""Rows in the table of records; at least one for each row of the first table."""

TONES: dict[str, Tone] = {"supported": "good", "refuted": "bad"}


def side_by_side(machines: Sequence[Machine]) -> Section | None:
    """Rows that more than one machine measured alike; None for one machine."""
    if len(machines) < 2:
        return None
    head = Section(id="machines", title="Machines side by side")
    found: dict[Alike, dict[str, Shown]] = {}
    for machine in machines:
        for row in machine.rows:
            found.setdefault(_alike(row), {})[machine.id] = row
    shared = {key: rows for key, rows in found.items() if len(rows) > 1}
    if not shared:
        return replace(head, missing="No arm and workload was measured on more than one machine.")
    lead = (
        "Only what more than one of them measured: the same model, engine, scheme, settings and "
        "workload. These were not measured in pairs, so the ratio has no interval and no verdict, "
        "and each is one card of its kind."
    )
    return replace(head, lead=lead, blocks=(_machine_table(machines, shared),))


Alike = tuple[str, str, str, str, str, str, Sizes]
"""An arm's name and settings, and its workload."""


def _alike(row: Shown) -> Alike:
    arm = row.arm
    return arm.name, arm.model, arm.engine, arm.quant, arm.mode, arm.dtype, row.sizes


def _machine_table(
    machines: Sequence[Machine], shared: Mapping[Alike, Mapping[str, Shown]]
) -> Table:
    heads = [Head(text="variant"), Head(text="workload", note="prompt+new ×batch")]
    heads += [Head(text=m.label, numeric=True, note="decode tok/s, GB peak") for m in machines]
    lines = []
    for key, rows in shared.items():
        cells = [Cell(text=key[0]), Cell(text=work_of(key[-1]))]
        first = next((rows[m.id] for m in machines if m.id in rows), None)
        base = None if first is None else first.value("decode_tok_s")
        cells += [_machine_cell(rows.get(machine.id), base) for machine in machines]
        lines.append(ChartLine(cells=tuple(cells)))
    return Table(
        id="machine-table",
        caption="Machines",
        heads=tuple(heads),
        lines=tuple(lines),
        notes=("× is relative to the first machine of the row that has a figure.",),
        filtered=len(lines) > 8,
    )


def _machine_cell(row: Shown | None, base: float | None) -> Cell:
    speed = None if row is None else row.value("decode_tok_s")
    if row is None or speed is None:
        return Cell(text=NOTHING, detail="not measured" if row is None else "")
    parts = []
    if base and speed != base:
        parts.append(ratio(speed / base))
    if peak := row.value("peak_memory_bytes"):
        parts.append(f"{gigabytes(peak)} GB")
    if not row.row.valid:
        parts.append(", ".join(row.row.reasons))
    return Cell(text=rate(speed), detail=", ".join(parts), value=speed)


def claims(judged: Sequence[tuple[ClaimFile, Sequence[Finding]]]) -> Section:
    """Published claims with verdicts and reasoning."""
    head = Section(id="claims", title="Do published claims hold?")
    if not judged:
        return replace(head, missing="No claims were judged (`--claim NAME`).")
    lead = (
        "Each claim is split into parts that evidence can decide. Evidence, strongest first: "
        "measured here, published measurements, a physical bound, list prices, a vendor's figure."
    )
    blocks: list[Table | Prose] = []
    for file, found in judged:
        source = file.source
        blocks.append(
            Prose(
                title=f"{source.publisher}, {source.date}: {source.title}",
                paragraphs=(
                    *(f"“{claim.translation}”" for claim in file.claims),
                    *sentences(file, found),
                ),
            )
        )
        blocks.append(_claim_table(file, found))
        blocks.append(
            Prose(
                summary=f"Reasoning on {file.name}, step by step",
                paragraphs=tuple(_reasoning(found)),
            )
        )
    return replace(head, lead=lead, blocks=tuple(blocks))


def _claim_table(file: ClaimFile, found: Sequence[Finding]) -> Table:
    keys = ("sub_claim", "claimed", "against", "verdict", "evidence", "found")
    return Table(
        id=f"claims-{file.name}",
        caption=f"Verdicts on {file.name}",
        heads=tuple(Head(text=text) for text in ("part", *keys[1:])),
        lines=tuple(
            ChartLine(cells=tuple(_claim_cell(key, row[key]) for key in keys))
            for row in claim_rows(found)
        ),
        folded=True,
    )


def _claim_cell(key: str, value: Any) -> Cell:
    tone: Tone = TONES.get(value, "open") if key == "verdict" else ""
    return Cell(text=str(value or NOTHING), tone=tone)


def _reasoning(found: Sequence[Finding]) -> Iterator[str]:
    """What was looked at and how it was judged, once for each part and baseline."""
    for item in found:
        against = f" against {item.baseline}" if item.baseline else ""
        yield f"{item.part.id}{against}: {item.verdict.outcome.replace('_', ' ')}. {item.part.text}"
        for step in item.verdict.steps:
            yield f"– judged: {step}"
        for evidence in item.evidence[:4]:
            told = "; ".join(evidence.steps[:3])
            source = f" ({evidence.source})" if evidence.source else ""
            yield f"– {evidence.level}: {evidence.invalid or evidence.scope}; {told}{source}"
        if item.note:
            yield f"– {item.note}"


def records(machine: Machine) -> Section:
    """The records behind every figure of a machine."""
    each = max(1, MOST_RECORDS // max(len(machine.rows), 1))
    lines: list[ChartLine] = []
    for number, row in enumerate(machine.rows):
        anchor = f"{machine.id}-g{number}"
        for i, one in enumerate(row.row.replicates[:each]):
            lines.append(
                ChartLine(
                    cells=_record_cells(machine, one),
                    group=anchor,
                    id=anchor if i == 0 else None,
                )
            )
    left = machine.n_records - len(lines)
    notes = (
        [f"{left} more records are not listed here; they are in the results folder."]
        if left
        else []
    )
    heads = (
        Head(text="record"),
        Head(text="variant"),
        Head(text="workload"),
        Head(text="replicate", numeric=True),
        Head(text="decode", numeric=True, note="tok/s"),
        Head(text="prefill", numeric=True, note="tok/s"),
        Head(text="started", note="UTC"),
        Head(text="status"),
    )
    table = Table(
        id=f"{machine.id}-records",
        caption=f"Records of {machine.label}",
        heads=heads,
        lines=tuple(lines),
        notes=tuple(notes),
        filtered=True,
    )
    lead = "One line is one workload of one fresh process; figures are medians over its requests."
    return Section(
        id=f"{machine.id}-behind", title="The records behind it", lead=lead, blocks=(table,)
    )


def _record_cells(machine: Machine, one: Replicate) -> tuple[Cell, ...]:
    codes = [*one.reasons, *(["DRIFT"] if one.ok and one.drifts else [])]
    said = ", ".join(dict.fromkeys(codes)) or one.message or ""
    return (
        Cell(text=one.key),
        Cell(text=machine.names[one.arm.name]),
        Cell(text=work_of(one.sizes), value=one.sizes.n_batch),
        Cell(text=str(one.index), value=one.index),
        cell(one.figures.get("decode_tok_s"), rate),
        cell(one.figures.get("prefill_tok_s"), rate),
        Cell(text=one.started_at[:19].replace("T", " ")),
        Cell(text="ok" if one.ok else "failed", detail=said),
    )


def environment(machine: Machine) -> Section:
    """The machine and software, and how it was measured."""
    host = machine.host
    items = [*host.identity.items(), *host.state.items()]
    lines = tuple(
        ChartLine(cells=(Cell(text=str(key)), Cell(text=_shown(value))))
        for key, value in items
        if value not in (None, {}, [])
    )
    table = Table(
        id=f"{machine.id}-environment",
        caption=f"Environment of {machine.label}",
        lines=lines,
        heads=(Head(text="what"), Head(text="as read")),
    )
    lead = f"Environment {host.id}." if host.recorded else "No environment was recorded."
    return Section(
        id=f"{machine.id}-machine",
        title=f"The machine: {machine.label}",
        lead=lead,
        blocks=(table, method(machine)),
    )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def method(machine: Machine) -> Prose:
    """How these records were made, from what they say of themselves."""
    counts = Counter(len(row.row.replicates) for row in machine.rows)
    replicates = ", ".join(str(count) for count in sorted(counts))
    clocks = sorted({one.clock for one in machine.summary.replicates if one.clock})
    origin = "" if machine.origin == "measured" else f"Origin of the records: {machine.origin}. "
    return Prose(
        summary="How it was measured",
        paragraphs=(
            f"{origin}Each replicate is a fresh process that loads the model, warms up until its "
            "speed is steady, and measures; the arms take turns in ABBA order so that drift "
            f"cancels. Replicates of each arm and workload: {replicates}.",
            f"Clock: {', '.join(clocks) or 'as recorded'}. Exactly the asked-for number of tokens "
            "is made; tokenizing and sampling on the host are outside prefill and decode.",
            "Results hold for this machine: cards of one model differ by several percent.",
        ),
    )
