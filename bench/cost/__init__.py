"""What a token costs: an hour of an owned or rented machine, over the tokens of a busy hour.

Pure formulas. Money is in US dollars, power in watts at the wall, throughput in total (input and
output) tokens a second at a stated batch. `utilization` is the busy share of powered hours.
Standard library only; docs/cost.md derives each formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from bench.errors import InputError

HOURS_PER_YEAR: Final = 8760.0
HOURS_PER_MONTH: Final = HOURS_PER_YEAR / 12
SECONDS_PER_HOUR: Final = 3600.0
TOKENS_PER_MTOK: Final = 1e6

SplitMethod = Literal["mixes", "prefill-decode", "rows-apart", "none"]


def usd_per_mtok(total_tok_s: float, usd_per_hour: float, utilization: float = 1.0) -> float:
    """Dollars for a million tokens of a machine that costs `usd_per_hour`, busy or not.

    `total_tok_s` counts input and output tokens. Raises InputError for a figure out of range.
    """
    above_zero("total_tok_s", total_tok_s)
    not_negative("usd_per_hour", usd_per_hour)
    share("utilization", utilization)
    return usd_per_hour / utilization * TOKENS_PER_MTOK / (SECONDS_PER_HOUR * total_tok_s)


def capital_recovery(rate_of_return: float, years: float) -> float:
    """Yearly payment that pays back 1 dollar over `years` at `rate_of_return` a year.

    r (1 + r)^L / ((1 + r)^L - 1); 1 / L without interest.
    """
    not_negative("rate_of_return", rate_of_return)
    above_zero("years", years)
    if rate_of_return * years < 1e-12:  # the formula's limit; below it the difference is rounding
        return 1 / years
    return rate_of_return / -math.expm1(-years * math.log1p(rate_of_return))


@dataclass(frozen=True, slots=True, kw_only=True)
class HourlyCost:
    """What one machine costs by the hour, and how busy it is. Make it with `owned` or `rented`."""

    powered_usd: float
    """Dollars for each powered hour, busy or not, without electricity: capital, or rent."""
    utilization: float
    """Busy share of powered hours."""
    busy_usd: float = 0.0
    """Dollars for each busy hour, without electricity: egress."""
    usd_per_wh: float = 0.0
    """Dollars for a watt-hour from the grid; 0 where the rent includes electricity."""
    busy_w: float = 0.0
    idle_w: float = 0.0
    pue: float = 1.0

    def __post_init__(self) -> None:
        not_negative("powered_usd", self.powered_usd)
        not_negative("busy_usd", self.busy_usd)
        not_negative("usd_per_wh", self.usd_per_wh)
        not_negative("busy_w", self.busy_w)
        not_negative("idle_w", self.idle_w)
        share("utilization", self.utilization)
        at_least_one("pue", self.pue)

    @property
    def powered_hours(self) -> float:
        """Powered hours for each busy hour."""
        return 1 / self.utilization

    def wh_per_busy_hour(self) -> float:
        """Watt-hours that a busy hour and the idle time belonging to it draw, with PUE."""
        idle_hours = self.powered_hours - 1
        return self.pue * (self.busy_w + self.idle_w * idle_hours)

    def usd_per_busy_hour(self) -> float:
        """Dollars for each hour in which tokens are made; idle hours are charged to these."""
        electricity = self.usd_per_wh * self.wh_per_busy_hour()
        return self.powered_usd * self.powered_hours + self.busy_usd + electricity

    def break_even_utilization(self, usd_per_mtok: float, total_tok_s: float) -> float | None:
        """Busy share at which a million tokens cost `usd_per_mtok`; None if no share does.

        The hourly cost is fixed / u + variable, so u = fixed / (revenue of a busy hour - variable).
        """
        above_zero("usd_per_mtok", usd_per_mtok)
        above_zero("total_tok_s", total_tok_s)
        usd_per_wh = self.usd_per_wh * self.pue
        fixed = self.powered_usd + usd_per_wh * self.idle_w
        variable = self.busy_usd + usd_per_wh * (self.busy_w - self.idle_w)
        left = usd_per_mtok * SECONDS_PER_HOUR * total_tok_s / TOKENS_PER_MTOK - variable
        if left <= 0 or not 0 < fixed / left <= 1:
            return None
        return fixed / left

    def break_even_tok_s(self, usd_per_mtok: float) -> float:
        """Total tok/s at which a million tokens cost `usd_per_mtok` at this utilization."""
        above_zero("usd_per_mtok", usd_per_mtok)
        return self.usd_per_busy_hour() * TOKENS_PER_MTOK / (SECONDS_PER_HOUR * usd_per_mtok)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Buying a machine: its yearly cost. Neutral values stand for what was not given."""

    price_usd: float
    years: float
    rate_of_return: float = 0.0
    """Yearly cost of capital, as a share."""
    salvage_share: float = 0.0
    """Value of the card at the end, as a share of its price; the host has none."""
    host_usd: float = 0.0
    """Price of the rest of the machine, bought with the card."""
    opex_usd_per_year: float = 0.0
    """Room, network, repairs, work: all but capital and electricity."""
    powered_share: float = 1.0
    """Share of the year in which the machine is on."""

    def __post_init__(self) -> None:
        yearly = ("rate_of_return", "salvage_share", "opex_usd_per_year")
        for name in ("price_usd", "host_usd", *yearly):
            not_negative(name, getattr(self, name))
        above_zero("years", self.years)
        share("powered_share", self.powered_share)
        if self.salvage_share > 1:
            raise InputError(f"salvage_share: {self.salvage_share:g} must be at most 1")

    @property
    def outlay_usd(self) -> float:
        """What is paid on the first day."""
        return self.price_usd + self.host_usd

    def usd_per_year(self) -> float:
        """CRF (P + host - S / (1 + r)^L) + opex."""
        worth: float = (1 + self.rate_of_return) ** -self.years
        salvage = self.price_usd * self.salvage_share * worth
        factor = capital_recovery(self.rate_of_return, self.years)
        return factor * (self.outlay_usd - salvage) + self.opex_usd_per_year

    def usd_per_powered_hour(self) -> float:
        return self.usd_per_year() / (HOURS_PER_YEAR * self.powered_share)


def owned(
    ownership: Ownership,
    *,
    utilization: float,
    usd_per_kwh: float,
    busy_w: float,
    idle_w: float,
    pue: float = 1.0,
) -> HourlyCost:
    """A bought machine: CF / (8760 a u) + PUE k (W_busy + W_idle (1-u)/u) / 1000 a busy hour."""
    return HourlyCost(
        powered_usd=ownership.usd_per_powered_hour(),
        utilization=utilization,
        usd_per_wh=usd_per_kwh / 1000,
        busy_w=busy_w,
        idle_w=idle_w,
        pue=pue,
    )


def rented(
    usd_per_hour: float,
    *,
    utilization: float,
    storage_usd_per_hour: float = 0.0,
    egress_usd_per_busy_hour: float = 0.0,
) -> HourlyCost:
    """A rented machine: every billed hour is paid, 1 / utilization of them for each busy one."""
    return HourlyCost(
        powered_usd=usd_per_hour + storage_usd_per_hour,
        busy_usd=egress_usd_per_busy_hour,
        utilization=utilization,
    )


def months_to_pay_back(
    ownership: Ownership,
    machine: HourlyCost,
    total_tok_s: float,
    instead_usd_per_mtok: float,
) -> float | None:
    """Months until what is not paid elsewhere has covered the outlay; None if it never does.

    Simple payback, without interest or resale: outlay / (what the month's tokens would cost
    elsewhere - the month's electricity and opex).
    """
    above_zero("total_tok_s", total_tok_s)
    above_zero("instead_usd_per_mtok", instead_usd_per_mtok)
    busy_hours = HOURS_PER_MONTH * ownership.powered_share * machine.utilization
    mtok = total_tok_s * SECONDS_PER_HOUR * busy_hours / TOKENS_PER_MTOK
    electricity = machine.usd_per_wh * machine.wh_per_busy_hour() * busy_hours
    saved = mtok * instead_usd_per_mtok - electricity - ownership.opex_usd_per_year / 12
    return ownership.outlay_usd / saved if saved > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRates:
    """Dollars for a million tokens of each kind."""

    input: float
    output: float
    cached_input: float | None = None

    def times(self, factor: float) -> ApiRates:
        """The same prices in another currency, or at a discount."""
        cached = None if self.cached_input is None else self.cached_input * factor
        return ApiRates(input=self.input * factor, output=self.output * factor, cached_input=cached)

    def usd_per_request(
        self,
        n_input: float,
        n_output: float,
        *,
        cached_share: float = 0.0,
        batch_discount: float = 0.0,
    ) -> float:
        """One request; `n_output` includes reasoning tokens, `cached_share` is of the input."""
        not_negative("n_input", n_input)
        not_negative("n_output", n_output)
        for name, value in (("cached_share", cached_share), ("batch_discount", batch_discount)):
            if not 0 <= value <= 1:
                raise InputError(f"{name}: {value:g} must be between 0 and 1")
        if cached_share and self.cached_input is None:
            raise InputError("cached_share: this API has no price for cached input")
        cached = n_input * cached_share
        full = (n_input - cached) * self.input + n_output * self.output
        full += cached * (self.cached_input or 0.0)
        return full * (1 - batch_discount) / TOKENS_PER_MTOK


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTime:
    """Machine seconds that one input and one output token take, and how they were found."""

    input_s: float
    output_s: float
    method: SplitMethod

    @property
    def rho(self) -> float:
        """How many times an output token costs what an input token costs."""
        return self.output_s / self.input_s


def from_mixes(mixes: Sequence[tuple[float, float, float]]) -> TokenTime | None:
    """Least squares of seconds = alpha n_in + beta n_out over (n_in, n_out, seconds a request).

    None with fewer than 3 different mixes, with mixes that are all of one proportion, or if a
    token would take no time: then the split is not measured.
    """
    if len({(n_in, n_out) for n_in, n_out, _ in mixes}) < 3:
        return None
    ii = sum(n_in * n_in for n_in, _, _ in mixes)
    oo = sum(n_out * n_out for _, n_out, _ in mixes)
    io = sum(n_in * n_out for n_in, n_out, _ in mixes)
    it = sum(n_in * time for n_in, _, time in mixes)
    ot = sum(n_out * time for _, n_out, time in mixes)
    determinant = ii * oo - io * io
    if determinant <= 1e-9 * ii * oo:
        return None
    alpha, beta = (oo * it - io * ot) / determinant, (ii * ot - io * it) / determinant
    if not (alpha > 0 and beta > 0):
        return None
    return TokenTime(input_s=alpha, output_s=beta, method="mixes")


def from_phases(n_prompt: int, n_gen: int, prefill_s: float, e2e_s: float) -> TokenTime | None:
    """Prefill charged to input tokens, the rest of the request to output tokens.

    Seconds are those of one request's share of the machine. The first output token is made in the
    prefill. None if there is no decoding to charge.
    """
    if n_gen < 2 or not 0 < prefill_s < e2e_s:
        return None
    return TokenTime(
        input_s=prefill_s / n_prompt, output_s=(e2e_s - prefill_s) / n_gen, method="prefill-decode"
    )


def split(usd: float, n_in: float, n_out: float, rho: float) -> tuple[float, float]:
    """Dollars for one input and one output token that add up: c_in n_in + c_out n_out = usd."""
    not_negative("usd", usd)
    not_negative("n_in", n_in)
    not_negative("n_out", n_out)
    above_zero("rho", rho)
    above_zero("n_in + n_out", n_in + n_out)
    each = usd / (n_in + rho * n_out)
    return each, rho * each


def at_mix(input_price: float, output_price: float, mix: tuple[float, float]) -> float:
    """Price of a million tokens of which `mix` (input, output) are the parts."""
    n_in, n_out = mix
    return (input_price * n_in + output_price * n_out) / (n_in + n_out)


def above_zero(name: str, value: float) -> None:
    """InputError unless `value` is a finite number above 0."""
    if not 0 < value < math.inf:
        raise InputError(f"{name}: {value:g} must be a number above 0")


def not_negative(name: str, value: float) -> None:
    """InputError unless `value` is a finite number of at least 0."""
    if not 0 <= value < math.inf:
        raise InputError(f"{name}: {value:g} must be a number that is not negative")


def at_least_one(name: str, value: float) -> None:
    """InputError unless `value` is a finite number of at least 1."""
    if not 1 <= value < math.inf:
        raise InputError(f"{name}: {value:g} must be a number of at least 1")


def share(name: str, value: float) -> None:
    """InputError unless 0 < `value` <= 1."""
    if not 0 < value <= 1:
        raise InputError(f"{name}: {value:g} must be above 0 and at most 1")
