"""What a scheme costs in quality, and what it gives: bytes, speed and cost against divergence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from bench.errors import InputError
from bench.experiment import CostAssumption
from bench.experiment.selectors import short_names
from bench.records.file import Results
from bench.report.tables import Column, figure, sweeps
from bench.report.tables.row import Shown, several_machines, shown, valid_words
from bench.report.tables.row import table as table_of
from bench.summary import Row, Summary, summarise
from bench.summary.quality import MEASURES, Trade, fronts

WORDS = {"packed_bytes": "size", "decode_tok_s": "speed", "usd_per_mtok": "cost"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An arm at one workload, and the measures that it is on the front of."""

    shown: Shown
    trade: Trade
    front: tuple[str, ...]

    @property
    def row(self) -> Row:
        return self.shown.row


def rows(results: Results | Summary, price: CostAssumption | None) -> list[Placed]:
    """One row an arm, workload and machine, by divergence.

    An arm is on the front of a measure if no other at the same workload and machine, and with a
    baseline of the same model, has as much of it at no more divergence. Cost is that of an hour
    at this price, or absent.
    """
    found = shown(summarise(results), price)
    if all(kld_of(one.row) is None for one in found):
        raise InputError(
            "no arm has a divergence from a baseline, so there is no trade-off to show"
        )
    found.sort(key=_work)
    return [row for _, group in groupby(found, key=_work) for row in placed(list(group))]


def placed(group: Sequence[Shown]) -> list[Placed]:
    """Arms of one baseline's model and workload with their fronts, by divergence; unknown last."""
    trades = [
        Trade(
            mean_kld=kld_of(one.row),
            packed_bytes=one.row.weights.packed_bytes,
            decode_tok_s=one.row.value("decode_tok_s"),
            usd_per_mtok=one.usd_per_mtok,
        )
        for one in group
    ]
    each = zip(group, trades, fronts(trades), strict=True)
    made = [Placed(shown=one, trade=trade, front=front) for one, trade, front in each]
    return sorted(made, key=lambda one: (one.trade.mean_kld is None, one.trade.mean_kld or 0.0))


def kld_of(row: Row) -> float | None:
    """Mean divergence from the baseline."""
    found = None if row.quality is None else row.quality.mean_kld
    return None if found is None else found.value


def baseline_model(row: Row) -> str:
    """The model whose predictions the arm's are compared with: mostly its own."""
    return (row.quality.baseline_model if row.quality else None) or row.arm.model


def _work(one: Shown) -> tuple[str, int, int, int, str]:
    sizes = one.row.sizes
    size = (sizes.n_prompt or 0, sizes.n_gen or 0, sizes.n_batch or 0)
    return baseline_model(one.row), *size, one.row.label


def table(one: Placed) -> dict[str, Any]:
    """The keys of `bench run -o json`, and `front`."""
    return table_of(one.shown) | {"front": list(one.front)}


def columns(found: Sequence[Placed]) -> list[Column]:
    """Columns to read; what is the same in every row is not shown."""
    names = short_names([one.row.arm.name for one in found])
    machine = [figure("machine", lambda one: one.row.label)]
    priced = any(one.trade.usd_per_mtok is not None for one in found)
    return [
        figure("variant", lambda one: names[one.row.arm.name]),
        *(machine if several_machines(one.row for one in found) else []),
        *sweeps([one.row.sizes for one in found], lambda one: one.row.sizes),
        figure("KLD", lambda one: one.trade.mean_kld, ".4f"),
        figure("same top-1", _same_top1, ".3f"),
        figure("MB", lambda one: _scaled(one.trade.packed_bytes, 1e6)),
        figure("decode tok/s", lambda one: one.trade.decode_tok_s, ",.1f"),
        *([figure("$ per Mtok", lambda one: one.trade.usd_per_mtok, ",.3f")] if priced else []),
        figure("best in", lambda one: _fronts(one) or "-"),
        figure("valid", lambda one: valid_words(one.row)),
    ]


def _same_top1(one: Placed) -> float | None:
    found = None if one.row.quality is None else one.row.quality.same_top1
    return None if found is None else found.value


def _scaled(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:,.1f}"


def _fronts(one: Placed) -> str:
    return ", ".join(WORDS[name] for name in MEASURES if name in one.front)


def words(found: Sequence[Placed]) -> Iterator[str]:
    """What the table means."""
    yield (
        "Best in: no other arm does as well on the same work at equal or lower divergence (KLD) "
        "from the baseline."
    )
    if any(one.row.weights.packed_bytes != one.row.weights.weights_bytes for one in found):
        yield "MB counts packed weights; `mixed` takes more memory, see docs/quality.md."
    if any(one.row.reasons for one in found):
        yield "A speed with a reason is not evidence."
