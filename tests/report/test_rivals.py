"""The page's section on today's APIs: shares of their price by hand, dated, and months."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from bench.cost.hour import as_scenario
from bench.cost.pricing import Terms, price
from bench.cost.throughput import Throughput
from bench.experiment import CostAssumption
from bench.report.page.blocks import Picture, Table
from bench.report.page.rivals import MODELS, section

DAY = datetime.date(2026, 11, 29)
HOUR = CostAssumption(usd_per_hour=0.36, source="a test")


def measured(**changes: Any) -> Throughput:
    usual: dict[str, Any] = {
        "variant": "m/t/none",
        "n_prompt": 300,
        "n_gen": 100,
        "total_tok_s": 1000.0,
        "device": "RTX 4080",
        "power_w": 300.0,
        "idle_w": 20.0,
        "power_scope": "gpu-board",
    }
    return Throughput(**(usual | changes))


def of(*items: Throughput, priced: bool = True, on: datetime.date = DAY) -> Any:
    costs = price(items, as_scenario(HOUR), Terms()) if priced else []
    return section("m1", costs, items, on)


def test_shares_of_today_s_prices_by_hand() -> None:
    found = of(measured(), measured(variant="slow", total_tok_s=10.0))

    table = found.blocks[0]
    assert isinstance(table, Table)
    assert [line.cells[0].text for line in table.lines] == list(MODELS)
    gpt5 = table.lines[1].cells
    # 0.36 $/h over 3.6 million tokens: 0.10. gpt-5 at 3 : 1 asks (3 x 1.25 + 10) / 4 = 3.4375.
    assert gpt5[1].value == pytest.approx(3.4375)
    assert gpt5[2].text == "2.9%"
    # 3.7% of it are 0.1271875 dollars: 0.36 x 1e6 / (3600 x 0.1271875) tok/s.
    assert gpt5[3].value == pytest.approx(786.2408)
    assert "m/t/none" in table.caption


def test_prices_are_dated() -> None:
    lead = of(measured()).lead

    assert "Prices on 2026-11-29, from genai-prices" in lead
    assert "19 days before" in lead


def test_a_day_without_some_prices_says_which() -> None:
    found = of(measured(), on=datetime.date(2025, 5, 1))

    assert [line.cells[0].text for line in found.blocks[0].lines] == ["openai/gpt-4o"]
    assert "no price of openai/gpt-5 is in force on 2025-05-01" in found.lead


def test_months_in_a_table_and_a_curve() -> None:
    [picture] = [one for one in of(measured()).blocks if isinstance(one, Picture)]

    assert picture.spec is not None
    assert picture.table is not None
    months = {
        line.cells[0].text: [cell.value for cell in line.cells[1:]] for line in picture.table.lines
    }
    assert set(months) == set(MODELS)
    for few, more, most in (months["openai/gpt-5"], months["openai/gpt-4o"]):
        assert few > more > most > 0
    assert "RTX 4080 at $1,199" in picture.caption or "RTX 4080 at $1,200" in picture.caption
    points = [row for data in picture.spec["datasets"].values() for row in data]
    assert all(0 < row["y"] <= 120 for row in points)


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (measured(device=None), "the results name no card"),
        (measured(device="Card of Nobody"), "unknown card 'Card of Nobody'"),
        (measured(reasons=("THROTTLED",)), "nothing valid was measured"),
    ],
)
def test_without_a_card_s_price_there_are_no_months(item: Throughput, says: str) -> None:
    found = of(item)

    assert [type(block) for block in found.blocks] == [Table]
    assert f"Months to pay back are not shown: {says}" in found.lead


def test_without_a_price_and_a_card_it_says_why() -> None:
    found = of(measured(device=None), priced=False)

    assert found.blocks == ()
    assert (
        "What the machine costs was not given: `bench report --rent USD_PER_HOUR`" in found.missing
    )
