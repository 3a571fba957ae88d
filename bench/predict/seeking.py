"""The reverse question: which cards or models are fast and cheap enough. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def sought(
    rows: Sequence[dict[str, Any]], min_tok_s: float | None, max_usd_per_mtok: float | None
) -> list[dict[str, Any]]:
    """What is fast and cheap enough, the cheapest first; every row where nothing is sought."""
    if min_tok_s is None and max_usd_per_mtok is None:
        return list(rows)
    kept = []
    for row in rows:
        rate, low, usd = row["decode_tok_s"], row["low"], row.get("usd_per_mtok")
        if rate is None or (min_tok_s is not None and rate < min_tok_s):
            continue
        if max_usd_per_mtok is not None and (usd is None or usd > max_usd_per_mtok):
            continue
        sure = min_tok_s is None or low >= min_tok_s
        dear = row.get("usd_per_mtok_high")
        cheap = max_usd_per_mtok is None or (dear is not None and dear <= max_usd_per_mtok)
        row["meets"] = "yes" if sure and cheap and row["fit"] != "tight" else "likely"
        kept.append(row)

    def order(row: dict[str, Any]) -> tuple[bool, float, float]:
        usd = row.get("usd_per_mtok")
        return usd is None, usd or 0.0, -row["decode_tok_s"]

    return sorted(kept, key=order)


def nearest(rows: Sequence[Mapping[str, Any]]) -> str:
    """The ends of what there is, where nothing is fast and cheap enough."""
    fast = max(rows, key=lambda row: row["decode_tok_s"] or 0.0)
    priced = [row for row in rows if row.get("usd_per_mtok") is not None]
    said = "nothing meets this"
    if fast["decode_tok_s"]:
        said += f"; the fastest is {_of(fast)}: {fast['decode_tok_s']:.3g} tok/s"
    if priced:
        cheap = min(priced, key=lambda row: row["usd_per_mtok"])
        said += f"; the cheapest is {_of(cheap)}: {cheap['usd_per_mtok']:.3g} $/Mtok"
    return said


def _of(row: Mapping[str, Any]) -> str:
    return f"{row['model']} in {row['quant']} on {row['gpu']}"
