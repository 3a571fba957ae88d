"""Ratios of arms that were not measured in pairs: shown, and never judged.

Other tools repeat inside one process, or run one arm today and the other tomorrow. Such repeats say
how steady a process was, not what a fresh one would have shown, and pairing them by their index
would make an interval out of nothing (docs/method.md). So there is a ratio and a reason, and no
interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import geometric_mean
from typing import Any

from bench.records import OWN, Record

REASON = "NOT_PAIRED"


def not_paired(records: Iterable[Record]) -> bool:
    """Whether any of the records comes from another tool."""
    return any(record.origin not in OWN for record in records)


def ratio_row(
    head: Mapping[str, Any],
    of: Callable[[Record], float | None],
    baseline: Sequence[Record],
    candidate: Sequence[Record],
    marks: set[str],
) -> dict[str, Any] | None:
    """A row of `bench compare` without interval or verdict; None where an arm lacks the figure.

    The ratio is that of the arms' geometric means. `head` holds what names the row.
    """
    sides = [_figures(of, records) for records in (baseline, candidate)]
    if not all(sides):
        return None
    ratio = geometric_mean(sides[1]) / geometric_mean(sides[0])
    codes = {code for record in (*baseline, *candidate) for code in record.reasons}
    return {
        **head,
        "ratio": ratio,
        "ci_low": None,
        "ci_high": None,
        "n_pairs": 0,
        "n_left_out": 0,
        "p_value": None,
        "t_p_value": None,
        "t_agrees": None,
        "reasons": sorted({REASON, *marks, *codes}),
        "significant": False,
        "verdict": "ambiguous",
    }


def _figures(of: Callable[[Record], float | None], records: Sequence[Record]) -> list[float]:
    found = (of(record) for record in records if record.status == "ok")
    return [figure for figure in found if figure is not None and figure > 0]
