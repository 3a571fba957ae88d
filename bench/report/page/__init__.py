"""Results -> a report: which question, what was found, and all that it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from bench import __version__
from bench.claims.files import claim_files, load_claims
from bench.claims.findings import findings
from bench.cost.prices import today
from bench.cost.throughput import throughputs
from bench.experiment import CostAssumption
from bench.experiment.kept import kept
from bench.experiment.selectors import arm_order
from bench.records import Line, to_json, utc_now
from bench.records.file import read, results_file
from bench.report.page import ceiling, context, evidence, explorer, headline, rivals, service
from bench.report.page.blocks import Block, Picture, Report, Section, Table
from bench.report.page.machines import Machine, machines
from bench.report.tables import to_csv
from bench.report.tables.row import shown, table
from bench.summary import Summary, load
from bench.summary.copies import Say

MOST_RAW_BYTES = 1_500_000
"""Raw records up to this size are put into the page, to be saved from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageOptions:
    """What the reader of a report asks for."""

    baseline: str | None = None
    claims: tuple[str, ...] | None = None
    """Names of sources; None takes all that ship."""
    cost: CostAssumption | None = None
    """Instead of what each experiment assumes."""


def assemble(
    paths: Sequence[Path], options: PageOptions | None = None, say: Say | None = None
) -> Report:
    """Read results folders or files and make the report. Raises InputError.

    `say` is told how far the reading of large results is.
    """
    asked = options or PageOptions()
    summary = load(*paths, say=say)
    found, problems = kept(paths)
    summary = summary.in_order(arm_order(found.values()))
    each = machines(summary, found, asked.baseline, asked.cost)
    cost = asked.cost or next((e.cost for e in found.values() if e.cost), None)
    questions = list(dict.fromkeys(e.question for e in found.values()))
    downloads, left_out = _downloads(paths, each)
    verdicts = [
        replace(verdict, machine=machine.label if len(each) > 1 else "")
        for machine in each
        for verdict in headline.verdicts(machine)
    ]
    reasons = dict.fromkeys(machine.not_compared for machine in each)
    return Report(
        question=questions[0] if questions else "What does a token cost on this machine?",
        further_questions=tuple(questions[1:]),
        facts=tuple(_facts(each)),
        warnings=tuple(_warnings(each, [*summary.problems, *problems])),
        verdicts=tuple(verdicts),
        no_verdict="; ".join(reason for reason in reasons if reason),
        headline=tuple(headline.table(machine) for machine in each),
        sections=tuple(_sections(each, summary, asked)),
        explorer=explorer.data(each, cost),
        downloads=downloads,
        left_out=left_out,
        version=__version__,
        made=f"{utc_now()[:19]}Z",
    )


def _facts(each: Sequence[Machine]) -> Iterator[str]:
    yield ", ".join(machine.label for machine in each)
    days = sorted(one.started_at[:10] for m in each for one in m.summary.replicates)
    if days:
        yield f"measured {days[0]}" if days[0] == days[-1] else f"measured {days[0]} to {days[-1]}"
    models = dict.fromkeys(row.arm.model for m in each for row in m.rows)
    yield ", ".join(models)
    count = sum(machine.n_records for machine in each)
    yield f"{count:,} record{'s' * (count != 1)}"


def _warnings(each: Sequence[Machine], problems: Sequence[str]) -> Iterator[str]:
    for origin in dict.fromkeys(machine.origin for machine in each):
        if origin != "measured":
            yield f"Origin of the records: {origin}. They were not measured by this tool."
    if problems:
        yield f"{len(problems)} lines or files could not be read, the first: {problems[0]}"


def _sections(each: Sequence[Machine], summary: Summary, asked: PageOptions) -> Iterator[Section]:
    beside = context.side_by_side(each)
    if beside is not None:
        yield beside
    for machine in each:
        for make in (
            evidence.ratios,
            evidence.batching,
            service.service,
            evidence.quality,
            ceiling.ceiling,
            evidence.energy,
        ):
            section = make(machine)
            if section is not None:
                yield _named(section, machine, each)
        items = throughputs(machine.summary)
        beside_apis = rivals.section(machine.id, machine.costs.values(), items, today())
        yield _named(beside_apis, machine, each)
    names = claim_files() if asked.claims is None else asked.claims
    files = [load_claims(name) for name in names]
    measured = replace(summary, rows=tuple(row for machine in each for row in machine.summary))
    yield context.claims([(file, findings(file, measured)) for file in files])
    for machine in each:
        yield context.environment(machine)
        yield _named(context.records(machine), machine, each)


def _named(section: Section, machine: Machine, each: Sequence[Machine]) -> Section:
    """The section, its title and captions naming the machine where there are several."""
    if len(each) == 1:
        return section
    blocks = tuple(_of_machine(block, machine.label) for block in section.blocks)
    return replace(section, title=f"{section.title} ({machine.label})", blocks=blocks)


def _of_machine(block: Block, label: str) -> Block:
    if isinstance(block, Table):
        return _captioned(block, label)
    if isinstance(block, Picture) and block.table is not None:
        return replace(block, table=_captioned(block.table, label))
    return block


def _captioned(table: Table, label: str) -> Table:
    if label in table.caption:
        return table
    return replace(table, caption=f"{table.caption} ({label})")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row for a spreadsheet: no tables in cells."""
    told = (f"{name}: {' '.join(codes)}" for name, codes in row["figure_reasons"].items())
    return row | {"absent": "", "figure_reasons": "; ".join(told)}


def _downloads(paths: Sequence[Path], each: Sequence[Machine]) -> tuple[Mapping[str, str], str]:
    """summary.csv, and records.jsonl where it is small enough; else why it is not there."""
    rows = [
        {"machine": machine.label, **_flat(table(row))}
        for machine in each
        for row in (machine.rows if machine.n_rows == len(machine.rows) else shown(machine.every))
    ]
    downloads = {"summary.csv": to_csv(rows)}
    if sum(results_file(path).stat().st_size for path in paths) > MOST_RAW_BYTES:
        return downloads, (
            "The raw records are too large for a page; they are in records.jsonl of the results "
            "folder."
        )
    results = read(*paths)
    every: Iterator[Line] = chain(results.environments.values(), results.records, results.qualities)
    lines = [to_json(line) for line in every]
    downloads["records.jsonl"] = "\n".join(lines) + "\n"
    return downloads, ""
