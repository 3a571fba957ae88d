"""What a scheme costs in quality, and what it gives: bytes, speed and cost against divergence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from bench.cost.hour import per_mtok
from bench.errors import InputError
from bench.experiment import CostAssumption
from bench.experiment.selectors import short_names
from bench.records.file import Results
from bench.report.tables import Column, column
from bench.summary import summarise
from bench.summary.quality import PARETO_MEASURES, pareto

Row = dict[str, Any]

SHOWN = {"packed_bytes": "size", "decode_tok_s": "speed", "usd_per_mtok": "cost"}


def rows(results: Results, price: CostAssumption | None) -> list[Row]:
    """One row an arm and workload, by divergence; `front` names the measures it is best in.

    An arm is on the front of a measure if no other of the same model and workload has as much of
    it at no more divergence. Cost is that of an hour at this price, or absent.
    """
    found = []
    for row in summarise(results):
        usd = per_mtok(price, row["total_tok_s"], row["cards"])
        found.append(row | {"usd_per_mtok": usd})
    if not any(row["mean_kld"] is not None for row in found):
        raise InputError(
            "no arm has a divergence from a baseline, so there is no trade-off to show"
        )
    found.sort(key=_work)
    return [row for _, group in groupby(found, key=_work) for row in pareto(list(group))]


def _work(row: Row) -> tuple[str, int, int, int]:
    return row["model"], row["n_prompt"] or 0, row["n_gen"] or 0, row["n_batch"] or 0


def columns(found: Sequence[Row]) -> list[Column]:
    """Columns to read; what is the same in every row is not shown."""
    names = short_names([row["variant"] for row in found])
    swept = [
        column(key, heading)
        for key, heading in (("n_prompt", "prompt"), ("n_gen", "new"), ("n_batch", "batch"))
        if len({row[key] for row in found}) > 1
    ]
    priced = any(row["usd_per_mtok"] is not None for row in found)
    return [
        Column(heading="variant", show=lambda row: names[row["variant"]]),
        *swept,
        column("mean_kld", "KLD", ".4f"),
        column("same_top1", "same top-1", ".3f"),
        Column(heading="MB", show=lambda row: _scaled(row["packed_bytes"], 1e6)),
        column("decode_tok_s", "decode tok/s", ",.1f"),
        *([column("usd_per_mtok", "$ per Mtok", ",.3f")] if priced else []),
        Column(heading="best in", show=lambda row: _fronts(row) or "-"),
        Column(heading="valid", show=lambda row: ", ".join(row["reasons"]) or "yes"),
    ]


def _scaled(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:,.1f}"


def _fronts(row: Mapping[str, Any]) -> str:
    return ", ".join(SHOWN[name] for name in PARETO_MEASURES if name in row["front"])


def words(found: Sequence[Row]) -> Iterator[str]:
    """What the table means."""
    yield (
        "Best in: no other arm of the same work has as much of it at no more divergence (KLD) from "
        "the baseline."
    )
    if any(row["packed_bytes"] != row["weights_bytes"] for row in found):
        yield ("MB as the numbers need them; what `mixed` is held in is more, see docs/quality.md.")
    if any(row["reasons"] for row in found):
        yield "Speeds with a reason are shown, not vouched for."
