"""Scenario files and what their ranges do: bands and tornadoes."""

from __future__ import annotations

import datetime
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import cost
from bench.cost import bands, scenario
from bench.cost.scenario import RULES, Range, Scenario, SourcedFigure, adapt, load_scenario
from bench.errors import InputError

DAY = datetime.date(2026, 11, 23)


def figure(value: float | Range, currency: str = "USD") -> SourcedFigure:
    return SourcedFigure(value=value, source="a test", date=DAY, currency=currency)


def spread(low: float, mode: float, high: float) -> SourcedFigure:
    return figure(Range(low=low, mode=mode, high=high))


def rent(**given: SourcedFigure) -> Scenario:
    """A rented card of the worked example, with other figures replaced."""
    figures = {
        "utilization": spread(0.1, 0.3, 0.6),
        "rent_per_hour": spread(0.34, 0.42, 0.60),
    } | given
    return Scenario(name="rent", title="a rented card", basis="rent", **figures)


def hourly(values) -> float:
    return scenario.machine("rent", values, 0.0, 0.0).usd_per_busy_hour()


@pytest.mark.parametrize(
    ("one", "problem"),
    [
        (Range(low=1, mode=1, high=1), "low, high: are equal; write a number"),
        (Range(low=1, mode=3, high=2), "low, mode, high: 1, 3, 2 are not in order"),
        (figure(1.0, "usd"), "currency: 'usd' is not a code such as USD"),
        (
            rent(utilization=figure(0.5, "EUR")),
            "utilization: is not money, so it takes no currency",
        ),
        (rent(utilization=figure(0.0)), "utilization: 0 must be above 0 and at most 1"),
        (rent(utilization=figure(1.5)), "utilization: 1.5 must be above 0 and at most 1"),
        (rent(rent_per_hour=figure(math.inf)), "rent_per_hour: inf is not a finite number"),
        (rent(years=figure(3.0)), "years: does not belong in a scenario of basis 'rent'"),
    ],
)
def test_a_problem_of_a_scenario_is_named(
    one: Range | SourcedFigure | Scenario, problem: str
) -> None:
    assert list(one.problems()) == [problem]


def test_the_shipped_scenarios_have_no_problems() -> None:
    assert scenario.validate_scenarios() == []
    assert len(scenario.scenarios()) == 5


@pytest.mark.parametrize("name", sorted(scenario.scenarios()))
def test_a_shipped_scenario_gives_a_cost_and_a_band_around_it(name) -> None:
    rates = {"JPY": 0.0067}
    one = load_scenario(name)
    values = one.values(rates)
    busy, idle = values.get("watts_busy", 0.0), values.get("watts_idle", 0.0)

    likeliest = scenario.machine(one.basis, values, busy, idle).usd_per_busy_hour()
    drawn = bands.draw(one, rates)
    low, high = bands.band(
        drawn.usd_per_busy_hour(
            drawn.values.get("watts_busy", 0.0), drawn.values.get("watts_idle", 0.0)
        )
    )

    assert 0 < low < likeliest < high
    assert all(one.source and one.date for one in load_scenario(name).figures.values())


def test_the_worked_example_as_a_scenario() -> None:
    values = {
        "price": 1200,
        "salvage_share": 0.3,
        "years": 3,
        "rate_of_return": 0.08,
        "host_price": 800,
        "electricity_per_kwh": 0.17,
        "utilization": 0.3,
    }

    made = scenario.machine("own", values, 420, 80)

    assert made.usd_per_busy_hour() == pytest.approx(0.356, abs=0.0005)


def test_money_in_yen_needs_a_rate() -> None:
    japan = load_scenario("home-rtx4080-japan")

    assert japan.values({"JPY": 0.0067})["electricity_per_kwh"] == pytest.approx(31 * 0.0067)
    with pytest.raises(InputError, match="--rate JPY=USD"):
        japan.values({})


@given(st.floats(0, 100), st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0, 1))
def test_quantiles_of_a_range_invert_its_distribution(low, left, right, q) -> None:
    reach = Range(low=low, mode=low + left, high=low + left + right)
    width = left + right

    x = reach.quantile(q)

    assert low <= x <= reach.high + 1e-9
    below = (
        (x - low) ** 2 / (width * left)
        if x <= reach.mode
        else 1 - (reach.high - x) ** 2 / (width * right)
    )
    assert below == pytest.approx(q, abs=1e-6)


def test_the_tornado_of_the_worked_example() -> None:
    bars = bands.tornado(rent(), hourly, {}, throughput_log_sd=0.01)

    assert [bar.name for bar in bars] == ["utilization", "rent_per_hour", "throughput"]
    shares = [bar.share for bar in bars]
    assert 0.88 <= shares[0] <= 0.89
    assert 0.11 <= shares[1] <= 0.12
    assert shares[2] == pytest.approx(0.001, abs=0.0005)
    assert sum(shares) == pytest.approx(1)


def test_a_tornado_s_ends_by_hand() -> None:
    bar = bands.tornado(rent(), hourly, {})[0]

    assert (bar.low_usd, bar.high_usd) == (pytest.approx(0.42 / 0.1), pytest.approx(0.42 / 0.6))


def test_without_ranges_nothing_drives_the_cost() -> None:
    fixed = rent(utilization=figure(0.5), rent_per_hour=figure(1.0))

    assert bands.tornado(fixed, hourly, {}) == []


def test_draws_repeat_with_their_seed_and_only_with_it() -> None:
    one, again, other = (bands.draw(rent(), {}, seed=seed).base_usd for seed in (1, 1, 2))

    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_draws_agree_with_plain_sampling() -> None:
    random = np.random.default_rng(7)
    rents, shares = (
        random.triangular(*ends, 200_000) for ends in ((0.34, 0.42, 0.6), (0.1, 0.3, 0.6))
    )
    plain = rents / shares

    low, high = bands.band(bands.draw(rent(), {}).base_usd)

    assert (low, high) == (
        pytest.approx(np.percentile(plain, 2.5), rel=0.02),
        pytest.approx(np.percentile(plain, 97.5), rel=0.02),
    )


def test_the_band_is_as_wide_as_its_one_range() -> None:
    drawn = bands.draw(rent(utilization=figure(0.5)), {})

    low, high = bands.band(drawn.base_usd)

    reach = Range(low=0.34, mode=0.42, high=0.60)
    assert (low, high) == (
        pytest.approx(2 * reach.quantile(0.025), rel=1e-3),
        pytest.approx(2 * reach.quantile(0.975), rel=1e-3),
    )


def test_draws_with_power_agree_with_the_formula() -> None:
    values = {
        "utilization": spread(0.2, 0.4, 0.9),
        "price": figure(1000.0),
        "years": figure(3.0),
        "electricity_per_kwh": spread(0.1, 0.2, 0.4),
        "pue": spread(1.1, 1.2, 1.5),
    }
    own = Scenario(name="own", title="bought", basis="own", **values)
    drawn = bands.draw(own, {}, count=16)

    for i in range(16):
        one = {name: float(column[i]) for name, column in drawn.values.items()}
        expected = scenario.machine("own", one, 300, 50).usd_per_busy_hour()
        assert drawn.usd_per_busy_hour(300, 50)[i] == pytest.approx(expected)


def test_flags_make_a_scenario() -> None:
    made = adapt(None, "rent", {"rent_per_hour": figure(0.42), "utilization": figure(0.3)})

    assert made.values({}) == {"rent_per_hour": 0.42, "utilization": 0.3}


def test_flags_replace_figures_of_a_scenario() -> None:
    made = adapt(load_scenario("rented-h200"), "rent", {"utilization": figure(1.0)}, gpus=2)

    assert made.utilization.likeliest == 1.0
    assert made.gpus == 2
    assert made.rent_per_hour == load_scenario("rented-h200").rent_per_hour


@pytest.mark.parametrize(
    ("basis", "given_figures", "said"),
    [
        ("rent", {"rent_per_hour": figure(0.0)}, "--rent: 0 must be above 0"),
        ("rent", {"utilization": figure(0.0)}, "--utilization: 0 must be above 0 and at most 1"),
        ("rent", {"utilization": figure(1.5)}, "--utilization: 1.5 must be"),
        ("rent", {"utilization": spread(0.5, 0.9, 1.1)}, "--utilization: 0.9"),
        (
            "rent",
            {"rent_per_hour": spread(1, 3, 2)},
            "--rent: low, mode, high: 1, 3, 2 are not in order",
        ),
        ("rent", {"rent_per_hour": figure(math.inf)}, "--rent: inf is not a finite number"),
        ("rent", {"rent_per_hour": figure(math.nan)}, "--rent: nan is not a finite number"),
        ("rent", {"years": figure(3.0)}, "--years: does not belong in a scenario of basis 'rent'"),
        ("own", {"price": figure(1000.0)}, "--own also needs --years, --kwh"),
    ],
)
def test_wrong_flags_are_named(basis, given_figures, said) -> None:
    usual = {"utilization": figure(0.5)}
    if basis == "rent":
        usual["rent_per_hour"] = figure(1.0)

    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        adapt(None, basis, usual | given_figures)


WRONG = """
name = "Wrong Name"
title = "x"
basis = "own"
gpus = 0
speed = 3

[utilization]
value = { low = 0.5, mode = 0.2, high = 0.9 }
source = "a test"
date = 2026-11-23

[price]
value = -5
source = ""
date = 2026-11-23

[rent_per_hour]
value = 1
source = "a test"
date = "yesterday"
"""


def test_every_fault_of_a_file_is_listed(tmp_path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(WRONG)

    with pytest.raises(InputError) as caught:
        load_scenario(str(path))

    said = "\n".join(caught.value.problems)
    for part in (
        "speed: unknown key",
        "utilization.value.low, mode, high: 0.5, 0.2",
        "price.source: missing",
        "rent_per_hour.date: expected a date",
    ):
        assert part in said
    assert all(problem.startswith(str(path)) for problem in caught.value.problems)


def test_faults_of_the_values_are_listed_too(tmp_path) -> None:
    path = tmp_path / "own.toml"
    text = 'name = "Own"\ntitle = "x"\nbasis = "own"\n'
    for name, value in (("utilization", 0), ("price", -5), ("pue", 0.5), ("rent_per_hour", 1)):
        text += f'[{name}]\nvalue = {value}\nsource = "s"\ndate = 2026-11-23\n'
    path.write_text(text)

    problems = scenario.validate_scenarios(tmp_path)

    for part in (
        "name: 'Own'",
        "utilization: 0 must be",
        "price: -5 must be",
        "pue: 0.5 must be",
        "rent_per_hour: does not belong",
        "years: missing",
        "electricity_per_kwh: missing",
    ):
        assert any(part in problem for problem in problems), part


def test_a_file_must_bear_its_scenario_s_name(tmp_path) -> None:
    shipped = scenario.scenarios()["rented-h200"].read_text()
    (tmp_path / "other.toml").write_text(shipped)

    assert "is not the file's name 'other'" in scenario.validate_scenarios(tmp_path)[0]


def test_an_unknown_scenario_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'rented-h200'"):
        load_scenario("rented-h100")


def test_the_rules_cover_the_figures_of_a_scenario() -> None:
    figures = {
        name
        for name in Scenario.__dataclass_fields__
        if name not in ("name", "title", "basis", "gpu", "gpus", "note")
    }

    assert figures == set(RULES)


def test_ownership_of_a_scenario_is_neutral_where_nothing_is_given() -> None:
    bought = scenario.ownership({"price": 1000.0, "years": 4.0})

    assert bought == cost.Ownership(price_usd=1000, years=4)
    assert bought.usd_per_year() == 250
