"""The sections below the first screen: ratios, batches, quality, the card's limit, energy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.comparison import METRICS, QUALITY
from bench.errors import InputError
from bench.experiment.selectors import short_names
from bench.records.codes import REASONS
from bench.report.page import pictures
from bench.report.page.blocks import Cell, Head, Line, Picture, Section, Table, Tone
from bench.report.page.machines import Machine, Row, batch, key_of, work_of
from bench.report.page.words import NOTHING, Show, cell, gigabytes, number, ratio
from bench.summary.quality import Estimate, pareto

DRAWN = {
    "decode": "decoding speed",
    "prefill": "prefill speed",
    "cost": "cost of a token",
    "memory": "peak memory",
    "energy": "energy of a new token",
    "quality": "perplexity",
}
"""Metrics that a forest plot shows, and their words; the table has all."""

MOST_ARMS = 10
"""Rows in one band of a forest plot."""

ONE_BATCH = "only one batch size was measured; `bench run -b 1-64*2` measures several"


def ratios(machine: Machine) -> Section:
    """Candidate over baseline, with intervals."""
    lead = (
        "Each pair is two fresh processes measured side by side. The point is Hodges and "
        "Lehmann's, the line the exact 95% interval; significance is adjusted for all tests of the "
        "table."
    )
    head = Section(id=f"{machine.id}-ratios", title="Is the difference real?")
    if not machine.compared:
        return replace(head, missing=f"Nothing was compared: {machine.not_compared}.")
    over = _over_batch(machine)
    return replace(head, lead=lead, blocks=(_forest(machine), *([over] if over else [])))


def _forest(machine: Machine) -> Picture:
    drawn, at = _drawn(machine.compared, machine.names)
    return Picture(
        id=f"{machine.id}-forest",
        title="Candidate over baseline",
        caption="Right of 1 is more, left is less; colour and shape say whether that is better. "
        f"A ratio without a line has no interval, or one narrower than its point.{at}",
        alt="; ".join(f"{row['arm']}, {row['metric']}: {row['label']}" for row in drawn[:24]),
        spec=pictures.forest(drawn, list(DRAWN.values())) if drawn else None,
        missing="" if drawn else "no metric was measured in both arms",
        table=ratio_table(machine),
    )


def _drawn(compared: Sequence[Row], names: Mapping[str, str]) -> tuple[list[Row], str]:
    """Points of a forest plot, at the smallest batch; and which workload that is."""
    rows = [row for row in compared if row["metric"] in DRAWN and row["ratio"]]
    timed = [row for row in rows if row["metric"] != QUALITY]
    works = [_work(row) for row in sorted(timed, key=lambda row: (batch(row), row["n_prompt"]))]
    arms = list(dict.fromkeys(row["candidate"] for row in rows))[:MOST_ARMS]
    kept = [
        _point(row, names)
        for row in rows
        if row["candidate"] in arms and (row["metric"] == QUALITY or _work(row) == works[0])
    ]
    at = (
        f" Drawn: {works[0][0]}+{works[0][1]} tokens, batch {works[0][2] or 'unknown'}."
        if works
        else ""
    )
    return kept, at


def plot(rows: Sequence[Row], file: Path) -> None:
    """Draw the rows of a comparison. Raises InputError for a file that is no picture's."""
    from bench.report.page.drawing import to_png, to_svg

    suffix = file.suffix.lower()
    if suffix not in (".svg", ".png"):
        raise InputError(f"--plot: {file} ends neither in .svg nor in .png")
    names = short_names([*(row["baseline"] for row in rows), *(row["candidate"] for row in rows)])
    drawn, _ = _drawn(rows, names)
    if not drawn:
        raise InputError("--plot: there is no ratio to draw")
    spec = pictures.forest(drawn, list(DRAWN.values()))
    picture = to_svg(spec).encode() if suffix == ".svg" else to_png(spec)
    try:
        file.write_bytes(picture)
    except OSError as error:
        raise InputError(f"--plot: {file}: {error.strerror}") from error


def _work(row: Row) -> tuple[int, int, int | None]:
    return row["n_prompt"], row["n_gen"], row["n_batch"]


def _over_batch(machine: Machine) -> Picture | None:
    """The ratio of decoding at each batch; None for one batch."""
    rows = [row for row in machine.compared if row["metric"] == "decode" and row["ratio"]]
    main = _main_work(rows) if rows else (0, 0)
    rows = [row for row in rows if (row["n_prompt"], row["n_gen"]) == main and row["n_batch"]]
    if len({row["n_batch"] for row in rows}) < 2:
        return None
    drawn: list[Row] = [
        {
            "variant": machine.names[row["candidate"]],
            "n_batch": row["n_batch"],
            "y": row["ratio"],
            "low": row["ci_low"] or row["ratio"],
            "high": row["ci_high"] or row["ratio"],
        }
        for row in rows
    ]
    return Picture(
        id=f"{machine.id}-ratio-batch",
        title="The ratio over the batch",
        caption="Decoding speed over the baseline's, with the paired interval, at each batch size.",
        alt="; ".join(f"{p['variant']} at batch {p['n_batch']}: {ratio(p['y'])}" for p in drawn),
        spec=pictures.over_batch(drawn, machine.arms, "decoding speed / baseline's", log=False),
    )


def _point(row: Row, names: Mapping[str, str]) -> Row:
    low, high = row["ci_low"] or row["ratio"], row["ci_high"] or row["ratio"]
    return {
        "metric": DRAWN[row["metric"]],
        "arm": names[row["candidate"]],
        "ratio": row["ratio"],
        "low": low,
        "high": high,
        "end": high,
        "kind": _kind(row),
        "label": ratio(row["ratio"]),
    }


def _kind(row: Row) -> str:
    if row["verdict"] == "same":
        return "same"
    if row["verdict"] not in ("higher", "lower"):
        return "no verdict"
    return "better" if row["verdict"] == row["better"] else "worse"


TONES: dict[str, Tone] = {"better": "good", "worse": "bad", "same": "even", "no verdict": "open"}


def ratio_table(machine: Machine) -> Table:
    """Every row of the comparison."""
    heads = ("candidate", "metric", "workload", "ratio", "verdict", "pairs", "reasons")
    return Table(
        id=f"{machine.id}-ratio-table",
        caption="Paired ratios",
        heads=tuple(Head(text=text, numeric=text in ("ratio", "pairs")) for text in heads),
        lines=tuple(Line(cells=_ratio_cells(machine, row)) for row in machine.compared),
        notes=tuple(_reasons(machine.compared)),
        filtered=len(machine.compared) > 8,
    )


def _ratio_cells(machine: Machine, row: Row) -> tuple[Cell, ...]:
    tokens = row["metric"] == QUALITY
    place = None if tokens else _anchor(machine, row)
    pairs = f"{row['n_pairs']}{' tokens' * tokens}"
    return (
        Cell(text=machine.names[row["candidate"]]),
        Cell(text=row["metric"]),
        Cell(text="–" if tokens else work_of(row), value=row["n_batch"]),
        cell(row["ratio"], lambda value: f"{value:.3f}", row["ci_low"], row["ci_high"]),
        Cell(text=row["verdict"], detail=_kind(row), tone=TONES[_kind(row)]),
        Cell(text=pairs, value=row["n_pairs"], href=place),
        Cell(text=", ".join(row["reasons"]) or NOTHING),
    )


def _anchor(machine: Machine, row: Row) -> str | None:
    key = (row["candidate"], row["n_prompt"], row["n_gen"], row["n_batch"])
    keys = list(machine.groups)
    return f"{machine.id}-g{keys.index(key)}" if key in keys else None


def _reasons(rows: Sequence[Row]) -> Iterator[str]:
    for reason in sorted({reason for row in rows for reason in row["reasons"]}):
        yield f"{reason}: {REASONS.get(reason, 'see the records')}."
    better = [name for name, metric in METRICS.items() if metric.better == "lower"]
    yield f"Less is better for {', '.join(better)} and {QUALITY}."


def batching(machine: Machine) -> Section:
    """Throughput, latency and cost over the batch."""
    head = Section(id=f"{machine.id}-batch", title="What does batching buy?")
    many = len({row["n_batch"] for row in machine.rows} - {None}) > 1
    if not many:
        return replace(head, missing=f"No curve: {ONE_BATCH}.")
    work = _main_work(machine.rows)
    rows = [
        row for row in machine.rows if (row["n_prompt"], row["n_gen"]) == work and row["n_batch"]
    ]
    lead = f"Workload: {work[0]} prompt tokens and {work[1]} new ones, at each batch size."
    return replace(head, lead=lead, blocks=(_curve(machine, rows), _cost_curve(machine, rows)))


def _main_work(rows: Sequence[Row]) -> tuple[int, int]:
    """The prompt and generation that were measured at most batch sizes."""
    works = [(row["n_prompt"], row["n_gen"]) for row in rows]
    return max(dict.fromkeys(works), key=works.count)


def _curve(machine: Machine, rows: Sequence[Row]) -> Picture:
    drawn = [
        {
            "variant": machine.names[row["variant"]],
            "n_batch": row["n_batch"],
            "x": row["tpot_s"] * 1e3,
            "y": row["decode_tok_s"],
            "label": str(row["n_batch"]),
        }
        for row in rows
        if row["tpot_s"]
    ]
    return Picture(
        id=f"{machine.id}-latency",
        title="Throughput against latency",
        caption="Each point is a batch size. Up is more tokens for the machine, left is less "
        "waiting for each user.",
        alt="; ".join(
            f"{p['variant']} at batch {p['label']}: {number(p['y'])} tok/s, {number(p['x'])} ms"
            for p in drawn
        ),
        spec=pictures.batches(drawn, machine.arms) if drawn else None,
        missing="" if drawn else "nothing was decoded",
    )


def _cost_curve(machine: Machine, rows: Sequence[Row]) -> Picture:
    drawn: list[Row] = []
    for row in rows:
        found = machine.costs.get(key_of(row))
        if found and found.usd_per_mtok:
            y = found.usd_per_mtok
            drawn.append(
                {
                    "variant": machine.names[row["variant"]],
                    "n_batch": row["n_batch"],
                    "y": y,
                    "low": found.ci_low or y,
                    "high": found.ci_high or y,
                }
            )
    return Picture(
        id=f"{machine.id}-cost-curve",
        title="Cost over the batch",
        caption="Dollars for a million tokens, prompt and new alike, under the stated price.",
        alt="; ".join(f"{p['variant']} at batch {p['n_batch']}: ${number(p['y'])}" for p in drawn),
        spec=pictures.over_batch(drawn, machine.arms, "$ per million tokens") if drawn else None,
        missing="" if drawn else "no price was given: `bench report --rent USD_PER_HOUR`",
    )


def quality(machine: Machine) -> Section:
    """What is lost, against the bytes and the money that it saves."""
    head = Section(id=f"{machine.id}-quality", title="What does it cost in quality?")
    known = [row for row in _smallest(machine.rows) if row["mean_kld"] is not None]
    if len(known) < 2:
        why = "no arm's divergence from a baseline was measured"
        return replace(head, missing=f"No trade-off to show: {why}.")
    lead = (
        "Divergence from the baseline's own predictions (KL, nats a token): 0 is the same model. "
        "Filled points are on the front: no other arm is better at equal or lower divergence."
    )
    priced = [row | {"usd_per_mtok": _usd(machine, row)} for row in known]
    models = dict.fromkeys(row["model"] for row in priced)
    marked = [
        row
        for model in models  # an arm diverges from the baseline of its own model
        for row in pareto([row for row in priced if row["model"] == model])
    ]
    blocks = (
        _trade(machine, marked, "packed_bytes", "weights", "GB of weights", 1e-9),
        _trade(machine, marked, "usd_per_mtok", "cost", "$ per million tokens", 1.0),
    )
    return replace(head, lead=lead, blocks=blocks)


def _smallest(rows: Sequence[Row]) -> list[Row]:
    """Each variant once, at its smallest batch."""
    found: dict[str, Row] = {}
    for row in rows:
        old = found.get(row["variant"])
        if old is None or batch(row) < batch(old):
            found[row["variant"]] = row
    return list(found.values())


def _usd(machine: Machine, row: Row) -> float | None:
    found = machine.costs.get(key_of(row))
    return found.usd_per_mtok if found else None


def _trade(
    machine: Machine, rows: Sequence[Row], key: str, what: str, title: str, scale: float
) -> Picture:
    drawn: list[Row] = []
    for row in rows:
        figures = machine.quality[row["variant"]]
        if row[key] is not None and figures.mean_kld is not None:
            drawn.append(
                {
                    "variant": machine.names[row["variant"]],
                    "model": row["model"],
                    "x": row[key] * scale,
                    "y": row["mean_kld"],
                    "front": key in row["front"],
                    "low": max(figures.mean_kld.low, 0.0),
                    "high": figures.mean_kld.high,
                }
            )
    return Picture(
        id=f"{machine.id}-trade-{what}",
        title=f"Divergence against {what}",
        caption="Down is nearer to the baseline, left is less. Lines are 95% intervals over the "
        "text's tokens; the scale of divergence is that of its square root.",
        alt="; ".join(f"{p['variant']}: {number(p['x'])} {title}, KLD {p['y']:.4f}" for p in drawn),
        spec=pictures.trade(drawn, machine.arms, title, "mean KL divergence, nats")
        if len(drawn) > 1
        else None,
        missing="" if len(drawn) > 1 else f"no {what} is known of two arms",
        table=_trade_table(machine, rows) if key == "packed_bytes" else None,
    )


def _trade_table(machine: Machine, rows: Sequence[Row]) -> Table:
    heads = (
        Head(text="variant"),
        Head(text="KLD", numeric=True, note="nats a token"),
        Head(text="same top token", numeric=True),
        Head(text="perplexity", numeric=True),
        Head(text="weights", numeric=True, note="GB"),
        Head(text="front"),
    )
    lines = []
    for row in rows:
        f = machine.quality[row["variant"]]
        lines.append(
            Line(
                cells=(
                    Cell(text=machine.names[row["variant"]]),
                    _estimate(f.mean_kld, "{:.4f}".format),
                    _estimate(f.same_top1, "{:.1%}".format),
                    _estimate(f.ppl, number),
                    cell(row["packed_bytes"], gigabytes),
                    Cell(text=", ".join(name.split("_")[0] for name in row["front"]) or NOTHING),
                )
            )
        )
    return Table(
        id=f"{machine.id}-quality-table", caption="Quality", heads=heads, lines=tuple(lines)
    )


def _estimate(found: Estimate | None, show: Show) -> Cell:
    return cell(None) if found is None else cell(found.value, show, found.low, found.high)


def energy(machine: Machine) -> Section:
    """Joules a new token."""
    head = Section(id=f"{machine.id}-energy", title="What does it draw?")
    drawn: list[Row] = []
    for row in machine.rows:
        found = machine.interval(row, "energy_per_output_token_j")
        if found is not None:
            name = machine.names[row["variant"]]
            y = found.value
            drawn.append(
                {
                    "arm": f"{name} ×{batch(row) or '?'}",
                    "variant": name,
                    "y": y,
                    "low": found.low or y,
                    "high": found.high or y,
                }
            )
    if not drawn:
        told = {row["absent"].get("energy_per_output_token_j", "") for row in machine.rows}
        why = "; ".join(sorted(text for text in told if text)) or "no counter was read"
        return replace(head, missing=f"No energy was read: {why}.")
    scopes = {row["energy_scope"] for row in machine.rows} - {None}
    errors = {
        window.get("systematic_error") or 0.0
        for record in machine.results.records
        for window in record.energy.values()
        if isinstance(window, dict)
    }
    beyond = max(errors, default=0.0)
    lead = f"Scope: {', '.join(sorted(scopes)) or 'as the counter reads'}, idle power included."
    if beyond:
        lead += f" The counter itself may be off by {beyond:.0%}, and not alike for all arms."
    picture = Picture(
        id=f"{machine.id}-joules",
        title="Energy of a new token",
        caption="Joules a token while decoding, with the 95% interval over fresh processes.",
        alt="; ".join(f"{p['arm']}: {number(p['y'])} J" for p in drawn),
        spec=pictures.bars(drawn[:24], machine.arms, "joules per new token"),
    )
    return replace(head, lead=lead, blocks=(picture,))
