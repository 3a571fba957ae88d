"""A comparison as a table that pastes into an issue, in words, and as a gate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from bench.comparison import Rules
from bench.comparison.row import Across, Compared
from bench.comparison.unpaired import REASON
from bench.experiment.selectors import short_names
from bench.records.codes import sentence
from bench.report.tables import Column, figure, sweeps
from bench.statistics.paired import MIN_PAIRS
from bench.statistics.unpaired import UnpairedRatio
from bench.summary import Sizes


def table(row: Compared) -> dict[str, Any]:
    """The keys that the contract gives `bench compare -o json`, and more."""
    made: dict[str, Any] = {
        "metric": row.metric,
        **(dict.fromkeys(Sizes._fields) if row.sizes is None else row.sizes._asdict()),
        "baseline": row.baseline,
        "candidate": row.candidate,
        "equal_quality": row.equal_quality,
        "ratio": row.ratio,
        "ci_low": row.ci_low,
        "ci_high": row.ci_high,
        "n_pairs": row.n_pairs,
        "n_left_out": row.n_left_out,
        "better": row.better,
        "p_value": row.p_value,
        "p_adjusted": row.p_adjusted,
        "t_p_value": row.t_p_value,
        "t_agrees": row.t_agrees,
        "reasons": list(row.reasons),
    }
    if row.across is not None:
        made |= _of_machines(row.across, row.unpaired)
    return made | {"significant": row.significant, "verdict": row.verdict}


def _of_machines(across: Across, found: UnpairedRatio | None) -> dict[str, Any]:
    """Keys of a comparison between machines; None where there are no replicates to make it of."""
    made = asdict(across) | {"differs": list(across.differs)}
    return made | {name: getattr(found, name, None) for name in OF_REPLICATES}


OF_REPLICATES: Final = tuple(
    f"{name}_{side}"
    for name in ("n", "machines", "restart_sd", "machine_sd")
    for side in ("baseline", "candidate")
)


def _names(rows: Sequence[Compared]) -> dict[str, str]:
    return short_names([*(row.baseline for row in rows), *(row.candidate for row in rows)])


OTHER_UNITS: Final = {"ttft": "prefill", "tpot": "decode", "e2e": "cost"}
"""Figures that, offline, are the same question as another in other units: inverted, or times the
price of an hour."""


def to_read(rows: Sequence[Compared]) -> list[Compared]:
    """The rows without those that only repeat another row's ratio in other units."""
    ratios = {(row.candidate, row.sizes, row.metric): row.ratio for row in rows}

    def repeats(row: Compared) -> bool:
        other = ratios.get((row.candidate, row.sizes, OTHER_UNITS.get(row.metric, "")))
        if not other or not row.ratio:
            return False
        distance = abs(math.log(row.ratio)) - abs(math.log(other))
        return abs(distance) < SAME_RATIO

    return [row for row in rows if not repeats(row)]


SAME_RATIO: Final = 1e-3
"""Logarithms of ratios nearer than this are one figure in two units."""


def columns(rows: Sequence[Compared], rules: Rules) -> list[Column]:
    """Columns to read; what is the same in every row is not shown."""
    names = _names(rows)
    timed = [row.sizes for row in rows if row.sizes is not None]
    everywhere = _everywhere(rows)

    def reasons(row: Compared) -> str:
        return ", ".join(code for code in row.reasons if code not in everywhere) or "-"

    made = [
        figure("candidate", lambda row: names[row.candidate]),
        *sweeps(timed, lambda row: row.sizes),
        figure("metric", lambda row: row.metric),
        figure("ratio", lambda row: row.ratio, ".3f"),
        figure(f"{rules.confidence:.0%} interval", interval),
        figure("n", lambda row: row.n_pairs),
        figure("verdict", lambda row: row.verdict),
    ]
    if any(reasons(row) != "-" for row in rows):
        made.append(figure("reasons", reasons))
    return made


def _everywhere(rows: Sequence[Compared]) -> set[str]:
    """Reasons that every row of a workload has; they are said once, below the table."""
    timed = [set(row.reasons) for row in rows if row.sizes is not None]
    return set.intersection(*timed) if timed else set()


def percent(ratio: float | None) -> str:
    """How far a ratio is from 1."""
    return "-" if ratio is None else f"{ratio - 1:+.1%}"


def interval(row: Compared) -> str:
    """Both ends; `-` where there is none."""
    if row.ci_low is None:
        return "-"
    return f"{row.ci_low:.3f} .. {row.ci_high:.3f}"


def words(rows: Sequence[Compared], rules: Rules) -> Iterator[str]:
    """What the table means."""
    names = _names(rows)
    for candidate in dict.fromkeys(row.candidate for row in rows):
        mine = [row for row in rows if row.candidate == candidate]
        for row in mine:
            if row.metric == "decode" or at_level(row):
                said = _cost(row) if at_level(row) else _decode(row)
                yield f"**{names[candidate]}** against {names[row.baseline]}: {said}."
    if all(REASON in row.reasons for row in rows):
        yield (
            "Ratios are candidate / baseline of each arm's geometric mean. Another tool's figures "
            "are not pairs of fresh processes: there is no interval, and no verdict."
        )
    else:
        yield (
            "Ratios are candidate / baseline over pairs of fresh processes; `same` means within "
            f"{rules.margin:.0%}, and significance is adjusted (Holm) over this table."
        )
    if any("TOO_FEW_PAIRS" in row.reasons for row in rows):
        yield f"A verdict needs {MIN_PAIRS} good pairs: `bench run --level standard` measures 8."
    left_out = max((row.n_left_out for row in rows), default=0)
    if left_out:
        pairs = "pair was" if left_out == 1 else "pairs were"
        yield f"Up to {left_out} {pairs} left out because of the reasons shown."
    everywhere = _everywhere(rows)
    for reason in sorted({reason for row in rows for reason in row.reasons}):
        where = " (every workload)" if reason in everywhere else ""
        yield f"`{reason}`{where}: {sentence(reason)}."


def at_level(row: Compared) -> bool:
    """Whether it is the cost of the highest load within some limits."""
    return row.metric == "cost" and row.sizes is not None and row.sizes.slo != ""


def _cost(row: Compared) -> str:
    assert row.sizes is not None, "a load is of a workload"
    said = (
        f"a token costs {row.ratio:.2f}x ({interval(row)}) at the highest load" if row.ratio else ""
    )
    said = said or "the cost is not known at the highest load"
    verdicts = {"lower": "cheaper", "higher": "dearer", "same": "no difference"}
    return f"{said} within {row.sizes.slo}: {verdicts.get(row.verdict, 'no verdict')}"


def _decode(row: Compared) -> str:
    assert row.sizes is not None, "decoding is of a workload"
    batch = f" x {row.sizes.n_batch}" if row.sizes.n_batch else ""
    work = f"{row.sizes.n_prompt}+{row.sizes.n_gen}{batch}"
    if row.verdict == "invalid":
        return f"no verdict on decoding at {work}: the records are no evidence"
    if row.verdict == "ambiguous":
        return f"no verdict on decoding at {work}"
    if row.verdict == "same":
        return f"decodes as fast at {work}"
    said = f"decodes {row.ratio:.2f}x as fast at {work} ({interval(row)})"
    faster = row.verdict == "higher"
    quality = {True: "at equal quality", False: "not at equal quality", None: "quality not known"}
    return f"{said}: {'faster' if faster else 'slower'}, {quality[row.equal_quality]}"


def gate_failures(
    rows: Sequence[Compared], metrics: Sequence[str], below: float | None, above: float | None
) -> list[str]:
    """One line for each row whose interval does not keep the gate; an interval that is missing
    keeps none."""
    failures = []
    if below is not None or above is not None:
        found = {(row.candidate, row.metric) for row in rows}
        for name in dict.fromkeys(row.candidate for row in rows) or ("any arm",):
            failures += [
                f"{metric} of {name}: nothing measured it"
                for metric in metrics
                if (name, metric) not in found
            ]
    for row in rows:
        if row.metric not in metrics:
            continue
        machine = "" if row.across is None else f" on {row.across.candidate_machine}"
        at = f"{row.metric} of {row.candidate}{machine}"
        for bound, limit, word in (
            (below, row.ci_low, "below"),
            (above, row.ci_high, "above"),
        ):
            if bound is None:
                continue
            if limit is None or row.verdict == "invalid":
                failures.append(f"{at}: no valid interval ({', '.join(row.reasons) or 'none'})")
            elif (limit < bound) if word == "below" else (limit > bound):
                failures.append(f"{at}: interval {interval(row)} reaches {word} {bound:g}")
    return failures
