"""Two machines compared: figures, what must agree, drift, price and scope."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.comparison import Rules, compare
from bench.comparison.machines import across
from bench.comparison.sides import Prices, card_spread
from bench.errors import InputError
from bench.records import Environment, Record
from bench.records.file import Results, Writer
from bench.report.tables.compare import table
from tests.summary.test_summary import record

SUPER, TI = "NVIDIA GeForce RTX 4080 SUPER", "NVIDIA GeForce RTX 3080 Ti"
START = datetime(2026, 11, 1, tzinfo=UTC)


def machine(
    name: str,
    gpu: str = SUPER,
    *,
    speed: float = 1.0,
    n: int = 8,
    noise: float = 0.005,
    start_h: float = 0.0,
    drift: float = 0.0,
    seed: int = 0,
    **identity: Any,
) -> Results:
    """Replicates of one arm, ten minutes apart, with a little noise and a linear drift."""
    draw = random.Random(f"{name}{seed}")
    known = {"host": name, "cpu": "c", "gpu": gpu, "torch": "2.13.0", "gpu_driver": "580"}
    environment = Environment(id=f"env-{name}", identity=known | identity, state={})
    records: list[Record] = []
    for index in range(n):
        slow = math.exp(draw.gauss(0, noise)) / speed / (1 - drift * index / max(n - 1, 1))
        samples = {
            "prefill_s": [0.2 * slow] * 3,
            "itl_s": [[0.1 * slow] * 2] * 3,
            "e2e_s": [0.4 * slow] * 3,
        }
        started = START + timedelta(hours=start_h, minutes=10 * index)
        one = record("int8", index, samples=samples, started_at=started.isoformat())
        settings = one.variant | {"device": "cuda:0"}
        one = replace(one, memory={"peak_device_bytes": 5000})
        records.append(
            replace(one, key=f"{name}{index}", environment=environment.id, variant=settings)
        )
    return Results(records=records, environments={environment.id: environment})


def together(*parts: Results) -> Results:
    return Results(
        records=[one for part in parts for one in part.records],
        environments={id_: one for part in parts for id_, one in part.environments.items()},
    )


def rows(results: Results, rules: Rules | None = None, **named: Any) -> dict[str, dict[str, Any]]:
    return {row.metric: table(row) for row in across(results, rules or Rules(), **named)}


def machine_with_two_arms() -> Results:
    one = machine("left")
    others = [
        replace(
            r, key="o" + r.key, variant=r.variant | {"name": "m/transformers/none", "quant": "none"}
        )
        for r in one.records
    ]
    return together(one, Results(records=others))


def changed(results: Results, indices: Sequence[int], **changes: Any) -> Results:
    results.records = [
        replace(one, **changes) if i in indices else one for i, one in enumerate(results.records)
    ]
    return results


def two(speed: float = 0.8, **right: Any) -> Results:
    return together(machine("left"), machine("right", TI, speed=speed, **right))


def test_a_slower_machine_is_lower_with_an_interval_and_says_of_which_machines() -> None:
    found = rows(two())["decode"]
    assert found["verdict"] == "lower"
    assert found["ci_low"] < 0.8 < found["ci_high"]
    assert found["ci_high"] / found["ci_low"] < 1.03
    assert (found["n_pairs"], found["n_baseline"], found["n_candidate"]) == (0, 8, 8)
    assert found["baseline_machine"] == SUPER
    assert (found["baseline_card"], found["candidate_card"]) == ("rtx-4080-super", "rtx-3080-ti")
    assert found["baseline"] == found["candidate"] == "m/transformers/int8"
    assert 0.002 < found["restart_sd_baseline"] < 0.01
    assert found["machine_sd_baseline"] is None
    assert found["scope"].startswith("these two machines; cards of one model differ by 8%")
    assert found["reasons"] == []
    assert found["interleaved"] is True


def test_equal_machines_are_the_same() -> None:
    found = rows(two(1.0))
    assert {found[name]["verdict"] for name in ("decode", "prefill", "e2e")} == {"same"}
    assert found["memory"]["verdict"] == "same"


def test_the_keys_of_compare_are_all_there_and_a_missing_figure_is_null() -> None:
    row = rows(two())["decode"]
    (paired, *_) = compare(machine_with_two_arms(), Rules())
    assert table(paired).keys() <= row.keys()
    json.dumps(row, allow_nan=False)


def test_cost_has_each_machines_price_and_slower_may_be_cheaper() -> None:
    prices = Prices(usd_per_hour={"rtx-4080-super": 0.40, "rtx-3080-ti": 0.20}, source="test")
    found = rows(two(), prices=prices)
    assert found["cost"]["ratio"] == pytest.approx(0.5 / 0.8, rel=0.02)
    assert (found["decode"]["verdict"], found["cost"]["verdict"]) == ("lower", "lower")
    assert found["cost"]["baseline_usd_per_hour"] == 0.40
    assert "cost" not in rows(two()), "without prices there is no cost, not one at equal prices"
    one = Prices(usd_per_hour={"rtx-4080-super": 0.40}, source="test")
    assert "cost" not in rows(two(), prices=one)


def test_what_computes_must_agree_and_what_else_differs_is_named() -> None:
    with pytest.raises(InputError, match=r"differs between .* \(torch 2\.13\.0 / 2\.12\.0\)"):
        rows(two(torch="2.12.0"))
    pooled = rows(two(torch="2.12.0"), Rules(pool=True))["decode"]
    assert pooled["differs"] == ["torch 2.13.0 / 2.12.0"]
    assert pooled["reasons"] == ["CONFIG_DIFFERS"]
    driver = rows(two(gpu_driver="550", bitsandbytes="0.5"))["decode"]
    assert driver["differs"] == ["bitsandbytes None / 0.5", "gpu_driver 580 / 550"]
    assert (driver["reasons"], driver["verdict"]) == (["CONFIG_DIFFERS"], "lower")


def test_devices_of_two_kinds_are_named() -> None:
    results = two()
    results.records = [
        replace(one, variant=one.variant | {"device": "cpu"})
        if one.environment == "env-right"
        else one
        for one in results.records
    ]
    assert rows(results)["decode"]["differs"] == ["device cuda / cpu"]
    assert rows(two())["decode"]["differs"] == []


def with_energy(results: Results, joules: float) -> Results:
    window = {"energy_j": joules, "tokens": 10, "systematic_error": 0.01}
    return changed(results, range(len(results.records)), energy={"decode": window})


def with_worse_counter(results: Results) -> Results:
    """One replicate of which may be off by 30%."""
    energy = {"decode": results.records[3].energy["decode"] | {"systematic_error": 0.3}}
    return replace(results, records=changed(replace(results), [3], energy=energy).records)


def test_a_difference_within_the_worst_counters_error_is_no_verdict() -> None:
    fleet = [with_energy(machine(f"s{i}"), 5.0 + i / 1e3) for i in range(3)]
    others = [with_energy(machine(f"t{i}", TI), 6.0 + i / 1e3) for i in range(3)]
    assert rows(together(*fleet, *others))["energy"]["verdict"] == "higher"
    for place in (1, 4):
        parts = [*fleet, *others]
        parts[place] = with_worse_counter(parts[place])
        found = rows(together(*parts))["energy"]
        assert (found["verdict"], found["significant"]) == ("ambiguous", False)
        assert "SYSTEMATIC_ERROR" in found["reasons"]


def test_a_card_of_several_machines_is_no_baseline_to_choose_from() -> None:
    results = together(machine("a"), machine("b"), machine("t", TI, speed=0.8))
    with pytest.raises(InputError, match="baseline 'rtx-4080-super' means several machines: "):
        rows(results, baseline="rtx-4080-super")


def test_machines_without_a_workload_in_common_are_said() -> None:
    right = machine("right", TI)
    longer = {"n_prompt": 64, "n_gen": 3, "n_batch": 2}
    results = together(machine("left"), changed(right, range(8), workload=longer))
    with pytest.raises(InputError, match="no arm was measured at the same workload"):
        rows(results)


def test_machines_of_different_origin_are_not_compared() -> None:
    made_up = changed(machine("right", TI), range(8), origin="synthetic")
    with pytest.raises(InputError, match="different origin are not mixed: measured, synthetic"):
        rows(together(machine("left"), made_up))


def test_imports_of_two_machines_give_a_ratio_at_their_prices_and_no_verdict() -> None:
    parts = (machine("left"), machine("right", TI, speed=0.5))
    imported = together(*(changed(part, range(8), origin="tool") for part in parts))
    prices = Prices(usd_per_hour={"rtx-4080-super": 0.40, "rtx-3080-ti": 0.10}, source="test")
    found = rows(imported, prices=prices)
    assert found["decode"]["ratio"] == pytest.approx(0.5, rel=0.02)
    assert found["cost"]["ratio"] == pytest.approx(0.25 / 0.5, rel=0.02)
    for row in found.values():
        assert (row["verdict"], row["ci_low"]) == ("ambiguous", None)
        assert "NOT_PAIRED" in row["reasons"]


@pytest.mark.parametrize("which", [0, 1])
def test_what_speaks_against_either_import_is_said(which: int) -> None:
    parts = [changed(one, range(8), origin="tool") for one in (machine("a"), machine("b", TI))]
    changed(parts[which], [3], reasons=("DRIFT",))
    found = rows(together(*parts))
    assert found["decode"]["reasons"] == ["DRIFT", "NOT_PAIRED"]
    assert found["memory"]["reasons"] == ["NOT_PAIRED"]
    changed(parts[which], [3], reasons=("ABOVE_BOUND",))
    assert rows(together(*parts))["decode"]["verdict"] == "invalid"


def test_other_weights_are_another_arm() -> None:
    results = two()
    results.records = [
        replace(one, variant=one.variant | {"weights": "other"})
        if one.environment == "env-right"
        else one
        for one in results.records
    ]
    with pytest.raises(InputError, match="weights w / other"):
        rows(results)


def test_a_drift_that_both_share_is_taken_out_where_their_times_overlap() -> None:
    both = together(
        machine("left", drift=0.06),
        machine("right", TI, speed=0.8, drift=0.06, start_h=1 / 12),
    )
    found = rows(both)["decode"]
    assert found["ci_low"] < 0.8 < found["ci_high"]
    assert found["ci_high"] / found["ci_low"] < 1.03
    assert found["verdict"] == "lower"


def test_machines_of_different_days_are_marked_and_a_drift_leaves_no_verdict() -> None:
    apart = rows(two(start_h=24))["decode"]
    assert (apart["verdict"], apart["reasons"]) == ("lower", ["APART_IN_TIME"])
    assert apart["interleaved"] is False
    near = rows(two(0.97, start_h=24))["decode"]
    assert (near["verdict"], near["reasons"]) == ("ambiguous", ["APART_IN_TIME"])
    assert rows(two(0.97))["decode"]["verdict"] == "lower"
    drifting = rows(two(start_h=24, drift=0.06))["decode"]
    assert drifting["verdict"] == "invalid"
    assert drifting["reasons"] == ["APART_IN_TIME", "RUN_DRIFT"]


def test_replicates_that_are_no_evidence_are_left_out() -> None:
    results = changed(two(), [2], reasons=("THERMAL_THROTTLE",))
    found = rows(results)["decode"]
    assert (found["n_baseline"], found["n_left_out"], found["verdict"]) == (7, 1, "lower")
    assert found["reasons"] == ["THERMAL_THROTTLE"]
    spoilt = rows(changed(two(), range(5), reasons=("THERMAL_THROTTLE",)))
    assert (spoilt["decode"]["verdict"], spoilt["decode"]["n_left_out"]) == ("invalid", 0)
    assert spoilt["memory"]["verdict"] == "same"


def test_failures_are_named_and_no_figures() -> None:
    failed = {"status": "failed", "reasons": ("OOM",), "message": "out of memory", "samples": {}}
    found = rows(changed(two(), [0, 1], **failed))["decode"]
    assert (found["n_baseline"], found["verdict"], found["reasons"]) == (6, "lower", ["OOM"])
    none = rows(changed(two(), range(8), **failed))
    assert "decode" not in none or none["decode"]["verdict"] == "invalid"


@pytest.mark.parametrize("n", [1, 3, 5])
def test_too_few_replicates_give_no_verdict(n: int) -> None:
    found = rows(two(0.5, n=n))["decode"]
    assert found["verdict"] == "ambiguous"
    assert "TOO_FEW_REPLICATES" in found["reasons"]
    assert found["ratio"] == pytest.approx(0.5, rel=0.02)


def test_three_machines_of_one_card_are_a_random_effect_and_speak_of_the_card() -> None:
    fleet = [machine(f"s{i}", speed=s) for i, s in enumerate((0.95, 1.0, 1.06))]
    others = [machine(f"t{i}", TI, speed=0.5 * s) for i, s in enumerate((0.96, 1.0, 1.05))]
    found = rows(together(*fleet, *others))["decode"]
    assert (found["machines_baseline"], found["machines_candidate"]) == (3, 3)
    assert found["baseline_machine"] == "rtx-4080-super (3 machines)"
    assert 0.02 < found["machine_sd_baseline"] < 0.1
    assert found["scope"] == "cards of these models, estimated from 3 and 3 machines"
    assert found["verdict"] == "lower"
    single = rows(together(fleet[0], others[0]))["decode"]
    wide = found["ci_high"] / found["ci_low"]
    assert wide > 1.1 > single["ci_high"] / single["ci_low"]


def test_one_of_a_fleet_is_named_by_its_host_and_then_stands_alone() -> None:
    fleet = together(*(machine(f"s{i}") for i in range(3)), machine("t", TI, speed=0.5))
    found = rows(fleet, baseline="rtx-3080-ti", candidate="s1")["decode"]
    assert (found["machines_candidate"], found["n_candidate"]) == (1, 8)
    assert found["ratio"] == pytest.approx(2.0, rel=0.02)
    found = rows(fleet, baseline="rtx-3080-ti", candidate="rtx-4080-super")["decode"]
    assert found["machines_candidate"] == 3
    assert found["scope"].startswith("this rtx-3080-ti and cards of the model rtx-4080-super; ")
    with pytest.raises(InputError, match="candidate machine 's7'"):
        rows(fleet, candidate="s7")


def test_one_machine_is_not_two() -> None:
    with pytest.raises(InputError, match="all records are of one machine"):
        rows(machine("left"))


def test_two_environments_of_a_machine_are_not_pooled_unasked() -> None:
    later = machine("left", speed=0.9, torch="2.13.0", bench="9")
    (old,) = later.environments.values()
    new = replace(old, id="later-env")
    later = Results(
        records=[replace(one, environment=new.id, key="x" + one.key) for one in later.records],
        environments={new.id: new},
    )
    results = together(two(), later)
    with pytest.raises(InputError, match="several environments"):
        rows(results)
    assert rows(results, baseline="later-env")["decode"]["ratio"] == pytest.approx(0.889, rel=0.02)


def test_the_published_spread_has_a_source_and_a_date() -> None:
    spread = card_spread()
    assert (spread.average, spread.largest) == (0.08, 0.22)
    assert spread.url.startswith("https://arxiv.org/")
    assert spread.published == "2022-11"


def folders(tmp_path: Path, results: Results) -> list[str]:
    found = []
    for id_, environment in results.environments.items():
        with Writer(tmp_path / id_) as writer:
            writer.append(environment)
            for one in results.records:
                if one.environment == id_:
                    writer.append(one)
        found.append(str(tmp_path / id_))
    return found


def test_the_verb_says_slower_but_cheaper_and_the_gate_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = folders(tmp_path, two())
    rent = ["--rent", "rtx-4080-super=0.4,rtx-3080-ti=0.2"]
    assert main(["compare", *paths, "--across", "machine", *rent]) == 0
    out = capsys.readouterr().out
    assert "slower: decodes 0.80x as fast" in out
    assert " but cheaper: a token costs 0.6" in out
    assert "They speak of these two machines" in out
    assert "$0.2 an hour of NVIDIA GeForce RTX 3080 Ti" in out
    assert main(["compare", *paths, "--across", "machine", "--fail-below", "0.9"]) == 1
    assert "RTX 3080 Ti: interval" in capsys.readouterr().err
    assert main(["compare", *paths, "--across", "machine", "-o", "json", *rent]) == 0
    assert json.loads(capsys.readouterr().out)[0]["candidate_card"] == "rtx-3080-ti"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rent", "rtx-9=1"], "--rent: no machine here is a rtx-9"),
        (["--rent", "cheap"], "--rent: 'cheap' is not a number above 0"),
        (["--baseline", "nobody"], "baseline machine 'nobody'"),
        (["--against", "."], "--against: cannot be combined with --across"),
    ],
)
def test_wrong_flags_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main(["compare", *folders(tmp_path, two()), "--across", "machine", *flags]) == 2
    assert message in capsys.readouterr().err
