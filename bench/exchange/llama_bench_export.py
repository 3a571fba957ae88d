"""llama-bench's Markdown table, one a machine: what people paste into issues.

A record of prompt and new tokens is up to three rows: the prompt (`pp`), the new tokens after it
(`tg @ d`), and both in one time (`pp+tg`). Rates are tokens a second of one sequence.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bench.errors import InputError
from bench.exchange.exporting import Exported, by_machine, failures
from bench.experiment import CostAssumption
from bench.records import Record
from bench.records.file import Results
from bench.summary import replicate_figures, summarise

HEADING: Final = ("model", "size", "params", "backend", "threads", "test", "t/s")
FLOATS: Final = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "auto": "BF16"}
LOST: Final = "engine settings, latencies, energy, memory, quality, reasons and prices"


def write(results: Results, _: CostAssumption | None) -> Exported:
    """A table for each machine. What has more than one sequence is no row of llama-bench."""
    parts, left = [], 0
    for one in by_machine(results):
        rows = []
        for row in summarise(one):
            group = _group(one, row)
            if row["n_batch"] != 1:
                left += 1
            elif group:
                rows += list(_rows(row, group))
        if rows:
            parts.append(_machine(one) + _table(rows))
    if not parts:
        raise InputError("there is no record of one sequence with a rate to export")
    dropped = [LOST, *([f"{left} rows of several sequences at once"] if left else [])]
    return Exported(data="\n".join(parts).encode(), dropped=(*dropped, *failures(results)))


def _group(results: Results, row: Mapping[str, Any]) -> list[Record]:
    return [
        record
        for record in results.records
        if record.status == "ok"
        and record.variant["name"] == row["variant"]
        and all(record.workload[key] == row[key] for key in ("n_prompt", "n_gen", "n_batch"))
    ]


def _rows(row: Mapping[str, Any], group: Sequence[Record]) -> Iterator[list[str]]:
    """The tests of one variant and workload."""
    each = [replicate_figures(record) for record in group]
    n_prompt, n_gen = row["n_prompt"], row["n_gen"]
    depth = int((group[0].variant.get("options") or {}).get("n_depth") or 0)
    head = [_type(row), _size(row), _params(group[0]), _backend(group[0]), _threads(group[0])]
    tests = (
        (f"pp{n_prompt}" + _at(depth), "prefill_tok_s"),
        (f"tg{n_gen}" + _at(depth + n_prompt), "decode_tok_s"),
        (f"pp{n_prompt}+tg{n_gen}" + _at(depth), "total_tok_s" if n_prompt and n_gen else ""),
    )
    for test, name in tests:
        values = [value for one in each if (value := one.get(name)) is not None]
        if values:
            centre = statistics.geometric_mean(values)
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            yield [*head, test, f"{_plain(centre)} ± {_plain(spread)}"]


def _plain(value: float) -> str:
    """Two digits after the point, as llama-bench has them, and never fewer than six in all."""
    return f"{value:.2f}" if value >= 1000 or value == 0 else f"{value:#.6g}"


def _at(depth: int) -> str:
    return f" @ d{depth}" if depth else ""


def _type(row: Mapping[str, Any]) -> str:
    """Model and scheme in the words of a file's type: `llama-3.1-8b Q4_K_M`."""
    quant = row["quant"]
    return (
        f"{row['model']} {FLOATS.get(row['dtype'], 'BF16') if quant == 'none' else quant.upper()}"
    )


def _size(row: Mapping[str, Any]) -> str:
    held = row["weights_bytes"]
    return f"{held / 2**30:.4g} GiB" if held else "-"


def _params(record: Record) -> str:
    known = record.model.get("n_params")
    return f"{known / 1e9:.4g} B" if known else "-"


def _backend(record: Record) -> str:
    options = record.variant.get("options") or {}
    device = str(record.variant["device"]).partition(":")[0]
    return str(options.get("backend") or device.upper())


def _threads(record: Record) -> str:
    return str(record.variant.get("threads") or "-")


def _machine(results: Results) -> str:
    """The cards, in the lines that llama.cpp prints before its table."""
    known = next((one.identity for one in results.environments.values()), {})
    name, n = known.get("gpu"), known.get("gpus", 1)
    if not name:
        return ""
    cards = "".join(f"  Device {i}: {name}\n" for i in range(n))
    return f"found {n} devices:\n{cards}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[at]) for line in (HEADING, *rows)) for at in range(len(HEADING))]
    lines = [
        "| "
        + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        + " |"
        for line in (HEADING, ["-" * width for width in widths], *rows)
    ]
    return "\n".join(lines) + "\n"
