"""An arm against itself in the results of another run: yesterday's, or another checkout's.

What changed between the two runs is in the ratio: the machine's state as much as the code. So each
row carries `STORED_BASELINE`, unless the runs took turns, replicate by replicate; then their
replicates are pairs like any others. docs/ci.md shows both ways.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, TypeVar

from bench.comparison import Rules, compare
from bench.comparison.judging import pairs_of
from bench.errors import InputError, unknown
from bench.experiment import Workload
from bench.records import QualityRecord, Record
from bench.records.file import Results

REASON = "STORED_BASELINE"
SUFFIX = "/stored"
_Line = TypeVar("_Line", Record, QualityRecord)


def beside(
    results: Results, stored: Results, rules: Rules, candidate: str | None = None
) -> list[dict[str, Any]]:
    """Rows of `bench compare` in which each arm's baseline is the stored arm of its name.

    Raises InputError if no arm is in both, or if both are the same records.
    """
    if {_run(r) for r in results.records} & {_run(r) for r in stored.records}:
        raise InputError("the results and those to compare with hold the same records")
    arms, old = _by_name(results.records), _by_name(stored.records)
    names = [name for name in arms if name in old]
    if not names:
        known = ", ".join(old) or "none"
        raise InputError(f"no arm of the results is among the stored ones; those are: {known}")
    if candidate is not None:
        known_names, names = names, [n for n in names if _matches(arms[n][0], candidate)]
        if not names:
            raise InputError(unknown("candidate", candidate, known_names))
    both = Results(
        environments=stored.environments | results.environments,
        records=[*map(_renamed, stored.records), *results.records],
        qualities=[*map(_renamed, stored.qualities), *results.qualities],
    )
    apart = dataclasses.replace(rules, in_turns=False)
    rows = compare(both, apart, versus={name: name + SUFFIX for name in names})
    turns = {name: took_turns(old[name], arms[name]) for name in names}
    return [row if turns[row["candidate"]] else _marked(row) for row in rows]


def took_turns(old: Sequence[Record], new: Sequence[Record]) -> bool:
    """Whether each replicate of one run was measured beside its like in the other.

    So it is if no replicate started before both replicates of the pair before it had.
    """
    by_workload: dict[Workload, list[tuple[datetime, datetime]]] = {}
    for pair in pairs_of(old, new):
        work = Workload(**pair.baseline.workload)
        by_workload.setdefault(work, []).append(pair.times)
    each = by_workload.values()
    return bool(each) and all(
        len(pairs) > 1 and all(one[1] <= later[0] for one, later in pairwise(pairs))
        for pairs in each
    )


def _renamed(line: _Line) -> _Line:
    """The line as one of another arm."""
    variant: Mapping[str, Any] = line.variant
    return dataclasses.replace(line, variant=dict(variant) | {"name": variant["name"] + SUFFIX})


def _marked(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"reasons": sorted({*row["reasons"], REASON})}


def _by_name(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.variant["name"], []).append(record)
    return found


def _matches(record: Record, selector: str) -> bool:
    names = ("name", "model", "engine", "quant", "mode")
    return selector in (record.variant.get(key) for key in names)


def _run(record: Record) -> tuple[str, str, str]:
    return record.key, record.environment, record.started_at
