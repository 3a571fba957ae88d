"""The table of reason codes, for docs/method.md."""

from __future__ import annotations

from bench.records.codes import ALL, CODES, TIME, Code
from bench.report.tables import figure, to_markdown


def table() -> str:
    """One row a code: what it means, what it touches, and what a comparison does about it."""
    columns = [
        figure("code", lambda code: f"`{code.name}`"),
        figure("meaning", lambda code: code.sentence),
        figure("touches", _touches),
        figure("in a comparison", _effect),
    ]
    return to_markdown(list(CODES.values()), columns)


def _touches(code: Code) -> str:
    if code.touches == ALL:
        return "all"
    words = "prefill, decode" if code.touches == TIME else ", ".join(sorted(code.touches))
    return f"{words}, or the one that the record names" if code.by_phase else words


def _effect(code: Code) -> str:
    return "the pair is left out" if code.excludes else f"listed: {code.still}"
