"""A comparison as a table that pastes into an issue, in words, and as a gate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.comparison import QUALITY, Rules
from bench.comparison.unpaired import REASON
from bench.experiment.selectors import short_names
from bench.records.codes import REASONS
from bench.report.tables import Column, column
from bench.summary.statistics import MIN_PAIRS

Row = Mapping[str, Any]


def columns(rows: Sequence[Row], rules: Rules) -> list[Column]:
    """Columns to read; what is the same in every row is not shown."""
    names = short_names([*(row["baseline"] for row in rows), *(row["candidate"] for row in rows)])
    timed = [row for row in rows if row["metric"] != QUALITY]
    swept = [
        column(key, heading)
        for key, heading in (("n_prompt", "prompt"), ("n_gen", "new"), ("n_batch", "batch"))
        if len({row[key] for row in timed}) > 1
    ]
    return [
        Column(heading="candidate", show=lambda row: names[row["candidate"]]),
        *swept,
        column("metric"),
        column("ratio", "ratio", ".3f"),
        Column(heading="difference", show=lambda row: _percent(row["ratio"])),
        Column(heading=f"{rules.confidence:.0%} interval", show=_interval),
        column("n_pairs", "n"),
        Column(heading="significant", show=lambda row: "yes" if row["significant"] else "no"),
        column("verdict"),
        Column(heading="reasons", show=lambda row: ", ".join(row["reasons"]) or "-"),
    ]


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio - 1:+.1%}"


def _interval(row: Row) -> str:
    if row["ci_low"] is None:
        return "-"
    return f"{row['ci_low']:.3f} .. {row['ci_high']:.3f}"


def words(rows: Sequence[Row], rules: Rules) -> Iterator[str]:
    """What the table means."""
    names = short_names([*(row["baseline"] for row in rows), *(row["candidate"] for row in rows)])
    for candidate in dict.fromkeys(row["candidate"] for row in rows):
        mine = [row for row in rows if row["candidate"] == candidate]
        for row in mine:
            if row["metric"] == "decode":
                yield f"**{names[candidate]}** against {names[row['baseline']]}: {_decode(row)}."
    if all(REASON in row["reasons"] for row in rows):
        yield (
            "Ratios are candidate / baseline of each arm's geometric mean. Another tool's figures "
            "are not pairs of fresh processes: there is no interval, and no verdict."
        )
    else:
        yield (
            "Ratios are candidate / baseline over pairs of fresh processes; `same` means within "
            f"{rules.margin:.0%}, and significance is adjusted (Holm) over this table."
        )
    if any("TOO_FEW_PAIRS" in row["reasons"] for row in rows):
        yield f"A verdict needs {MIN_PAIRS} good pairs: `bench run --level standard` measures 8."
    left_out = max((row["n_left_out"] for row in rows), default=0)
    if left_out:
        yield f"Up to {left_out} pairs were left out because of the reasons shown."
    for reason in sorted({reason for row in rows for reason in row["reasons"]}):
        yield f"`{reason}`: {REASONS.get(reason, 'see the records')}."


def _decode(row: Row) -> str:
    batch = f" x {row['n_batch']}" if row["n_batch"] else ""
    work = f"{row['n_prompt']}+{row['n_gen']}{batch}"
    if row["verdict"] == "invalid":
        return f"no verdict on decoding at {work}: the records are no evidence"
    if row["verdict"] == "ambiguous":
        return f"no verdict on decoding at {work}"
    if row["verdict"] == "same":
        return f"decodes as fast at {work}"
    said = f"decodes {row['ratio']:.2f}x as fast at {work} ({_interval(row)})"
    faster = row["verdict"] == "higher"
    quality = {True: "at equal quality", False: "not at equal quality", None: "quality not known"}
    return f"{said}: {'faster' if faster else 'slower'}, {quality[row['equal_quality']]}"


def gate_failures(
    rows: Sequence[Row], metrics: Sequence[str], below: float | None, above: float | None
) -> list[str]:
    """One line for each row whose interval does not keep the gate; an interval that is missing
    keeps none."""
    failures = []
    if below is not None or above is not None:
        found = {(row["candidate"], row["metric"]) for row in rows}
        for name in dict.fromkeys(row["candidate"] for row in rows) or ("any arm",):
            failures += [
                f"{metric} of {name}: nothing measured it"
                for metric in metrics
                if (name, metric) not in found
            ]
    for row in rows:
        if row["metric"] not in metrics:
            continue
        at = f"{row['metric']} of {row['candidate']}"
        for bound, limit, word in (
            (below, row["ci_low"], "below"),
            (above, row["ci_high"], "above"),
        ):
            if bound is None:
                continue
            if limit is None or row["verdict"] == "invalid":
                failures.append(f"{at}: no valid interval ({', '.join(row['reasons']) or 'none'})")
            elif (limit < bound) if word == "below" else (limit > bound):
                failures.append(f"{at}: interval {_interval(row)} reaches {word} {bound:g}")
    return failures
