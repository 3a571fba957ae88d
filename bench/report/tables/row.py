"""A row of the summary as `bench run` shows it: with its limits and its price, and as keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.cost.hour import per_mtok
from bench.experiment import CostAssumption
from bench.records.codes import Part
from bench.summary import METRICS, ArmSettings, Row, Sizes
from bench.summary.limits import FIGURES, MEASURED, Limits, limits
from bench.summary.quality import QualityScores

NO_PRICE: Final = "the experiment states no price; `bench cost --rent` takes one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One arm at one workload on one machine, with all that is shown of it."""

    row: Row
    limits: Limits
    usd_per_mtok: float | None
    no_price: str | None
    """Why there is no price."""

    @property
    def arm(self) -> ArmSettings:
        return self.row.arm

    @property
    def sizes(self) -> Sizes:
        return self.row.sizes

    @property
    def quality(self) -> QualityScores | None:
        return self.row.quality

    def value(self, name: str) -> float | None:
        """A figure of METRICS."""
        return self.row.value(name)

    @property
    def absent(self) -> dict[str, str]:
        """Figure -> why it is missing."""
        price = {} if self.no_price is None else {"usd_per_mtok": self.no_price}
        return {**self.row.absent, **self.limits.absent, **price}


def shown(rows: Iterable[Row], price: CostAssumption | None = None) -> list[Shown]:
    """The rows with limits and, where there is a price of an hour, cost."""
    each = list(rows)
    found = []
    for row in each:
        usd = per_mtok(price, row.value("total_tok_s"), row.arm.cards)
        why = "no throughput" if price else NO_PRICE
        no_price = why if usd is None else None
        found.append(Shown(row=row, limits=limits(row, each), usd_per_mtok=usd, no_price=no_price))
    return found


def table(one: Shown) -> dict[str, Any]:
    """The keys that the contract gives `bench run -o json`, and more."""
    row, arm, held, tails = one.row, one.row.arm, one.row.weights, one.row.tails
    figures = {name: row.value(name) for name, metric in METRICS.items() if metric.in_run}
    peak, quality = figures["peak_memory_bytes"], row.quality
    estimates = {name: getattr(quality, name, None) for name in QUALITY}
    made: dict[str, Any] = {
        "variant": arm.name,
        "model": arm.model,
        "engine": arm.engine,
        "quant": arm.quant,
        "device": arm.device,
        "cards": arm.cards,
        "mode": arm.mode,
        "dtype": arm.dtype,
        **row.sizes._asdict(),
        "n_replicates": len(row.good),
        "n_failed": row.n_failed,
        **figures,
        "decode_spread": row.spread,
        "decode_noise": row.noise,
        "host_ratio": row.host_ratio,
        "early_share": row.early_share,
        "tokens_checked": row.tokens_checked,
        "tokens_as_eager": row.tokens_as_eager,
        "peak_memory_bytes": None if peak is None else int(peak),
        "weights_bytes": held.weights_bytes,
        "packed_bytes": held.packed_bytes,
        "quantized_fraction": held.quantized_fraction,
        "dynamic": held.dynamic,
        "kernel": held.kernel,
        "warning": held.warning,
        "copies_weights": held.copies_weights,
        "energy_scope": row.energy_scope,
        "energy_disagreement": row.energy_disagreement,
        **{name: None if found is None else found.value for name, found in estimates.items()},
        "ttft_p99_s": tails.ttft_p99_s,
        "tpot_p99_s": tails.tpot_p99_s,
        "itl_p99_s": tails.itl_p99_s,
        "n_requests": tails.n_requests,
        "usd_per_mtok": one.usd_per_mtok,
        "valid": row.valid,
        "reasons": list(row.reasons),
        "figure_reasons": {name: list(codes) for name, codes in row.doubtful.items()},
        "absent": one.absent,
        "origin": row.origin,
        "machine": row.label,
        "environment": row.host.id,
    }
    return made | {name: getattr(one.limits, name) for name in (*FIGURES, *MEASURED)}


QUALITY: Final = ("ppl", "ppl_ratio", "mean_kld", "same_top1")


def tables(rows: Sequence[Shown]) -> list[dict[str, Any]]:
    """Rows for a writer of JSON or CSV."""
    return [table(one) for one in rows]


def several_machines(rows: Iterable[Row]) -> bool:
    """Whether a table must name the machine: it has more than one, or an arm twice."""
    each = list(rows)
    hardware = {row.host.hardware for row in each}
    return len(hardware) > 1 or len({(row.arm.name, row.sizes) for row in each}) < len(each)


def valid_words(row: Row) -> str:
    """`yes`, or the codes against it; a doubt about other figures than the main one is named."""
    if not row.good:
        return ", ".join(row.reasons) or "not measured"
    if not row.valid:
        return ", ".join(row.reasons)
    parts: dict[tuple[str, ...], list[str]] = {}
    for part in PARTS:
        codes = row.against(part)
        if codes:
            parts.setdefault(codes, []).append(part)
    told = (f"{' and '.join(names)}: {', '.join(codes)}" for codes, names in parts.items())
    return f"yes, but {'; '.join(told)}" if parts else "yes"


PARTS: Final[tuple[Part, ...]] = ("prefill", "decode", "energy", "memory")
