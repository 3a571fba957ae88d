"""What so many tokens a day cost: machines that it takes, idle hours, months until one has paid.

At a given number of tokens a day the busy share is not assumed: it follows, and so does whether a
second machine is needed. The batch that was measured is taken to be full whenever there is work.
Reading tower; docs/cost.md derives each formula.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench import cost
from bench.cost.pricing import Against, Pricer, Terms
from bench.cost.scenario import Scenario, ownership
from bench.cost.throughput import Throughput

NO_IDLE = "usd_per_month: needs the idle power; give --watts-idle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """A month of 365 / 12 days at so many tokens a day."""

    machines: int
    busy_share: float
    """Of the hours in which they are on."""
    busy_hours: float
    """Of all machines."""
    usd: float
    """Every hour in which they are on is paid."""


def month(
    made: cost.HourlyCost, total_tok_s: float, tokens_per_day: float, powered_share: float = 1.0
) -> Month:
    """The fewest machines that make the tokens, and what a month of them costs.

    `made` is one machine's; its own utilization does not count here.
    """
    cost.above_zero("total_tok_s", total_tok_s)
    cost.above_zero("tokens_per_day", tokens_per_day)
    most = total_tok_s * cost.SECONDS_PER_HOUR * 24 * powered_share
    machines = math.ceil(tokens_per_day / most * (1 - 1e-12))
    share = min(tokens_per_day / (most * machines), 1.0)
    hours = cost.HOURS_PER_MONTH * powered_share * share * machines
    hourly = dataclasses.replace(made, utilization=share).usd_per_busy_hour()
    return Month(machines=machines, busy_share=share, busy_hours=hours, usd=hours * hourly)


def volume_rows(
    items: Sequence[Throughput], scenario: Scenario, terms: Terms, days: Sequence[float]
) -> list[dict[str, Any]]:
    """One row for each throughput, number of tokens a day, and API that it is held against."""
    pricer = Pricer(scenario, terms)
    against = terms.against or (None,)
    return [
        row
        for one in items
        for tokens in days
        for api in against
        for row in _rows(pricer, one, tokens, api)
    ]


def _rows(
    pricer: Pricer, one: Throughput, tokens: float, api: Against | None
) -> Iterator[dict[str, Any]]:
    pricer.check_card(one)
    power, made = pricer.power(one), pricer.hourly(one)
    own, gpus = pricer.scenario.basis == "own", pricer.gpus(one)
    powered = pricer.values.get("powered_share", 1.0)
    found = month(made, one.total_tok_s, tokens, powered)
    idle_known = not own or found.busy_share == 1 or (power and power.idle_w is not None)
    mtok = tokens / cost.TOKENS_PER_MTOK * 365 / 12
    api_mtok = api.usd_per_mtok(one.n_prompt, one.n_gen) if api else None
    months = None
    absent = [] if idle_known else [NO_IDLE]
    if own and api_mtok is not None and idle_known:
        at = dataclasses.replace(made, utilization=found.busy_share)
        each = one.total_tok_s / gpus
        months = cost.months_to_pay_back(ownership(pricer.values), at, each, api_mtok)
        if months is None:
            absent.append("months_to_pay_back: running it costs more than the API")
    usd = found.usd * gpus if idle_known else None
    yield {
        "variant": one.variant,
        "n_prompt": one.n_prompt,
        "n_gen": one.n_gen,
        "n_batch": one.n_batch,
        "scenario": pricer.scenario.name,
        "basis": pricer.scenario.basis,
        "tokens_per_day": tokens,
        "machines": found.machines * gpus,
        "busy_share": found.busy_share,
        "usd_per_month": usd,
        "usd_per_month_by_use": None if own else found.busy_hours * gpus * made.usd_per_busy_hour(),
        "usd_per_mtok": None if usd is None else usd / mtok,
        "against": api.name if api else None,
        "against_usd_per_month": None if api_mtok is None else api_mtok * mtok,
        "months_to_pay_back": months,
        "assumptions": pricer.assumed,
        "price_age_days": pricer.price_age_days,
        "valid": one.valid,
        "reasons": list(one.reasons),
        "absent": absent,
    }
