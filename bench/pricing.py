"""Throughput and a scenario -> rows of `bench cost`: $ per million tokens, with what it rests on.

Each row keeps two uncertainties apart: `ci_low`, `ci_high` come from the measurement, `band_low`,
`band_high` from the scenario's ranges. A figure that is missing is None, and `absent` says why.
Reading tower.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import bands, cost
from bench.errors import InputError
from bench.prices import ApiPrice
from bench.scenario import Scenario, machine, ownership
from bench.throughput import Throughput

Row = dict[str, Any]
Mix = tuple[float, float]
"""Parts of input and output tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """An API whose price a machine is held against."""

    name: str
    rates: cost.ApiRates
    cached_share: float = 0.0
    batch_discount: float = 0.0
    price: ApiPrice | None = None
    """The book's row, where it comes from one."""

    def usd_per_request(self, n_in: float, n_out: float) -> float:
        return self.rates.usd_per_request(
            n_in, n_out, cached_share=self.cached_share, batch_discount=self.batch_discount
        )

    def usd_per_mtok(self, n_in: float, n_out: float) -> float:
        return self.usd_per_request(n_in, n_out) / (n_in + n_out) * cost.TOKENS_PER_MTOK


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a whole table is priced under, beside the scenario."""

    rates: Mapping[str, float] = field(default_factory=dict)
    """Dollars for one unit of each other currency."""
    against: tuple[Against, ...] = ()
    mix: Mix | None = None
    """Input and output parts to price at; None takes each workload's own."""
    co2_g_per_kwh: float | None = None
    any_card: bool = False
    """Price figures of another card, or of none, as if they were the scenario's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Watts of one machine, and where they come from."""

    busy_w: Any
    """A number, or one a draw."""
    source: str


def wall_power(values: Mapping[str, Any], one: Throughput, gpus: int = 1) -> Power | None:
    """Power of one machine while busy, at the wall, from the best that is known; else None.

    Measured at the wall > measured on the device + the host's estimate > the wall figure given >
    measured on the device alone > the card's power limit.
    """
    measured = None if one.power_w is None else one.power_w / gpus
    host = values.get("watts_host")
    if measured is not None and one.power_scope == "wall":
        return Power(busy_w=measured, source="measured at the wall")
    if measured is not None and host is not None:
        return Power(busy_w=measured + host, source=f"measured ({one.power_scope}) + host estimate")
    if "watts_busy" in values:
        return Power(busy_w=values["watts_busy"], source="assumed at the wall")
    if measured is not None:
        return Power(busy_w=measured, source=f"measured ({one.power_scope}), host not counted")
    if one.limit_w is not None:
        source = "power limit of the card" + (
            ", host not counted" if host is None else " + host estimate"
        )
        return Power(busy_w=one.limit_w + (0.0 if host is None else host), source=source)
    return None


class Pricer:
    """Prices any number of throughputs under one scenario."""

    def __init__(self, scenario: Scenario, terms: Terms) -> None:
        self.scenario = scenario
        self.terms = terms
        self.values = scenario.values(terms.rates)
        self.draws = bands.draw(scenario, terms.rates) if scenario.ranges else None
        self.idle_w = self.values.get("watts_idle")
        self._base = machine(scenario.basis, self.values, 0.0, self.idle_w or 0.0)
        self._bands: dict[tuple[Any, ...], tuple[float, float]] = {}
        self._assumed = str(scenario)

    def power(self, one: Throughput) -> Power | None:
        """Power of one machine; InputError where the cost needs it and nothing gives it."""
        power = wall_power(self.values, one, self.scenario.gpus)
        if self.scenario.basis == "own":
            if power is None:
                raise InputError(
                    f"{one.variant}: no energy was measured and no power is known; "
                    "give --watts-busy WATTS (at the wall)"
                )
            if self.idle_w is None and self._base.utilization < 1:
                raise InputError(
                    "a machine that is not always busy also idles: give --watts-idle WATTS, "
                    "or --utilization 1"
                )
        return power

    def machine(self, power: Power | None) -> cost.Machine:
        """The scenario's machine, drawing that power while busy."""
        return dataclasses.replace(self._base, busy_w=power.busy_w if power else 0.0)

    def band(self, one: Throughput, power: Power | None) -> tuple[float, float] | None:
        """Ends of a busy hour's cost over the draws; None if no figure is a range."""
        if self.draws is None:
            return None
        # Watts to the nearest one: far finer than the ranges, and so few bands for many rows.
        near = dataclasses.replace(one, power_w=round(one.power_w)) if one.power_w else one
        key = (near.power_w, near.power_scope, near.limit_w) if power else ()
        if key not in self._bands:
            drawn = wall_power(self.draws.values, near, self.scenario.gpus) if power else None
            idle = self.draws.values.get("watts_idle", 0.0)
            self._bands[key] = bands.band(
                self.draws.usd_per_busy_hour(drawn.busy_w if drawn else 0.0, idle)
            )
        return self._bands[key]

    def check_card(self, one: Throughput) -> None:
        """InputError if the scenario's prices are for another card than was measured."""
        gpu = self.scenario.gpu
        if gpu is None or self.terms.any_card or (one.device or "").casefold() == gpu.casefold():
            return
        raise InputError(
            f"scenario '{self.scenario.name}' prices a {gpu}, but {one.variant} was measured on "
            f"{one.device or 'no card that it names'}; give --gpu '{gpu}' to price it as one"
        )

    def rows(self, one: Throughput, time: cost.TokenTime | None) -> list[Row]:
        """The rows of one throughput: one, or one for each API that it is held against."""
        self.check_card(one)
        power = self.power(one)
        made = self.machine(power)
        row = _head(one) | self._figures(one, made, power, time)
        row["scenario"] = self.scenario.name
        row["assumptions"] = self._assumed
        if not self.terms.against:
            row["absent"] = [*row["absent"], "break_even_utilization: no --against to break even with"]
            return [row]
        return [row | self._against(api, one, made, row) for api in self.terms.against]

    def _figures(
        self,
        one: Throughput,
        made: cost.Machine,
        power: Power | None,
        time: cost.TokenTime | None,
    ) -> Row:
        """Cost, intervals, split and energy."""
        gpus = self.scenario.gpus
        hourly = made.usd_per_busy_hour()
        own_mix = cost.usd_per_mtok(one.total_tok_s / gpus, hourly)
        per_request = own_mix * one.request_tokens / cost.TOKENS_PER_MTOK
        absent = [f"{name}: {why}" for name, why in one.absent.items()]
        c_in = c_out = None
        if time is not None:
            c_in, c_out = (
                price * cost.TOKENS_PER_MTOK
                for price in cost.split(per_request, one.n_prompt, one.n_gen, time.rho)
            )
        else:
            absent.append("usd_per_mtok_input: " + NO_SPLIT)
        at_mix = own_mix
        if self.terms.mix is not None:
            at_mix = None if c_in is None else cost.at_mix(c_in, c_out, self.terms.mix)
            if at_mix is None:
                absent.append("usd_per_mtok: another mix than the measured one needs a split")
        scale = None if at_mix is None else at_mix / hourly
        ends = self.band(one, power)
        if ends is None:
            absent.append("band_low: no figure of the scenario is a range")
        wh = None
        if power is not None and (self.idle_w is not None or made.utilization == 1):
            tok_per_hour = one.total_tok_s / gpus * cost.SECONDS_PER_HOUR
            wh = made.wh_per_busy_hour() / tok_per_hour * cost.TOKENS_PER_MTOK
        co2 = self.terms.co2_g_per_kwh
        return {
            "basis": self.scenario.basis,
            "gpu": self.scenario.gpu or one.device,
            "gpus": gpus,
            "utilization": made.utilization,
            "usd_per_busy_hour": hourly * gpus,
            "usd_per_request": per_request,
            "usd_per_mtok": at_mix,
            "ci_low": _over(at_mix, one.total_tok_s, one.high),
            "ci_high": _over(at_mix, one.total_tok_s, one.low),
            "band_low": None if ends is None or scale is None else ends[0] * scale,
            "band_high": None if ends is None or scale is None else ends[1] * scale,
            "usd_per_mtok_input": c_in,
            "usd_per_mtok_output": c_out,
            "split_method": time.method if time else "none",
            "split_rho": time.rho if time else None,
            "energy_source": _energy_source(self.scenario, power),
            "busy_w": power.busy_w if power else None,
            "energy_wh_per_mtok": wh,
            "co2_g_per_mtok": None if wh is None or co2 is None else wh / 1000 * co2,
            "cheapest_batch": None,
            "absent": absent,
        }

    def _against(self, api: Against, one: Throughput, made: cost.Machine, row: Row) -> Row:
        """What it takes to break even with an API at the row's mix of tokens."""
        gpus = self.scenario.gpus
        price = api.usd_per_mtok(*(self.terms.mix or (one.n_prompt, one.n_gen)))
        found: Row = {"against": api.name, "against_usd_per_mtok": price}
        if row["usd_per_mtok"] is None:
            return found | dict.fromkeys(BREAK_EVEN)
        # Tokens a second at the mix that is priced: the same hour over its cost.
        tok_s = made.break_even_tok_s(row["usd_per_mtok"])
        share = made.break_even_utilization(price, tok_s)
        months = None
        if self.scenario.basis == "own":
            months = cost.months_to_pay_back(ownership(self.values), made, tok_s, price)
        why = list(row["absent"])
        if share is None:
            why.append(f"break_even_utilization: {_never(made, price, tok_s)}")
        if months is None and self.scenario.basis == "own":
            why.append("months_to_pay_back: running it costs more than the API")
        return found | {
            "break_even_utilization": share,
            "break_even_tok_s": made.break_even_tok_s(price) * gpus,
            "months_to_pay_back": months,
            "absent": why,
        }


BREAK_EVEN = ("break_even_utilization", "break_even_tok_s", "months_to_pay_back")
NO_SPLIT = "needs 3 mixes of input and output, or the prefill's time"


def price(items: Sequence[Throughput], scenario: Scenario, terms: Terms) -> list[Row]:
    """Price every throughput under one scenario; the cheapest batch of each workload is marked."""
    pricer = Pricer(scenario, terms)
    times = token_times(items)
    rows = [row for one in items for row in pricer.rows(one, times[id(one)])]
    mark_cheapest(rows)
    return rows


def token_times(items: Sequence[Throughput]) -> dict[int, cost.TokenTime | None]:
    """How input and output tokens share the time of each throughput, by `id`.

    From three mixes or more of the same variant, machine and batch; else from its own prefill.
    """
    mixes: dict[tuple[str, str, int], list[tuple[float, float, float]]] = {}
    for one in items:
        key = (one.environment, one.variant, one.n_batch)
        mixes.setdefault(key, []).append((one.n_prompt, one.n_gen, one.request_s))
    fitted = {key: cost.from_mixes(found) for key, found in mixes.items()}
    return {
        id(one): fitted[one.environment, one.variant, one.n_batch] or _own_phases(one)
        for one in items
    }


def _own_phases(one: Throughput) -> cost.TokenTime | None:
    if one.prefill_s is None:
        return None
    return cost.from_phases(
        one.n_prompt, one.n_gen, one.prefill_s / one.n_batch, one.request_s
    )


def mark_cheapest(rows: Iterable[Row]) -> None:
    """Set `cheapest_batch` where a variant was priced at several batches of one workload."""
    curves: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row.get(k) for k in (*_CURVE, "against"))
        curves.setdefault(key, []).append(row)
    for curve in curves.values():
        priced = [row for row in curve if row["usd_per_mtok"] is not None]
        if len({row["n_batch"] for row in priced}) > 1:
            best = min(priced, key=lambda row: row["usd_per_mtok"])
            for row in priced:
                row["cheapest_batch"] = row is best


_CURVE = ("environment", "variant", "scenario", "n_prompt", "n_gen")


def api_rows(items: Sequence[Throughput], terms: Terms) -> list[Row]:
    """One row for each API and each mix of tokens that was measured, or the one asked for."""
    works = list(dict.fromkeys((one.n_prompt, one.n_gen) for one in items))
    return [_api_row(api, work, terms.mix) for api in terms.against for work in works]


def _api_row(api: Against, work: tuple[int, int], mix: Mix | None) -> Row:
    found = api.price
    absent = ["ci_low: a list price is not measured", "band_low: a list price has no range"]
    per_mtok = api.usd_per_mtok(*(mix or work))
    return {
        "variant": api.name,
        "basis": "api",
        "n_prompt": work[0],
        "n_gen": work[1],
        "usd_per_request": api.usd_per_request(*work),
        "usd_per_mtok": per_mtok,
        **dict.fromkeys(("ci_low", "ci_high", "band_low", "band_high")),
        "usd_per_mtok_input": api.usd_per_mtok(1, 0),
        "usd_per_mtok_output": api.usd_per_mtok(0, 1),
        "split_method": "list-price",
        "break_even_utilization": None,
        "energy_source": "in the price",
        "price_from": found.since.isoformat() if found and found.since else None,
        "price_source": found.source if found else "given by --against",
        "assumptions": "as many tokens by the API's tokenizer as by the model's: not checked",
        "valid": True,
        "reasons": [],
        "absent": absent,
    }


def _head(one: Throughput) -> Row:
    """What was measured."""
    return {
        "variant": one.variant,
        "environment": one.environment,
        "device": one.device,
        "n_prompt": one.n_prompt,
        "n_gen": one.n_gen,
        "n_batch": one.n_batch,
        "total_tok_s": one.total_tok_s,
        "n_replicates": one.n_replicates,
        "origin": one.origin,
        "valid": one.valid,
        "reasons": list(one.reasons),
        "against": None,
        "against_usd_per_mtok": None,
        **dict.fromkeys(BREAK_EVEN),
    }


def _over(value: float | None, point: float, end: float | None) -> float | None:
    """A cost at the other end of the throughput's interval."""
    return None if value is None or end is None else value * point / end


def _energy_source(scenario: Scenario, power: Power | None) -> str:
    if scenario.basis == "rent":
        return "in the rent"
    assert power is not None
    return power.source


def _never(made: cost.Machine, usd_per_mtok: float, tok_s: float) -> str:
    """Why no utilization breaks even."""
    busy = dataclasses.replace(made, utilization=1.0)
    dearer = cost.usd_per_mtok(tok_s, busy.usd_per_busy_hour())
    return f"always busy it costs {dearer:.3g} USD/Mtok, the API {usd_per_mtok:.3g}"


def tornado_rows(items: Sequence[Throughput], scenario: Scenario, terms: Terms) -> list[Row]:
    """What drives the cost of each throughput: one row a range of the scenario."""
    pricer = Pricer(scenario, terms)
    rows = []
    for one in items:
        pricer.check_card(one)
        pricer.power(one)

        def hourly(values: Mapping[str, float], one: Throughput = one) -> float:
            power = wall_power(values, one, scenario.gpus)
            busy = power.busy_w if power else 0.0
            return machine(
                scenario.basis, values, busy, values.get("watts_idle", 0.0)
            ).usd_per_busy_hour()

        for bar in bands.tornado(scenario, hourly, terms.rates, log_sd(one)):
            per_hour = cost.usd_per_mtok(one.total_tok_s / scenario.gpus, 1.0)
            rows.append(
                {
                    "variant": one.variant,
                    "n_prompt": one.n_prompt,
                    "n_gen": one.n_gen,
                    "n_batch": one.n_batch,
                    "scenario": scenario.name,
                    "figure": bar.name,
                    "usd_per_mtok_at_low": bar.low_usd * per_hour,
                    "usd_per_mtok_at_high": bar.high_usd * per_hour,
                    "variance_share": bar.share,
                }
            )
    return rows


def log_sd(one: Throughput) -> float | None:
    """Standard error of the logarithm of the throughput, from its interval."""
    if one.low is None or one.high is None:
        return None
    return math.log(one.high / one.low) / (2 * 1.96)
