"""What `bench run` prints: the table, what was assumed, and what it means in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.comparison import opponents
from bench.comparison.row import Compared
from bench.errors import InputError
from bench.experiment import Experiment, Gate, started_by
from bench.experiment.selectors import arm_order, short_names
from bench.records import OWN
from bench.records.codes import sentence
from bench.records.file import Results
from bench.report.tables import Column, figure, render, sweeps
from bench.report.tables.row import (
    Shown,
    several_machines,
    shown,
    table,
    valid_words,
)
from bench.report.tables.verdicts import against, in_words, verdicts
from bench.statistics import log_interval
from bench.statistics.paired import MIN_PAIRS
from bench.summary import METRICS, Row, summarise
from bench.summary.quality import check_gate

ALIKE = 0.05
"""Ratios this near to 1 are called `about as`: a choice of words, not a verdict."""


def show(experiment: Experiment, results: Results, folder: Path, output: str) -> str:
    """The results of an experiment in one of the formats of `-o`."""
    rows = shown(summarise(results).in_order(arm_order([experiment])), experiment.cost)
    made = render(rows, columns(rows), output, table)
    if output != "md":
        return made
    text = "\n".join(f"- {line}" for line in words(experiment, rows, results))
    return f"{experiment.question}\n\n{made}\n{text}\n\nRecords: {folder}\n"


def _of(name: str) -> Callable[[Any], Any]:
    return lambda one: one.row.value(name)


def _metric(name: str) -> Column:
    metric = METRICS[name]
    return figure(metric.heading, _of(name), metric.form)


def _megabytes(heading: str, of: Callable[[Any], float | None]) -> Column:
    def show(one: Shown) -> str:
        value = of(one)
        return "-" if value is None else f"{value / 1e6:,.0f}"

    return Column(heading=heading, show=show)


BOUNDED: Final[Mapping[str, Callable[[Shown], float | None]]] = {
    "of bandwidth": lambda one: one.limits.mbu,
    "of measured bandwidth": lambda one: one.limits.mbu_measured,
}

PLACED: Final = (
    "prefill_tok_s",
    "decode_tok_s",
    "output_tok_s",
    "requests_s",
    "goodput_req_s",
    "energy_per_output_token_j",
)
"""Metrics with a heading whose column has a place of its own."""


def columns(rows: Sequence[Shown]) -> list[Column]:
    """Columns to read; what is the same in every row is not shown."""
    names = short_names([one.row.arm.name for one in rows])
    machine = [figure("machine", lambda one: one.row.label)]
    backend = [figure("backend", _backend)]
    # Of other tools' rows the card is what a reader looks for first.
    named = any(one.row.origin not in OWN for one in rows)
    bounded = [
        figure(heading, of, ".0%")
        for heading, of in BOUNDED.items()
        if any(of(one) is not None for one in rows)
    ]
    others = [name for name, m in METRICS.items() if m.heading and name not in PLACED]
    return [
        figure("variant", lambda one: names[one.row.arm.name]),
        *(machine if named or several_machines(one.row for one in rows) else []),
        *(backend if any(_backend(one) for one in rows) else []),
        *sweeps([one.row.sizes for one in rows], lambda one: one.row.sizes),
        _metric("prefill_tok_s"),
        Column(heading=METRICS["decode_tok_s"].heading, show=_decode),
        *_of_requests(rows),
        _megabytes("weights MB", lambda one: one.row.weights.weights_bytes),
        _megabytes("peak MB", _of("peak_memory_bytes")),
        *bounded,
        *_measured_by(["energy_per_output_token_j", *others], rows),
        figure("perplexity", lambda one: _quality(one.row, "ppl"), ".2f"),
        figure("KLD", lambda one: _quality(one.row, "mean_kld"), ".4f"),
        figure("$ per Mtok", lambda one: one.usd_per_mtok, ".3f"),
        figure("valid", lambda one: valid_words(one.row)),
    ]


def _backend(one: Shown) -> str | None:
    """What an imported tool ran the model with: CUDA, ROCm, Vulkan."""
    return one.row.host.identity.get("backend")


def _measured_by(names: Sequence[str], rows: Sequence[Shown]) -> list[Column]:
    """The columns of metrics that some row has."""
    return [_metric(name) for name in names if any(one.row.value(name) is not None for one in rows)]


def _quality(row: Row, name: str) -> float | None:
    found = getattr(row.quality, name, None)
    return None if found is None else float(found.value)


def _of_requests(rows: Sequence[Shown]) -> list[Column]:
    """How much in all, and how long one request waits: of a server, or over several batches."""
    served = any(one.row.value("requests_s") is not None for one in rows)
    imported = any(one.row.value("ttft_s") and not one.row.value("prefill_tok_s") for one in rows)
    swept = len({one.row.sizes.n_batch for one in rows}) > 1
    if not (served or imported or swept):
        return []
    return [
        _metric("output_tok_s"),
        figure("TTFT ms", lambda one: _ms(one.row.value("ttft_s"))),
        figure("per token ms", lambda one: _ms(one.row.value("tpot_s"))),
        *_measured_by(["requests_s", "goodput_req_s"], rows),
    ]


def _decode(one: Shown) -> str:
    value = one.row.value("decode_tok_s")
    if value is None:
        return "-"
    spread = "" if one.row.spread is None else f" ± {one.row.spread:.0%}"
    return f"{value:,.1f}{spread}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:,.1f}"


def words(experiment: Experiment, rows: Sequence[Shown], results: Results) -> Iterator[str]:
    """What the table means, one sentence each."""
    baseline_of = _baselines(experiment, rows)
    enough = max((_n_replicates(one.row) for one in rows), default=0) >= MIN_PAIRS
    verdict_of = verdicts(results, experiment.gate, baseline_of) if enough and baseline_of else {}
    each = {_measured(one.row, one.row.arm.name): one for one in rows}
    names = short_names([one.row.arm.name for one in rows])
    many = len({one.row.sizes for one in rows}) > 1
    apart = several_machines(one.row for one in rows)
    for one in rows:
        base = each.get(_measured(one.row, baseline_of.get(one.row.arm.name, "")))
        if base is not None:
            sizes = one.row.sizes
            at = f" at {sizes.n_prompt}+{sizes.n_gen} x {sizes.n_batch}" if many else ""
            at += f" on {one.row.label}" if apart else ""
            said = meaning(experiment.gate, one, base, verdict_of.get((one.row.arm.name, sizes)))
            yield f"**{names[one.row.arm.name]}**{at}: {said}."
    yield from curve([one.row for one in rows], names)
    for one in rows:
        if one.row.level is not None:
            yield f"**{names[one.row.arm.name]}**{_asked(one.row)}: {service(one.row)}."
    for one in rows:
        if one.limits.diagnosis:
            yield f"{names[one.row.arm.name]}: {one.limits.diagnosis}."
    yield from notes(experiment, [one.row for one in rows])
    told = {code for one in rows for code in one.row.reasons}
    blocking = {code for verdict in verdict_of.values() for code in against(verdict)}
    for code in sorted(blocking - told):
        yield f"`{code}`: {sentence(code)}."


def _asked(row: Row) -> str:
    """What of several workloads it is about."""
    return f", {row.sizes.requests}" if row.sizes.requests else ""


def service(row: Row) -> str:
    """The highest load within the limits, in words."""
    level = row.level
    assert level is not None
    if level.absent:
        return level.absent
    found = log_interval(row.each("requests_s"))
    ends = "" if found.low is None else f" ({found.low:.3g} to {found.high:.3g})"
    parts = [f"{found.value:.3g} requests a second{ends} meet {level.slo}"]
    parts.append(f"{row.value('total_tok_s'):,.0f} tokens a second, prompt and new")
    knee = level.knee
    if knee is not None and knee.concurrency is not None:
        parts.append(f"about {knee.concurrency:.3g} at once")
    if level.cached_share:
        parts.append(f"{level.cached_share:.0%} of the prompts' tokens from a cache")
    return "; ".join(parts)


def curve(rows: Sequence[Row], names: Mapping[str, str]) -> Iterator[str]:
    """What the largest batch brings, and what it costs those who wait; the table has the rest."""
    ends: dict[tuple[Any, ...], tuple[Row, Row]] = {}
    for row in sorted(rows, key=lambda row: row.sizes.n_batch or 0):
        if row.sizes.n_batch and row.value("output_tok_s") and row.value("ttft_s"):
            work = (row.key.environment, row.arm.name, row.sizes.n_prompt, row.sizes.n_gen)
            ends[work] = (ends.get(work, (row,))[0], row)
    for one, row in ends.values():
        if one is row:
            continue
        output, first = _over(row, one, "output_tok_s"), _over(row, one, "ttft_s")
        parts = [f"{output:.2f}x the tokens of {one.sizes.n_batch}"]
        parts.append(f"{first:.2f}x the time to the first token")
        if each := _over(row, one, "tpot_s"):
            parts.append(f"{each:.2f}x the time per token")
        yield f"{names[row.arm.name]}, {row.sizes.n_batch} at once: {', '.join(parts)}."


def _over(row: Row, base: Row, name: str) -> float | None:
    """How many times the base's figure; None where one is missing."""
    ours, theirs = row.value(name), base.value(name)
    return ours / theirs if ours and theirs else None


def meaning(gate: Gate, one: Shown, base: Shown, verdict: Compared | None) -> str:
    """One arm against its baseline, in words; `verdict`: on decoding, where there is one."""
    if one.row.level is not None:
        return _rates(one, base)
    speed = _over(one.row, base.row, "decode_tok_s")
    if speed is None:
        return one.absent.get("decode_tok_s", "nothing to compare it with")
    parts = [f"decodes {times(speed, 'as fast')}{_each_pair(one.row, base.row)}"]
    held, other = one.row.weights.weights_bytes, base.row.weights.weights_bytes
    if held and other:
        parts.append(f"weights {held / other:.2f}x the bytes")
    if one.usd_per_mtok and base.usd_per_mtok:
        parts.append(f"a token costs {one.usd_per_mtok / base.usd_per_mtok:.2f}x")
    figures = one.row.quality
    if figures is None or figures.ppl_ratio is None:
        return f"{', '.join(parts)}; {one.absent.get('ppl', 'quality was not compared')}"
    parts.append(f"perplexity {figures.ppl_ratio.value:.2f}x")
    quality = "not at equal quality" if check_gate(gate, figures) else "at equal quality"
    said = (
        _direction(speed, pair_ratios(one.row, base.row)) if verdict is None else in_words(verdict)
    )
    return f"{', '.join(parts)}: {said}, {quality}"


def _rates(one: Shown, base: Shown) -> str:
    """The highest loads of two arms within the same limits."""
    load = _over(one.row, base.row, "requests_s")
    if load is None:
        return one.absent.get("requests_s", "nothing to compare it with")
    said = f"sustains {load:.2f}x the requests a second within {one.row.sizes.slo}"
    if one.usd_per_mtok and base.usd_per_mtok:
        said += f", a token costs {one.usd_per_mtok / base.usd_per_mtok:.2f}x"
    return said


def _direction(speed: float, ratios: Sequence[float]) -> str:
    """Faster or slower, where pairs without a verdict do not contradict each other."""
    if abs(speed - 1) <= ALIKE:
        return "no faster"
    if ratios and min(ratios) < 1 < max(ratios):
        return "its pairs disagree on which is faster"
    return "faster" if speed > 1 else "slower"


def times(ratio: float, what: str) -> str:
    """`2.0x as fast`, or `about as fast`."""
    return f"about {what}" if abs(ratio - 1) <= ALIKE else f"{ratio:.2f}x {what}"


def notes(experiment: Experiment, rows: Sequence[Row]) -> Iterator[str]:
    """What the figures rest on."""
    yield from started_by(row.arm.options for row in rows)
    gate = experiment.gate
    bounds = [
        f"{words} {value:g}"
        for words, value in (
            ("perplexity ratio at most", gate.max_ppl_ratio),
            ("mean KLD at most", gate.max_mean_kld),
            ("same top token at least", gate.min_same_top1),
        )
        if value is not None
    ]
    if bounds and any(_quality(row, "ppl") is not None for row in rows):
        yield f"Equal quality means: {', '.join(bounds)}, on `{experiment.quality.text}`."
    if experiment.cost is not None:
        each = " of each card" if any(row.arm.cards > 1 for row in rows) else ""
        cost = experiment.cost
        yield (
            f"Cost per million tokens, prompt and new alike, at ${cost.usd_per_hour:g} "
            f"an hour{each}, busy {cost.utilization:.0%} of it ({cost.source})."
        )
    yield from _mostly_floats(rows)
    yield from _spread(rows)
    yield from _few_pairs(rows)
    yield from _seen_twice(rows)
    off = [row.energy_disagreement for row in rows if row.energy_disagreement is not None]
    if off:
        yield (
            f"The energy counter and the card's own power samples differ by up to {max(off):.0%}: "
            "joules are no more certain than that."
        )
    for warning in dict.fromkeys(row.weights.warning for row in rows if row.weights.warning):
        yield f"{warning}."
    for reason in sorted({reason for row in rows for reason in row.reasons}):
        yield f"`{reason}`: {sentence(reason)}."


def _mostly_floats(rows: Sequence[Row]) -> Iterator[str]:
    """Schemes that reach less than half of a model: what they are compared as is mostly floats."""
    for row in {row.arm.name: row for row in rows}.values():
        share = row.weights.quantized_fraction
        if share is not None and share < 0.5 and row.arm.quant != "none":
            yield (
                f"{row.arm.name}: only {share:.0%} of the weights are quantized, the others stay "
                "in floats (`layers.skipped` in the records says which, and why)."
            )


def _spread(rows: Sequence[Row]) -> Iterator[str]:
    """What processes differ by."""
    noise = [row.noise for row in rows if row.noise is not None]
    if noise and any(row.spread is not None for row in rows):
        yield (
            "± is half the range between fresh processes; within one, requests vary by "
            f"{min(noise):.1%} to {max(noise):.1%}."
        )


def pair_ratios(row: Row, base: Row) -> list[float]:
    """Decode speed over the baseline's, of each pair that may be believed."""
    theirs = {one.index: one.figures["decode_tok_s"] for one in base.good}
    return [
        ours / other
        for one in row.good
        if (ours := one.figures["decode_tok_s"]) and (other := theirs.get(one.index))
    ]


def _each_pair(row: Row, base: Row) -> str:
    """How pairs that are too few for a verdict agree."""
    ratios = pair_ratios(row, base)
    if not 1 < len(ratios) < MIN_PAIRS:
        return ""
    faster = sum(ratio > 1 for ratio in ratios)
    slower = len(ratios) - faster
    word, same = ("faster", faster) if faster >= slower else ("slower", slower)
    return f" ({word} in {same} of {len(ratios)} pairs: {min(ratios):.2f}x to {max(ratios):.2f}x)"


def _n_replicates(row: Row) -> int:
    """How many may be believed; of a search, those that held its rate between neighbours."""
    return len(row.good if row.level is None else row.level.each)


def _few_pairs(rows: Sequence[Row]) -> Iterator[str]:
    """What so few pairs allow to say, and how to get a verdict."""
    pairs = min((_n_replicates(row) for row in rows), default=0)
    if not 0 < pairs < MIN_PAIRS or len({row.arm.name for row in rows}) < 2:
        return
    for_verdict = (
        "`bench run --level standard` measures 8 pairs and `bench compare` gives the verdict."
    )
    if pairs < 2:
        yield f"1 replicate estimates a difference but cannot establish it: {for_verdict}"
        return
    yield (
        f"{pairs} pairs estimate a difference but cannot establish it: two equal arms differ the "
        f"same way in all {pairs} pairs 1 time in {2 ** (pairs - 1)}. {for_verdict}"
    )


EARLY_LIMIT = 0.01
"""From here tokens that were decoded during prefill are said to blur the two."""
HOST_LIMIT = 1.05
"""From here the host's clock and the device's are said to differ."""


def _seen_twice(rows: Sequence[Row]) -> Iterator[str]:
    """Where a mode makes other tokens than eager or copies weights, where decoding and prefill
    overlap, and where host and device disagree on time."""
    names = short_names([row.arm.name for row in rows])
    for row in rows:
        name, same, of = names[row.arm.name], row.tokens_as_eager, row.tokens_checked
        if of is not None and same is not None and same < of:
            yield f"**{name}** agrees with eager mode on the first {same} of {of} tokens only."
        if row.weights.copies_weights:
            yield (
                f"**{name}**, batch {row.sizes.n_batch}: each step converts weights to floats "
                "in memory before it multiplies, so it moves more bytes than `weights MB`."
            )
        if (share := row.early_share or 0) > EARLY_LIMIT:
            yield (
                f"**{name}**, batch {row.sizes.n_batch}: {share:.0%} of the tokens "
                "were made while prompts were still read, so decode tok/s is up to "
                f"{share / (1 - share):.0%} too high, prefill tok/s too low; output tok/s is right."
            )
        if (ratio := row.host_ratio or 0) > HOST_LIMIT:
            yield (
                f"**{name}**: the host measured {ratio:.2f}x the device's time; figures use "
                "the device's."
            )


def _baselines(experiment: Experiment, rows: Sequence[Shown]) -> Mapping[str, str]:
    """Arm -> its baseline; empty where there is none, or where several could be it."""
    try:
        return opponents({one.row.arm.name: one.row.arm for one in rows}, experiment.baseline, None)
    except InputError:
        return {}


def _measured(row: Row, arm: str) -> tuple[Any, ...]:
    """An arm at this workload on this machine."""
    return row.host.hardware, row.sizes, arm
