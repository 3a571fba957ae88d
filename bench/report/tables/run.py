"""What `bench run` prints: the table, what was assumed, and what it means in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.cost.hour import per_mtok
from bench.experiment import Experiment, Gate
from bench.experiment.selectors import arm_order, short_names
from bench.records.codes import REASONS
from bench.records.file import Results
from bench.report.tables import Column, column, render
from bench.summary import quality_of, summarise
from bench.summary.limits import with_limits
from bench.summary.quality import Figures, check_gate

Row = dict[str, Any]

NO_PRICE = "the experiment states no price; `bench cost --rent` takes one"

ALIKE = 0.05
"""Ratios this near to 1 are called `about as`: a choice of words, not a verdict."""


def show(experiment: Experiment, results: Results, folder: Path, output: str) -> str:
    """The results of an experiment in one of the formats of `-o`."""
    rows = priced(experiment, with_limits(_in_order(experiment, summarise(results)), results))
    table = render(rows, columns(rows), output)
    if output != "md":
        return table
    text = "\n".join(f"- {line}" for line in words(experiment, rows, quality_of(results)))
    return f"{experiment.question}\n\n{table}\n{text}\n\nRecords: {folder}\n"


def _in_order(experiment: Experiment, rows: Sequence[Row]) -> list[Row]:
    """The rows as the experiment names its arms, and not as chance had them measured."""
    place = arm_order([experiment])
    return sorted(rows, key=lambda row: place.get(row["variant"], len(place)))


def priced(experiment: Experiment, rows: Sequence[Row]) -> list[Row]:
    """The rows with cost under the experiment's own assumption, where it states one."""
    cost = experiment.cost
    result = []
    for row in rows:
        usd = per_mtok(cost, row["total_tok_s"], row["cards"])
        why = "no throughput" if cost else NO_PRICE
        absent = row["absent"] if usd is not None else row["absent"] | {"usd_per_mtok": why}
        result.append(row | {"usd_per_mtok": usd, "absent": absent})
    return result


def columns(rows: Sequence[Row]) -> list[Column]:
    """Columns to read; what is the same in every row is not shown."""
    names = short_names([row["variant"] for row in rows])

    def speed(key: str, heading: str) -> Column:
        return column(key, heading, ",.1f")

    def bytes_of(key: str, heading: str) -> Column:
        return Column(
            heading=heading, show=lambda r: "-" if r[key] is None else f"{r[key] / 1e6:,.0f}"
        )

    swept = [
        column(key, heading)
        for key, heading in (("n_prompt", "prompt"), ("n_gen", "new"), ("n_batch", "batch"))
        if len({row[key] for row in rows}) > 1
    ]
    bounded = [
        column(key, heading, ".0%")
        for key, heading in (("mbu", "of bandwidth"), ("mbu_measured", "of measured bandwidth"))
        if any(row[key] is not None for row in rows)
    ]
    energy = [column("energy_per_output_token_j", "J per new token", ".3g")]
    if all(row["energy_per_output_token_j"] is None for row in rows):
        energy = []
    return [
        Column(heading="variant", show=lambda row: names[row["variant"]]),
        *swept,
        speed("prefill_tok_s", "prefill tok/s"),
        Column(heading="decode tok/s", show=_decode),
        *_of_requests(rows),
        bytes_of("weights_bytes", "weights MB"),
        bytes_of("peak_memory_bytes", "peak MB"),
        *bounded,
        *energy,
        column("ppl", "perplexity", ".2f"),
        column("mean_kld", "KLD", ".4f"),
        column("usd_per_mtok", "$ per Mtok", ".3f"),
        Column(heading="valid", show=_valid),
    ]


def _of_requests(rows: Sequence[Row]) -> list[Column]:
    """How much in all, and how long one request waits: of a server, or over several batches."""
    imported = any(row["ttft_s"] and not row["prefill_tok_s"] for row in rows)
    swept = len({row["n_batch"] for row in rows}) > 1
    if all(row["requests_s"] is None for row in rows) and not imported and not swept:
        return []
    counted = [column("requests_s", "requests/s", ",.2f")]
    if all(row["requests_s"] is None for row in rows):
        counted = []
    limited = [column("goodput_req_s", "within limits/s", ",.2f")]
    if all(row["goodput_req_s"] is None for row in rows):
        limited = []
    return [
        column("output_tok_s", "output tok/s", ",.1f"),
        Column(heading="TTFT ms", show=lambda r: _ms(r["ttft_s"])),
        Column(heading="per token ms", show=lambda r: _ms(r["tpot_s"])),
        *counted,
        *limited,
    ]


def _decode(row: Mapping[str, Any]) -> str:
    if row["decode_tok_s"] is None:
        return "-"
    spread = "" if row["decode_spread"] is None else f" ± {row['decode_spread']:.0%}"
    return f"{row['decode_tok_s']:,.1f}{spread}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:,.1f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _valid(row: Mapping[str, Any]) -> str:
    return "yes" if row["valid"] else ", ".join(row["reasons"]) or "not measured"


def words(
    experiment: Experiment, rows: Sequence[Row], quality: Mapping[str, Figures]
) -> Iterator[str]:
    """What the table means, one sentence each."""
    bases = {_work(row): row for row in rows if _is_baseline(experiment, row)}
    names = short_names([row["variant"] for row in rows])
    many = len({_work(row)[1:] for row in rows}) > 1
    for row in rows:
        base = bases.get(_work(row))
        if base is not None and base is not row:
            at = f" at {row['n_prompt']}+{row['n_gen']} x {row['n_batch']}" if many else ""
            said = meaning(experiment.gate, row, base, quality)
            yield f"**{names[row['variant']]}**{at}: {said}."
    yield from curve(rows, names)
    for row in rows:
        if row["diagnosis"]:
            yield f"{names[row['variant']]}: {row['diagnosis']}."
    yield from notes(experiment, rows)


def curve(rows: Sequence[Row], names: Mapping[str, str]) -> Iterator[str]:
    """What the largest batch brings, and what it costs those who wait; the table has the rest."""
    ends: dict[tuple[Any, ...], tuple[Row, Row]] = {}
    for row in sorted(rows, key=lambda row: row["n_batch"] or 0):
        if row["n_batch"] and row["output_tok_s"] and row["ttft_s"]:
            work = (row["variant"], row["n_prompt"], row["n_gen"])
            ends[work] = (ends.get(work, (row,))[0], row)
    for one, row in ends.values():
        if one is row:
            continue
        parts = [f"{row['output_tok_s'] / one['output_tok_s']:.2f}x the tokens of {one['n_batch']}"]
        parts.append(f"{row['ttft_s'] / one['ttft_s']:.2f}x the time to the first token")
        if row["tpot_s"] and one["tpot_s"]:
            parts.append(f"{row['tpot_s'] / one['tpot_s']:.2f}x the time per token")
        yield f"{names[row['variant']]}, {row['n_batch']} at once: {', '.join(parts)}."


def meaning(gate: Gate, row: Row, base: Row, quality: Mapping[str, Figures]) -> str:
    """One arm against its baseline, in words."""
    if row["decode_tok_s"] is None or base["decode_tok_s"] is None:
        return str(row["absent"].get("decode_tok_s", "nothing to compare it with"))
    speed = row["decode_tok_s"] / base["decode_tok_s"]
    parts = [f"decodes {times(speed, 'as fast')}"]
    if row["weights_bytes"] and base["weights_bytes"]:
        parts.append(f"weights {row['weights_bytes'] / base['weights_bytes']:.2f}x the bytes")
    if row["usd_per_mtok"] and base["usd_per_mtok"]:
        parts.append(f"a token costs {row['usd_per_mtok'] / base['usd_per_mtok']:.2f}x")
    figures = quality.get(row["variant"])
    if figures is None or figures.ppl_ratio is None:
        return f"{', '.join(parts)}; {row['absent'].get('ppl', 'quality was not compared')}"
    parts.append(f"perplexity {figures.ppl_ratio.value:.2f}x")
    return f"{', '.join(parts)}: {_judged(speed, kept=not check_gate(gate, figures))}"


def _judged(speed: float, *, kept: bool) -> str:
    quality = "at equal quality" if kept else "not at equal quality"
    if abs(speed - 1) <= ALIKE:
        return f"no faster, {quality}"
    return f"{'faster' if speed > 1 else 'slower'}, {quality}"


def times(ratio: float, what: str) -> str:
    """`2.0x as fast`, or `about as fast`."""
    return f"about {what}" if abs(ratio - 1) <= ALIKE else f"{ratio:.2f}x {what}"


def notes(experiment: Experiment, rows: Sequence[Row]) -> Iterator[str]:
    """What the figures rest on."""
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
    if bounds and any(row["ppl"] is not None for row in rows):
        yield f"Equal quality means: {', '.join(bounds)}, on `{experiment.quality.text}`."
    if experiment.cost is not None:
        each = " of each card" if any(row["cards"] > 1 for row in rows) else ""
        cost = experiment.cost
        yield (
            f"Cost per million tokens, prompt and new alike, at ${cost.usd_per_hour:g} "
            f"an hour{each}, busy {cost.utilization:.0%} of it ({cost.source})."
        )
    noise = [row["decode_noise"] for row in rows if row["decode_noise"] is not None]
    if noise and any(row["decode_spread"] is not None for row in rows):
        yield (
            "± is half the range between fresh processes; within one, requests vary by "
            f"{min(noise):.1%} to {max(noise):.1%}."
        )
    pairs = min((row["n_replicates"] for row in rows), default=0)
    if pairs < 6:
        yield (
            f"{pairs} replicate{'s' * (pairs != 1)} of each show a size, not a verdict: "
            "`--level standard` measures 8, and "
            "`bench compare` gives the interval."
        )
    yield from _seen_twice(rows)
    off = [row["energy_disagreement"] for row in rows if row["energy_disagreement"] is not None]
    if off:
        yield (
            f"The energy counter and the card's own power samples differ by up to {max(off):.0%}: "
            "joules are no surer than that."
        )
    for warning in dict.fromkeys(row["warning"] for row in rows if row.get("warning")):
        yield f"{warning}."
    for reason in sorted({reason for row in rows for reason in row["reasons"]}):
        yield f"`{reason}`: {REASONS.get(reason, 'see the records')}."


EARLY_LIMIT = 0.01
"""From here tokens that were decoded during prefill are said to blur the two."""
HOST_LIMIT = 1.05
"""From here the host's clock and the device's are said to differ."""


def _seen_twice(rows: Sequence[Row]) -> Iterator[str]:
    """Where a mode makes other tokens than eager or copies weights, where decoding and prefill
    overlap, and where host and device disagree on time."""
    names = short_names([row["variant"] for row in rows])
    for row in rows:
        same, of = row["tokens_as_eager"], row["tokens_checked"]
        if of is not None and same < of:
            name = names[row["variant"]]
            yield f"**{name}** made other tokens than eager mode after {same} of {of}."
        if row["copies_weights"]:
            yield (
                f"**{names[row['variant']]}**, batch {row['n_batch']}: each step writes weights "
                "out in floats before it multiplies, so they are not read as they are held."
            )
        if (share := row["early_share"] or 0) > EARLY_LIMIT:
            yield (
                f"**{names[row['variant']]}**, batch {row['n_batch']}: {share:.0%} of the tokens "
                "were made while prompts were still read, so decode tok/s is up to "
                f"{share / (1 - share):.0%} too high, prefill tok/s too low; output tok/s is right."
            )
        if (row["host_ratio"] or 0) > HOST_LIMIT:
            yield (
                f"**{names[row['variant']]}**: the host saw {row['host_ratio']:.2f}x the time that "
                "the device did; figures are the device's."
            )


def _is_baseline(experiment: Experiment, row: Row) -> bool:
    return row["variant"] in experiment.baselines


def _work(row: Row) -> tuple[Any, ...]:
    return row["model"], row["n_prompt"], row["n_gen"], row["n_batch"]
