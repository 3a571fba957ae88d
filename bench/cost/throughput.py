"""Records -> what a price needs: total tok/s of each variant and workload, with its interval.

A replicate's figure is the batch's tokens over its median request time. Over replicates the point
is the geometric mean, and the 95% interval a t interval on the logarithms. Reading tower.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.cost import above_zero
from bench.cost.prices import card_name
from bench.experiment.devices import cards, has_card
from bench.records import Environment, Record
from bench.records.file import Results
from bench.roofline.gpus import match
from bench.summary import replicate_figures
from bench.summary.served import overlaps

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """One variant at one workload on one machine, as far as its cost needs it."""

    variant: str
    n_prompt: int
    n_gen: int
    n_batch: int | None = 1
    """None where requests came and went: an imported tool that does not say how many at once."""
    total_tok_s: float
    """Input and output tokens of all sequences, over the time of a request."""
    low: float | None = None
    high: float | None = None
    """95% interval of `total_tok_s`; None with the reason in `absent`."""
    n_replicates: int = 1
    prefill_s: float | None = None
    """Seconds to the first token of each sequence."""
    power_w: float | None = None
    """Average power while working, as far as `power_scope` reaches."""
    idle_w: float | None = None
    """Power at rest with the model loaded, in the same scope; None if it was not measured."""
    power_scope: str | None = None
    """What both cover: `wall`, or the device."""
    limit_w: float | None = None
    """Power limit of the card as read, else as its data sheet has it."""
    device: str | None = None
    """Card, by its catalog name."""
    gpus: int = 1
    """Cards that held the model together; power is of all of them, the limit of each."""
    environment: str = ""
    origin: str = "measured"
    reasons: tuple[str, ...] = ()
    """Validity codes of the replicates."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Figure -> why it is missing."""

    def __post_init__(self) -> None:
        above_zero(f"{self.variant}: total_tok_s", self.total_tok_s)

    @property
    def request_tokens(self) -> int:
        """Input and output tokens of one sequence."""
        return self.n_prompt + self.n_gen

    @property
    def request_s(self) -> float:
        """One sequence's share of the machine's time: the batch's time over its sequences."""
        return self.request_tokens / self.total_tok_s

    @property
    def valid(self) -> bool:
        return not self.reasons


def throughputs(results: Results) -> list[Throughput]:
    """One for each machine, variant and workload with a finished replicate, in file order."""
    groups: dict[tuple[Any, ...], list[tuple[Record, float]]] = {}
    for record in results.records:
        rate = _total_tok_s(record) if record.status == "ok" else None
        if rate is not None:
            work = record.workload
            key = (
                record.environment,
                record.variant["name"],
                work["n_prompt"],
                work["n_gen"],
                work["n_batch"],
            )
            groups.setdefault(key, []).append((record, rate))
    return [
        _throughput(
            [record for record, _ in group], [rate for _, rate in group], results.environments
        )
        for group in groups.values()
    ]


def _throughput(
    group: Sequence[Record], rates: Sequence[float], environments: Mapping[str, Environment]
) -> Throughput:
    first = group[0]
    work = first.workload
    point, low, high, why = interval(rates)
    prefills = [
        statistics.median(record.samples["prefill_s"])
        for record in group
        if record.samples.get("prefill_s") and not overlaps(record)
    ]
    power, scope, no_power = _power(group)
    device, limit = _device(environments.get(first.environment), first)
    absent = {"ci_low": why, "ci_high": why} if why else {}
    return Throughput(
        variant=first.variant["name"],
        n_prompt=work["n_prompt"],
        n_gen=work["n_gen"],
        n_batch=work["n_batch"],
        total_tok_s=point,
        low=low,
        high=high,
        n_replicates=len(group),
        prefill_s=statistics.geometric_mean(prefills) if prefills else None,
        power_w=power,
        idle_w=None if power is None else _idle_w(group),
        power_scope=scope,
        limit_w=limit,
        device=device,
        gpus=cards(first.variant),
        environment=first.environment,
        origin=first.origin,
        reasons=tuple(sorted({code for record in group for code in record.reasons})),
        absent=absent | ({"power_w": no_power} if no_power else {}),
    )


def _total_tok_s(record: Record) -> float | None:
    """Input and output tokens a second; None if it has none, InputError if its time is no time."""
    if record.samples.get("e2e_s"):
        above_zero(
            f"record {record.key}: samples.e2e_s", statistics.median(record.samples["e2e_s"])
        )
    return replicate_figures(record)["total_tok_s"]


def interval(values: Sequence[float]) -> tuple[float, float | None, float | None, str | None]:
    """Geometric mean, the ends of its 95% t interval on logarithms, and why there are none."""
    logs = [math.log(value) for value in values]
    centre = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(centre), None, None, "one replicate has no interval; run more pairs"
    from scipy.special import stdtrit

    t = float(stdtrit(len(logs) - 1, 0.5 + CONFIDENCE / 2))
    half = t * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(centre), math.exp(centre - half), math.exp(centre + half), None


def _power(group: Iterable[Record]) -> tuple[float | None, str | None, str | None]:
    """Mean power over the replicates, its scope, and why there is none."""
    found = [_record_power(record) for record in group]
    powers = [(watts, scope) for watts, scope in found if watts is not None]
    if len(powers) < len(found) or len({scope for _, scope in powers}) > 1:
        why = next((r.absent[key] for r in group for key in r.absent if "energy" in key), None)
        return None, None, why or "energy was not read in every replicate"
    return statistics.fmean(watts for watts, _ in powers), powers[0][1], None


def _record_power(record: Record) -> tuple[float | None, str]:
    """Average watts of a request: prefill and decode by their shares of its time, else whole."""
    energy = record.energy
    prefill, decode = (_watts(energy.get(phase)) for phase in ("prefill", "decode"))
    scope = energy.get("scope") or (energy.get("decode") or {}).get("scope") or "device"
    if prefill is not None and decode is not None and record.samples.get("prefill_s"):
        whole = statistics.median(record.samples["e2e_s"])
        part = min(statistics.median(record.samples["prefill_s"]) / whole, 1.0)
        return prefill * part + decode * (1 - part), str(scope)
    return _watts(energy), str(scope)


def _idle_w(group: Sequence[Record]) -> float | None:
    """Mean power at rest over the replicates; None unless each of them measured it."""
    found = [_record_idle_w(record.energy) for record in group]
    known = [watts for watts in found if watts is not None]
    return statistics.fmean(known) if len(known) == len(found) else None


def _record_idle_w(energy: Mapping[str, Any]) -> float | None:
    """Measured once a replicate, so that every window of it carries the same figure."""
    windows = (energy, energy.get("decode") or {}, energy.get("prefill") or {})
    return next((w["idle_power_w"] for w in windows if w.get("idle_power_w") is not None), None)


def _watts(window: Mapping[str, Any] | None) -> float | None:
    joules, seconds = ((window or {}).get(key) for key in ("energy_j", "window_s"))
    return joules / seconds if joules and seconds else None


def _device(environment: Environment | None, record: Record) -> tuple[str | None, float | None]:
    """Catalog name and power limit of the card that a record was measured on."""
    device = str(record.variant.get("device", ""))
    if not has_card(device) or environment is None:
        return None, None
    name = environment.identity.get("gpu")
    if not name:
        return None, None
    card, limit = match(name), environment.identity.get("gpu_power_limit_w")
    return card_name(name), limit if limit or card is None else card.tdp_w
