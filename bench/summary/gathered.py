"""Rows out of the columnar copies of some results files: grouped as `bench.summary.rows` groups
records, without making them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bench.errors import InputError
from bench.records import Environment, QualityRecord, Record
from bench.records.file import Results, keep_environment, keep_last, run_of
from bench.summary.arm import Sizes, host_of, labels
from bench.summary.columns import FIGURE, line_at
from bench.summary.copies import Say, copies_of
from bench.summary.limits import Ceiling, Ceilings
from bench.summary.quality import arm_qualities
from bench.summary.rows import Arms, Row, RowKey, Summary, replicate_under
from bench.summary.service import with_levels
from bench.summary.stored import Columns, StoredReplicate, StoredReplicates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.summary.copies import PartCopy

    Whole = NDArray[np.int64]

SPEED_NAMES: Final = ("decode_tok_s", "output_tok_s", "prefill_tok_s")
"""What a ceiling looks at."""


def gather(files: Sequence[Path], say: Say | None = None) -> tuple[Columns, Results]:
    """The columns of some results files, and what in them is no measurement.

    Of a key in a file the last line counts, an `ok` one before a failure; of work that two files
    hold alike, one. Raises InputError where a file cannot be read.
    """
    each = [copies_of(file, say) for file in files]
    columns = Columns([part for parts in each for part in parts])
    results = Results()
    for file, parts in zip(files, each, strict=True):
        _add_others(results, file, parts)
    kept = _counting(columns, [_n_rows(parts) for parts in each])
    if kept is not None:
        columns.keep(kept)
    return columns, results


def stored_summary(files: Sequence[Path], say: Say | None = None) -> Summary:
    """The rows of some large results files. Raises InputError where one cannot be read."""
    columns, results = gather(files, say)
    qualities = tuple(arm_qualities(results.qualities))
    groups = _groups(columns)
    places = dict.fromkeys((key.environment, key.origin) for key in groups)
    hosts = {id_: host_of(id_, results.environments.get(id_)) for id_, _ in places}
    names = labels({place: hosts[place[0]] for place in places})
    quality = {(one.environment, one.arm): one.figures for one in qualities}
    ceilings, arms, rows = Ceilings(), Arms(), []
    beyond = []
    for key, numbers in groups.items():
        first, host = StoredReplicate(columns, int(numbers[0])), hosts[key.environment]
        ceiling = ceilings.of(host, first.arm, key.sizes, key.origin, first.absent.get("n_batch"))
        replicates: Any = StoredReplicates(columns, numbers)
        if key.sizes.slo:  # a search looks at the samples of its probes
            records = [columns.record(number) for number in numbers.tolist()]
            replicates = tuple(replicate_under(one, arms, key.sizes, ceiling) for one in records)
        else:
            beyond.append(_beyond(columns, numbers, ceiling, key.sizes))
        rows.append(
            Row(
                key=key,
                host=host,
                label=names[key.environment, key.origin],
                arm=first.arm,
                replicates=replicates,
                quality=quality.get((key.environment, key.arm)),
                ceiling=ceiling,
            )
        )
    columns.mark_beyond(np.concatenate([np.zeros(0, dtype=np.int64), *beyond]))
    return Summary(
        rows=tuple(with_levels(rows)),
        hosts=hosts,
        qualities=qualities,
        problems=tuple(results.problems),
    )


# --- which lines count -------------------------------------------------------------------------


def _n_rows(parts: Sequence[PartCopy]) -> int:
    return sum(part.footer.num_rows for part in parts)


def _add_others(results: Results, file: Path, parts: Sequence[PartCopy]) -> None:
    """Add environments, qualities and broken lines of a file."""
    qualities: dict[str, QualityRecord] = {}
    before = 0
    for part in parts:
        about = json.loads(part.footer.metadata[b"about"])
        results.problems += [
            f"{file}:{before + number}: {why}" for number, why in about["problems"]
        ]
        for line in _lines(file, about["environments"]):
            assert isinstance(line, Environment)
            keep_environment(results.environments, line)
        for line in _lines(file, about["qualities"]):
            assert isinstance(line, QualityRecord)
            keep_last(qualities, line)
        before += about["lines"]
    found = {run_of(one): one for one in results.qualities}
    results.qualities = list((found | {run_of(one): one for one in qualities.values()}).values())


def _lines(
    file: Path, places: Sequence[tuple[int, int]]
) -> Iterator[Environment | Record | QualityRecord]:
    for offset, length in places:
        try:
            yield line_at(file, offset, length)
        except InputError as error:
            raise InputError(f"{file}: changed while it was read ({error}); try again") from error


def _counting(columns: Columns, sizes: Sequence[int]) -> Whole | None:
    """The rows that count, in order of the first line of their key; None where all do."""
    keys = columns.unlike("key")
    ok = columns.array("ok").astype(bool)
    kept, begin = [], 0
    for size in sizes:
        mine = slice(begin, begin + size)
        kept.append(begin + _last_of_each(keys[mine], ok[mine]))
        begin += size
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *kept])
    if len(sizes) > 1:
        runs = _together(
            keys[rows], columns.coded("environment")[0][rows], columns.unlike("started_at")[rows]
        )
        rows = rows[_last_of_each(runs, np.ones(len(rows), dtype=bool))]
    every = len(rows) == sum(sizes) and bool((rows == np.arange(len(rows))).all())
    return None if every else rows


def _together(*codes: Whole) -> Whole:
    """One code for what several say together."""
    found = np.zeros(len(codes[0]), dtype=np.int64)
    for code in codes:
        _, mine = np.unique(code, return_inverse=True)
        _, found = np.unique(found * (int(mine.max(initial=0)) + 1) + mine, return_inverse=True)
    return found


def _last_of_each(codes: Whole, ok: NDArray[np.bool_]) -> Whole:
    """Of each code the last place that is ok, else the last; in order of its first place."""
    _, first, group = np.unique(codes, return_index=True, return_inverse=True)
    if len(first) == len(codes):
        return np.arange(len(codes))
    last = np.full(len(first), -1, dtype=np.int64)
    places = np.arange(len(codes))
    np.maximum.at(last, group[ok], places[ok])
    failed = last < 0
    of_failed = failed[group]
    np.maximum.at(last, group[of_failed], places[of_failed])
    found: Whole = last[np.argsort(first, kind="stable")]
    return found


# --- which are pooled --------------------------------------------------------------------------


def _groups(columns: Columns) -> dict[RowKey, Whole]:
    """What is pooled, in order of first appearance."""
    if not len(columns):
        return {}
    code = np.zeros(len(columns), dtype=np.int64)
    for name in ("environment", "origin", "variant", "sizes"):
        codes, values = columns.coded(name)
        if name == "variant":  # arms of one name are one
            places: dict[str, int] = {}
            names = [places.setdefault(arm.name, len(places)) for arm in columns.arms]
            codes = np.array(names)[codes]
        code = code * len(values) + codes
    _, first, group = np.unique(code, return_index=True, return_inverse=True)
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(group))[:-1])
    found = {}
    for at in np.argsort(first, kind="stable").tolist():
        one = StoredReplicate(columns, int(first[at]))
        found[RowKey(one.environment, one.origin, one.arm.name, one.sizes)] = parts[at]
    return found


def _beyond(columns: Columns, numbers: Whole, ceiling: Ceiling, sizes: Sizes) -> Whole:
    """Records above their bound: seldom any, so the largest figures are looked at first."""
    none = np.zeros(0, dtype=np.int64)
    if ceiling.most is None:
        return none
    speeds = {name: columns.array(FIGURE + name)[numbers] for name in SPEED_NAMES}
    known = {name: values[~np.isnan(values)] for name, values in speeds.items()}
    largest = {name: float(values.max()) if len(values) else None for name, values in known.items()}
    if not ceiling.passed(largest, sizes):
        return none
    passed = [
        ceiling.passed({name: _known(values[i]) for name, values in speeds.items()}, sizes)
        for i in range(len(numbers))
    ]
    found: Whole = numbers[np.array(passed, dtype=bool)]
    return found


def _known(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)
