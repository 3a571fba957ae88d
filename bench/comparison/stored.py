"""An arm against itself in the results of another run: yesterday's, or another checkout's.

What changed between the two runs is in the ratio: the machine's state as much as the code. So each
row carries `STORED_BASELINE`, unless the runs took turns, replicate by replicate; then their
replicates are pairs like any others. docs/ci.md shows both ways.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from bench.comparison import Rules, by_workload, compare
from bench.comparison.judging import pairs_of
from bench.comparison.row import Compared
from bench.errors import InputError, unknown
from bench.experiment.selectors import selects
from bench.records.file import Results
from bench.summary import Replicate, Row, Summary, summarise
from bench.summary.pooling import listed

REASON = "STORED_BASELINE"
SUFFIX = "/stored"


def beside(
    results: Results | Summary,
    stored: Results | Summary,
    rules: Rules,
    candidate: str | None = None,
) -> list[Compared]:
    """Rows of `bench compare` in which each arm's baseline is the stored arm of its name.

    Raises InputError if no arm is in both, or if both are the same records.
    """
    new, earlier = summarise(results), summarise(stored)
    if _runs(new) & _runs(earlier):
        raise InputError("the results and the stored ones hold the same records")
    arms, old = new.arms, earlier.arms
    names = [name for name in arms if name in old]
    if not names:
        known = ", ".join(old) or "none"
        raise InputError(f"no arm of the results is among the stored ones; those are: {known}")
    if candidate is not None:
        known_names = names
        names = [name for name in names if selects(candidate, arms[name][0].arm.settings)]
        if not names:
            raise InputError(unknown("candidate", candidate, known_names))
    apart = dataclasses.replace(rules, in_turns=False)
    both = earlier.renamed(SUFFIX).beside(new)
    rows = compare(both, apart, versus={name: name + SUFFIX for name in names})
    turns = {name: took_turns(old[name], arms[name]) for name in names}
    return [row if turns[row.candidate] else _marked(row) for row in rows]


def took_turns(old: Sequence[Row], new: Sequence[Row]) -> bool:
    """Whether each replicate of one run was measured beside its like in the other.

    So it is if no replicate started before both replicates of the pair before it had.
    """
    ours, theirs = by_workload(old), by_workload(new)
    each = [pairs_of(ours[sizes], theirs[sizes]).times_us() for sizes in ours if sizes in theirs]
    return bool(each) and all(
        len(first) > 1 and bool((second[:-1] <= first[1:]).all()) for first, second in each
    )


def _marked(row: Compared) -> Compared:
    return dataclasses.replace(row, reasons=tuple(sorted({*row.reasons, REASON})))


def _runs(summary: Summary) -> set[tuple[str, str, str]]:
    return {run for row in summary for run in zip(*_said(row.replicates), strict=True)}


def _said(replicates: Sequence[Replicate]) -> Iterator[list[str]]:
    return (listed(replicates, name) for name in ("key", "environment", "started_at"))
