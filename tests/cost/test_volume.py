"""A month at so many tokens a day, by hand; and power limits that were measured apart."""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from bench.cli import cost as verb
from bench.cost import ApiRates, rented
from bench.cost.pricing import Against, Terms, price
from bench.cost.scenario import Scenario, SourcedFigure, adapt
from bench.cost.throughput import Throughput
from bench.cost.volume import month, volume_rows
from bench.errors import InputError
from bench.report.tables.cost import cost_columns, cost_notes
from tests.cost_results import write_results

API = Against(name="api", rates=ApiRates(input=1.0, output=1.0))
FULL_DAY = 400 * 86_400  # 34.56 million tokens at 400 tok/s


def figures(**values: float) -> dict[str, SourcedFigure]:
    day = datetime.date(2026, 11, 29)
    return {name: SourcedFigure(value=v, source="a test", date=day) for name, v in values.items()}


def measured(**changes: Any) -> Throughput:
    usual: dict[str, Any] = {"variant": "m", "n_prompt": 300, "n_gen": 100, "total_tok_s": 400.0}
    return Throughput(**(usual | changes))


def rent(**values: float) -> Scenario:
    return adapt(None, "rent", figures(**({"rent_per_hour": 0.4, "utilization": 1.0} | values)))


def own(**values: float) -> Scenario:
    usual = {
        "price": 1200.0,
        "years": 3.0,
        "utilization": 1.0,
        "electricity_per_kwh": 0.2,
        "watts_busy": 400.0,
        "watts_idle": 100.0,
    }
    return adapt(None, "own", figures(**(usual | values)))


@pytest.mark.parametrize(
    ("tokens", "machines", "share"),
    [
        (FULL_DAY / 2, 1, 0.5),
        (FULL_DAY, 1, 1.0),
        (FULL_DAY * 1.001, 2, 0.5005),
        (FULL_DAY * 7, 7, 1.0),
        (FULL_DAY / 1000, 1, 0.001),
    ],
)
def test_as_few_machines_as_make_the_tokens(tokens: float, machines: int, share: float) -> None:
    found = month(rented(0.4, utilization=1), 400.0, tokens)

    assert found.machines == machines
    assert found.busy_share == pytest.approx(share)
    assert found.usd == pytest.approx(machines * 730 * 0.4)  # reserved: every hour is paid


def test_reserved_hours_against_hours_of_use() -> None:
    [full] = volume_rows([measured()], rent(), Terms(), [FULL_DAY / 2])
    [half] = volume_rows([measured()], rent(utilization=0.5), Terms(), [FULL_DAY / 2])

    # Half of 730 hours: 365 x 0.40 when each is used whole, 365 x 0.80 when half is setting up.
    assert full["usd_per_month"] == half["usd_per_month"] == pytest.approx(292)
    assert full["usd_per_month_by_use"] == pytest.approx(146)
    assert half["usd_per_month_by_use"] == pytest.approx(292)


def test_a_bought_machine_idles_and_pays_back() -> None:
    [row] = volume_rows([measured()], own(), Terms(against=(API,)), [FULL_DAY / 2])

    # 1200 / 36 + 365 h x 0.4 kW x 0.2 + 365 h x 0.1 kW x 0.2 = 33.333 + 29.2 + 7.3
    assert row["usd_per_month"] == pytest.approx(69.8333, rel=1e-5)
    # 17.28 million tokens a day are 525.6 a month: 525.60 dollars at the API, less 36.50 to run.
    assert row["against_usd_per_month"] == pytest.approx(525.6)
    assert row["months_to_pay_back"] == pytest.approx(1200 / (525.6 - 36.5))
    assert row["usd_per_month_by_use"] is None


def test_a_second_card_is_bought_when_one_is_not_enough() -> None:
    [one, two] = volume_rows([measured()], own(), Terms(against=(API,)), [FULL_DAY, FULL_DAY * 2])

    assert (one["machines"], two["machines"]) == (1, 2)
    assert two["usd_per_month"] == pytest.approx(2 * one["usd_per_month"])
    assert two["months_to_pay_back"] == pytest.approx(one["months_to_pay_back"])


def test_cards_that_work_as_one_are_bought_together() -> None:
    [row] = volume_rows([measured(gpus=2)], own(), Terms(against=(API,)), [FULL_DAY * 1.5])

    assert row["machines"] == 4
    assert row["usd_per_month"] > 4 * 1200 / 36


def test_too_few_tokens_never_pay_back() -> None:
    [row] = volume_rows([measured()], own(), Terms(against=(API,)), [1000])

    assert row["months_to_pay_back"] is None
    assert row["absent"] == ["months_to_pay_back: running it costs more than the API"]


def test_without_idle_power_a_month_has_no_price() -> None:
    scenario = adapt(
        None,
        "own",
        figures(price=1200, years=3, utilization=1.0, electricity_per_kwh=0.2, watts_busy=400),
    )

    [row] = volume_rows([measured()], scenario, Terms(against=(API,)), [FULL_DAY / 2])

    assert row["usd_per_month"] is row["months_to_pay_back"] is None
    assert row["absent"] == ["usd_per_month: needs the idle power; give --watts-idle"]


def test_the_verb_prints_a_month(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path)
    parser = verb.add(argparse.ArgumentParser().add_subparsers())
    flags = "--rent 0.4 --against 1:2 --tokens-per-day 200k,1M -o json"

    assert verb.run(parser.parse_args([str(tmp_path), *flags.split()])) == 0

    rows = json.loads(capsys.readouterr().out)
    assert [row["tokens_per_day"] for row in rows[:2]] == [200_000, 1_000_000]
    # 300 at 1 and 100 at 2 dollars: 1.25 a million, 30.4167 days of one million.
    assert rows[1]["against_usd_per_month"] == pytest.approx(1.25 * 365 / 12)
    for wrong in ("0", "many", "1M,", "-5k"):
        with pytest.raises(InputError, match="--tokens-per-day"):
            verb.run(parser.parse_args([str(tmp_path), "--rent", "1", f"--tokens-per-day={wrong}"]))


# ---- power limits ------------------------------------------------------------------------------


def limited(watts: float, tok_s: float) -> Throughput:
    return measured(
        total_tok_s=tok_s,
        limit_w=watts,
        power_w=watts - 5,
        idle_w=20.0,
        power_scope="wall",
        device="RTX 4080",
        environment=f"at {watts:g} W",
    )


def test_power_limits_are_told_apart_and_the_cheapest_named() -> None:
    items = [limited(320, 400.0), limited(250, 390.0), limited(150, 180.0)]
    rows = [row.table() for row in price(items, own(), Terms())]

    # By hand, always busy: (1200 / 26,280 h + 0.2 x W / 1000) / (3600 X) million tokens.
    for row, watts, tok_s in zip(rows, (315, 245, 145), (400, 390, 180), strict=True):
        hourly = 1200 / 26_280 + 0.2 * watts / 1000
        assert row["usd_per_mtok"] == pytest.approx(hourly / (3600 * tok_s) * 1e6)
    assert "limit W" in [column.heading for column in cost_columns(rows)]
    [note] = [line for line in cost_notes(rows) if line.startswith("power limit")]
    assert "m 300+100 x1 under own is cheapest at 250 W" in note


def test_one_power_limit_has_no_column() -> None:
    rows = [row.table() for row in price([limited(320, 400.0)], own(), Terms())]

    assert "limit W" not in [column.heading for column in cost_columns(rows)]
    assert not any(line.startswith("power limit") for line in cost_notes(rows))


# ---- rents and countries from the price books, on a fixed day ----------------------------------


def priced(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str) -> dict[str, Any]:
    """The first row of `bench cost` on records of 400 tokens a second."""
    write_results(tmp_path)
    parser = verb.add(argparse.ArgumentParser().add_subparsers())
    assert verb.run(parser.parse_args([str(tmp_path), *flags.split(), "-o", "json"])) == 0
    row: dict[str, Any] = json.loads(capsys.readouterr().out)[0]
    return row


@pytest.mark.parametrize(
    ("card", "usd"),
    [
        # median of four secondary rows: (0.45 + 0.682) / 2
        ("RTX-4090", 0.566),
        # Crusoe's own figure is the one primary row; the others are its range
        ("H200-SXM", 4.29),
        ("H100-SXM", 3.9),
    ],
)
def test_three_rents_by_hand(
    card: str, usd: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = f"--rent book --gpu {card} --utilization 0.5 --on 2026-11-29"

    row = priced(tmp_path, capsys, flags)

    assert row["usd_per_busy_hour"] == pytest.approx(2 * usd)
    tokens_an_hour = 3600 * row["total_tok_s"]
    assert row["usd_per_mtok"] == pytest.approx(2 * usd / tokens_an_hour * 1e6)
    assert row["price_age_days"] > 90


@pytest.mark.parametrize(
    ("country", "usd_per_kwh"),
    [("us", 0.1648), ("jp", 31 * 0.0067)],  # 31 yen at 0.0067 dollars
)
def test_two_countries_by_hand(
    country: str, usd_per_kwh: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = f"--own 1314 --years 3 --kwh {country} --watts-busy 400 --on 2025-05-01"

    row = priced(tmp_path, capsys, flags + " --rate JPY=0.0067@2025-05-01")

    # 1314 dollars over 3 x 8760 hours are 5 cents; 0.4 kW at the country's price.
    assert row["usd_per_busy_hour"] == pytest.approx(0.05 + 0.4 * usd_per_kwh)
