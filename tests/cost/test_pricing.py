"""Rows of `bench cost`: what is priced, what is kept apart, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import cost
from bench.cost import pricing
from bench.cost.power import wall_power
from bench.cost.pricing import Against, Terms
from bench.cost.row import KEYS
from bench.cost.scenario import Scenario, load_scenario
from bench.cost.throughput import Throughput
from bench.errors import InputError
from tests.cost.test_scenario import figure, rent, spread

GPT_4O = Against(name="openai/gpt-4o", rates=cost.ApiRates(input=2.5, output=10))


def measured(**changes: Any) -> Throughput:
    """A variant that makes 1000 tok/s, 300 in and 100 out a request."""
    given_figures: dict[str, Any] = {
        "variant": "m/t/none",
        "n_prompt": 300,
        "n_gen": 100,
        "n_batch": 1,
        "total_tok_s": 1000.0,
        "low": 990.0,
        "high": 1020.0,
        "n_replicates": 8,
        "prefill_s": 0.1,
        "device": "RTX 4080",
    }
    return Throughput(**(given_figures | changes))


def fixed(usd: float = 0.36, utilization: float = 1.0, **more: Any) -> Scenario:
    return rent(rent_per_hour=figure(usd), utilization=figure(utilization), **more)


def own(**given_figures: Any) -> Scenario:
    """The worked example at u = 0.3, without its power."""
    figures = {
        "utilization": figure(0.3),
        "price": figure(1200.0),
        "years": figure(3.0),
        "rate_of_return": figure(0.08),
        "salvage_share": figure(0.3),
        "host_price": figure(800.0),
        "electricity_per_kwh": figure(0.17),
    } | given_figures
    return Scenario(name="own", title="bought", basis="own", **figures)


def test_a_row_by_hand() -> None:
    [row] = pricing.price([measured()], fixed(), Terms())

    # 3.6 million tokens an hour for $0.36.
    assert row.usd_per_mtok == pytest.approx(0.1)
    assert row.usd_per_request == pytest.approx(0.1 * 400 / 1e6)
    assert (row.ci_low, row.ci_high) == (pytest.approx(0.1 / 1.02), pytest.approx(0.1 / 0.99))
    assert (row.split_method, row.split_rho) == ("prefill-decode", pytest.approx(9.0))
    assert (row.energy_source, row.busy_w) == ("in the rent", None)


def test_input_and_output_add_up_in_every_row() -> None:
    for row in pricing.price([measured()], fixed(), Terms(against=(GPT_4O,))):
        assert row.usd_per_mtok_input is not None
        assert row.usd_per_mtok_output is not None
        total = row.usd_per_mtok_input * 300 + row.usd_per_mtok_output * 100
        assert total / 1e6 == pytest.approx(row.usd_per_request, rel=1e-12)


def test_measurement_and_scenario_are_kept_apart() -> None:
    sure = measured(low=999.0, high=1001.0)
    [narrow] = pricing.price([sure], rent(), Terms())
    [wide] = pricing.price([measured(low=500.0, high=2000.0)], rent(), Terms())

    assert (narrow.band_low, narrow.band_high) == (wide.band_low, wide.band_high)
    assert (narrow.ci_low or 0) > (wide.ci_low or 0)
    [no_range] = pricing.price([sure], fixed(), Terms())
    assert no_range.band_low is None
    assert pricing.NO_RANGE in no_range.absent


def test_three_mixes_give_the_split() -> None:
    alpha, beta = 1e-4, 1e-2
    items = [
        measured(
            n_prompt=n_in,
            n_gen=n_out,
            prefill_s=None,
            total_tok_s=(n_in + n_out) / (alpha * n_in + beta * n_out),
        )
        for n_in, n_out in ((100, 100), (1000, 100), (100, 300))
    ]

    rows = pricing.price(items, fixed(), Terms())

    assert {row.split_method for row in rows} == {"mixes"}
    assert all(row.split_rho == pytest.approx(beta / alpha) for row in rows)
    # The price of a token does not depend on the workload that it was measured in.
    assert rows[0].usd_per_mtok_output == pytest.approx(rows[2].usd_per_mtok_output)


def test_without_a_split_only_the_total_is_priced() -> None:
    [row] = pricing.price([measured(prefill_s=None)], fixed(), Terms())
    [mixed] = pricing.price([measured(prefill_s=None)], fixed(), Terms(mix=(3, 1)))

    assert (row.split_method, row.usd_per_mtok_input) == ("none", None)
    assert row.usd_per_mtok is not None
    assert mixed.usd_per_mtok is None
    assert pricing.NO_MIX in mixed.absent


def alone(n_prompt: int, n_gen: int, total_tok_s: float, **changes: Any) -> Throughput:
    """A row of llama-bench: prompts alone, or new tokens alone."""
    only = measured(n_prompt=n_prompt, n_gen=n_gen, total_tok_s=total_tok_s, prefill_s=None)
    return dataclasses.replace(only, low=None, high=None, **changes)


def test_input_and_output_timed_in_two_rows_make_one_price() -> None:
    prompt, new = alone(512, 0, 4000.0), alone(0, 128, 100.0)
    # $0.36 an hour is $1e-4 a second: an input token takes 1/4000 s, an output token 1/100 s.
    for row in pricing.price([prompt, new], fixed(), Terms(mix=(3.0, 1.0))):
        assert (row.split_method, row.split_rho) == ("rows-apart", pytest.approx(40.0))
        assert row.usd_per_mtok_input == pytest.approx(0.025)
        assert row.usd_per_mtok_output == pytest.approx(1.0)
        assert row.usd_per_mtok == pytest.approx((3 * 0.025 + 1.0) / 4)


def test_a_price_of_two_rows_has_no_interval_of_one_of_them() -> None:
    items = [alone(512, 0, 4000.0), alone(0, 128, 100.0)]
    items = [dataclasses.replace(one, low=50.0, high=5000.0) for one in items]
    for row in pricing.price(items, rent(), Terms(mix=(3.0, 1.0))):
        assert (row.ci_low, row.ci_high, row.band_low, row.band_high) == (None,) * 4
        assert f"ci_low, band_low: {pricing.TWO_ROWS}" in row.absent
    for row in pricing.price(items, rent(), Terms()):
        assert None not in (row.ci_low, row.band_low)  # its own tokens: of one row


def test_of_several_rows_of_the_other_kind_that_nearest_to_the_mix_counts() -> None:
    long, short = alone(4096, 0, 1000.0), alone(128, 0, 4000.0)
    new = alone(0, 512, 100.0)
    for mix, rho in (((8.0, 1.0), 10.0), ((1.0, 4.0), 40.0), (None, 40.0)):
        rows = pricing.price([long, short, new], fixed(), Terms(mix=mix))
        assert rows[2].split_rho == pytest.approx(rho), mix
    longer, shorter = alone(0, 4096, 50.0), alone(0, 64, 100.0)
    prompt = alone(512, 0, 1000.0)
    for mix, rho in (((8.0, 1.0), 10.0), ((1.0, 8.0), 20.0), (None, 10.0)):
        rows = pricing.price([prompt, longer, shorter], fixed(), Terms(mix=mix))
        assert rows[0].split_rho == pytest.approx(rho), mix


def test_one_kind_of_token_alone_prices_that_kind_and_no_mix() -> None:
    [row] = pricing.price([alone(512, 0, 4000.0)], fixed(), Terms())
    assert (row.usd_per_mtok_input, row.usd_per_mtok_output) == (pytest.approx(0.025), None)
    assert row.usd_per_mtok == pytest.approx(0.025)
    assert pricing.NO_OTHER_HALF in row.absent
    [row] = pricing.price([alone(0, 128, 100.0)], fixed(), Terms(mix=(3.0, 1.0), against=(GPT_4O,)))
    assert (row.usd_per_mtok_input, row.usd_per_mtok_output) == (None, pytest.approx(1.0))
    assert row.usd_per_mtok is None
    assert (row.ci_low, row.break_even_utilization, row.break_even_tok_s) == (None, None, None)
    assert row.against_usd_per_mtok == pytest.approx(4.375)


def test_what_costs_more_to_run_than_the_api_is_never_paid_back_and_says_so() -> None:
    cheap = Against(name="0.01:0.01", rates=cost.ApiRates(input=0.01, output=0.01))
    powered = own(watts_busy=figure(420.0), watts_idle=figure(80.0))

    [row] = pricing.price([measured()], powered, Terms(against=(cheap,)))

    assert row.months_to_pay_back is None
    assert "months_to_pay_back: running it costs more than the API" in row.absent


def test_the_measured_mix_costs_what_was_measured() -> None:
    [plain] = pricing.price([measured()], fixed(), Terms(against=(GPT_4O,)))
    [mixed] = pricing.price([measured()], fixed(), Terms(against=(GPT_4O,), mix=(3, 1)))

    for name in ("usd_per_mtok", "ci_low", "break_even_utilization", "break_even_tok_s"):
        assert getattr(mixed, name) == pytest.approx(getattr(plain, name)), name


def test_break_even_with_an_api() -> None:
    [row] = pricing.price([measured()], fixed(utilization=0.5), Terms(against=(GPT_4O,)))

    # 3 : 1 at 2.50 / 10 is 4.375 $/Mtok; always busy the card asks 0.1.
    assert row.against_usd_per_mtok == pytest.approx(4.375)
    assert row.break_even_utilization == pytest.approx(0.1 / 4.375)
    assert row.break_even_tok_s == pytest.approx(1000 * 0.2 / 4.375)
    assert row.months_to_pay_back is None


def test_what_can_never_break_even_says_so() -> None:
    cheap = Against(name="0.01:0.01", rates=cost.ApiRates(input=0.01, output=0.01))

    [row] = pricing.price([measured()], fixed(), Terms(against=(cheap,)))

    assert row.break_even_utilization is None
    assert any("always busy it costs 0.1 USD/Mtok, the API 0.01" in why for why in row.absent)


def test_an_owned_machine_pays_back() -> None:
    powered = own(watts_busy=figure(420.0), watts_idle=figure(80.0))

    [row] = pricing.price([measured()], powered, Terms(against=(GPT_4O,)))

    assert row.usd_per_busy_hour == pytest.approx(0.356, abs=0.0005)
    mtok = 1000 * 3600 * 730 * 0.3 / 1e6
    electricity = 0.17 * (420 * 0.3 + 80 * 0.7) / 1000 * 730
    assert row.months_to_pay_back == pytest.approx(2000 / (mtok * 4.375 - electricity))


def test_an_api_has_a_row_for_each_mix() -> None:
    items = [measured(), measured(n_batch=8), measured(n_prompt=100)]

    rows = pricing.api_rows(items, Terms(against=(GPT_4O,)))

    assert [row.usd_per_mtok for row in rows] == [pytest.approx(4.375), pytest.approx(6.25)]
    assert {row.basis for row in rows} == {"api"}
    assert "not checked" in rows[0].assumptions


def test_the_cheapest_batch_of_a_workload_is_marked() -> None:
    items = [
        measured(n_batch=b, total_tok_s=tok) for b, tok in ((1, 100.0), (8, 900.0), (16, 700.0))
    ]
    alone = measured(n_prompt=77)

    rows = pricing.price([*items, alone], fixed(), Terms())

    assert [row.cheapest_batch for row in rows] == [False, True, False, None]


def test_several_machines_cost_several_times_as_much() -> None:
    two = dataclasses.replace(fixed(), gpus=2)

    [one_row], [two_row] = (
        pricing.price([measured()], made, Terms(against=(GPT_4O,))) for made in (fixed(), two)
    )

    assert two_row.usd_per_mtok == pytest.approx(2 * (one_row.usd_per_mtok or 0))
    assert two_row.usd_per_busy_hour == pytest.approx(0.72)
    assert two_row.break_even_tok_s == pytest.approx(2 * (one_row.break_even_tok_s or 0))


# Power.

HOST = {"watts_host": 100.0}
IDLE = {"watts_idle": 80.0}
WALL = {"watts_busy": 420.0}


@pytest.mark.parametrize(
    ("values", "changes", "watts", "source"),
    [
        (HOST | WALL, {"power_w": 300.0, "power_scope": "wall"}, 300, "measured (wall)"),
        (HOST | WALL, {"power_w": 300.0, "power_scope": "gpu"}, 400, "measured (gpu) + host"),
        (WALL, {"power_w": 300.0, "power_scope": "gpu"}, 420, "assumed (wall)"),
        ({}, {"power_w": 300.0, "power_scope": "gpu"}, 300, "host not counted"),
        (HOST, {"limit_w": 320.0}, 420, "power limit + host"),
        ({}, {"limit_w": 320.0}, 320, "power limit, host not counted"),
    ],
)
def test_the_best_known_power_is_taken_and_named(values, changes, watts, source) -> None:
    power = wall_power(values, measured(**changes))

    assert power is not None
    assert power.busy_w == watts
    assert source in power.source


@pytest.mark.parametrize(
    ("values", "changes", "watts", "source"),
    [
        (IDLE | HOST, {"power_scope": "wall"}, 22, "measured (wall)"),
        (IDLE | HOST, {}, 80, "assumed (wall)"),
        (HOST, {}, 122, "measured (gpu-board) + host estimate"),
        ({}, {}, 22, "measured (gpu-board), host not counted"),
        ({}, {"idle_w": None}, None, None),
    ],
)
def test_the_best_known_idle_power_is_taken_and_named(values, changes, watts, source) -> None:
    given_figures = {"power_w": 300.0, "idle_w": 22.0, "power_scope": "gpu-board"} | changes

    power = wall_power(values, measured(**given_figures))

    assert power is not None
    assert (power.idle_w, power.idle_source) == (watts, source)


def test_measured_idle_power_is_in_the_price_of_an_owned_machine() -> None:
    """u = 0.3: each busy hour comes with 7/3 idle ones."""
    read = measured(power_w=300.0, idle_w=30.0, power_scope="gpu-board")

    [row] = pricing.price([read], own(watts_host=figure(50.0)), Terms())
    [always] = pricing.price([read], own(utilization=figure(1.0)), Terms())

    wh = (350 + 80 * 7 / 3) / 3.6  # of a million tokens at 1000 tok/s
    assert (row.busy_w, row.idle_w) == (350.0, 80.0)
    assert row.energy_wh_per_mtok == pytest.approx(wh)
    assert always.energy_wh_per_mtok == pytest.approx(300 / 3.6)


def test_a_band_knows_the_idle_power_of_each_variant() -> None:
    scenario = own(utilization=spread(0.1, 0.3, 0.6))
    rows = pricing.price(
        [measured(power_w=300.0, idle_w=w, power_scope="gpu-board") for w in (10.0, 100.0)],
        scenario,
        Terms(),
    )

    assert rows[0].band_high < rows[1].band_high


def test_missing_energy_of_an_owned_machine_is_refused() -> None:
    with pytest.raises(InputError, match="no power is known; give --watts-busy"):
        pricing.price([measured()], own(watts_idle=figure(80.0)), Terms())


def test_idle_power_is_needed_as_soon_as_the_machine_may_idle() -> None:
    with pytest.raises(InputError, match="give --watts-idle"):
        pricing.price([measured()], own(watts_busy=figure(420.0)), Terms())
    maybe = own(watts_busy=figure(420.0), utilization=spread(0.5, 1.0, 1.0))
    with pytest.raises(InputError, match="give --watts-idle"):
        pricing.price([measured()], maybe, Terms())


def test_without_idle_power_no_break_even_share_is_claimed() -> None:
    always = own(watts_busy=figure(420.0), utilization=figure(1.0))

    [row] = pricing.price([measured()], always, Terms(against=(GPT_4O,)))

    assert row.break_even_utilization is None
    assert any("--watts-idle" in why for why in row.absent)


def test_co2_only_with_an_intensity() -> None:
    powered = own(watts_busy=figure(400.0), utilization=figure(1.0), pue=figure(1.5))

    [plain], [with_co2] = (
        pricing.price([measured()], powered, terms)
        for terms in (Terms(), Terms(co2_g_per_kwh=500.0))
    )

    # 600 W for an hour make 3.6 million tokens.
    assert plain.energy_wh_per_mtok == pytest.approx(600 / 3.6)
    assert plain.co2_g_per_mtok is None
    assert with_co2.co2_g_per_mtok == pytest.approx(600 / 3.6 / 1000 * 500)


def test_prices_of_another_card_are_refused_unless_asked_for() -> None:
    h200 = load_scenario("rented-h200")

    for device in ("RTX 4080", None):
        with pytest.raises(InputError, match=r"prices a H200 SXM, but .*--gpu 'H200 SXM'"):
            pricing.price([measured(device=device)], h200, Terms())
    assert pricing.price([measured(device="NVIDIA H200 SXM")], h200, Terms())
    [row] = pricing.price([measured()], h200, Terms(any_card=True))
    assert (row.gpu, row.device) == ("H200 SXM", "RTX 4080")


@pytest.mark.parametrize("tok_s", [0.0, -5.0, math.nan])
def test_impossible_throughput_is_refused_never_free(tok_s) -> None:
    with pytest.raises(InputError, match=r"m/t/none: total_tok_s: .* must be a number above 0"):
        measured(total_tok_s=tok_s)


def test_invalid_figures_are_priced_and_marked() -> None:
    [row] = pricing.price([measured(reasons=("DRIFT",))], fixed(), Terms())

    assert not row.valid
    assert row.reasons == ("DRIFT",)


@given(st.floats(0.001, 100), st.floats(1.01, 100))
def test_every_price_of_a_row_is_homogeneous_in_currency(usd, factor) -> None:
    [one], [other] = (
        pricing.price([measured()], fixed(paid, 0.4), Terms()) for paid in (usd, usd * factor)
    )

    for name in KEYS:
        if name.startswith("usd_") or name in ("ci_low", "ci_high"):
            value = getattr(one, name)
            scaled = None if value is None else pytest.approx(factor * value)
            assert getattr(other, name) == scaled, name


def test_tornado_rows_are_of_tokens() -> None:
    rows = pricing.tornado_rows([measured()], rent(), Terms())

    assert [row["figure"] for row in rows] == ["utilization", "rent_per_hour", "throughput"]
    assert rows[0]["usd_per_mtok_at_low"] == pytest.approx(0.42 / 0.1 / 3.6)
    assert sum(row["variance_share"] for row in rows) == pytest.approx(1)


def test_rows_are_the_contract_and_plain_json() -> None:
    rows = pricing.price([measured()], rent(), Terms(against=(GPT_4O,)))
    rows += pricing.api_rows([measured()], Terms(against=(GPT_4O,)))

    for row in rows:
        table = row.table()
        assert tuple(table) == KEYS
        assert json.loads(json.dumps(table, allow_nan=False)) == table
    contract = {
        "variant",
        "basis",
        "usd_per_mtok",
        "ci_low",
        "ci_high",
        "band_low",
        "band_high",
        "split_method",
        "break_even_utilization",
    }
    assert contract <= set(KEYS)
