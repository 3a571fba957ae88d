"""The sections below the first screen: ratios, batches, quality, the card's limit, energy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bench.comparison import QUALITY
from bench.comparison.row import Compared
from bench.errors import InputError
from bench.experiment.selectors import short_names
from bench.records.codes import sentence
from bench.report.page import pictures
from bench.report.page.blocks import Cell, ChartLine, Head, Picture, Section, Table, Tone
from bench.report.page.machines import Machine, batch, work_of
from bench.report.page.words import NOTHING, Show, cell, gigabytes, number, ratio
from bench.report.tables.pareto import Placed, baseline_model, kld_of, placed
from bench.report.tables.row import Shown
from bench.saving import save
from bench.statistics import Estimate
from bench.summary import Sizes
from bench.summary.metrics import compared

Point = dict[str, Any]
"""What a chart draws: Vega-Lite's rows."""

FIRST: Final = ("decode", "prefill", "cost", "memory", "energy")
"""Metrics in the order of a forest plot; others that have words follow, quality is last."""


def _drawn_metrics() -> dict[str, str]:
    """Metrics that a forest plot shows, and their words; the table has all."""
    words = {name: metric.words for name, metric in compared().items() if metric.words}
    in_order = sorted(words, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    return {name: words[name] for name in in_order} | {QUALITY: "perplexity"}


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
        spec=pictures.forest(drawn, list(_drawn_metrics().values())) if drawn else None,
        missing="" if drawn else "no metric was measured in both arms",
        table=ratio_table(machine),
    )


def _drawn(rows: Sequence[Compared], names: Mapping[str, str]) -> tuple[list[Point], str]:
    """Points of a forest plot, at the smallest batch; and which workload that is."""
    rows = [row for row in rows if row.metric in _drawn_metrics() and row.ratio]
    works = [row.sizes for row in rows if row.sizes is not None]
    first = min(works, key=lambda sizes: (batch(sizes), sizes.n_prompt), default=None)
    arms = list(dict.fromkeys(row.candidate for row in rows))[:MOST_ARMS]
    kept = [
        _point(row, names) for row in rows if row.candidate in arms and row.sizes in (None, first)
    ]
    if first is None:
        return kept, ""
    at = f"{first.n_prompt}+{first.n_gen} tokens, batch {first.n_batch or 'unknown'}"
    return kept, f" Drawn: {at}."


def plot(rows: Sequence[Compared], file: Path) -> None:
    """Draw the rows of a comparison. Raises InputError for a file that is no picture's."""
    from bench.report.page.drawing import to_png, to_svg

    suffix = file.suffix.lower()
    if suffix not in (".svg", ".png"):
        raise InputError(f"--plot: {file} ends neither in .svg nor in .png")
    names = short_names([*(row.baseline for row in rows), *(row.candidate for row in rows)])
    drawn, _ = _drawn(rows, names)
    if not drawn:
        raise InputError("--plot: there is no ratio to draw")
    spec = pictures.forest(drawn, list(_drawn_metrics().values()))
    picture = to_svg(spec).encode() if suffix == ".svg" else to_png(spec)
    save(picture, file, "choose with --plot")


def _over_batch(machine: Machine) -> Picture | None:
    """The ratio of decoding at each batch; None for one batch."""
    rows = [
        (row, row.sizes)
        for row in machine.compared
        if row.metric == "decode" and row.ratio and row.sizes is not None
    ]
    main = _main_work([sizes for _, sizes in rows]) if rows else (0, 0)
    rows = [(row, sizes) for row, sizes in rows if sizes[:2] == main and sizes.n_batch]
    if len({sizes.n_batch for _, sizes in rows}) < 2:
        return None
    drawn: list[Point] = [
        {
            "variant": machine.names[row.candidate],
            "n_batch": sizes.n_batch,
            "y": row.ratio,
            "low": row.ci_low or row.ratio,
            "high": row.ci_high or row.ratio,
        }
        for row, sizes in rows
    ]
    return Picture(
        id=f"{machine.id}-ratio-batch",
        title="The ratio over the batch",
        caption="Decoding speed over the baseline's, with the paired interval, at each batch size.",
        alt="; ".join(f"{p['variant']} at batch {p['n_batch']}: {ratio(p['y'])}" for p in drawn),
        spec=pictures.over_batch(drawn, machine.arms, "decoding speed / baseline's", log=False),
    )


def _point(row: Compared, names: Mapping[str, str]) -> Point:
    assert row.ratio is not None, "points without a ratio are not drawn"
    low, high = row.ci_low or row.ratio, row.ci_high or row.ratio
    return {
        "metric": _drawn_metrics()[row.metric],
        "arm": names[row.candidate],
        "ratio": row.ratio,
        "low": low,
        "high": high,
        "end": high,
        "kind": _kind(row),
        "label": ratio(row.ratio),
    }


def _kind(row: Compared) -> str:
    if row.verdict == "same":
        return "same"
    if row.verdict not in ("higher", "lower"):
        return "no verdict"
    return "better" if row.verdict == row.better else "worse"


TONES: dict[str, Tone] = {"better": "good", "worse": "bad", "same": "even", "no verdict": "open"}


def ratio_table(machine: Machine) -> Table:
    """Every row of the comparison."""
    heads = ("candidate", "metric", "workload", "ratio", "verdict", "pairs", "reasons")
    return Table(
        id=f"{machine.id}-ratio-table",
        caption="Paired ratios",
        heads=tuple(Head(text=text, numeric=text in ("ratio", "pairs")) for text in heads),
        lines=tuple(ChartLine(cells=_ratio_cells(machine, row)) for row in machine.compared),
        notes=tuple(_reasons(machine.compared)),
        filtered=len(machine.compared) > 8,
    )


def _ratio_cells(machine: Machine, row: Compared) -> tuple[Cell, ...]:
    pairs = f"{row.n_pairs}{' tokens' * (row.sizes is None)}"
    work = "–" if row.sizes is None else work_of(row.sizes)
    return (
        Cell(text=machine.names[row.candidate]),
        Cell(text=row.metric),
        Cell(text=work, value=row.n_batch),
        cell(row.ratio, lambda value: f"{value:.3f}", row.ci_low, row.ci_high),
        Cell(text=row.verdict, detail=_kind(row), tone=TONES[_kind(row)]),
        Cell(text=pairs, value=row.n_pairs, href=machine.anchor(row.candidate, row.sizes)),
        Cell(text=", ".join(row.reasons) or NOTHING),
    )


def _reasons(rows: Sequence[Compared]) -> Iterator[str]:
    for reason in sorted({reason for row in rows for reason in row.reasons}):
        yield f"{reason}: {sentence(reason)}."
    better = [name for name, metric in compared().items() if metric.better == "lower"]
    yield f"Less is better for {', '.join(better)} and {QUALITY}."


def batching(machine: Machine) -> Section:
    """Throughput, latency and cost over the batch."""
    head = Section(id=f"{machine.id}-batch", title="What does batching buy?")
    many = len({row.sizes.n_batch for row in machine.rows} - {None}) > 1
    if not many:
        return replace(head, missing=f"No curve: {ONE_BATCH}.")
    work = _main_work([row.sizes for row in machine.rows])
    rows = [row for row in machine.rows if row.sizes[:2] == work and row.sizes.n_batch]
    lead = f"Workload: {work[0]} prompt tokens and {work[1]} new ones, at each batch size."
    return replace(head, lead=lead, blocks=(_curve(machine, rows), _cost_curve(machine, rows)))


def _main_work(sizes: Sequence[Sizes]) -> tuple[int, int]:
    """The prompt and generation that were measured at most batch sizes."""
    works = [(one.n_prompt, one.n_gen) for one in sizes]
    return max(dict.fromkeys(works), key=works.count)


def _curve(machine: Machine, rows: Sequence[Shown]) -> Picture:
    drawn: list[Point] = [
        {
            "variant": machine.name(row),
            "n_batch": row.sizes.n_batch,
            "x": each_s * 1e3,
            "y": row.value("decode_tok_s"),
            "label": str(row.sizes.n_batch),
        }
        for row in rows
        if (each_s := row.value("tpot_s"))
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


def _cost_curve(machine: Machine, rows: Sequence[Shown]) -> Picture:
    drawn: list[Point] = []
    for row in rows:
        found = machine.costs.get((row.arm.name, row.sizes))
        if found and found.usd_per_mtok:
            y = found.usd_per_mtok
            drawn.append(
                {
                    "variant": machine.name(row),
                    "n_batch": row.sizes.n_batch,
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
    known = [row for row in _smallest(machine.rows) if kld_of(row.row) is not None]
    if len(known) < 2:
        why = "no arm's divergence from a baseline was measured"
        return replace(head, missing=f"No trade-off to show: {why}.")
    lead = (
        "Divergence from the baseline's own predictions (KL, nats a token): 0 is the same model. "
        "Filled points are on the front: no other arm is better at equal or lower divergence."
    )
    priced = [replace(row, usd_per_mtok=_usd(machine, row)) for row in known]
    models = dict.fromkeys(baseline_model(row.row) for row in priced)
    marked = [
        row
        for model in models
        for row in placed([row for row in priced if baseline_model(row.row) == model])
    ]
    blocks = (
        _trade(machine, marked, "packed_bytes", "weights", "GB of weights", 1e-9),
        _trade(machine, marked, "usd_per_mtok", "cost", "$ per million tokens", 1.0),
    )
    return replace(head, lead=lead, blocks=blocks)


def _smallest(rows: Sequence[Shown]) -> list[Shown]:
    """Each variant once, at its smallest batch."""
    found: dict[str, Shown] = {}
    for row in rows:
        old = found.get(row.arm.name)
        if old is None or batch(row.sizes) < batch(old.sizes):
            found[row.arm.name] = row
    return list(found.values())


def _usd(machine: Machine, row: Shown) -> float | None:
    found = machine.costs.get((row.arm.name, row.sizes))
    return found.usd_per_mtok if found else None


def _trade(
    machine: Machine, rows: Sequence[Placed], key: str, what: str, title: str, scale: float
) -> Picture:
    drawn: list[Point] = []
    for row in rows:
        value: float | None = getattr(row.trade, key)
        kld = None if row.row.quality is None else row.row.quality.mean_kld
        if value is not None and kld is not None:
            drawn.append(
                {
                    "variant": machine.name(row.shown),
                    "model": row.row.arm.model,
                    "x": value * scale,
                    "y": kld.value,
                    "front": key in row.front,
                    "low": max(kld.low, 0.0),
                    "high": kld.high,
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
        missing="" if len(drawn) > 1 else f"fewer than two arms have a known {what}",
        table=_trade_table(machine, rows) if key == "packed_bytes" else None,
    )


def _trade_table(machine: Machine, rows: Sequence[Placed]) -> Table:
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
        found = row.row.quality
        assert found is not None, "an arm with a divergence has quality"
        front = ", ".join(name.split("_")[0] for name in row.front)
        lines.append(
            ChartLine(
                cells=(
                    Cell(text=machine.name(row.shown)),
                    _estimate(found.mean_kld, "{:.4f}".format),
                    _estimate(found.same_top1, "{:.1%}".format),
                    _estimate(found.ppl, number),
                    cell(row.trade.packed_bytes, gigabytes),
                    Cell(text=front or NOTHING),
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
    drawn: list[Point] = []
    for row in machine.rows:
        found = machine.interval(row, "energy_per_output_token_j")
        if found is not None:
            name = machine.name(row)
            y = found.value
            drawn.append(
                {
                    "arm": f"{name} ×{batch(row.sizes) or '?'}",
                    "variant": name,
                    "y": y,
                    "low": found.low or y,
                    "high": found.high or y,
                }
            )
    if not drawn:
        told = {row.absent.get("energy_per_output_token_j", "") for row in machine.rows}
        why = "; ".join(sorted(text for text in told if text)) or "no counter was read"
        return replace(head, missing=f"No energy was read: {why}.")
    scopes = {scope for row in machine.rows if (scope := row.row.energy_scope)}
    beyond = max((row.row.systematic_error for row in machine.rows), default=0.0)
    lead = f"Scope: {', '.join(sorted(scopes)) or 'as the counter reads'}, idle power included."
    if beyond:
        lead += f" The counter's own error may reach {beyond:.0%} and differ between arms."
    picture = Picture(
        id=f"{machine.id}-joules",
        title="Energy of a new token",
        caption="Joules a token while decoding, with the 95% interval over fresh processes.",
        alt="; ".join(f"{p['arm']}: {number(p['y'])} J" for p in drawn),
        spec=pictures.bars(drawn[:24], machine.arms, "joules per new token"),
    )
    return replace(head, lead=lead, blocks=(picture,))
