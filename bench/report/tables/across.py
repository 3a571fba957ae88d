"""A comparison between machines, as a table and in words; `compare` has its keys and its gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.comparison import Rules
from bench.comparison.row import Across, Compared
from bench.experiment.selectors import short_names
from bench.records.codes import sentence
from bench.report.tables import Column, figure, sweeps
from bench.report.tables.compare import interval, percent
from bench.report.tables.verdicts import SAID
from bench.statistics.unpaired import MIN_EACH


def columns(rows: Sequence[Compared], rules: Rules) -> list[Column]:
    """Columns to read; what is the same in every row is not shown."""
    names = short_names([row.candidate for row in rows])
    arm = [figure("arm", lambda row: names[row.candidate])] if len(names) > 1 else []
    timed = [row.sizes for row in rows if row.sizes is not None]
    return [
        figure("machine", lambda row: row.across.candidate_machine),
        figure("baseline", lambda row: row.across.baseline_machine),
        *arm,
        *sweeps(timed, lambda row: row.sizes),
        figure("metric", lambda row: row.metric),
        figure("ratio", lambda row: row.ratio, ".3f"),
        figure("difference", lambda row: percent(row.ratio)),
        figure(f"{rules.confidence:.0%} interval", interval),
        figure("n", _numbers),
        figure("restarts", _restarts),
        figure("verdict", lambda row: row.verdict),
        figure("reasons", lambda row: ", ".join(row.reasons) or "-"),
    ]


def _numbers(row: Compared) -> str:
    found = row.unpaired
    return "-" if found is None else f"{found.n_candidate} / {found.n_baseline}"


def _restarts(row: Compared) -> str:
    """What fresh processes differ by within each machine."""
    found = row.unpaired
    if found is None or found.restart_sd_candidate is None or found.restart_sd_baseline is None:
        return "-"
    return f"{found.restart_sd_candidate:.1%} / {found.restart_sd_baseline:.1%}"


def words(rows: Sequence[Compared], rules: Rules) -> Iterator[str]:
    """What the table means: speed and cost of each machine, and what the ratios speak of."""
    groups: dict[tuple[object, ...], dict[str, Compared]] = {}
    for row in rows:
        assert row.across is not None
        key = (row.candidate, row.across.candidate_machine, row.sizes)
        groups.setdefault(key, {})[row.metric] = row
    for metrics in groups.values():
        if "decode" in metrics:
            yield _said(metrics["decode"], metrics.get("cost"))
    yield (
        "Ratios are machine / baseline over fresh processes of each, not in pairs; `same` means "
        f"within {rules.margin:.0%}, and significance is adjusted (Holm) over this table."
    )
    known = [row.across for row in rows if row.across is not None]
    for scope in dict.fromkeys(one.scope for one in known):
        yield f"They speak of {scope}."
    for differs in dict.fromkeys(one.differs for one in known if one.differs):
        yield f"Not the same on both: {'; '.join(differs)}."
    yield from dict.fromkeys(map(_price, known))
    if any("TOO_FEW_REPLICATES" in row.reasons for row in rows):
        yield f"A verdict needs {MIN_EACH} good replicates of each machine."
    for reason in sorted({reason for row in rows for reason in row.reasons}):
        yield f"`{reason}`: {sentence(reason)}."


def _said(decode: Compared, cost: Compared | None) -> str:
    """`slower but cheaper` and its like, as far as there are verdicts."""
    across, sizes = decode.across, decode.sizes
    assert across is not None
    assert sizes is not None
    batch = f" x {sizes.n_batch}" if sizes.n_batch else ""
    head = (
        f"**{across.candidate_machine}** against {across.baseline_machine} at "
        f"{sizes.n_prompt}+{sizes.n_gen}{batch}: "
    )
    speed = SAID.get(decode.verdict)
    price = None
    if cost is not None:
        price = {"higher": "dearer", "lower": "cheaper", "same": "as dear"}.get(cost.verdict)
    told = [
        f"no verdict on decoding ({decode.verdict})"
        if speed is None
        else f"{speed}: decodes {decode.ratio:.2f}x as fast ({interval(decode)})"
    ]
    if cost is not None:
        told.append(
            f"no verdict on cost ({cost.verdict})"
            if price is None
            else f"{price}: a token costs {cost.ratio:.2f}x as much ({interval(cost)})"
        )
    opposed = (speed, price) in (("slower", "cheaper"), ("faster", "dearer"))
    return head + (" but " if opposed else ", ").join(told) + "."


def _price(across: Across) -> str:
    one, other = across.candidate_usd_per_hour, across.baseline_usd_per_hour
    if one is None or other is None:
        return (
            f"No cost: an hour of {across.baseline_card} or {across.candidate_card} has no price "
            "here; --rent CARD=USD,CARD=USD states them."
        )
    return (
        f"Cost: ${one:.3g} an hour of {across.candidate_machine}, ${other:.3g} of "
        f"{across.baseline_machine} ({across.price_source})."
    )
