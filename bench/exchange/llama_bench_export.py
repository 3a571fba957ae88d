"""llama-bench's Markdown table, one a machine: what people paste into issues.

A record of prompt and new tokens is up to three rows: the prompt (`pp`), the new tokens after it
(`tg @ d`), and both in one time (`pp+tg`). Rates are tokens a second of one sequence.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from bench.errors import InputError
from bench.exchange.exporting import Exported, failures
from bench.experiment import CostAssumption
from bench.experiment.devices import kind_of
from bench.records.file import Results
from bench.summary import Host, Row, Summary, summarise

HEADING: Final = ("model", "size", "params", "backend", "threads", "test", "t/s")
FLOATS: Final = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
LOST: Final = "engine settings, latencies, energy, memory, quality, reasons and prices"


def write(results: Results | Summary, _: CostAssumption | None) -> Exported:
    """A table for each machine. What has more than one sequence is no row of llama-bench."""
    rows = list(summarise(results))
    parts = []
    for _id, group in groupby(rows, key=lambda row: row.host.id):
        each = list(group)
        lines = [line for row in each if row.sizes.n_batch == 1 for line in _rows(row)]
        if lines:
            parts.append(_machine(each[0].host) + _table(lines))
    if not parts:
        raise InputError("there is no record of one sequence with a rate to export")
    left = sum(row.sizes.n_batch != 1 for row in rows)
    few = [f"{left} rows of several sequences at once"] if left else []
    return Exported(data="\n".join(parts).encode(), dropped=(LOST, *few, *failures(rows)))


def _rows(row: Row) -> Iterator[list[str]]:
    """The tests of one variant and workload."""
    prompt, new = row.sizes.n_prompt, row.sizes.n_gen
    depth = int(row.arm.options.get("n_depth") or 0)
    head = [_type(row), _size(row), _params(row), _backend(row), str(row.arm.threads or "-")]
    tests = [(f"pp{prompt}" + _at(depth), "prefill_tok_s")] if prompt else []
    tests += [(f"tg{new}" + _at(depth + prompt), "decode_tok_s")] if new else []
    if prompt and new:
        tests.append((f"pp{prompt}+tg{new}" + _at(depth), "total_tok_s"))
    for test, name in tests:
        if values := row.each(name):
            centre = statistics.geometric_mean(values)
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            yield [*head, test, f"{_plain(centre)} ± {_plain(spread)}"]


def _plain(value: float) -> str:
    """Two digits after the point, as llama-bench has them, and never fewer than six in all."""
    return f"{value:.2f}" if value >= 1000 or value == 0 else f"{value:#.6g}"


def _at(depth: int) -> str:
    return f" @ d{depth}" if depth else ""


def _type(row: Row) -> str:
    """Model and scheme in the words of a file's type: `llama-3.1-8b Q4_K_M`."""
    arm = row.arm
    scheme = FLOATS.get(arm.dtype, "BF16") if arm.quant == "none" else arm.quant.upper()
    return f"{arm.model} {scheme}"


def _size(row: Row) -> str:
    held = row.weights.weights_bytes
    return f"{held / 2**30:.4g} GiB" if held else "-"


def _params(row: Row) -> str:
    known = row.good[0].loaded.n_params if row.good else None
    return f"{known / 1e9:.4g} B" if known else "-"


def _backend(row: Row) -> str:
    return str(row.arm.options.get("backend") or kind_of(row.arm.device).upper())


def _machine(host: Host) -> str:
    """The cards, in the lines that llama.cpp prints before its table."""
    if host.gpu is None:
        return ""
    cards = "".join(f"  Device {i}: {host.gpu}\n" for i in range(host.gpus))
    return f"found {host.gpus} devices:\n{cards}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[at]) for line in (HEADING, *rows)) for at in range(len(HEADING))]
    ruled = (HEADING, ["-" * width for width in widths], *rows)
    lines = [
        " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        for line in ruled
    ]
    return "".join(f"| {line} |\n" for line in lines)
