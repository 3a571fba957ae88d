"""A report as Markdown, to paste into an issue or keep beside a README."""

from __future__ import annotations

from collections.abc import Iterator

from bench.report.page.blocks import Cell, Picture, Prose, Report, Section, Table
from bench.report.tables import column
from bench.report.tables import to_markdown as pipe_table
from bench.text import one_line

MOST_LINES = 60
"""Lines of one table; the page has them all."""


def to_markdown(report: Report) -> str:
    """The whole report; charts are `bench report --to figures/`."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# {plain(report.question)}\n"
    yield f"{plain(' · '.join(report.facts))}\n"
    for question in report.further_questions:
        yield f"And: {plain(question)}\n"
    for warning in report.warnings:
        yield f"> {plain(warning)}\n"
    for verdict in report.verdicts:
        facts = plain("; ".join(verdict.facts))
        yield f"- **{plain(verdict.name)}**: {verdict.figure}. {verdict.words}. {facts}"
    if not report.verdicts:
        yield f"No verdict: {plain(report.no_verdict) or 'there is nothing to compare'}."
    yield ""
    for table in report.headline:
        yield from _table(table)
    for section in report.sections:
        yield from _section(section)
    yield f"Made {report.made} by gpu-cost-bench {report.version}."


def _section(section: Section) -> Iterator[str]:
    yield f"## {plain(section.title)}\n"
    for text in (section.lead, section.missing):
        if text:
            yield f"{plain(text)}\n"
    for block in section.blocks:
        if isinstance(block, Table):
            yield from _table(block)
        elif isinstance(block, Picture):
            yield f"### {plain(block.title)}\n"
            yield f"{plain(block.caption if block.spec else f'No chart: {block.missing}.')}\n"
            if block.table is not None:
                yield from _table(block.table)
            elif block.spec:
                yield "\n".join(f"- {plain(part)}" for part in block.alt.split("; ")) + "\n"
        elif isinstance(block, Prose) and not block.summary:
            if block.title:
                yield f"### {plain(block.title)}\n"
            yield "\n\n".join(map(plain, block.paragraphs)) + "\n"


def _table(table: Table) -> Iterator[str]:
    if not table.lines:
        return
    yield f"**{plain(table.caption)}**\n"
    keys = [str(number) for number in range(len(table.heads))]
    columns = [
        column(key, plain(f"{head.text}, {head.note}" if head.note else head.text) or " ")
        for key, head in zip(keys, table.heads, strict=True)
    ]
    lines = [dict(zip(keys, map(_cell, line.cells), strict=True)) for line in table.lines]
    yield pipe_table(lines[:MOST_LINES], columns)
    if len(table.lines) > MOST_LINES:
        yield f"{len(table.lines) - MOST_LINES} more lines are on the page.\n"
    if table.notes:
        yield "\n".join(f"- {plain(note)}" for note in table.notes) + "\n"


def _cell(cell: Cell) -> str:
    return plain(f"{cell.text} ({cell.detail})" if cell.detail else cell.text)


def plain(text: str) -> str:
    """Text that Markdown takes for text: no tags, no line that begins something."""
    for sign in ("&", "<", ">"):
        text = text.replace(sign, {"&": "&amp;", "<": "&lt;", ">": "&gt;"}[sign])
    return one_line(text.replace("`", "'").replace("](", "]\\("))
