"""What a report is made of, before it is HTML or Markdown: tables, pictures, sections.

Nothing here is escaped; each writer escapes for its own format. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Tone = Literal["", "good", "bad", "mixed", "even", "open"]
"""How a figure reads: better, worse, better at a price, no difference, not decided. Never shown by
colour alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A column's heading."""

    text: str
    numeric: bool = False
    note: str = ""
    """Unit or meaning, in small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One cell: its text, what is written small below it, and what it sorts by."""

    text: str
    detail: str = ""
    value: float | None = None
    href: str | None = None
    """A place in the page, `#...`."""
    tone: Tone = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartLine:
    """One row of a table; `id` is its place in the page."""

    cells: tuple[Cell, ...]
    id: str | None = None
    group: str | None = None
    """What JavaScript filters by when a link asks for the records behind a figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    id: str
    caption: str
    heads: tuple[Head, ...]
    lines: tuple[ChartLine, ...]
    notes: tuple[str, ...] = ()
    filtered: bool = False
    """Whether the reader gets a field to filter rows by."""
    folded: bool = False
    """Whether the page shows it only when asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A chart, or why there is none."""

    id: str
    title: str
    caption: str
    alt: str
    """What it shows, in words, for those who do not see it."""
    spec: Mapping[str, Any] | None = None
    """Vega-Lite, with the colours of `bench.report.page.pictures`."""
    missing: str = ""
    table: Table | None = None
    """The figures that are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prose:
    """Paragraphs, or steps behind a heading that opens."""

    paragraphs: tuple[str, ...]
    title: str = ""
    summary: str = ""
    """Where it is folded away: what opens it."""


Block = Table | Picture | Prose


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    id: str
    title: str
    lead: str = ""
    blocks: tuple[Block, ...] = ()
    missing: str = ""
    """Why the section is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownVerdict:
    """What may be said of one candidate."""

    candidate: str
    baseline: str
    machine: str = ""
    """Where it was measured; empty where there is only one."""
    tone: Tone
    figure: str
    """The ratio of decoding, or a dash."""
    words: str
    facts: tuple[str, ...]
    """The first is what `figure` is a ratio of, with its interval."""
    href: str

    @property
    def name(self) -> str:
        """Both arms, and the machine where there are several."""
        where = f", {self.machine}" if self.machine else ""
        return f"{self.candidate} against {self.baseline}{where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole report."""

    question: str
    further_questions: tuple[str, ...]
    facts: tuple[str, ...]
    """Machine, date, number of records."""
    warnings: tuple[str, ...]
    verdicts: tuple[ShownVerdict, ...]
    no_verdict: str
    headline: tuple[Table, ...]
    sections: tuple[Section, ...]
    explorer: Mapping[str, Any]
    downloads: Mapping[str, str] = field(default_factory=dict)
    """File name -> its text, to be saved from the page."""
    left_out: str = ""
    """Why the raw records are not among the downloads."""
    version: str
    made: str

    @property
    def pictures(self) -> Iterator[Picture]:
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, Picture):
                    yield block
