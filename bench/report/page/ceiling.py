"""The section on the physical limit: measured rows under the card's roof."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bench.errors import BenchError
from bench.models import resolve_model
from bench.report.page import pictures
from bench.report.page.blocks import Cell, ChartLine, Head, Picture, Section, Table
from bench.report.page.machines import Machine, work_of
from bench.report.page.words import cell, number, rate
from bench.report.tables.row import Shown
from bench.roofline import Bound, bound, peak_flops, prefill_work
from bench.roofline.gpus import Gpu, match
from bench.schemes.bytes import layout
from bench.schemes.cache import asked

Point = dict[str, Any]
"""What a chart draws: Vega-Lite's rows."""


def ceiling(machine: Machine) -> Section:
    """How near each row is to what the card allows."""
    head = Section(id=f"{machine.id}-limit", title="How far from the physical limit?")
    bounded = [row for row in machine.rows if row.limits.bound_decode_tok_s is not None]
    if not bounded:
        told = {row.absent.get("mbu", "") for row in machine.rows}
        why = "; ".join(sorted(text for text in told if text)) or "no bound is known"
        return replace(head, missing=f"There is no bound: {why}.")
    lead = (
        "A decode step must read every weight it uses once; nothing can decode faster than that "
        "many bytes over the memory's bandwidth. A point above the roof is a measurement error."
    )
    return replace(head, lead=lead, blocks=(_picture(machine, bounded),))


def _picture(machine: Machine, rows: list[Shown]) -> Picture:
    gpu = _gpu(machine)
    points = list(_points(machine, rows, gpu)) if gpu else []
    return Picture(
        id=f"{machine.id}-roofline",
        title="Roofline",
        caption="Circles: decoding, one for each batch; triangles: prefill. The slope is the "
        "memory's bandwidth, the flat parts the dense peaks of the data sheet.",
        alt="; ".join(
            f"{row.arm.name} at {work_of(row.sizes)}: {row.limits.mbu:.0%} of the bandwidth"
            for row in rows[:16]
            if row.limits.mbu is not None
        ),
        spec=pictures.roofline(points, machine.arms, _roofs(rows, gpu, points))
        if gpu and points
        else None,
        missing="" if points else _no_points(machine),
        table=_table(machine, rows),
    )


def _gpu(machine: Machine) -> Gpu | None:
    name = machine.host.gpu
    return match(name) if name and machine.host.gpus == 1 else None


def _no_points(machine: Machine) -> str:
    if machine.host.gpus > 1:
        return "the roof is of one card, and several worked; the table has their bound"
    return "the model's shape is not known"


def _bound(row: Shown, gpu: Gpu) -> Bound | None:
    if row.sizes.n_batch is None:
        return None
    try:
        return bound(
            resolve_model(row.arm.model).card,
            gpu,
            row.arm.quant,
            row.sizes.n_prompt,
            row.sizes.n_gen,
            row.sizes.n_batch,
            dtype=row.arm.dtype,
            kv_dtype=asked(row.arm.engine, row.arm.options),
            engine=row.arm.engine,
        )
    except BenchError:
        return None


def _points(machine: Machine, rows: list[Shown], gpu: Gpu) -> Iterator[Point]:
    for row in rows:
        most = _bound(row, gpu)
        if most is None:
            continue
        name = machine.name(row)
        if step_s := row.value("tpot_s"):
            yield {
                "variant": name,
                "phase": "decode",
                "x": most.decode_flops / most.decode_bytes,
                "y": most.decode_flops / step_s,
            }
        if ttft_s := row.value("ttft_s"):
            yield {
                "variant": name,
                "phase": "prefill",
                "x": most.prefill_flops / _prefill_bytes(row),
                "y": most.prefill_flops / ttft_s,
            }


def _prefill_bytes(row: Shown) -> float:
    return prefill_work(
        resolve_model(row.arm.model).card,
        row.arm.quant,
        n_prompt=row.sizes.n_prompt,
        n_batch=row.sizes.n_batch or 1,
        dtype=row.arm.dtype,
        kv_dtype=asked(row.arm.engine, row.arm.options),
        engine=row.arm.engine,
    ).n_bytes


def _roofs(rows: list[Shown], gpu: Gpu, points: list[Point]) -> list[Point]:
    """The roof of each kind of arithmetic that the arms use, as wide as the points and ridges."""
    peaks: dict[float, str] = {}
    for row in rows:
        compute = layout(row.arm.quant, row.arm.engine).compute
        peak = peak_flops(gpu, compute, row.arm.dtype)
        if peak:
            peaks.setdefault(peak, "16-bit" if compute in ("float", "fp16") else compute)
    ridges = {peak: peak / gpu.bandwidth for peak in peaks}
    each = [point["x"] for point in points] + list(ridges.values())
    left, right = min(each) / 2, max(each) * 4
    roofs: list[Point] = []
    for peak, name in peaks.items():
        corners = ((left, left * gpu.bandwidth), (ridges[peak], peak), (right, peak))
        roofs += [{"name": name, "x": x, "y": y} for x, y in corners]
        roofs[-1]["label"] = f"{name}: {number(peak / 1e12)} T/s"
    middle = math.sqrt(left * min(ridges.values(), default=right))
    slope = f"memory: {number(gpu.bandwidth / 1e12)} TB/s"
    return [*roofs, {"name": "slope", "x": middle, "y": middle * gpu.bandwidth, "label": slope}]


def _table(machine: Machine, rows: list[Shown]) -> Table:
    heads = (
        Head(text="variant"),
        Head(text="workload", note="prompt+new ×batch"),
        Head(text="decode", numeric=True, note="tok/s"),
        Head(text="bound", numeric=True, note="tok/s"),
        Head(text="of bandwidth", numeric=True, note="MBU"),
        Head(text="of peak, prefill", numeric=True, note="MFU"),
        Head(text="bottleneck"),
    )
    lines = tuple(
        ChartLine(
            cells=(
                Cell(text=machine.name(row)),
                Cell(text=work_of(row.sizes), value=row.sizes.n_batch),
                cell(row.value("decode_tok_s"), rate),
                cell(row.limits.bound_decode_tok_s, rate),
                cell(row.limits.mbu, "{:.0%}".format),
                cell(row.limits.mfu, "{:.0%}".format),
                Cell(text=row.limits.diagnosis or f"bound by {row.limits.limited_by}"),
            )
        )
        for row in rows
    )
    return Table(
        id=f"{machine.id}-limit-table",
        caption="Measured and bound",
        heads=heads,
        lines=lines,
        filtered=len(lines) > 8,
    )
