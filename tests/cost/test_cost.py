"""The cost formulas against worked values, and against what must hold for any price."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import cost
from bench.cost import ApiRates, HourlyCost, Ownership, owned, rented
from bench.errors import InputError

RTX_4080 = Ownership(price_usd=1200, years=3, rate_of_return=0.08, salvage_share=0.3, host_usd=800)
"""A 4080-class PC: the worked example of docs/cost.md."""


def home(utilization: float, ownership: Ownership = RTX_4080) -> HourlyCost:
    return owned(ownership, utilization=utilization, usd_per_kwh=0.17, busy_w=420, idle_w=80)


money = st.floats(0.01, 1e6)
shares = st.floats(0.01, 1)
speeds = st.floats(0.1, 1e6)
watts = st.floats(0, 2000)
factors = st.floats(1.01, 10)
machines = st.builds(
    HourlyCost,
    powered_usd=money,
    utilization=shares,
    busy_usd=st.floats(0, 10),
    usd_per_wh=st.floats(0, 0.01),
    busy_w=watts,
    idle_w=watts,
    pue=st.floats(1, 3),
)


@pytest.mark.parametrize(
    ("utilization", "usd"), [(0.1, 0.953), (0.3, 0.356), (0.5, 0.237), (1.0, 0.147)]
)
def test_an_owned_4080_costs_what_the_worked_example_says(utilization, usd) -> None:
    assert home(utilization).usd_per_busy_hour() == pytest.approx(usd, abs=0.0005)


@pytest.mark.parametrize(
    ("input_usd", "output_usd", "utilization", "tok_s"),
    [(2.5, 10, 1.0, 343), (2.5, 10, 0.3, 1144), (0.15, 0.6, 1.0, 5720)],
)
def test_tokens_a_second_that_3_7_percent_of_an_api_need(
    input_usd, output_usd, utilization, tok_s
) -> None:
    target = 0.037 * cost.at_mix(input_usd, output_usd, (3, 1))

    card = rented(0.20, utilization=utilization)

    assert card.break_even_tok_s(target) == pytest.approx(tok_s, abs=0.5)


def test_deepseek_against_openai_on_a_published_day() -> None:
    r1 = ApiRates(input=0.55, cached_input=0.14, output=2.19)
    o1 = ApiRates(input=15, cached_input=7.5, output=60)
    day = {"n_input": 608e9, "n_output": 168e9, "cached_share": 0.563}

    assert r1.usd_per_request(**day) / o1.usd_per_request(**day) == pytest.approx(0.0338, abs=5e-5)


def test_an_api_request_by_hand() -> None:
    rates = ApiRates(input=2, cached_input=0.5, output=8)

    usd = rates.usd_per_request(1000, 500, cached_share=0.4, batch_discount=0.5)

    assert usd == pytest.approx(0.5 * (600 * 2 + 400 * 0.5 + 500 * 8) / 1e6)


def test_cached_input_without_a_price_is_refused() -> None:
    with pytest.raises(InputError, match="no price for cached input"):
        ApiRates(input=150, output=600).usd_per_request(1, 1, cached_share=0.1)


def test_capital_recovery_by_hand() -> None:
    assert cost.capital_recovery(0.0, 4) == 0.25
    assert cost.capital_recovery(0.08, 3) == pytest.approx(0.08 * 1.08**3 / (1.08**3 - 1))


@given(st.floats(1e-14, 1e-7), st.floats(0.5, 30))
def test_capital_recovery_has_no_jump_at_no_interest(rate, years) -> None:
    assert cost.capital_recovery(rate, years) == pytest.approx(1 / years, rel=1e-5)


@given(st.floats(0, 0.5), st.floats(0.5, 20))
def test_payments_are_worth_the_price(rate, years) -> None:
    payment = cost.capital_recovery(rate, years)
    worth = years if rate * years < 1e-12 else -math.expm1(-years * math.log1p(rate)) / rate

    assert payment * worth == pytest.approx(1)


def test_a_year_of_an_owned_machine_by_hand() -> None:
    # 10% a year on 1,200 + 800 dollars for 2 years; the card is then worth 30% of its price.
    bought = Ownership(
        price_usd=1200,
        host_usd=800,
        years=2,
        rate_of_return=0.1,
        salvage_share=0.3,
        opex_usd_per_year=100,
        powered_share=0.5,
    )
    payment = 0.1 * 1.1**2 / (1.1**2 - 1) * (2000 - 360 / 1.1**2)

    assert bought.usd_per_year() == pytest.approx(payment + 100)
    assert bought.usd_per_powered_hour() == pytest.approx((payment + 100) / 4380)


def test_a_card_may_keep_all_of_its_value_and_no_more() -> None:
    kept = replace(RTX_4080, salvage_share=1, rate_of_return=0, years=4)

    assert kept.usd_per_year() == pytest.approx(800 / 4)
    with pytest.raises(InputError, match=r"salvage_share: 1\.01 must be at most 1"):
        replace(RTX_4080, salvage_share=1.01)


def test_the_run_table_and_the_machine_agree() -> None:
    card = rented(0.42, utilization=0.3)

    assert cost.usd_per_mtok(500, 0.42, 0.3) == pytest.approx(
        cost.usd_per_mtok(500, card.usd_per_busy_hour())
    )


def test_a_million_tokens_by_hand() -> None:
    # 1000 tok/s are 3.6 million tokens an hour.
    assert cost.usd_per_mtok(1000, 3.6, 0.5) == pytest.approx(2.0)


@given(machines, factors)
def test_cost_is_homogeneous_in_currency(machine, factor) -> None:
    other = replace(
        machine,
        powered_usd=machine.powered_usd * factor,
        busy_usd=machine.busy_usd * factor,
        usd_per_wh=machine.usd_per_wh * factor,
    )

    assert other.usd_per_busy_hour() == pytest.approx(factor * machine.usd_per_busy_hour())


@given(machines, factors, st.sampled_from(["powered_usd", "usd_per_wh", "busy_w", "idle_w", "pue"]))
def test_cost_never_falls_with_a_price_or_power(machine, factor, name) -> None:
    dearer = replace(machine, **{name: getattr(machine, name) * factor})

    assert dearer.usd_per_busy_hour() >= machine.usd_per_busy_hour() * (1 - 1e-12)


@given(machines, st.floats(0.01, 0.99))
def test_cost_rises_as_the_machine_stands_idle(machine, part) -> None:
    idler = replace(machine, utilization=machine.utilization * part)

    assert idler.usd_per_busy_hour() > machine.usd_per_busy_hour()


@given(money, speeds, shares, factors)
def test_cost_of_tokens_falls_with_throughput(usd, tok_s, share, factor) -> None:
    slow, fast = cost.usd_per_mtok(tok_s, usd, share), cost.usd_per_mtok(tok_s * factor, usd, share)

    assert slow == pytest.approx(fast * factor)


@given(st.floats(1, 1e5), factors)
def test_a_dearer_card_costs_more_a_year(usd, factor) -> None:
    cheap = replace(RTX_4080, price_usd=usd)

    assert replace(cheap, price_usd=usd * factor).usd_per_year() > cheap.usd_per_year()


@given(machines, speeds)
def test_break_even_utilization_breaks_even(machine, tok_s) -> None:
    target = cost.usd_per_mtok(tok_s, machine.usd_per_busy_hour())

    share = machine.break_even_utilization(target, tok_s)

    if share is None:  # only rounding may push it over 1
        assert machine.utilization == pytest.approx(1)
    else:
        there = replace(machine, utilization=share).usd_per_busy_hour()
        assert there == pytest.approx(machine.usd_per_busy_hour(), rel=1e-6)


def test_no_utilization_breaks_even_with_a_price_below_a_busy_machine() -> None:
    assert rented(1.0, utilization=0.5).break_even_utilization(0.01, 100) is None


@given(machines, st.floats(0.001, 1000))
def test_break_even_speed_breaks_even(machine, target) -> None:
    tok_s = machine.break_even_tok_s(target)

    assert cost.usd_per_mtok(tok_s, machine.usd_per_busy_hour()) == pytest.approx(target)


def test_months_to_pay_back_by_hand() -> None:
    always = replace(home(1.0), busy_w=1000.0, idle_w=0.0)
    mtok = 100 * 3600 * 730 / 1e6
    saved = mtok * 5 - 730 * 0.17

    months = cost.months_to_pay_back(RTX_4080, always, 100, 5)

    assert months == pytest.approx(2000 / saved)
    dear = replace(RTX_4080, opex_usd_per_year=1200, powered_share=0.5)
    assert cost.months_to_pay_back(dear, always, 100, 5) == pytest.approx(2000 / (saved / 2 - 100))


def test_what_costs_more_to_run_than_the_api_is_never_paid_back() -> None:
    assert cost.months_to_pay_back(RTX_4080, home(0.3), 1.0, 0.01) is None


@given(money, st.floats(0, 1e5), st.floats(0.5, 1e5), st.floats(0.01, 1000))
def test_input_and_output_prices_add_up(usd, n_in, n_out, rho) -> None:
    each_in, each_out = cost.split(usd, n_in, n_out, rho)

    assert each_in * n_in + each_out * n_out == pytest.approx(usd, rel=1e-12)
    assert each_out == pytest.approx(rho * each_in)


@given(
    st.floats(1e-6, 1e-2),
    st.floats(1e-6, 1e-1),
    st.lists(
        st.tuples(st.integers(1, 4096), st.integers(1, 1024)), min_size=3, max_size=6, unique=True
    ),
)
def test_mixes_give_back_the_times_they_were_made_from(alpha, beta, works) -> None:
    proportions = [n_in / n_out for n_in, n_out in works]
    if max(proportions) < 1.5 * min(proportions):
        return  # nearly one proportion: the two times cannot be told apart

    found = cost.from_mixes([(i, o, alpha * i + beta * o) for i, o in works])

    assert found is not None
    assert found.method == "mixes"
    assert found.output_s * 1e3 == pytest.approx(beta * 1e3, rel=1e-3, abs=alpha)


@pytest.mark.parametrize(
    "mixes",
    [
        [(100, 10, 1.0), (10, 100, 2.0)],
        [(100, 10, 1.0), (100, 10, 1.1), (10, 100, 2.0)],
        [(100, 10, 1.0), (200, 20, 2.0), (300, 30, 3.0)],
        [(100, 10, 3.0), (1000, 10, 2.0), (2000, 10, 1.0)],
    ],
    ids=["two", "two and a repeat", "one proportion", "negative time"],
)
def test_mixes_that_cannot_tell_the_times_apart_give_no_split(mixes) -> None:
    assert cost.from_mixes(mixes) is None


def test_phases_charge_the_prefill_to_input() -> None:
    found = cost.from_phases(100, 11, prefill_s=0.5, e2e_s=1.6)

    assert found is not None
    assert (found.input_s, found.output_s) == (pytest.approx(0.005), pytest.approx(0.1))
    assert found.input_s * 100 + found.output_s * 11 == pytest.approx(1.6)


@pytest.mark.parametrize(("n_gen", "prefill", "e2e"), [(1, 0.5, 0.5), (8, 0.0, 1.0), (8, 2.0, 1.0)])
def test_phases_without_decoding_give_no_split(n_gen, prefill, e2e) -> None:
    assert cost.from_phases(100, n_gen, prefill, e2e) is None


@pytest.mark.parametrize("tok_s", [0.0, -1.0, math.nan, math.inf])
def test_no_throughput_no_price(tok_s) -> None:
    with pytest.raises(InputError, match=r"total_tok_s: .* must be a number above 0"):
        cost.usd_per_mtok(tok_s, 1.0)


@pytest.mark.parametrize("utilization", [0.0, -0.1, 1.01, math.nan])
def test_utilization_is_a_share(utilization) -> None:
    with pytest.raises(InputError, match=r"utilization: .* must be above 0 and at most 1"):
        cost.usd_per_mtok(1.0, 1.0, utilization)
    with pytest.raises(InputError, match="utilization"):
        rented(1.0, utilization=utilization)


@pytest.mark.parametrize(
    "wrong",
    [
        {"price_usd": -1.0},
        {"price_usd": math.nan},
        {"years": 0.0},
        {"rate_of_return": -0.1},
        {"salvage_share": 1.5},
        {"powered_share": 0.0},
        {"host_usd": math.inf},
    ],
)
def test_an_impossible_purchase_is_refused_by_name(wrong) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        replace(RTX_4080, **wrong)


def test_a_site_that_saves_power_is_refused() -> None:
    with pytest.raises(InputError, match="pue"):
        owned(RTX_4080, utilization=1, usd_per_kwh=0.1, busy_w=1, idle_w=1, pue=0.9)
