"""The price of an hour that somebody states, and what a million tokens cost at it.

Tables, exports, the page, the Python API and the pytest plugin all price through `per_mtok`, and
`bench cost` through `as_scenario`; both end in `bench.cost.usd_per_mtok`. Standard library only.
"""

from __future__ import annotations

import math

from bench.cost import usd_per_mtok
from bench.cost.prices import today
from bench.cost.scenario import Scenario, SourcedFigure, adapt
from bench.errors import InputError
from bench.experiment import CostAssumption


def stated(
    usd_per_hour: float | None, utilization: float | None = None, source: str = "--rent"
) -> CostAssumption | None:
    """The price that `--rent` and `--utilization` state, None without one; InputError if wrong."""
    if utilization is not None and not 0 < utilization <= 1:
        raise InputError(f"--utilization: {utilization:g} must be above 0 and at most 1")
    if usd_per_hour is None:
        if utilization is not None:
            raise InputError("--utilization: needs --rent USD_PER_HOUR")
        return None
    if not 0 < usd_per_hour < math.inf:
        raise InputError(f"--rent: {usd_per_hour:g} must be a number above 0")
    share = 1.0 if utilization is None else utilization
    return CostAssumption(usd_per_hour=usd_per_hour, utilization=share, source=source)


def per_mtok(
    price: CostAssumption | None, total_tok_s: float | None, cards: int = 1
) -> float | None:
    """Dollars for a million tokens of `cards` that worked as one, each at this price.

    None without a price or a throughput.
    """
    if price is None or total_tok_s is None:
        return None
    return usd_per_mtok(total_tok_s / cards, price.usd_per_hour, price.utilization)


def as_scenario(price: CostAssumption, gpu: str | None = None) -> Scenario:
    """The price as a scenario of basis `rent`, dated today."""
    given = {
        "rent_per_hour": price.usd_per_hour,
        "utilization": price.utilization,
    }
    figures = {
        name: SourcedFigure(value=float(value), source=price.source, date=today())
        for name, value in given.items()
    }
    return adapt(None, "rent", figures, gpu=gpu)
