"""Verdicts: when a difference is one, and when the records are no evidence."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.comparison import Rules, metrics
from bench.comparison import compare as compared
from bench.comparison.judging import pairs_of
from bench.errors import InputError
from bench.records import Environment
from bench.records.file import Results, Writer
from bench.report.tables import to_markdown
from bench.report.tables.compare import columns, table, to_read, words
from bench.summary import Replicate, replicate
from bench.summary.loading import load
from tests.summary.test_summary import quality, record

Change = Callable[[int, str], dict[str, Any]]


def arms(
    ratio: float = 1.5, pairs: int = 8, noise: float = 0.005, change: Change | None = None
) -> Results:
    """Two arms whose gaps differ by `ratio`, with a little noise between replicates."""
    draw = random.Random(4)
    records = []
    for index in range(pairs):
        for quant, speed in (("none", 1.0), ("int8", ratio)):
            slow = math.exp(draw.gauss(0, noise)) / speed
            samples = {
                "prefill_s": [0.2 * slow] * 3,
                "itl_s": [[0.1 * slow] * 2] * 3,
                "e2e_s": [0.4 * slow] * 3,
            }
            one = record(quant, index, samples=samples)
            records.append(replace(one, **(change(index, quant) if change else {})))
    return Results(
        records=records, environments={"e1": Environment(id="e1", identity={}, state={})}
    )


def compare(
    results: Results, rules: Rules, baseline: str | None = None, candidate: str | None = None
) -> list[dict[str, Any]]:
    return [table(row) for row in compared(results, rules, baseline, candidate)]


def row(results: Results, metric: str = "decode", rules: Rules | None = None) -> dict[str, Any]:
    return next(r for r in compare(results, rules or Rules()) if r["metric"] == metric)


def test_a_clear_difference_is_higher_with_an_interval_around_it() -> None:
    found = row(arms(1.5))
    assert found["verdict"] == "higher"
    assert found["ci_low"] < 1.5 < found["ci_high"]
    assert found["ci_high"] / found["ci_low"] < 1.02
    assert (found["n_pairs"], found["significant"], found["reasons"]) == (8, True, [])


def test_time_is_lower_where_speed_is_higher() -> None:
    results = arms(1.5)
    verdicts = {r["metric"]: (r["verdict"], r["better"]) for r in compare(results, Rules())}
    assert verdicts["prefill"] == verdicts["decode"] == ("higher", "higher")
    for metric in ("ttft", "tpot", "e2e", "cost"):
        assert verdicts[metric] == ("lower", "lower")
    assert verdicts["memory"][0] == "same"
    assert "energy" not in verdicts  # nothing measured it
    assert row(results, "cost")["ratio"] == pytest.approx(row(results, "e2e")["ratio"])


def test_no_difference_within_the_margin_is_same() -> None:
    assert row(arms(1.0))["verdict"] == "same"
    assert row(arms(1.01))["verdict"] == "same"


def test_a_wide_interval_is_ambiguous() -> None:
    found = row(arms(1.0, noise=0.1))
    assert (found["verdict"], found["significant"]) == ("ambiguous", False)
    assert "CV" in found["reasons"]


def test_replicates_of_one_new_token_vary_by_their_prefill() -> None:
    def prompts(noise: float) -> Results:
        def only(index: int, quant: str) -> dict[str, Any]:
            slow = 1 + noise * (index % 2)
            samples = {"prefill_s": [0.2 * slow] * 3, "itl_s": [[]] * 3, "e2e_s": [0.2 * slow] * 3}
            return {"samples": samples, "workload": {"n_prompt": 8, "n_gen": 1, "n_batch": 2}}

        return arms(change=only)

    assert "CV" not in row(prompts(0.05), "prefill")["reasons"]
    assert "CV" in row(prompts(0.2), "prefill")["reasons"]


@pytest.mark.parametrize("pairs", [1, 3, 5])
def test_too_few_pairs_give_no_verdict_and_say_so(pairs: int) -> None:
    found = row(arms(3.0, pairs=pairs))
    assert found["verdict"] == "ambiguous"
    assert found["reasons"] == ["TOO_FEW_PAIRS"]
    assert found["ci_low"] is None
    assert found["ratio"] == pytest.approx(3, rel=0.02)


@pytest.mark.parametrize("code", ["THERMAL_THROTTLE", "FOREIGN_PROCESS", "NO_STEADY_STATE"])
def test_records_that_are_no_evidence_give_invalid_with_the_reasons_of_either_arm(
    code: str,
) -> None:
    for bad in ("none", "int8"):
        found = row(
            arms(1.5, change=lambda i, q, bad=bad: {"reasons": (code,) if q == bad else ()})  # type: ignore[misc]
        )
        assert found["verdict"] == "invalid"
        assert found["significant"] is False
        assert found["reasons"] == [code]
        assert found["ratio"] == pytest.approx(1.5, rel=0.01)  # shown, and not believed


def test_a_few_bad_pairs_are_left_out() -> None:
    found = row(arms(1.5, change=lambda i, q: {"reasons": ("POWER_BRAKE",) if i < 2 else ()}))
    assert (found["verdict"], found["n_pairs"], found["n_left_out"]) == ("higher", 6, 2)
    assert found["reasons"] == ["POWER_BRAKE"]


def test_what_spoils_energy_spoils_nothing_else() -> None:
    energy = {"decode": {"energy_j": 5.0, "tokens": 10}}
    results = arms(1.5, change=lambda i, q: {"reasons": ("COUNTER_RESET",), "energy": energy})
    assert row(results, "decode")["verdict"] == "higher"
    assert row(results, "energy")["verdict"] == "invalid"


def test_arms_that_start_at_different_temperatures_are_no_pair() -> None:
    found = row(
        arms(
            1.5, change=lambda i, q: {"device": {"temperature_start_c": 40 if q == "none" else 50}}
        )
    )
    assert (found["verdict"], found["reasons"]) == ("invalid", ["START_TEMPERATURE"])


def test_drift_is_seen_beyond_noise_only() -> None:
    steady = [1.0, 1.02, 0.99, 1.01, 1.02, 0.99, 1.01, 1.0]
    rising = [1.0, 1.01, 1.02, 1.03, 1.05, 1.06, 1.07, 1.08]
    assert not replicate(record("none", samples={"e2e_s": steady})).drifts
    assert replicate(record("none", samples={"e2e_s": rising})).drifts
    assert not replicate(record("none", samples={"e2e_s": rising[:6]})).drifts  # too few to tell


def test_a_missing_replicate_leaves_its_pair_out() -> None:
    results = arms(1.5)
    results.records = [r for r in results.records if r.key != "int83"]
    assert row(results)["n_pairs"] == 7


def test_a_failed_replicate_leaves_its_pair_out_and_is_named() -> None:
    results = arms(
        1.5, change=lambda i, q: {"status": "failed", "reasons": ("OOM",)} if i == 3 else {}
    )
    found = row(results)
    assert (found["n_pairs"], found["verdict"]) == (7, "higher")
    assert found["reasons"] == ["OOM"]


def test_machines_are_not_pooled_unless_asked_and_then_marked() -> None:
    results = arms(1.5, change=lambda i, q: {"environment": "e1" if q == "none" else "e2"})
    with pytest.raises(InputError, match="--pool"):
        compare(results, Rules())
    known = {
        one: Environment(id=one, identity={"cpu": "same", "torch": torch, "os": one}, state={})
        for one, torch in (("e1", "2.13.0"), ("e2", "2.14.0"))
    }
    told = r"different machines, drivers or versions \(torch 2.13.0 / 2.14.0, os e1 / e2\); --pool"
    with pytest.raises(InputError, match=told):
        compare(replace(results, environments=known), Rules())
    assert row(results, rules=Rules(pool=True))["reasons"] == ["CONFIG_DIFFERS"]


def test_synthetic_records_are_never_mixed_with_measured_ones() -> None:
    results = arms(1.5, change=lambda i, q: {"origin": "synthetic" if q == "int8" else "measured"})
    with pytest.raises(InputError, match="measured, synthetic"):
        compare(results, Rules())


def test_quality_stands_beside_speed() -> None:
    results = arms(1.5)
    results.qualities = [quality("none", 2.0), quality("int8", 2.0 + math.log(3))]
    assert row(results)["equal_quality"] is False
    found = row(results, "quality")
    assert (found["verdict"], found["better"]) == ("higher", "lower")
    assert found["ratio"] == pytest.approx(3)
    results.qualities[1] = quality("int8", 2.0)
    assert row(results)["equal_quality"] is True
    assert row(arms(1.5))["equal_quality"] is None


def test_arms_are_chosen_by_any_of_their_names() -> None:
    results = arms(1.5)
    back = compare(results, Rules(metrics=("decode",)), baseline="int8", candidate="none")
    assert back[0]["ratio"] == pytest.approx(1 / row(results)["ratio"])
    with pytest.raises(InputError, match="unknown baseline 'int9'; did you mean 'int8'"):
        compare(results, Rules(), baseline="int9")
    with pytest.raises(InputError, match="means several arms"):
        compare(results, Rules(), baseline="transformers")
    with pytest.raises(InputError, match="unknown metric 'speed'"):
        compare(results, Rules(metrics=("speed",)))
    with pytest.raises(InputError, match="only one arm"):
        compare(Results(records=results.records[:1]), Rules())
    with pytest.raises(InputError, match="unknown baseline 'int9'"):
        compare(Results(records=results.records[:1]), Rules(), baseline="int9")
    plain = [r for r in results.records if r.variant["quant"] == "none"]
    variants = [{**plain[0].variant, "name": name, "model": name} for name in ("one", "two")]
    two = Results(records=[replace(plain[0], variant=variant) for variant in variants])
    with pytest.raises(InputError, match="to compare models, give --baseline one"):
        compare(two, Rules())
    with pytest.raises(InputError, match="no records"):
        compare(Results(), Rules())


def saved(results: Results, folder: Path) -> str:
    with Writer(folder) as writer:
        for line in (*results.environments.values(), *results.records, *results.qualities):
            writer.append(line)
    return str(folder)


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ((), 0),
        (("--fail-below", "1.4"), 0),
        (("--fail-below", "1.5"), 1),  # the point is above it, the interval reaches below
        (("--fail-above", "1.6"), 0),
        (("--fail-above", "1.5"), 1),
        (("--metric", "memory", "--fail-above", "1.02"), 0),
    ],
)
def test_gates_are_on_the_interval(
    flags: tuple[str, ...], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = row(arms(1.5))
    assert found["ci_low"] < 1.5 < found["ci_high"]
    assert main(["compare", saved(arms(1.5), tmp_path), *flags]) == code
    assert ("gate failed" in capsys.readouterr().err) == (code == 1)


def test_a_gate_without_an_interval_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", saved(arms(3.0, pairs=3), tmp_path), "--fail-below", "1.1"]) == 1
    assert "no valid interval (TOO_FEW_PAIRS)" in capsys.readouterr().err


def test_the_contracts_keys_and_nothing_private(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = arms(1.5)
    results.qualities = [quality("none", 2.0), quality("int8", 2.1)]
    assert main(["compare", saved(results, tmp_path), "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    contract = (
        "metric n_prompt n_gen n_batch baseline candidate ratio ci_low ci_high n_pairs verdict "
        "reasons"
    )
    for found in rows:
        assert set(contract.split()) <= found.keys()
        assert not [key for key in found if key.startswith("_")]
    assert {found["metric"] for found in rows} == {*metrics()} - {"energy"}


def test_markdown_says_what_it_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = arms(1.5)
    results.qualities = [quality("none", 2.0), quality("int8", 2.0 + math.log(3))]
    assert main(["compare", saved(results, tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "**int8** against none: decodes 1.50x as fast at 8+3 x 2" in out
    assert "faster, not at equal quality" in out


def test_bad_figures_of_flags_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", saved(arms(), tmp_path), "--confidence", "95"]) == 2
    assert "--confidence: 95.0 is not between 0 and 1" in capsys.readouterr().err


def test_a_candidate_that_is_the_baseline_is_said_to_be_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", saved(arms(), tmp_path), "--candidate", "none"]) == 2
    assert "candidate 'none' is the baseline" in capsys.readouterr().err


def failed(index: int, quant: str) -> dict[str, Any]:
    """Every replicate of the candidate ran out of memory."""
    return (
        {"status": "failed", "reasons": ("OOM",), "samples": {}, "memory": {}}
        if quant == "int8"
        else {}
    )


def test_a_candidate_that_never_ran_is_invalid_and_fails_its_gate(tmp_path: Path) -> None:
    found = row(arms(1.5, change=failed))
    assert (found["verdict"], found["ratio"], found["n_pairs"]) == ("invalid", None, 0)
    assert "OOM" in found["reasons"]
    assert main(["compare", saved(arms(1.5, change=failed), tmp_path), "--fail-below", "1.5"]) == 1


def test_a_gate_on_what_nothing_measured_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--metric", "energy", "--fail-above", "1"]
    assert main(["compare", saved(arms(1.5), tmp_path), *flags]) == 1
    assert "nothing measured it" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--fail-below", "--fail-above", "--max-ppl-ratio"])
@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1"])
def test_a_gate_that_is_no_ratio_is_refused(flag: str, value: str, tmp_path: Path) -> None:
    assert main(["compare", saved(arms(1.5), tmp_path), f"{flag}={value}"]) == 2


def at_minutes(results: Results, minutes: Callable[[int, str], float]) -> Results:
    """The records as if started then."""
    day = datetime(2026, 11, 23, tzinfo=UTC)
    starts = (
        day + timedelta(minutes=minutes(r.replicate, r.variant["quant"])) for r in results.records
    )
    return replace(
        results,
        records=[
            replace(r, started_at=at.isoformat())
            for r, at in zip(results.records, starts, strict=True)
        ],
    )


def abba(index: int, quant: str) -> float:
    """Each replicate takes ten minutes."""
    return 20 * index + (10 if (quant == "int8") == (index % 2 == 0) else 0)


@pytest.mark.parametrize(
    ("minutes", "left_out"),
    [
        (abba, 0),
        (lambda i, q: 20 * abba(i, q), 0),  # all slow alike: other arms stood between
        (lambda i, q: 10 * i + 80 * (q == "int8"), 8),  # all A, then all B
        (lambda i, q: abba(i, q) + 900 * (i > 3), 0),  # resumed between two pairs
        (lambda i, q: abba(i, q) + 900 * (abba(i, q) > 60), 1),  # resumed within the fourth
        (lambda i, q: abba(i, q) if (i, q) != (2, "int8") else 170, 1),  # made up for at the end
    ],
)
def test_pairs_that_were_not_side_by_side_in_time_are_no_evidence(
    minutes: Callable[[int, str], float], left_out: int
) -> None:
    found = row(at_minutes(arms(1.5), minutes))

    if left_out == 8:
        assert (found["verdict"], found["n_pairs"]) == ("invalid", 8)
    else:
        assert (found["verdict"], found["n_pairs"]) == ("higher", 8 - left_out)
    assert found["reasons"] == (["OUT_OF_TURN"] if left_out else [])


@pytest.mark.parametrize(
    ("told", "left_out"),
    [
        (lambda i, q: f"of {i}", 0),  # drawn anew for each pair
        (lambda i, q: f"of {i}{q if i == 3 else ''}", 1),
        (lambda i, q: q, 8),  # another seed
        (lambda i, q: q if q == "none" else None, 0),  # an older record does not tell
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_a_pair_that_was_asked_different_requests_is_no_evidence(
    told: Callable[[int, str], str | None], left_out: int, stored: bool, tmp_path: Path
) -> None:
    def asked(index: int, quant: str) -> dict[str, Any]:
        requests = told(index, quant)
        return {"model": {"notes": {"requests_sha256": requests} if requests else {}}}

    results: Any = arms(1.5, change=asked)
    if stored:
        results = load(Path(saved(results, tmp_path)), large=0)
    for metric in ("decode", "memory"):
        found = row(results, metric)
        assert found["reasons"] == (["REQUESTS_DIFFER"] if left_out else [])
        assert found["n_pairs"] == (8 if left_out == 8 else 8 - left_out)
        assert (found["verdict"] == "invalid") == (left_out == 8)


def test_memory_does_not_mind_when_it_was_measured() -> None:
    found = row(at_minutes(arms(1.5), lambda i, q: 10 * i + 80 * (q == "int8")), "memory")
    assert (found["verdict"], found["reasons"]) == ("same", [])


def another_day(results: Results, environment: str = "e1") -> Results:
    """The same work done once more."""
    return Results(
        records=[
            replace(r, started_at="2026-11-24T00:00:00+00:00", environment=environment)
            for r in results.records
        ],
        environments={environment: Environment(id=environment, identity={}, state={})},
    )


def test_the_same_work_on_two_days_is_twice_the_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [
        saved(arms(1.5), tmp_path / "1"),
        saved(another_day(arms(1.5, noise=0.006)), tmp_path / "2"),
    ]
    assert main(["compare", *folders, *folders, "-o", "json"]) == 0  # read twice, counted once
    rows = json.loads(capsys.readouterr().out)
    assert {found["n_pairs"] for found in rows} == {16}


def test_the_same_work_on_two_machines_is_refused_and_pairs_stay_on_their_machine(
    tmp_path: Path,
) -> None:
    one, two = arms(1.5), another_day(arms(3.0), "e2")
    assert main(["compare", saved(one, tmp_path / "1"), saved(two, tmp_path / "2")]) == 2
    both = [r for r in (*one.records, *two.records) if r.key != "none3" or r.environment == "e2"]
    pairs = pairs_of(
        [replicate(r) for r in both if r.variant["quant"] == "none"],
        [replicate(r) for r in both if r.variant["quant"] == "int8"],
    )
    assert len(pairs) == 15
    assert all(one.environment == other.environment for one, other in pairs)
    assert len({id(one) for one, _ in pairs}) == 15


def test_an_index_of_two_runs_pairs_with_the_nearest_in_time() -> None:
    def arm(quant: str, *starts: tuple[str, int, str]) -> list[Replicate]:
        return [
            replicate(record(quant, index, experiment=name, started_at=f"2026-11-{day}T00:00:00Z"))
            for name, index, day in starts
        ]

    one = arm("none", ("e", 1, "23"), ("e", 0, "21"), ("e", 0, "25"), ("f", 0, "24"))
    other = arm("int8", ("f", 0, "29"), ("e", 0, "26"), ("e", 1, "30"), ("e", 0, "22"))
    paired = [(a.started_at[8:10], b.started_at[8:10]) for a, b in pairs_of(one, other)]
    assert sorted(paired) == [("21", "22"), ("23", "30"), ("24", "29"), ("25", "26")]
    # The machine comes before the time.
    there = [replicate(replace(a.record, environment="e2")) for a in arm("none", ("e", 0, "22"))]
    theirs = [replicate(replace(a.record, environment="e2")) for a in arm("int8", ("e", 0, "24"))]
    places = [(a.environment, b.environment) for a, b in pairs_of(one + there, theirs + other)]
    assert sorted(places) == [("e1", "e1")] * 4 + [("e2", "e2")]
    # Each experiment once, and one left over on each side: those go together.
    rest = pairs_of(one[1:2] + arm("none", ("g", 0, "27")), other[:1] + other[3:])
    assert [(a.started_at[8:10], b.started_at[8:10]) for a, b in rest] == [
        ("21", "22"),
        ("27", "29"),
    ]


def test_a_workload_of_one_arm_alone_has_no_row() -> None:
    results = arms(1.5)
    alone = [
        replace(r, key=f"long{r.key}", workload=r.workload | {"n_prompt": 64})
        for r in results.records
        if r.variant["quant"] == "none"
    ]
    both = Results(records=[*alone, *results.records], environments=results.environments)
    assert {found["n_prompt"] for found in compare(both, Rules())} == {8}


def test_machines_that_are_pooled_give_the_pairs_of_each() -> None:
    parts = [arms(1.5), another_day(arms(1.5, noise=0.006), "e2")]
    both = Results(
        records=[one for part in parts for one in part.records],
        environments={id_: one for part in parts for id_, one in part.environments.items()},
    )
    found = row(both, rules=Rules(pool=True))
    assert (found["n_pairs"], found["verdict"]) == (16, "higher")
    assert found["reasons"] == ["CONFIG_DIFFERS"]


@pytest.mark.parametrize("still", ["none", "int8"])
def test_a_counter_that_did_not_move_costs_its_pair_only(still: str) -> None:
    def energy(index: int, quant: str) -> dict[str, Any]:
        joules = 0.0 if (index, quant) == (3, still) else 5.0
        return {"energy": {"decode": {"energy_j": joules, "tokens": 10}}}

    results = arms(1.5, change=energy)
    assert row(results)["n_pairs"] == 8
    assert row(results, "energy")["n_pairs"] == 7


def test_memory_of_a_device_is_not_compared_with_memory_of_a_host() -> None:
    def on_device(index: int, quant: str) -> dict[str, Any]:
        return {"memory": {"peak_device_bytes": 100}} if quant == "int8" else {}

    assert "memory" not in {r["metric"] for r in compare(arms(1.5, change=on_device), Rules())}


def test_each_model_has_its_own_baseline() -> None:
    one = arms(1.5)
    other = [
        replace(
            r,
            key="n" + r.key,
            variant=r.variant | {"model": "n", "name": r.variant["name"].replace("m/", "n/", 1)},
        )
        for r in one.records
    ]
    both = Results(records=one.records + other, environments=one.environments)
    for baseline in ("none", None):
        rows = compare(both, Rules(metrics=("decode",)), baseline)
        assert [(r["baseline"], r["candidate"]) for r in rows] == [
            ("m/transformers/none", "m/transformers/int8"),
            ("n/transformers/none", "n/transformers/int8"),
        ]


def test_quality_is_against_the_baseline_that_the_row_names() -> None:
    results = arms(1.5)
    third = [
        replace(r, key="4" + r.key, variant=r.variant | {"quant": "int4", "name": "m/t/int4"})
        for r in results.records
        if r.variant["quant"] == "int8"
    ]
    results.records += third
    worst = quality("int4", 4.0)
    results.qualities = [
        quality("none", 2.0),
        quality("int8", 3.0),
        replace(worst, variant=worst.variant | {"name": "m/t/int4"}),
    ]
    rows = compare(results, Rules(metrics=("quality",)), "int8", "int4")
    assert [r["ratio"] for r in rows] == pytest.approx([math.exp(1)])


def test_perplexity_within_the_margin_is_same() -> None:
    results = arms(1.5)
    results.qualities = [quality("none", 2.0), quality("int8", 2.001)]
    assert row(results, "quality")["verdict"] == "same"


def test_exact_ties_do_not_make_a_verdict_that_the_interval_denies() -> None:
    def three_alike(index: int, quant: str) -> dict[str, Any]:
        speed = 1.03 + 0.001 * index if quant == "int8" and index >= 3 else 1.0
        gaps, e2e = [[0.1 / speed] * 2] * 3, [0.4 / speed] * 3
        return {"samples": {"prefill_s": [0.2 / speed] * 3, "itl_s": gaps, "e2e_s": e2e}}

    found = row(arms(pairs=9, change=three_alike))
    assert found["ci_low"] == pytest.approx(1)
    assert found["verdict"] == "ambiguous"


@pytest.mark.parametrize("requests", [8, 20, 40, 100])
def test_slow_drift_is_seen_whatever_the_number_of_requests(requests: int) -> None:
    draw = random.Random(3)

    def window(drift: float) -> list[float]:
        return [
            (1 + drift * i / (requests - 1)) * math.exp(draw.gauss(0, 0.005))
            for i in range(requests)
        ]

    seen = [replicate(record("none", samples={"e2e_s": window(0.05)})).drifts for _ in range(50)]
    steady = [replicate(record("none", samples={"e2e_s": window(0.0)})).drifts for _ in range(50)]
    assert sum(seen) >= 40
    assert sum(steady) <= 5


def test_a_difference_within_the_counters_error_is_no_verdict() -> None:
    def energy(joules: float) -> dict[str, Any]:
        window = {"energy_j": joules, "tokens": 10, "systematic_error": 0.07}
        return {"energy": {"decode": window}}

    near = arms(1.5, change=lambda i, q: energy(5.0 + i / 1e3 if q == "none" else 5.2 + i / 1e3))
    found = row(near, "energy")
    assert (found["verdict"], found["significant"]) == ("ambiguous", False)
    assert found["reasons"] == ["SYSTEMATIC_ERROR"]
    far = arms(1.5, change=lambda i, q: energy(5.0 + i / 1e3 if q == "none" else 6.0 + i / 1e3))
    assert row(far, "energy")["verdict"] == "higher"


def test_what_the_power_samples_say_against_the_counter_is_its_error() -> None:
    def energy(i: int, quant: str) -> dict[str, Any]:
        joules = (5.0 if quant == "none" else 6.0) + i / 1e3
        window = {"energy_j": joules, "tokens": 10, "systematic_error": 0.07}
        check = {"cross_check_ratio": 0.7, "cross_check_agrees": False}
        return {"energy": {"decode": window | (check if (i, quant) == (3, "int8") else {})}}

    found = row(arms(1.5, change=energy), "energy")  # 1.2x, and 30% apart in one window
    assert (found["verdict"], found["significant"]) == ("ambiguous", False)
    assert found["reasons"] == ["ENERGY_DISAGREES", "SYSTEMATIC_ERROR"]
    assert row(arms(1.5, change=energy))["reasons"] == []  # no matter of speed


@pytest.mark.parametrize(("candidate", "marked"), [(0.95, False), (0.4, True), (None, False)])
def test_arms_that_the_power_limit_held_back_unequally_are_marked(
    candidate: float | None, marked: bool
) -> None:
    def cap(_: int, quant: str) -> dict[str, Any]:
        return {"device": {"sw_power_cap_share": 1.0 if quant == "none" else candidate}}

    found = row(arms(1.5, change=cap))
    assert found["verdict"] == "higher"
    assert found["reasons"] == (["POWER_CAP_DIFFERS"] if marked else [])


def test_codes_that_no_rule_knows_are_still_listed() -> None:
    found = row(arms(1.5, change=lambda i, q: {"reasons": ("SOMETHING_NEW",)}))
    assert (found["verdict"], found["reasons"]) == ("higher", ["SOMETHING_NEW"])


def test_what_is_judged_together_is_adjusted_for() -> None:
    # Seven pairs agree and one is a little off: p = 0.016 alone, 0.06 among four tests.
    def samples(index: int, quant: str) -> dict[str, Any]:
        slow = 1.0 if quant == "none" else (1 / 0.99 if index == 0 else 1 / (1.2 + index / 1e3))
        return {
            "samples": {
                "prefill_s": [0.2 * slow] * 3,
                "itl_s": [[0.1 * slow] * 2] * 3,
                "e2e_s": [0.4 * slow] * 3,
            }
        }

    alone = row(arms(change=samples), rules=Rules(metrics=("decode",)))
    assert (alone["verdict"], alone["p_adjusted"]) == ("higher", pytest.approx(4 / 256))
    together = row(arms(change=samples))
    assert together["ci_low"] > 1
    assert (together["verdict"], together["significant"]) == ("ambiguous", False)
    assert together["p_adjusted"] > 0.05


def test_every_row_has_the_same_keys(capsys: pytest.CaptureFixture[str]) -> None:
    shipped = Path(__file__).parents[2] / "results" / "quickstart-cpu"
    assert main(["compare", str(shipped), "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {one["metric"] for one in rows} > {"decode", "quality"}
    assert len({tuple(one) for one in rows}) == 1


@pytest.mark.parametrize("flag", ["--fail-below", "--fail-above"])
def test_a_gate_is_never_dropped_in_silence(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = Path(__file__).parents[2] / "results" / "quickstart-cpu"
    assert main(["compare", str(shipped), "--pareto", flag, "1.1"]) == 2
    assert f"{flag}: cannot be combined with --pareto" in capsys.readouterr().err


def test_a_gate_does_not_pass_on_records_that_are_no_evidence(tmp_path: Path) -> None:
    results = arms(1.5, change=lambda i, q: {"reasons": ("FOREIGN_PROCESS",)})
    assert row(results)["ci_low"] > 1.4
    assert main(["compare", saved(results, tmp_path), "--fail-below", "1.1"]) == 1


def test_the_table_to_read_asks_each_question_once() -> None:
    rows = compared(arms(1.5), Rules())
    assert [row.metric for row in to_read(rows)] == [
        row.metric for row in rows if row.metric not in {"ttft", "tpot", "e2e"}
    ]
    slow_network = [replace(row, ratio=1.2) if row.metric == "ttft" else row for row in rows]
    assert "ttft" in {row.metric for row in to_read(slow_network)}


def test_a_reason_of_every_workload_is_said_once() -> None:
    rows = compared(arms(1.5, pairs=3), Rules())
    shown = to_markdown(rows, columns(rows, Rules()))
    assert "reasons" not in shown
    assert max(map(len, shown.splitlines())) <= 100
    said = [line for line in words(rows, Rules()) if line.startswith("`TOO_FEW_PAIRS`")]
    assert said == ["`TOO_FEW_PAIRS` (every workload): fewer pairs than a verdict needs."]
    noisy = [replace(rows[0], reasons=("TOO_FEW_PAIRS", "CV")), *rows[1:]]
    assert "CV" in to_markdown(noisy, columns(noisy, Rules()))
