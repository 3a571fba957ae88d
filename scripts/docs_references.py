"""The table of the reference results that ship, for results/README.md."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench.experiment import load_experiment
from bench.records import FILE
from bench.records.file import read
from bench.report.page.blocks import ShownVerdict
from bench.report.page.headline import verdicts
from bench.report.page.machines import machines
from bench.report.tables import column, to_markdown


def table(folder: Path) -> str:
    """One row for each folder of results and machine, with what came out; by name."""
    rows = [
        row
        for found in sorted(folder.iterdir())
        if (found / FILE).is_file() and (found / "experiment.toml").is_file()
        for row in _rows(found)
    ]
    heads = ("results", "machine", "measured", "question", "replicates", "what came out")
    head, rule, *lines = to_markdown(rows, [column(name) for name in heads]).splitlines()
    linked = (
        line.replace(row["results"], f"[{row['name']}]({row['name']})", 1)
        for line, row in zip(lines, rows, strict=True)
    )
    return "\n".join((head, rule, *linked)) + "\n"


def _rows(folder: Path) -> list[dict[str, str]]:
    experiment = load_experiment(str(folder / "experiment.toml"))
    return [
        {
            "name": folder.name,
            # As wide as the link that takes its place: what a table shows is never a link itself.
            "results": "x" * len(f"[{folder.name}]({folder.name})"),
            "machine": machine.label,
            "measured": min(one.started_at for one in machine.summary.replicates)[:10],
            "question": experiment.question,
            "replicates": str(max(len(row.row.replicates) for row in machine.rows)),
            "what came out": _said(verdicts(machine)) or f"no comparison: {machine.not_compared}",
        }
        for machine in machines(read(folder), {experiment.name: experiment})
    ]


def _said(found: Iterable[ShownVerdict]) -> str:
    """What each arm is judged by over its baseline; arms of which the same may be said together."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for one in found:
        what = one.facts[0].partition(" (")[0]
        arms = alike.setdefault((what, one.baseline, one.words), [])
        arms.append(f"{one.candidate} {one.figure}")
    return "; ".join(
        f"{what} over that of {baseline}: {', '.join(arms)} ({words})"
        for (what, baseline, words), arms in alike.items()
    )
