"""`bench cost` from its flags to its output."""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.cli import cost as verb
from bench.cost.scenario import RULES
from bench.cost.throughput import Throughput
from bench.errors import InputError
from bench.experiment import load_experiment
from tests.cost_results import write_results


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_results(tmp_path)
    return tmp_path


@pytest.fixture
def bench_cost(results: Path, capsys: pytest.CaptureFixture[str]):
    """Runs the verb on the results; returns what it printed."""

    def run(*argv: str) -> str:
        parser = verb.add(argparse.ArgumentParser().add_subparsers())
        assert verb.run(parser.parse_args([str(results), *argv])) == 0
        return str(capsys.readouterr().out)

    return run


def rows(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text)
    return found


def test_a_rent_prices_every_variant_and_batch(bench_cost) -> None:
    found = rows(bench_cost("--rent", "0.40", "--utilization", "0.5", "-o", "json"))

    assert len(found) == 4
    for row in found:
        assert row["usd_per_mtok"] == pytest.approx(0.8 * 1e6 / 3600 / row["total_tok_s"])
        assert row["ci_low"] < row["usd_per_mtok"] < row["ci_high"]
    slow, fast = found[0], found[2]
    assert slow["usd_per_mtok"] == pytest.approx(2 * fast["usd_per_mtok"], rel=1e-6)


def test_ranges_give_a_band_and_a_tornado(bench_cost) -> None:
    flags = ("--rent", "0.34:0.42:0.60", "--utilization", "0.1:0.3:0.6", "-o", "json")

    for row in rows(bench_cost(*flags)):
        assert row["band_low"] < row["usd_per_mtok"] < row["band_high"]
    bars = rows(bench_cost(*flags, "--tornado"))
    shares = {bar["figure"]: bar["variance_share"] for bar in bars[:3]}
    assert shares["utilization"] > shares["rent_per_hour"] > shares["throughput"]


def test_owning_takes_the_power_limit_and_the_host(bench_cost) -> None:
    flags = "--own 1200 --years 3 --rate-of-return 0.08 --salvage 0.3 --host 800 --kwh 0.17"
    idle = "--utilization 0.3 --watts-idle 80 --watts-host 100 -o json"

    row = rows(bench_cost(*flags.split(), *idle.split()))[0]

    assert row["usd_per_busy_hour"] == pytest.approx(0.356, abs=0.0005)
    assert row["energy_source"] == "card's power limit + host estimate"


def test_a_scenario_with_a_figure_replaced(bench_cost) -> None:
    text = bench_cost("--scenario", "home-rtx4080-us", "--utilization", "1", "-o", "json")

    assert {row["utilization"] for row in rows(text)} == {1.0}
    assert {row["scenario"] for row in rows(text)} == {"home-rtx4080-us"}


def test_against_an_api_on_a_day(bench_cost) -> None:
    flags = ("--rent", "0.2", "--against", "openai/o1-mini", "--mix", "3:1", "-o", "json")

    before = rows(bench_cost(*flags, "--on", "2025-01-30"))
    after = rows(bench_cost(*flags, "--on", "2025-01-31"))

    assert before[0]["against_usd_per_mtok"] == pytest.approx((3 * 3 + 12) / 4)
    assert after[0]["against_usd_per_mtok"] == pytest.approx((3 * 1.1 + 4.4) / 4)
    assert before[-1]["basis"] == "api"
    assert before[-1]["price_date"] == "2024-09-12"


def test_several_apis_have_a_row_each(bench_cost) -> None:
    found = rows(
        bench_cost("--rent", "0.2", "--against", "openai/gpt-4o", "--against", "1:2", "-o", "json")
    )

    assert [row["against"] for row in found[:2]] == ["openai/gpt-4o", "1:2"]
    assert [row["variant"] for row in found[-2:]] == ["openai/gpt-4o", "1:2"]


def test_cached_input_makes_an_api_cheaper(bench_cost) -> None:
    flags = ("--against", "openai/gpt-4o", "-o", "json")

    full, cached = rows(bench_cost(*flags)), rows(bench_cost(*flags, "--cached", "0.5"))

    assert full[0]["usd_per_mtok"] == pytest.approx((3 * 2.5 + 10) / 4)
    assert cached[0]["usd_per_mtok"] == pytest.approx((1.5 * 2.5 + 1.5 * 1.25 + 10) / 4)


def test_hosters_of_the_model_that_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(tmp_path, model="llama-3.1-8b")
    flags = "--rent 0.4 --against hosted --on 2026-11-29 -o json"
    parser = verb.add(argparse.ArgumentParser().add_subparsers())
    assert verb.run(parser.parse_args([str(tmp_path), *flags.split()])) == 0

    found = rows(capsys.readouterr().out)

    cheapest, median = found[-2:]
    assert cheapest["variant"].endswith("(cheapest of 11 hosters)")
    assert median["variant"].endswith("(median of 11 hosters)")
    assert cheapest["usd_per_mtok"] == pytest.approx((300 * 0.02 + 100 * 0.05) / 400)
    assert cheapest["usd_per_mtok"] < median["usd_per_mtok"]
    assert cheapest["price_source"].startswith("genai-prices")
    assert {row["against"] for row in found[:-2]} == {row["variant"] for row in found[-2:]}


def test_batch_prices_of_an_api(bench_cost) -> None:
    flags = ("--against", "openai/gpt-5", "--on", "2026-11-29", "-o", "json")

    [full], [batch] = rows(bench_cost(*flags)), rows(bench_cost(*flags, "--batch"))

    assert full["usd_per_mtok"] == pytest.approx((3 * 1.25 + 10) / 4)
    assert batch["usd_per_mtok"] == pytest.approx(full["usd_per_mtok"] / 2)


def test_the_book_gives_the_price_of_the_card_that_was_measured(bench_cost) -> None:
    flags = "--own book --years 3 --kwh us --on 2025-05-01 --watts-busy 400 --watts-idle 80"

    row = rows(bench_cost(*flags.split(), "--utilization", "0.5", "-o", "json"))[0]

    assert row["gpu"] == "RTX 4080"
    assert "price 1199" in row["assumptions"]
    assert "electricity_per_kwh 0.1648" in row["assumptions"]
    assert row["price_source"].startswith("https://")


def test_the_book_s_spread_is_the_band(bench_cost) -> None:
    flags = ("--rent", "book", "--gpu", "RTX 4090", "--on", "2026-11-23", "-o", "json")

    row = rows(bench_cost(*flags))[0]

    assert row["gpu"] == "RTX 4090"
    assert row["band_low"] < row["usd_per_mtok"] < row["band_high"]


def test_prices_say_how_old_they_are_and_warn_past_90_days(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = verb.add(argparse.ArgumentParser().add_subparsers())
    flags = ("--rent", "book", "--gpu", "RTX 4090", "--on")

    verb.run(parser.parse_args([str(results), *flags, "2026-08-30"]))
    fresh = capsys.readouterr()
    verb.run(parser.parse_args([str(results), *flags, "2026-08-31"]))
    old = capsys.readouterr()

    # The newest row that counts is of 2026-06-01: 90 days before, and 91.
    assert "(oldest price 90 days old)" in fresh.out
    assert fresh.err == ""
    assert "bench: rent: its oldest price is 91 days old" in old.err


@pytest.mark.parametrize("flags", [("--tornado",), ("--tokens-per-day", "1M")])
def test_every_table_warns_of_old_prices(
    flags: tuple[str, ...], results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = verb.add(argparse.ArgumentParser().add_subparsers())
    rent = ("--rent", "book", "--gpu", "RTX 4090", "--on", "2026-11-29")

    assert verb.run(parser.parse_args([str(results), *rent, *flags])) == 0

    assert "bench: rent: its oldest price is 181 days old" in capsys.readouterr().err


def test_a_stated_rate_is_dated(bench_cost) -> None:
    flags = ("--scenario", "home-rtx4080-japan", "--rate", "JPY=0.0067@2026-11-20")

    assert "- 1 JPY = 0.0067 USD on 2026-11-20, by --rate" in bench_cost(*flags)
    with pytest.raises(InputError, match="--rate: 'soon' is not a date"):
        bench_cost("--rent", "1", "--rate", "JPY=0.0067@soon")


def test_yen_in_and_out(bench_cost) -> None:
    found = rows(
        bench_cost(
            "--scenario",
            "home-rtx4080-japan",
            "--rate",
            "JPY=0.0067",
            "--currency",
            "JPY",
            "-o",
            "json",
        )
    )

    for row in found:
        assert row["per_mtok"] == pytest.approx(row["usd_per_mtok"] / 0.0067)


def test_rent_and_own_side_by_side(bench_cost) -> None:
    flags = "--rent 0.4 --own 1200 --years 3 --kwh 0.17 --watts-busy 420 --watts-idle 80"

    found = rows(bench_cost(*flags.split(), "--utilization", "0.3", "-o", "json"))

    assert [row["basis"] for row in found] == ["rent"] * 4 + ["own"] * 4


def test_the_table_says_what_it_rests_on(bench_cost) -> None:
    text = bench_cost("--rent", "0.42", "--utilization", "0.3", "--against", "openai/gpt-4o")

    assert "| m/t/none" in text
    assert "- rent: rent any card: utilization 0.3, rent_per_hour 0.42" in text
    assert "tokenizer" in text
    assert "cheapest batch" in text
    assert "band_low: no figure of the scenario is a range" in text


def test_csv_has_the_same_keys(bench_cost) -> None:
    text = bench_cost("--rent", "0.42", "-o", "csv")

    [first, *_] = csv.DictReader(io.StringIO(text))
    assert float(first["usd_per_mtok"]) > 0
    assert first["band_low"] == ""


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("", "nothing says what the machine costs; give --rent"),
        ("--rent 0", "--rent: 0 must be above 0"),
        ("--rent free", "--rent: 'free' is not a number"),
        ("--rent nan", "--rent: 'nan' is not a number"),
        ("--rent inf", "--rent: 'inf' is not a number"),
        ("--rent 1:2", "--rent: '1:2' is neither a number nor LOW:MODE:HIGH"),
        ("--rent 1 --utilization 0", "--utilization: 0 must be above 0 and at most 1"),
        ("--rent 1 --utilization 1.1", "--utilization: 1.1 must be above 0 and at most 1"),
        ("--rent 1 --years 3", "--years: does not belong"),
        ("--rent 1 --gpus 0", "--gpus: 0 must be at least 1"),
        ("--rent 1 --cached 0.5", "--cached: needs --against"),
        ("--rent 1 --batch", "--batch: needs --against"),
        ("--rent 1 --batch-discount 0.5", "--batch-discount: needs --against"),
        ("--against 1:2 --batch-discount -1", "--batch-discount: -1 must be between 0 and 1"),
        ("--rent 1 --co2 -5", "--co2: -5 must not be negative"),
        ("--rent 1:2:3 --tornado --mix 3:1", "--mix: cannot be combined with --tornado"),
        ("--rent 1:2:3 --tornado --tokens-per-day 1M", "--tokens-per-day: cannot be combined"),
        ("--rent 1:2:3 --tornado --currency JPY", "--currency: cannot be combined"),
        ("--rent 1 --on soon", "--on: 'soon' is not a date"),
        ("--rent 1 --mix 3", "--mix: '3' is not IN:OUT"),
        ("--rent 1 --mix 0:0", "--mix: '0:0' is not IN:OUT"),
        ("--rent 1 --co2 much", "--co2: 'much' is not a number"),
        ("--rent 1 --against openai/o9", "unknown API model 'openai/o9'"),
        ("--rent 1 --against 0:0", "--against: '0:0' is not IN:OUT"),
        ("--rent 1 --against openai/o1-pro --cached 0.5", "no price for cached input"),
        ("--rent 1 --against openai/o1 --cached 2", "--cached: 2 must be between 0 and 1"),
        ("--rent 1 --against openai/o1 --on 2024-01-01", "no price of openai/o1 is in force"),
        ("--rent 1 --currency JPY", "give --rate JPY=USD"),
        ("--rent 1 --rate yen", "--rate: '' is not a number"),
        ("--rent 1 --rate yen=1", "--rate: 'yen=1' is not CODE=USD"),
        ("--rent 1 --tornado", "--tornado: no figure is a range"),
        ("--rent book --on 2026-11-23", "unknown card 'RTX 4080'.*--rent"),
        ("--own 1200", "--own also needs --years, --kwh"),
        ("--own 1200 --years 3 --kwh us --on 2026-11-23", "no price of us is in force.*--kwh"),
        ("--own 1200 --years 3 --kwh 0.1 --utilization 0.5", "give --watts-idle"),
        ("--scenario home-rtx4080-japan", "--rate JPY=USD"),
        ("--scenario rented-h200", "--gpu 'H200 SXM'"),
        ("--scenario rented-h200 --gpu L4", "prices a H200 SXM, not L4"),
        ("--scenario nowhere", "unknown scenario 'nowhere'"),
        ("--tornado --against 1:2", "--tornado: needs --scenario"),
        ("--against 1:2 --tokens-per-day 1M", "--tokens-per-day: needs --scenario"),
        ("--rent 1 --mix 3:1 --tokens-per-day 1M", "remove --mix"),
        ("--rent 1 --against hosted --batch", "--batch: cannot be combined with `hosted`"),
        ("--rent 1 --against openrouter/qwen/qwen3-8b --batch", "no batch price of openrouter/"),
    ],
)
def test_bad_input_is_refused_with_the_line_that_helps(bench_cost, flags, said) -> None:
    with pytest.raises(InputError, match=said):
        bench_cost(*flags.split())


def test_a_name_that_is_listed_twice_is_shown_once(bench_cost) -> None:
    with pytest.raises(InputError) as raised:
        bench_cost("--rent", "1", "--against", "-")
    names = str(raised.value).partition("known: ")[2].partition(" and ")[0].split(", ")
    assert len(names) == len(set(names)) > 1


def test_results_without_a_measurement_are_refused(tmp_path, capsys) -> None:
    (tmp_path / "records.jsonl").write_text("not json\n")
    parser = verb.add(argparse.ArgumentParser().add_subparsers())

    with pytest.raises(InputError, match="no finished measurement there"):
        verb.run(parser.parse_args([str(tmp_path), "--rent", "1"]))

    assert "records.jsonl:1: not valid JSON" in capsys.readouterr().err


def test_every_figure_of_a_scenario_has_its_flag() -> None:
    assert {name: flag for name, (flag, *_) in verb.FIGURES.items()} == {
        name: rule.flag for name, rule in RULES.items()
    }


def test_describing_the_verb_imports_nothing_heavy() -> None:
    code = (
        "import argparse, sys; from bench.cli import cost, prices;"
        "verbs = argparse.ArgumentParser().add_subparsers(); cost.add(verbs); prices.add(verbs);"
        "heavy = {'numpy', 'pandas', 'scipy', 'torch', 'bench.cost.pricing'} & set(sys.modules);"
        "sys.exit(' '.join(heavy) or 0)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_throughput_type_is_usable_without_records() -> None:
    one = Throughput(variant="v", n_prompt=10, n_gen=10, total_tok_s=5.0)

    assert one.request_s == 4.0


def test_arms_are_in_the_experiments_order_not_in_that_of_measuring(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(__file__).parents[2] / "results/quickstart-standard-cpu"
    parser = verb.add(argparse.ArgumentParser().add_subparsers())
    assert verb.run(parser.parse_args([str(folder), "--rent", "1", "-o", "json"])) == 0
    rows = json.loads(capsys.readouterr().out)
    arms = load_experiment(str(folder / "experiment.toml")).variants
    assert [row["variant"].split("/")[2] for row in rows] == [arm.quant for arm in arms]
