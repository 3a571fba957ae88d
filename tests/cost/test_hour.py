"""One price of an hour, one formula: whoever prices the same tokens says the same dollars."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import bench
from bench import cost
from bench.cli import main
from bench.cost.hour import as_scenario, per_mtok, stated
from bench.cost.pricing import Terms, price
from bench.cost.throughput import throughputs
from bench.errors import InputError
from bench.exchange.exporting import export
from bench.experiment import CostAssumption
from bench.records.file import read
from bench.report.tables import pareto

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "results" / "quickstart-cpu"
SCRIPT = ROOT / "bench" / "report" / "page" / "cost.js"
HOUR = CostAssumption(usd_per_hour=1.8, utilization=0.5, source="a test")


def test_an_hour_over_its_tokens() -> None:
    # By hand: 1.8 / 0.5 = 3.6 dollars a busy hour of 3600 s x 1000 tok/s = 3.6 million tokens.
    assert per_mtok(HOUR, 1000.0) == pytest.approx(1.0)
    assert per_mtok(HOUR, 1000.0, cards=2) == pytest.approx(2.0)
    assert per_mtok(None, 1000.0) is per_mtok(HOUR, None) is None


def test_every_reader_prices_alike(capsys: pytest.CaptureFixture[str]) -> None:
    results = read(QUICKSTART)
    expected = {
        (one.variant, one.n_prompt, one.n_gen, one.n_batch): cost.usd_per_mtok(
            one.total_tok_s, 1.8, 0.5
        )
        for one in throughputs(results)
    }

    def found(rows: Any) -> dict[Any, float]:
        keys = ("variant", "n_prompt", "n_gen", "n_batch")
        return {tuple(row[key] for key in keys): row["usd_per_mtok"] for row in rows}

    flags = ("--rent", "1.8", "--utilization", "0.5", "-o", "json")
    assert main(["cost", str(QUICKSTART), *flags]) == 0
    verb = json.loads(capsys.readouterr().out)
    exported = json.loads(export(results, "pytorch-hud", HOUR).data)
    dollars = [
        one["metric"]["benchmark_values"][0]
        for one in exported
        if one["metric"]["name"] == "usd_per_mtok"
    ]
    experiment: Any = type("Priced", (), {"cost": HOUR})

    for rows in (
        verb,
        bench.price(results, rent=1.8, utilization=0.5),
        [row.table() for row in price(throughputs(results), as_scenario(HOUR), Terms())],
    ):
        assert found(rows) == pytest.approx(expected)
    table = bench.summarise(results, experiment)
    for rows in (table, map(pareto.table, pareto.rows(results, HOUR))):
        for row in rows:
            assert row["usd_per_mtok"] == pytest.approx(per_mtok(HOUR, row["total_tok_s"]))
    assert sorted(dollars) == pytest.approx(
        sorted(cost.usd_per_mtok(row["total_tok_s"], 1.8, 0.5) for row in table)
    )


def test_predict_prices_by_the_same_formula(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("-m", "llama-3.1-8b", "--gpu", "h100-sxm", "--rent", "3", "-o", "json")
    assert main(["predict", *flags]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["usd_per_mtok"] == pytest.approx(cost.usd_per_mtok(row["decode_tok_s"], 3.0))
    assert row["usd_per_mtok_low"] == pytest.approx(cost.usd_per_mtok(row["high"], 3.0))


@pytest.mark.parametrize(
    ("rent", "share", "says"),
    [
        (0.0, None, "--rent: 0 must be a number above 0"),
        (float("nan"), None, "--rent: nan"),
        (1.0, 0.0, "--utilization: 0 must be above 0"),
        (None, 0.5, "--utilization: needs --rent"),
    ],
)
def test_a_price_that_is_none_is_refused(
    rent: float | None, share: float | None, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        stated(rent, share)
    assert stated(None) is None


# ---- the page's JavaScript, run by the Node that comes with playwright -------------------------

RENTED = {"rent_per_hour": 2.9, "utilization": 0.07, "mix": None}
OWNED = {
    "price": 1200,
    "years": 3,
    "rate_of_return": 0.08,
    "salvage_share": 0.3,
    "host_price": 800,
    "electricity_per_kwh": 0.17,
    "watts_busy": 420,
    "watts_host": 100,
    "watts_idle": 80,
    "utilization": 0.3,
    "pue": 1.2,
    "mix": 3,
}
ROW = {
    "n_prompt": 300,
    "n_gen": 100,
    "gpus": 2,
    "rho": 3.5,
    "power_w": 250.0,
    "wall": False,
}


def in_javascript(calls: list[list[Any]]) -> list[dict[str, float]]:
    """What `Cost.price` of the page gives for each list of arguments."""
    driver = pytest.importorskip("playwright._impl._driver")
    node, _ = driver.compute_driver_executable()
    code = f"const C = require({json.dumps(str(SCRIPT))}); const calls = {json.dumps(calls)};"
    code += "console.log(JSON.stringify(calls.map(a => C.price(...a))));"
    done = subprocess.run([node, "-e", code], capture_output=True, text=True, check=True)
    answers: list[dict[str, float]] = json.loads(done.stdout)
    return answers


def test_the_page_computes_what_python_does() -> None:
    rows = [ROW, ROW | {"wall": True}, ROW | {"power_w": None}, ROW | {"gpus": 1}]
    calls = [["rent", RENTED, row, 1234.5] for row in rows]
    calls += [["own", OWNED, row, 1234.5] for row in rows]
    calls += [["own", OWNED | {"rate_of_return": 0, "utilization": 1}, ROW, 77.0]]

    answers = in_javascript(calls)

    for (basis, values, row, tok_s), answer in zip(calls, answers, strict=True):
        expected, c_in, c_out = in_python(basis, values, row, tok_s)
        assert answer["cost"] == pytest.approx(expected, rel=1e-12)
        assert answer["input"] == pytest.approx(c_in, rel=1e-12)
        assert answer["output"] == pytest.approx(c_out, rel=1e-12)


def in_python(basis: str, values: Any, row: Any, tok_s: float) -> tuple[float, float, float]:
    if basis == "rent":
        made = cost.rented(values["rent_per_hour"], utilization=values["utilization"])
    else:
        bought = cost.Ownership(
            price_usd=values["price"],
            years=values["years"],
            rate_of_return=values["rate_of_return"],
            salvage_share=values["salvage_share"],
            host_usd=values["host_price"],
        )
        device = row["power_w"]
        host = 0.0 if row["wall"] else values["watts_host"]
        made = cost.owned(
            bought,
            utilization=values["utilization"],
            usd_per_kwh=values["electricity_per_kwh"],
            busy_w=values["watts_busy"] if device is None else device + host,
            idle_w=values["watts_idle"],
            pue=values["pue"],
        )
    each = cost.usd_per_mtok(tok_s / row["gpus"], made.usd_per_busy_hour())
    request = each * (row["n_prompt"] + row["n_gen"]) / 1e6
    c_in, c_out = (
        1e6 * usd for usd in cost.split(request, row["n_prompt"], row["n_gen"], row["rho"])
    )
    mix = values["mix"]
    return each if mix is None else cost.at_mix(c_in, c_out, (mix, 1.0)), c_in, c_out
