"""What stands first: the verdict on each candidate, and the one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from bench.comparison.row import Compared
from bench.comparison.unpaired import REASON as NOT_PAIRED
from bench.experiment import started_by
from bench.records.codes import excludes, sentence
from bench.report.page.blocks import Cell, ChartLine, Head, ShownVerdict, Table, Tone
from bench.report.page.machines import Machine, batch, work_of
from bench.report.page.words import NOTHING, Show, between, cell, gigabytes, number, rate, ratio
from bench.report.tables.compare import at_level
from bench.report.tables.row import Shown, valid_words
from bench.statistics.paired import MIN_PAIRS
from bench.summary import METRICS, Sizes
from bench.summary.metrics import compared

PLACED: Final[Mapping[str, tuple[Head, Show]]] = {
    "decode_tok_s": (Head(text="decode", numeric=True, note="tok/s"), rate),
    "prefill_tok_s": (Head(text="prefill", numeric=True, note="tok/s"), rate),
    "peak_memory_bytes": (Head(text="memory", numeric=True, note="peak, GB"), gigabytes),
    "energy_per_output_token_j": (
        Head(text="energy", numeric=True, note="J per new token"),
        number,
    ),
}
"""Metrics that every page has a column for; others follow where they have a heading."""

IN_BATCHES: Final = ("output_tok_s", "requests_s", "goodput_req_s")
"""Metrics with a heading that the page leaves to the section on batches and to summary.csv."""

LAST: Final = (
    Head(text="perplexity", numeric=True, note="times the baseline's"),
    Head(text="cost", numeric=True, note="$ per million tokens"),
    Head(text="valid"),
    Head(text="records", numeric=True),
)


def _columns(machine: Machine) -> dict[str, tuple[Head, Show]]:
    """Metric -> heading, and how a figure is shown."""
    found = dict(PLACED)
    for name, metric in METRICS.items():
        new = metric.heading and name not in (*PLACED, *IN_BATCHES)
        if new and any(row.value(name) is not None for row in machine.rows):
            found[name] = (Head(text=metric.heading, numeric=True), number)
    return found


def table(machine: Machine) -> Table:
    """Every arm and workload with its interval and validity."""
    works = {row.sizes for row in machine.rows}
    metrics = _columns(machine)
    lines = [_line(machine, row, metrics, swept=len(works) > 1) for row in machine.rows]
    swept = (Head(text="workload", note="prompt+new ×batch"),) if len(works) > 1 else ()
    heads = (Head(text="variant"), *swept, *(head for head, _ in metrics.values()), *LAST)
    lines, gaps = _gaps(heads, lines)
    return Table(
        id=f"{machine.id}-table",
        caption=f"Measured on {machine.label}",
        heads=heads,
        lines=tuple(lines),
        notes=(*_notes(machine, works), *gaps),
        filtered=len(machine.rows) > 6,
    )


def _gaps(heads: Sequence[Head], lines: Sequence[ChartLine]) -> tuple[list[ChartLine], list[str]]:
    """Reasons for missing figures that stand more than once, moved out of the cells into notes."""
    told = Counter(
        (number, cell.detail)
        for line in lines
        for number, cell in enumerate(line.cells)
        if cell.text == NOTHING and cell.detail
    )
    often = {gap for gap, count in told.items() if count > 1}
    kept = [
        replace(
            line,
            cells=tuple(
                replace(cell, detail="") if (number, cell.detail) in often else cell
                for number, cell in enumerate(line.cells)
            ),
        )
        for line in lines
    ]
    return kept, [f"No {heads[number].text}: {why}." for number, why in sorted(often)]


def _line(
    machine: Machine, row: Shown, metrics: Mapping[str, tuple[Head, Show]], *, swept: bool
) -> ChartLine:
    name = Cell(text=machine.name(row))
    work = Cell(text=work_of(row.sizes), value=row.sizes.n_batch)
    shown = (
        *(_replicates(machine, row, figure, show) for figure, (_, show) in metrics.items()),
        _quality(row),
        _cost(machine, row),
        _valid(row),
        _records(machine, row),
    )
    return ChartLine(cells=(name, *([work] if swept else []), *shown))


def _replicates(machine: Machine, row: Shown, figure: str, show: Show) -> Cell:
    found = machine.interval(row, figure)
    if found is None:
        return cell(None, why=row.absent.get(figure, "not measured"))
    return cell(found.value, show, found.low, found.high)


def _quality(row: Shown) -> Cell:
    figures = row.quality
    if figures is None:
        return cell(None, why="quality was not measured")
    if figures.is_baseline:
        return Cell(text="1", detail="the baseline", value=1.0)
    found = figures.ppl_ratio
    if found is None:
        return cell(None, why=str(figures.absent.get("ppl_ratio", "not known")))
    return cell(found.value, lambda value: f"{value:.3f}", found.low, found.high)


def _cost(machine: Machine, row: Shown) -> Cell:
    found = machine.costs.get((row.arm.name, row.sizes))
    if found is None:
        nothing = row.value("total_tok_s") is None
        return cell(None, why="no throughput" if nothing else "no price given (--rent)")
    return cell(found.usd_per_mtok, number, found.ci_low, found.ci_high)


def _valid(row: Shown) -> Cell:
    words = valid_words(row.row)
    if not row.row.valid:
        return Cell(text="no", detail=words, value=0.0)
    return Cell(text="yes", detail=words.removeprefix("yes").removeprefix(", "), value=1.0)


def _records(machine: Machine, row: Shown) -> Cell:
    """How many count, and of how many where some failed; leads to all of them."""
    used, there = len(row.row.good), len(row.row.replicates)
    text = str(used) if used == there else f"{used} of {there}"
    return Cell(text=text, value=used, href=machine.anchor(row.arm.name, row.sizes))


def _notes(machine: Machine, works: set[Sizes]) -> Iterator[str]:
    if len(works) == 1:
        n_prompt, n_gen, n_batch, *_ = next(iter(works))
        yield f"Workload: {n_prompt} prompt tokens, {n_gen} new ones, batch {n_batch or 'unknown'}."
    yield (
        "Below each figure is its 95% interval over fresh processes (t interval on logarithms; "
        "perplexity: over the text's tokens). Two arms are compared by the paired ratios, not by "
        "whether these intervals overlap."
    )
    yield from started_by(row.arm.options for row in machine.rows)
    each = " of each card" if any(row.arm.cards > 1 for row in machine.rows) else ""
    for cost in machine.assumed if machine.costs else ():
        yield (
            f"Cost: at ${cost.usd_per_hour:g} an hour{each}, busy {cost.utilization:.0%} of it "
            f"({cost.source}). Enter your own below."
        )
    used = max(len(row.row.replicates) for row in machine.rows)
    if machine.n_replicates > used:
        yield f"Of up to {machine.n_replicates} replicates of each, the first {used} are used here."
    if machine.n_rows > len(machine.rows):
        yield (
            f"{len(machine.rows)} of {machine.n_rows} arms and workloads are shown; "
            "summary.csv among the downloads has all."
        )


def verdicts(machine: Machine) -> Iterator[ShownVerdict]:
    """One for each candidate: its decoding at the smallest batch, and what goes with it; of loads
    within limits what a token costs there."""
    for candidate in dict.fromkeys(row.candidate for row in machine.compared):
        rows = [row for row in machine.compared if row.candidate == candidate]
        judged_by = [row for row in rows if row.metric in ("decode", "prefill")]
        judged_by = judged_by or [row for row in rows if at_level(row)]
        if judged_by:
            first = min(judged_by, key=lambda row: (batch(row.sizes), row.metric))
            yield _verdict(machine, first, rows)


def _verdict(machine: Machine, first: Compared, rows: list[Compared]) -> ShownVerdict:
    names, sizes = machine.names, first.sizes
    assert sizes is not None, "what an arm is judged by is of a workload"
    tone, said = judged(first)
    metrics = {row.metric: row for row in rows if row.sizes in (sizes, None)}
    shown = [
        _fact(metrics[name], words, short=name == first.metric)
        for name, words in _facts(first.metric).items()
        if name in metrics and (metrics[name].ratio is not None or metrics[name] is first)
    ]
    load = f"the highest load within {sizes.slo}" if sizes.slo else ""
    load = load or f"batch {sizes.n_batch or 'unknown'}"
    work = f"{sizes.n_prompt}+{sizes.n_gen} tokens, {load}"
    others = len({row.n_batch for row in rows if row.n_batch is not None}) - 1
    more = f"; {others} more batch size{'s' * (others > 1)} below" if others else ""
    return ShownVerdict(
        candidate=names[first.candidate],
        baseline=names[first.baseline],
        tone=tone,
        figure=NOTHING if first.ratio is None else ratio(first.ratio),
        words=said,
        facts=(*shown, f"at {work}{more}"),
        href=f"{machine.id}-ratios",
    )


def _facts(first: str) -> dict[str, str]:
    """Metrics that go with a verdict on speed, and their words."""
    words = {name: metric.words for name, metric in compared().items()}
    return {name: words[name] for name in (first, "cost", "memory", "energy")} | {
        "quality": "perplexity"
    }


def _fact(row: Compared, words: str, *, short: bool = False) -> str:
    ends = between(row.ci_low, row.ci_high, ratio)
    told = f" ({ends})" if " to " in ends else ""
    over = "" if short or row.ratio is None else f" {ratio(row.ratio)}"
    return f"{words}{over}{told}"


VERDICTS: Final = {
    "decode": ("Faster", "Slower", "As fast"),
    "cost": ("Cheaper", "Dearer", "As dear"),
}
"""Metric -> what an arm is called that is better, worse, or the same."""


def judged(row: Compared) -> tuple[Tone, str]:
    """How a row of decoding, or of cost, reads, and its verdict in words."""
    quality = {True: "at equal quality", False: "not at equal quality", None: "quality not known"}
    kept = quality[row.equal_quality]
    if row.verdict == "invalid":
        codes = [code for code in row.reasons if excludes(code)] or row.reasons
        why = "; ".join(sentence(code) for code in codes)
        return "open", f"No verdict: {why or 'the records are no evidence'}"
    if row.verdict == "ambiguous":
        if NOT_PAIRED in row.reasons:
            return "open", f"No verdict: {sentence(NOT_PAIRED)}; {kept}"
        if row.n_pairs < MIN_PAIRS:
            return (
                "open",
                f"No verdict from {row.n_pairs} pairs ({MIN_PAIRS} are needed); {kept}",
            )
        return "open", f"No verdict: the interval does not decide; {kept}"
    better, worse, same = VERDICTS["cost" if row.metric == "cost" else "decode"]
    if row.verdict == "same":
        return "even", f"{same}, {kept}"
    if (row.verdict == "lower") == (row.metric != "cost"):
        return "bad", f"{worse}, {kept}"
    return ("good" if row.equal_quality else "mixed"), f"{better}, {kept}"
