"""The table of docs/models.md: what becomes of each architecture, as `scripts/zoo` prints it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.zoo.trial import Trial

PAGE: Final = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN: Final = "<!-- printed by scripts/zoo -->"
END: Final = "<!-- end of what scripts/zoo prints -->"

Outcomes = Mapping[str, Mapping[str, str]]
"""Architecture -> engine -> `right`, or why it is refused."""


def printed(trials: Sequence[Trial], version: str) -> str:
    """The section: a count, and a row for each architecture; reasons that many share once."""
    names = sorted({trial.name for trial in trials})
    of = {(trial.name, trial.engine): trial for trial in trials}
    right = {
        engine: sum(of[name, engine].outcome == "right" for name in names)
        for engine in ("transformers", "graph")
    }
    lines = [
        BEGIN,
        f"Of {len(names)} architectures of transformers {version}, {right['transformers']} are "
        f"right on engine `transformers` and {right['graph']} on `graph`; the table says why the "
        "others are refused.",
        "",
        "| architecture | `transformers` | `graph` |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| `{name}` | {_cell(of[name, 'transformers'])} | {_cell(of[name, 'graph'])} |"
        for name in names
    ]
    return "\n".join([*lines, END])


def _cell(trial: Trial) -> str:
    if trial.outcome == "right":
        return "right"
    why = re.sub(r"\s+", " ", trial.why).replace("|", "\\|")
    return f"{trial.outcome}: {why[:140]}"


def write(section: str, page: Path = PAGE) -> None:
    """Put the section in the page, in the place of the one before."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + section + after, encoding="utf-8")


def told(page: Path = PAGE) -> Outcomes:
    """What the page says of each architecture."""
    text = page.read_text(encoding="utf-8")
    section = text[text.index(BEGIN) : text.index(END)]
    rows = re.findall(r"^\| `([^`]+)` \| (.*?) \| (.*?) \|$", section, re.MULTILINE)
    return {name: {"transformers": eager, "graph": graph} for name, eager, graph in rows}
