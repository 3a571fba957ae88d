"""What the page's cost explorer starts from: throughputs, and assumptions with their ranges.

The browser computes with the formulas of `bench.cost` (cost.js);
tests/report/test_report_browser.py holds the two together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.cost.prices import gpu_rent, today
from bench.cost.pricing import token_times
from bench.cost.scenario import FOLDER, SourcedFigure, load_scenario
from bench.cost.throughput import Throughput, throughputs
from bench.errors import InputError
from bench.experiment import CostAssumption
from bench.report.page.machines import Machine, priced_sizes, work_of
from bench.summary import Sizes

Json = dict[str, Any]
HOME = "home-rtx4080-us"
"""The shipped scenario whose figures and ranges ownership starts from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slider:
    """One assumption: where it starts, how far the slider goes, and its plausible range."""

    name: str
    label: str
    unit: str
    basis: str
    """`rent`, `own` or `both`."""
    value: float
    least: float
    most: float
    step: float
    low: float
    high: float
    source: str


def data(machines: Sequence[Machine], assumed: CostAssumption | None) -> Json:
    """Rows and sliders, as JSON."""
    rows = [row for machine in machines for row in _rows(machine)]
    if len(machines) > 1:
        rows = [row | {"name": f"{row['name']}, {row['machine']}"} for row in rows]
    return {
        "rows": rows,
        "sliders": [dataclasses.asdict(one) for one in _sliders(machines, assumed)],
        "measured_power": any(row["power_w"] is not None for row in rows),
    }


def _rows(machine: Machine) -> Iterator[Json]:
    items = throughputs(machine.summary)
    several = len({_sizes(one) for one in items}) > 1
    for one, time in zip(items, token_times(items), strict=True):
        name = machine.names[one.variant]
        yield {
            "name": f"{name} {_work(_sizes(one), items)}" if several else name,
            "machine": machine.label,
            "records": machine.anchor(one.variant, _sizes(one)),
            **_sizes(one)._asdict(),
            "total_tok_s": one.total_tok_s,
            "low": one.low,
            "high": one.high,
            "rho": time.rho if time else None,
            "gpus": one.gpus,
            "power_w": None if one.power_w is None else one.power_w / one.gpus,
            "wall": one.power_scope == "wall",
            "limit_w": one.limit_w,
            "valid": one.valid,
            "reasons": list(one.reasons),
        }


def _sizes(one: Throughput) -> Sizes:
    return priced_sizes(one)


def _work(sizes: Sizes, items: Sequence[Throughput]) -> str:
    """`×4`, with the numbers of tokens where they differ."""
    if len({(one.n_prompt, one.n_gen) for one in items}) > 1:
        return work_of(sizes)
    return f"×{sizes.n_batch or '?'}"


def _sliders(machines: Sequence[Machine], assumed: CostAssumption | None) -> Iterator[Slider]:
    yield _rent(machines, assumed)
    home = load_scenario(str(FOLDER / f"{HOME}.toml")).figures
    share = home["utilization"]
    start = assumed.utilization if assumed else share.likeliest
    low, high = share.ends
    yield Slider(
        name="utilization",
        label="Busy share of paid or powered hours",
        unit="",
        basis="both",
        value=start,
        least=0.01,
        most=1.0,
        step=0.01,
        low=min(low, start),
        high=max(high, start),
        source=share.source,
    )
    yield from (_owned(name, home) for name in OWNED if name in home)
    yield Slider(
        name="pue",
        label="Power of the site over power of the machine (PUE)",
        unit="",
        basis="own",
        value=1.0,
        least=1.0,
        most=2.0,
        step=0.01,
        low=1.0,
        high=1.0,
        source="assumption: at home, no cooling but the machine's own",
    )


def _rent(machines: Sequence[Machine], assumed: CostAssumption | None) -> Slider:
    """The price book's range for the one card that was measured, else half to twice the start."""
    items: list[Throughput] = [one for m in machines for one in throughputs(m.summary)]
    cards = {one.device for one in items}
    start = assumed.usd_per_hour if assumed else None
    low = high = None
    source = ""
    if len(cards) == 1 and (card := cards.pop()) is not None:
        try:
            market = gpu_rent(card, today())
        except InputError:
            market = None
        if market is not None and market.currency == "USD":
            low, high, start = market.low, market.high, start or market.mode
            newest = max(price.source_date for price in market.prices if price.source_date)
            source = "; ".join(dict.fromkeys(price.source for price in market.prices))
            source += f" (newest of {newest}, {(today() - newest).days} days old)"
    if start is None:
        start, source = 0.5, "no price is known for this machine: an example"
    elif low is None and assumed is not None:
        source = f"{assumed.source}; no dated range: half to twice is taken"
    low, high = (start / 2, start * 2) if low is None or high is None else (low, high)
    most = max(4 * start, 1.25 * high)
    return Slider(
        name="rent_per_hour",
        label="Rent",
        unit="$ an hour",
        basis="rent",
        value=start,
        least=round(most / 400, 4),
        most=round(most, 4),
        step=round(most / 400, 4),
        low=min(low, start),
        high=max(high, start),
        source=source,
    )


OWNED: Mapping[str, tuple[str, str, float, float]] = {
    "price": ("Price of the card", "$", 10, 40000),
    "host_price": ("Price of the rest of the machine", "$", 10, 20000),
    "years": ("Years until the card is sold", "years", 0.5, 10),
    "rate_of_return": ("Yearly cost of capital", "share", 0.005, 0.3),
    "salvage_share": ("Resale value of the card", "share of its price", 0.01, 0.9),
    "electricity_per_kwh": ("Electricity", "$ for a kWh", 0.005, 0.8),
    "watts_busy": ("Power while busy, where none was measured", "W at the wall", 5, 3000),
    "watts_host": ("Power of the host, added to a measured card's", "W", 5, 1000),
    "watts_idle": ("Power while idle", "W at the wall", 5, 1000),
}
"""Figure of a scenario -> label, unit, step and the slider's end."""


def _owned(name: str, home: Mapping[str, SourcedFigure]) -> Slider:
    label, unit, step, most = OWNED[name]
    low, high = home[name].ends
    least = step if name in ("price", "years") else 0.0
    return Slider(
        name=name,
        label=label,
        unit=unit,
        basis="own",
        value=home[name].likeliest,
        least=least,
        most=most,
        step=step,
        low=low,
        high=high,
        source=home[name].source,
    )
