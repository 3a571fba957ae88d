"""Records -> what a price needs: total tok/s of each variant and workload, with its interval.

Over replicates the point is the geometric mean, the 95% interval a t interval on the logarithms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, geometric_mean
from typing import TYPE_CHECKING, Final

from bench.cost import above_zero
from bench.cost.prices import card_name
from bench.experiment.devices import has_card
from bench.records.file import Results
from bench.roofline.gpus import match
from bench.statistics import log_interval
from bench.summary import METRICS, Replicate, Row, Summary, summarise
from bench.summary.pooling import Pooling, known, pooled
from bench.summary.replicate import against

if TYPE_CHECKING:
    from bench.summary.pooling import Floats

ONE: Final = "one replicate has no interval; run more pairs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """One variant at one workload on one machine, as far as its cost needs it."""

    variant: str
    n_prompt: int
    n_gen: int
    n_batch: int | None = 1
    """None where requests came and went: at a service level, or where a tool does not say."""
    requests: str = ""
    """What was asked for, where lengths differ: the two are then their means."""
    slo: str = ""
    """The limits that it is the highest load of."""
    requests_s: float | None = None
    """Arrivals a second at that load."""
    user_tok_s: float | None = None
    """New tokens a second of one user there: 1 / median time per token."""
    cached_share: float | None = None
    """Of the prompts' tokens, what the server took from a cache; None where it does not say."""
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
    backend: str | None = None
    """CUDA, ROCm, Vulkan, ..., where an imported tool says so."""
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

    def of_computed(self, usd_per_mtok: float | None) -> float | None:
        """The price of a million tokens where those of prompts that came from a cache are not
        counted; None where it is not known how many did."""
        if usd_per_mtok is None or self.cached_share is None:
            return None
        computed = self.request_tokens - self.cached_share * self.n_prompt
        return usd_per_mtok * self.request_tokens / computed

    @property
    def valid(self) -> bool:
        return not self.reasons


def throughputs(results: Results | Summary) -> list[Throughput]:
    """One for each machine, variant and workload with a finished replicate, in file order."""
    return [made for row in summarise(results) if (made := _throughput(row)) is not None]


def _throughput(row: Row) -> Throughput | None:
    """None where no replicate has a rate. InputError if a time is no time."""
    import numpy as np

    good = pooled(row.good)
    _check_times(good)
    rates = good.figure("total_tok_s")
    there = ~np.isnan(rates)
    timed = good.part(there)
    if not len(timed):
        return None
    found = log_interval(rates[there].tolist())
    prefills = known(timed.number("first_token_s")[~timed.flag("overlaps")])
    power, scope, no_power = _power(timed)
    device, limit = _device(row)
    absent = {"ci_low": ONE, "ci_high": ONE} if found.low is None else {}
    return Throughput(
        variant=row.arm.name,
        n_prompt=row.sizes.n_prompt,
        n_gen=row.sizes.n_gen,
        n_batch=row.sizes.n_batch,
        requests=row.sizes.requests,
        slo=row.sizes.slo,
        requests_s=None if row.level is None else row.value("requests_s"),
        user_tok_s=_user_tok_s(row),
        cached_share=None if row.level is None else row.level.cached_share,
        total_tok_s=found.value,
        low=found.low,
        high=found.high,
        n_replicates=len(timed),
        prefill_s=geometric_mean(prefills) if prefills else None,
        power_w=power,
        idle_w=None if power is None else _idle_w(timed),
        power_scope=scope,
        limit_w=limit,
        device=device,
        backend=row.host.identity.get("backend"),
        gpus=row.arm.cards,
        environment=row.host.id,
        origin=row.origin,
        reasons=against(timed.all_doubts(), METRICS["total_tok_s"].parts),
        absent=absent | ({"power_w": no_power} if no_power else {}),
    )


def _user_tok_s(row: Row) -> float | None:
    tpot = row.value("tpot_s")
    return 1 / tpot if row.level is not None and tpot else None


def _check_times(good: Pooling) -> None:
    """InputError if a time is no time."""
    seconds = good.number("request_s")
    for place in (seconds <= 0).nonzero()[0][:1].tolist():
        above_zero(f"record {good[place].key}: samples.e2e_s", float(seconds[place]))


def _power(group: Pooling) -> tuple[float | None, str | None, str | None]:
    """Mean power over the replicates, its scope, and why there is none."""
    powers = known(_watts(group))
    scopes = dict.fromkeys(map(_scope, group.apart("energy")))
    if len(powers) < len(group) or len(scopes) > 1:
        each = group.once("absent")
        why = next((absent[key] for absent in each for key in absent if "energy" in key), None)
        return None, None, why or "energy was not read in every replicate"
    return fmean(powers), next(iter(scopes)), None


def _scope(one: Replicate) -> str:
    """What the counter of a replicate covers."""
    return one.energy.whole.scope or one.energy.decode.scope or "device"


def _watts(group: Pooling) -> Floats:
    """Average watts of each replicate's request: prefill and decode by their shares of its time,
    else whole; nan where it was not read."""
    import numpy as np

    whole, first = group.number("request_s"), group.number("first_token_s")
    prefill, decode = (_window_watts(group, phase) for phase in ("prefill", "decode"))
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.minimum(first / whole, 1.0)
    both: Floats = prefill * part + decode * (1 - part)
    return np.where(np.isnan(both), _window_watts(group, "whole"), both)


def _window_watts(group: Pooling, phase: str) -> Floats:
    """Watts over a window; nan where a figure is missing or 0."""
    import numpy as np

    joules, seconds = group.window(phase, "energy_j"), group.window(phase, "window_s")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((joules != 0) & (seconds != 0), joules / seconds, np.nan)


def _idle_w(group: Pooling) -> float | None:
    """Mean power at rest over the replicates; None unless each of them measured it."""
    import numpy as np

    found = group.window("whole", "idle_power_w")
    for phase in ("decode", "prefill"):
        found = np.where(np.isnan(found), group.window(phase, "idle_power_w"), found)
    each = known(found)
    return fmean(each) if len(each) == len(found) else None


def _device(row: Row) -> tuple[str | None, float | None]:
    """Catalog name and power limit of the card that a row was measured on."""
    if not has_card(row.arm.device) or row.host.gpu is None:
        return None, None
    card, limit = match(row.host.gpu), row.host.gpu_power_limit_w
    return card_name(row.host.gpu), limit if limit or card is None else card.tdp_w
