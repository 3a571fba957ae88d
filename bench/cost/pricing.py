"""Throughput and a scenario -> rows of `bench cost`: $ per million tokens, with what it rests on.

Each row keeps two uncertainties apart: `ci_low`, `ci_high` come from the measurement, `band_low`,
`band_high` from the scenario's ranges. Reading tower.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from bench import cost
from bench.cost import apart, bands
from bench.cost.books import ApiPrice, ApiTier
from bench.cost.power import Power, wall_power
from bench.cost.prices import plain, today
from bench.cost.row import CostRow
from bench.cost.scenario import Scenario, machine, ownership
from bench.cost.throughput import Throughput
from bench.errors import InputError

Mix = tuple[float, float]
"""Parts of input and output tokens."""

NO_SPLIT = "usd_per_mtok_input: needs 3 mixes of input and output, or the prefill's time"
NO_OTHER_HALF = "usd_per_mtok_input: no row of this arm times the other kind of token"
NO_MIX = "usd_per_mtok: another mix than the measured one needs a split"
TWO_ROWS = "the price at this mix combines two rows"
NO_RANGE = "band_low: no figure of the scenario is a range"
NO_API = "break_even_utilization: no --against to break even with"


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """An API whose price a machine is held against."""

    name: str
    rates: cost.ApiRates
    tiers: tuple[ApiTier, ...] = ()
    """Prices of longer requests, in dollars."""
    cached_share: float = 0.0
    batch_discount: float = 0.0
    price: ApiPrice | None = None
    """The row that it comes from, if any."""

    def usd_per_request(self, n_in: float, n_out: float, length: float | None = None) -> float:
        """Tokens of requests that have `length` input tokens each (default: all of them)."""
        long = n_in if length is None else length
        paid = [self.rates, *(tier.rates for tier in self.tiers if long > tier.above)]
        return paid[-1].usd_per_request(
            n_in, n_out, cached_share=self.cached_share, batch_discount=self.batch_discount
        )

    def usd_per_mtok(self, n_in: float, n_out: float, length: float | None = None) -> float:
        """A million tokens at this mix, in requests of `length` input tokens."""
        usd = self.usd_per_request(n_in, n_out, length)
        return usd / (n_in + n_out) * cost.TOKENS_PER_MTOK


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a whole table is priced under, beside the scenario."""

    rates: Mapping[str, float] = field(default_factory=dict)
    """Dollars for one unit of each other currency."""
    against: tuple[Against, ...] = ()
    mix: Mix | None = None
    """Input and output parts to price at; None takes each workload's own."""
    co2_g_per_kwh: float | None = None
    on: datetime.date | None = None
    """Day that is priced for; None: today."""
    any_card: bool = False
    """Price figures of another card, or of none, as if they were the scenario's."""


class Pricer:
    """Prices any number of throughputs under one scenario."""

    def __init__(self, scenario: Scenario, terms: Terms) -> None:
        self.scenario = scenario
        self.terms = terms
        self.values = scenario.values(terms.rates)
        self.draws = bands.draw(scenario, terms.rates) if scenario.ranges else None
        self._base = machine(scenario.basis, self.values, 0.0, 0.0)
        self._bands: dict[tuple[Any, ...], tuple[float, float]] = {}
        self.assumed = str(scenario)
        paid = scenario.rent_per_hour or scenario.price
        oldest = min(one.date for one in scenario.prices)
        self.price_age_days = ((terms.on or today()) - oldest).days
        self._paid = (paid.date.isoformat(), paid.source) if paid else (None, None)

    def power(self, one: Throughput) -> Power | None:
        """Power of one machine; InputError where the cost needs it and nothing gives it."""
        power = wall_power(self.values, one, self.gpus(one))
        if self.scenario.basis == "rent":
            return power
        if power is None:
            raise InputError(
                f"{one.variant}: no energy was measured and no power is known; "
                "give --watts-busy WATTS (at the wall)"
            )
        if power.idle_w is None and self.scenario.utilization.ends[0] < 1:
            raise InputError(
                "a machine that idles needs its idle power: give --watts-idle WATTS, "
                "or --utilization 1"
            )
        return power

    def hourly(self, one: Throughput) -> cost.HourlyCost:
        """The hour of one machine, drawing what this throughput draws."""
        busy_w, idle_w = _watts(self.power(one))
        return dataclasses.replace(self._base, busy_w=busy_w, idle_w=idle_w)

    def band(self, one: Throughput, power: Power | None) -> tuple[float, float] | None:
        """Ends of a busy hour's cost over the draws; None if no figure is a range."""
        if self.draws is None:
            return None
        # Watts to the nearest one: far finer than the ranges, and so few bands for many rows.
        watts = None if one.power_w is None else round(one.power_w)
        idle = None if one.idle_w is None else round(one.idle_w)
        key = (watts, idle, one.power_scope, one.limit_w, one.gpus) if power else ()
        if key not in self._bands:
            near = dataclasses.replace(one, power_w=watts, idle_w=idle)
            drawn = wall_power(self.draws.values, near, self.gpus(one)) if power else None
            busy_w, idle_w = _watts(drawn)
            self._bands[key] = bands.band(self.draws.usd_per_busy_hour(busy_w, idle_w))
        return self._bands[key]

    def gpus(self, one: Throughput) -> int:
        """Cards that are paid for: those that it was measured on, else those of the scenario.

        Raises InputError if both say, and differ.
        """
        stated = self.scenario.gpus
        if one.gpus > 1 and stated not in (1, one.gpus):
            raise InputError(
                f"scenario '{self.scenario.name}' prices {stated} cards, but {one.variant} was "
                f"measured on {one.gpus}"
            )
        return max(stated, one.gpus)

    def check_card(self, one: Throughput) -> None:
        """InputError if the scenario's prices are for another card than was measured."""
        gpu = self.scenario.gpu
        if gpu is None or self.terms.any_card or plain(one.device or "") == plain(gpu):
            return
        raise InputError(
            f"scenario '{self.scenario.name}' prices a {gpu}, but {one.variant} was measured on "
            f"{one.device or 'no card that it names'}; give --gpu '{gpu}' to price it as one"
        )

    def rows(self, one: Throughput, time: cost.TokenTime | None) -> list[CostRow]:
        """The rows of one throughput: one, or one for each API that it is held against."""
        self.check_card(one)
        power, made = self.power(one), self.hourly(one)
        row = self._row(one, made, power, time)
        if not self.terms.against:
            row.absent += (NO_API,)
            return [row]
        return [self._held_against(api, row, made, power) for api in self.terms.against]

    def _row(
        self,
        one: Throughput,
        made: cost.HourlyCost,
        power: Power | None,
        time: cost.TokenTime | None,
    ) -> CostRow:
        """Cost, intervals, split and energy of one throughput."""
        scenario, gpus = self.scenario, self.gpus(one)
        each_tok_s = one.total_tok_s / gpus
        hourly = made.usd_per_busy_hour()
        per_mtok = cost.usd_per_mtok(each_tok_s, hourly)
        per_request = per_mtok * one.request_tokens / cost.TOKENS_PER_MTOK
        absent = [
            f"{name}: {why}"
            for name, why in one.absent.items()
            if name != "power_w" or scenario.basis == "own"
        ]
        c_in, c_out, at_mix = self._split(one, per_request, per_mtok, time, absent)
        ends = self.band(one, power)
        if ends is None:
            absent.append(NO_RANGE)
        priced = at_mix is not None
        scale = at_mix / hourly if at_mix is not None else 0.0
        tok = one.total_tok_s * at_mix if at_mix is not None else 0.0
        if time and time.method == "rows-apart" and self.terms.mix:
            priced = False  # an interval of one row says nothing of the other's part
            absent.append(f"ci_low, band_low: {TWO_ROWS}")
        wh = _wh_per_mtok(made, power, each_tok_s)
        co2 = self.terms.co2_g_per_kwh
        return CostRow(
            variant=one.variant,
            basis=scenario.basis,
            scenario=scenario.name,
            gpu=scenario.gpu or one.device,
            gpus=gpus,
            device=one.device,
            backend=one.backend,
            environment=one.environment,
            n_prompt=one.n_prompt,
            n_gen=one.n_gen,
            n_batch=one.n_batch,
            requests=one.requests or None,
            slo=one.slo or None,
            requests_s=one.requests_s,
            user_tok_s=one.user_tok_s,
            cached_share=one.cached_share,
            total_tok_s=one.total_tok_s,
            n_replicates=one.n_replicates,
            origin=one.origin,
            utilization=made.utilization,
            usd_per_busy_hour=hourly * gpus,
            usd_per_available_hour=hourly * made.utilization * gpus,
            usd_per_hour_per_request_s=(
                hourly * made.utilization * gpus / one.requests_s if one.requests_s else None
            ),
            usd_per_mtok_computed=one.of_computed(at_mix),
            usd_per_request=per_request,
            usd_per_mtok=at_mix,
            ci_low=tok / one.high if priced and one.high else None,
            ci_high=tok / one.low if priced and one.low else None,
            band_low=ends[0] * scale if priced and ends else None,
            band_high=ends[1] * scale if priced and ends else None,
            usd_per_mtok_input=c_in,
            usd_per_mtok_output=c_out,
            split_method=time.method if time else "none",
            split_rho=time.rho if time else None,
            energy_source=power.source if power and scenario.basis == "own" else "in the rent",
            power_limit_w=one.limit_w,
            busy_w=power.busy_w if power else None,
            idle_w=power.idle_w if power else None,
            idle_source=power.idle_source if power else None,
            energy_wh_per_mtok=wh,
            co2_g_per_mtok=None if wh is None or co2 is None else wh / 1000 * co2,
            price_date=self._paid[0],
            price_source=self._paid[1],
            price_age_days=self.price_age_days,
            assumptions=self.assumed if gpus == 1 else f"{self.assumed}; {gpus} of that machine",
            valid=not one.reasons,
            reasons=one.reasons,
            absent=tuple(absent),
        )

    def _split(
        self,
        one: Throughput,
        per_request: float,
        per_mtok: float,
        time: cost.TokenTime | None,
        absent: list[str],
    ) -> tuple[float | None, float | None, float | None]:
        """$/Mtok of input, of output, and at the mix that is asked for."""
        mix = self.terms.mix
        if time is None and apart.alone(one):
            absent.append(NO_OTHER_HALF)
            own = (per_mtok, None) if one.n_gen == 0 else (None, per_mtok)
            return *own, per_mtok if mix is None else None
        if time is None:
            absent.append(NO_SPLIT)
            if mix is None:
                return None, None, per_mtok
            absent.append(NO_MIX)
            return None, None, None
        each_in, each_out = cost.split(per_request, one.n_prompt, one.n_gen, time.rho)
        c_in, c_out = each_in * cost.TOKENS_PER_MTOK, each_out * cost.TOKENS_PER_MTOK
        return c_in, c_out, per_mtok if mix is None else cost.at_mix(c_in, c_out, mix)

    def _held_against(
        self, api: Against, row: CostRow, made: cost.HourlyCost, power: Power | None
    ) -> CostRow:
        """The row with what it takes to break even with an API at the row's mix of tokens."""
        n_in, n_out = self.terms.mix or (row.n_prompt, row.n_gen)
        price = api.usd_per_mtok(n_in, n_out, length=row.n_prompt)
        found = dataclasses.replace(row, against=api.name, against_usd_per_mtok=price)
        if row.usd_per_mtok is None:
            return found
        own = self.scenario.basis == "own"
        found.break_even_tok_s = made.break_even_tok_s(price) * (row.gpus or 1)
        # Tokens a second of one machine at the mix that is priced: its hour over their cost.
        tok_s = made.break_even_tok_s(row.usd_per_mtok)
        if own and (power is None or power.idle_w is None):
            found.absent += ("break_even_utilization: needs the idle power; give --watts-idle",)
        else:
            found.break_even_utilization = made.break_even_utilization(price, tok_s)
            if found.break_even_utilization is None:
                found.absent += (f"break_even_utilization: {_never(made, price, tok_s)}",)
        if own:
            bought = ownership(self.values)
            found.months_to_pay_back = cost.months_to_pay_back(bought, made, tok_s, price)
            if found.months_to_pay_back is None:
                found.absent += ("months_to_pay_back: running it costs more than the API",)
        return found


def _watts(power: Power | None) -> tuple[Any, Any]:
    """Busy and idle watts for the arithmetic, in which 0 stands for what does not matter there:
    who rents pays no electricity, and a machine that is always busy never idles."""
    if power is None:
        return 0.0, 0.0
    return power.busy_w, 0.0 if power.idle_w is None else power.idle_w


def _wh_per_mtok(made: cost.HourlyCost, power: Power | None, tok_s: float) -> float | None:
    """Watt-hours of a million tokens; None if the power is not known, or the idle one is needed."""
    if power is None or (power.idle_w is None and made.utilization < 1):
        return None
    return made.wh_per_busy_hour() / (tok_s * cost.SECONDS_PER_HOUR) * cost.TOKENS_PER_MTOK


def _never(made: cost.HourlyCost, usd_per_mtok: float, tok_s: float) -> str:
    """Why no utilization breaks even."""
    busy = dataclasses.replace(made, utilization=1.0)
    dearer = cost.usd_per_mtok(tok_s, busy.usd_per_busy_hour())
    return f"always busy it costs {dearer:.3g} USD/Mtok, the API {usd_per_mtok:.3g}"


def price(items: Sequence[Throughput], scenario: Scenario, terms: Terms) -> list[CostRow]:
    """Price every throughput under one scenario; the cheapest batch of each workload is marked."""
    pricer = Pricer(scenario, terms)
    times = token_times(items, terms.mix)
    rows = [row for one, time in zip(items, times, strict=True) for row in pricer.rows(one, time)]
    mark_cheapest(rows)
    return rows


def token_times(items: Sequence[Throughput], mix: Mix | None = None) -> list[cost.TokenTime | None]:
    """How input and output tokens share the time of each throughput.

    From three mixes or more of the same variant, machine and batch; else from its own prefill. A
    prompt alone and new tokens alone are no mixes: each is the other's half.
    """
    group = attrgetter("environment", "variant", "n_batch")
    arms: dict[tuple[str, str, int | None], list[Throughput]] = {}
    for one in items:
        arms.setdefault(group(one), []).append(one)
    fitted = {
        key: cost.from_mixes(
            [(one.n_prompt, one.n_gen, one.request_s) for one in found if not apart.alone(one)]
        )
        for key, found in arms.items()
    }
    return [
        apart.token_time(one, arms[group(one)], mix)
        if apart.alone(one)
        else fitted[group(one)] or _own_phases(one)
        for one in items
    ]


def _own_phases(one: Throughput) -> cost.TokenTime | None:
    if one.prefill_s is None or one.n_batch is None:
        return None
    return cost.from_phases(one.n_prompt, one.n_gen, one.prefill_s / one.n_batch, one.request_s)


def mark_cheapest(rows: Iterable[CostRow]) -> None:
    """Set `cheapest_batch` where a variant was priced at several batches of one workload."""
    curve_of = attrgetter("environment", "variant", "scenario", "n_prompt", "n_gen", "against")
    curves: dict[tuple[Any, ...], list[CostRow]] = {}
    for row in rows:
        if row.usd_per_mtok is not None:
            curves.setdefault(curve_of(row), []).append(row)
    for curve in curves.values():
        if len({row.n_batch for row in curve}) > 1:
            best = min(curve, key=attrgetter("usd_per_mtok"))
            for row in curve:
                row.cheapest_batch = row is best


def api_rows(items: Sequence[Throughput], terms: Terms) -> list[CostRow]:
    """One row for each API and each mix of tokens that was measured."""
    works = list(dict.fromkeys((one.n_prompt, one.n_gen) for one in items))
    return [_api_row(api, work, terms) for api in terms.against for work in works]


def _api_row(api: Against, work: tuple[int, int], terms: Terms) -> CostRow:
    found = api.price
    n_in, n_out = terms.mix or work
    return CostRow(
        variant=api.name,
        basis="api",
        n_prompt=work[0],
        n_gen=work[1],
        usd_per_request=api.usd_per_request(*work),
        usd_per_mtok=api.usd_per_mtok(n_in, n_out, length=work[0]),
        usd_per_mtok_input=api.usd_per_mtok(1, 0, work[0]),
        usd_per_mtok_output=api.usd_per_mtok(0, 1, work[0]),
        split_method="list-price",
        energy_source="in the price",
        price_date=found.since.isoformat() if found and found.since else None,
        price_source=found.said_by if found else "given by --against",
        price_age_days=_age_days(found, terms.on or today()),
        assumptions="assumes that both tokenizers make equally many tokens (not checked)",
        absent=("ci_low: a list price is not measured", "band_low: a list price has no range"),
    )


def _age_days(found: ApiPrice | None, on: datetime.date) -> int | None:
    """Days since its source last stated it."""
    return (on - found.source_date).days if found and found.source_date else None


def tornado_rows(
    items: Sequence[Throughput], scenario: Scenario, terms: Terms
) -> list[dict[str, Any]]:
    """What drives the cost of each throughput: one row a range of the scenario."""
    pricer = Pricer(scenario, terms)
    return [row for one in items for row in _tornado(pricer, one)]


def _tornado(pricer: Pricer, one: Throughput) -> list[dict[str, Any]]:
    scenario = pricer.scenario
    pricer.check_card(one)
    pricer.power(one)
    gpus = pricer.gpus(one)
    per_usd_per_hour = cost.usd_per_mtok(one.total_tok_s / gpus, 1.0)

    def hourly(values: Mapping[str, float]) -> float:
        busy_w, idle_w = _watts(wall_power(values, one, gpus))
        return machine(scenario.basis, values, busy_w, idle_w).usd_per_busy_hour()

    return [
        {
            "variant": one.variant,
            "n_prompt": one.n_prompt,
            "n_gen": one.n_gen,
            "n_batch": one.n_batch,
            "scenario": scenario.name,
            "figure": bar.name,
            "usd_per_mtok_at_low": bar.low_usd * per_usd_per_hour,
            "usd_per_mtok_at_high": bar.high_usd * per_usd_per_hour,
            "variance_share": bar.share,
            "price_age_days": pricer.price_age_days,
        }
        for bar in bands.tornado(scenario, hourly, pricer.terms.rates, log_sd(one))
    ]


def log_sd(one: Throughput) -> float | None:
    """Standard error of the logarithm of the throughput, from its interval."""
    if one.low is None or one.high is None:
        return None
    return math.log(one.high / one.low) / (2 * 1.96)
