"""Claim files, the evidence for them, and what `bench claims` says."""

from __future__ import annotations

import csv
import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bench.claims.evidence
import bench.cost.prices
from bench.claims.evidence import _limit
from bench.claims.files import claim_files, load_claims, validate_claims
from bench.claims.findings import Finding, as_row, findings, sentences
from bench.claims.measured import missing
from bench.cli import main
from bench.cost.books import FOLDER, read_book
from bench.errors import InputError
from bench.predict.published import rows as published_rows
from bench.records import Environment, QualityRecord, Record
from bench.records.file import Results
from bench.roofline.gpus import gpus
from tests.comparison.test_machines import machine, together

ARTICLE = "hawk-insight-2025"
EVIDENCE = ("measured", "bound", "published", "list_price", "vendor")
CONTRACT = (
    "claim",
    "sub_claim",
    "verdict",
    "evidence",
    "value",
    "threshold",
    "ci_low",
    "ci_high",
    "note",
)


def of(name: str, part: str, results: Results | None = None) -> list[Finding]:
    return [f for f in findings(load_claims(name), results) if f.part.id == part]


def outcomes(found: list[Finding]) -> dict[tuple[str | None, float | None], str]:
    return {(f.baseline, f.verdict.threshold): f.verdict.outcome for f in found}


# --- the files -----------------------------------------------------------------------------


def test_every_shipped_claim_is_valid() -> None:
    assert validate_claims() == []
    assert len(claim_files()) >= 7


def test_the_article_has_every_sub_claim() -> None:
    ids = {part.id for claim in load_claims(ARTICLE).claims for part in claim.sub_claims}
    assert {f"{claim}{part}" for claim in "12" for part in "abcdef"} <= ids


GOOD = """
name = "mine"
[source]
title = "A page"
publisher = "Somebody"
date = "2025-05"
language = "en"
found = "https://example.com"
[[claims]]
id = "1"
quote = "Twice as fast."
translation = "Twice as fast."
[[claims.sub_claims]]
id = "1a"
short = "twice the speed"
text = "Twice as fast"
metric = "decode_tok_s"
treatment = "rtx-4090"
baselines = ["rtx-3090"]
workload = "any"
thresholds = [2.0]
scope = "this card"
would_change = "a measurement"
decided_by.bound = { compare = "cards", model = "llama-3.1-8b" }
"""


def problems_of(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return validate_claims([path])


def test_a_claim_can_be_written_by_hand(tmp_path: Path) -> None:
    assert problems_of(tmp_path, GOOD) == []
    assert outcomes(findings(load_claims(str(tmp_path / "mine.toml")))) == {
        ("rtx-3090", 2.0): "refuted"
    }


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('publisher = "Somebody"\n', "", "source.publisher: missing"),
        ('found = "https://example.com"', 'found = " "', "source.found: missing"),
        ('date = "2025-05"', 'date = "May 2025"', "source.date:"),
        ('date = "2025-05"', 'date = "2025-13"', "source.date:"),
        ('language = "en"', 'language = "English"', "source.language:"),
        ("scope =", "scoop =", "claims[0].sub_claims[0].scoop: unknown key"),
        ("thresholds = [2.0]", 'thresholds = ["2"]', "sub_claims[0].thresholds[0]: expected"),
        ("thresholds = [2.0]", "thresholds = []", "sub_claims[0].thresholds: missing"),
        ("thresholds = [2.0]", "thresholds = [-1]", "sub_claims[0].thresholds[0]: must be"),
        ("thresholds = [2.0]", 'thresholds = [2]\nunit = "percent"', "sub_claims[0].unit:"),
        ("decode_tok_s", "speed", "sub_claims[0].metric: 'speed'"),
        ("rtx-3090", "rtx-3099", "unknown gpu 'rtx-3099'; did you mean"),
        ("llama-3.1-8b", "llama-9", "decided_by.bound.model: unknown model"),
        ('compare = "cards"', 'compare = "card"', "decided_by.bound.compare: 'card'"),
        ('name = "mine"', 'name = "other"', "is not the file's name"),
        ("decided_by.bound = {", "decided_by.not_testable = {", "decided_by.not_testable:"),
        ("would_change", "direction = 'above'\nwould_change", "sub_claims[0].direction:"),
        (
            'decided_by.bound = { compare = "cards", model = "llama-3.1-8b" }',
            "decided_by.date = { on = 'yesterday' }",
            "decided_by.date.on: expected a date",
        ),
        (
            'decided_by.bound = { compare = "cards", model = "llama-3.1-8b" }',
            "decided_by.records = { experiment = 'quickstar' }",
            "unknown experiment 'quickstar'; did you mean 'quickstart'",
        ),
        (
            'decided_by.bound = { compare = "cards", model = "llama-3.1-8b" }',
            "decided_by.records = { experiment = 'quickstart' }",
            "'rtx-4090' is not measured by quickstart",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    tmp_path: Path, old: str, new: str, place: str
) -> None:
    assert old in GOOD
    found = problems_of(tmp_path, GOOD.replace(old, new))
    assert any(place in line and "mine.toml" in line for line in found), found


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    text = GOOD.replace('publisher = "Somebody"\n', "").replace("scope =", "scoop =")
    assert len(problems_of(tmp_path, text)) == 3  # publisher, scoop, and so scope


def test_the_verdict_names_the_wording_it_judged(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    before = load_claims(str(path)).sha256
    path.write_text(GOOD.replace("[2.0]", "[2.1]"), encoding="utf-8")
    after = load_claims(str(path))
    assert len(before) == 64
    assert before != after.sha256
    assert as_row(findings(after)[0])["claim_sha256"] == after.sha256


def test_an_unknown_claim_is_an_input_error() -> None:
    with pytest.raises(InputError, match="did you mean 'hawk-insight-2025'"):
        load_claims("hawk-insight-2024")


# --- what data alone decides -----------------------------------------------------------------


def test_latest_is_refuted_by_date() -> None:
    found = of(ARTICLE, "1a")
    assert {f.verdict.outcome for f in found} == {"refuted"}
    for row in map(as_row, found):
        assert row["evidence"] == "published"
        assert row["note"].startswith("by date: RTX 4080 SUPER came out 2024-01-31")


@pytest.mark.parametrize(
    "baseline",
    ["rtx-4080", "rtx-4070-ti-super", "rtx-3080", "rtx-3080-ti", "rtx-3090", "rtx-4090"],
)
def test_two_and_a_half_times_is_refuted_by_bound_against_3080_class_cards(baseline: str) -> None:
    found = {f.baseline: f for f in of(ARTICLE, "1b") if f.verdict.threshold == 2.5}[baseline]
    assert found.verdict.outcome == "refuted"
    assert found.verdict.decided_by is not None
    assert found.verdict.decided_by.level == "bound"


def test_the_bound_ratios_are_those_of_the_bandwidths() -> None:
    for found in of(ARTICLE, "1b"):
        assert found.baseline is not None
        expected = gpus()["rtx-4080-super"].bandwidth / gpus()[found.baseline].bandwidth
        equal = next(e for e in found.evidence if "at equal efficiency" in e.note)
        assert equal.value == pytest.approx(expected)


def test_the_predicted_ratio_of_two_cards_decides_what_the_bound_leaves_open() -> None:
    rows = {f.baseline: as_row(f) for f in of(ARTICLE, "1b") if f.verdict.threshold == 1.5}
    ours = rows["rtx-4080"]
    assert (ours["verdict"], ours["evidence"], ours["predicted"]) == ("refuted", "published", True)
    assert ours["ci_low"] < ours["value"] < ours["ci_high"] < 1.5
    assert "predicted: 1.03, 90% interval" in ours["note"]
    assert any(
        "published decode rates" in step
        for f in of(ARTICLE, "1b")
        for e in f.evidence
        if e.level == "predicted"
        for step in e.steps
    )
    # About 1.6 is likely against the smallest, which supports nothing.
    assert (rows["rtx-3070"]["verdict"], rows["rtx-3070"]["predicted"]) == ("undecided", False)


def test_readings_that_disagree_are_said() -> None:
    notes = [as_row(f)["note"] for f in of(ARTICLE, "1b") if f.baseline == "rtx-3070"]
    assert all("readings disagree: undecided at 1.5, refuted at 2.5" in note for note in notes)


def test_the_list_price_ratio_is_supported_within_rounding() -> None:
    (found,) = of(ARTICLE, "2a")
    row = as_row(found)
    assert (row["verdict"], row["evidence"]) == ("supported", "list_price")
    assert row["ci_low"] == pytest.approx(0.0365)
    assert row["ci_high"] == pytest.approx(0.036667, abs=1e-6)


def test_the_stated_mix_gives_the_published_ratio() -> None:
    (found,) = of(ARTICLE, "2b")
    assert as_row(found)["value"] == pytest.approx(0.0338, abs=5e-5)


def test_which_openai_model_decides() -> None:
    assert outcomes(of(ARTICLE, "2c")) == {
        ("openai/o1", 0.037): "supported",
        ("openai/o3", 0.037): "refuted",
        ("openai/gpt-4o", 0.037): "refuted",
        ("openai/o3-mini", 0.037): "refuted",
        ("openai/o1-mini", 0.037): "refuted",
    }


def test_dynamic_bits_on_rented_cards_are_far_from_the_claim() -> None:
    (found,) = of(ARTICLE, "2d")
    assert found.verdict.outcome == "refuted"
    levels = [e.level for e in found.evidence]
    assert levels == ["published", "vendor", "vendor"]
    assert all(e.low is not None and e.low > 0.037 for e in found.evidence)


def test_the_rest_is_undecided_with_what_would_decide_it() -> None:
    for part in ("1d", "1f", "2e"):
        for row in map(as_row, of(ARTICLE, part)):
            assert row["verdict"] == "undecided"
            assert "would decide: " in row["note"]
    (task,) = of(ARTICLE, "2f")
    assert task.verdict.outcome == "not_testable"


def test_a_shipped_sub_claim_is_never_supported_by_a_point_or_a_bound() -> None:
    for name in claim_files():
        for found in findings(load_claims(name)):
            if found.verdict.outcome == "supported":
                item = found.verdict.decided_by
                assert item is not None
                assert item.level in ("measured", "published", "list_price")
                assert item.exact or item.low != item.high


@pytest.mark.parametrize(
    ("name", "part", "expected"),
    [
        ("bitsandbytes-int8", "1a", "refuted"),
        ("int8-dynamic-doubles-speed", "1a", "refuted"),
        ("int8-dynamic-doubles-speed", "1b", "undecided"),
        ("torchao-readme", "1a", "undecided"),
        ("vllm-fp8", "1a", "undecided"),
        ("vllm-fp8", "1b", "refuted"),
        ("unsloth-r1", "1a", "refuted"),
        ("unsloth-r1", "1c", "undecided"),
        ("impossible-throughputs", "1a", "refuted"),
        ("impossible-throughputs", "2a", "refuted"),
    ],
)
def test_claims_that_people_meet(name: str, part: str, expected: str) -> None:
    assert {f.verdict.outcome for f in of(name, part)} == {expected}


def test_shares_of_the_bound_taken_from_rows_are_below_those_rows() -> None:
    part = of(ARTICLE, "1b")[0].part
    way = part.decided_by.bound
    assert way is not None
    shares = [
        row.decode_tok_s / _limit(way, row.gpu, way.quant).decode_tok_s
        for row in published_rows()
        if row.gpu in part.baselines
        and (row.model, row.quant, row.source) == (way.model, way.quant, "xiongjiedai")
        and (row.n_gen, row.n_gpus) == (way.n_gen, 1)
        and row.decode_tok_s
    ]
    assert len(shares) == 7
    assert way.least_share < min(shares)
    assert (f"{min(shares):.0%}", f"{max(shares):.0%}") == ("56%", "77%")
    assert "56% to 77%" in way.least_share_why


# --- the data decides, not the file ------------------------------------------------------------


def with_card(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    cards = {**gpus(), name: replace(gpus()[name], **changes)}
    monkeypatch.setattr(bench.claims.evidence, "gpus", lambda: cards)


def test_a_cards_bandwidth_changes_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    key = ("rtx-4070-ti-super", 2.5)
    assert outcomes(of(ARTICLE, "1b"))[key] == "refuted"
    with_card(monkeypatch, "rtx-4070-ti-super", bandwidth_gb_s=330.0)
    found = {(f.baseline, f.verdict.threshold): f for f in of(ARTICLE, "1b")}[key]
    assert as_row(found)["predicted"] is True  # the bound alone no longer refutes
    with_card(monkeypatch, "rtx-4070-ti-super", bandwidth_gb_s=240.0)
    assert outcomes(of(ARTICLE, "1b"))[key] == "undecided"


def test_a_cards_release_date_changes_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    with_card(monkeypatch, "rtx-5080", released=datetime.date(2025, 6, 1))
    assert outcomes(of(ARTICLE, "1a"))[("rtx-5080", 0.0)] == "supported"


def with_price(monkeypatch: pytest.MonkeyPatch, folder: Path, item: str, **changes: str) -> None:
    """The API price book with the item's list price changed."""
    with (FOLDER / "api.csv").open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    for row in table:
        if (row["item"], row["offer"]) == (item, "list"):
            row.update(changes)
    path = folder / "api.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    rows, problems = read_book("api", path)
    assert problems == []
    monkeypatch.setattr(bench.cost.prices, "book", lambda kind, folder=folder: tuple(rows))


def test_a_prices_date_changes_the_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_price(monkeypatch, tmp_path, "deepseek/deepseek-r1", **{"from": "2025-06-01"})
    (found,) = of(ARTICLE, "2a")
    assert found.verdict.outcome == "undecided"
    assert "no price of deepseek/deepseek-r1 is in force on 2025-05-01" in found.note


def test_a_price_changes_the_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_price(monkeypatch, tmp_path, "deepseek/deepseek-r1", output="2.40")
    (found,) = of(ARTICLE, "2a")
    assert found.verdict.outcome == "undecided"  # input still rounds to 3.7%, output is 4.0%
    with_price(monkeypatch, tmp_path, "deepseek/deepseek-r1", output="2.40", input="0.60")
    (found,) = of(ARTICLE, "2a")
    assert found.verdict.outcome == "refuted"


# --- own records -------------------------------------------------------------------------------


def record(quant: str, replicate: int, tpot: float, **more: Any) -> Record:
    fields: dict[str, Any] = {
        "key": f"{quant}-{replicate}-{more.get('environment', 'e')}",
        "environment": "e",
        "experiment": "dynamic-int8",
        "variant": {
            "name": f"m/transformers/{quant}",
            "model": "m",
            "engine": "transformers",
            "quant": quant,
            "device": "cpu",
        },
        "workload": {"n_prompt": 128, "n_gen": 3, "n_batch": 1},
        "replicate": replicate,
        "position": replicate,
        "started_at": "2026-11-23T00:00:00+00:00",
        "status": "ok",
        "samples": {"prefill_s": [tpot], "itl_s": [[tpot, tpot]], "e2e_s": [3 * tpot]},
    }
    return Record(**(fields | more))


def measured_results(speedup: float, pairs: int = 8, **more: Any) -> Results:
    """`int8-dynamic` decodes `speedup` times as fast, give or take 1%."""
    records = []
    for i in range(pairs):
        records.append(record("none", i, 0.1))
        records.append(record("int8-dynamic", i, 0.1 / speedup * (1 + 0.002 * (i - 4)), **more))
    environment = Environment(id="e", identity={"cpu": "a CPU"}, state={})
    return Results(environments={"e": environment}, records=records)


def test_a_slower_measurement_refutes() -> None:
    (found,) = of("int8-dynamic-doubles-speed", "1b", measured_results(0.5))
    row = as_row(found)
    assert (row["verdict"], row["evidence"]) == ("refuted", "measured")
    assert row["value"] == pytest.approx(0.5, rel=0.01)
    assert row["ci_low"] < row["value"] < row["ci_high"]


def test_a_faster_measurement_without_quality_supports_nothing() -> None:
    (found,) = of("int8-dynamic-doubles-speed", "1b", measured_results(3.0))
    assert found.verdict.outcome == "undecided"
    assert "quality was not measured" in found.note


@pytest.mark.parametrize(
    ("nll", "outcome", "said"),
    [
        ([2.0, 1.0, 3.0, 2.5], "supported", ""),
        ([4.0, 3.0, 5.0, 4.5], "undecided", "not supported at equal quality: ppl_ratio"),
    ],
)
def test_a_faster_measurement_needs_equal_quality(
    nll: list[float], outcome: str, said: str
) -> None:
    results = measured_results(3.0)
    base = [2.0, 1.0, 3.0, 2.5]
    for quant, values in (("none", base), ("int8-dynamic", nll)):
        results.qualities.append(
            QualityRecord(
                key=quant,
                environment="e",
                experiment="dynamic-int8",
                status="ok",
                variant={"name": f"m/transformers/{quant}"},
                started_at="2026-11-23",
                baseline="m/transformers/none",
                nll=tuple(values),
                text={"name": "t", "sha256": "s", "max_tokens": 5, "window": 5},
            )
        )
    (found,) = of("int8-dynamic-doubles-speed", "1b", results)
    assert found.verdict.outcome == outcome, found.note
    assert said in found.note


def test_bytes_of_weights_are_compared_as_they_are_held() -> None:
    records = [
        record(
            quant,
            i,
            0.1,
            experiment="bitsandbytes-int8",
            model={"weights_bytes": size},
            variant={"name": quant, "model": "m", "quant": quant, "device": "cuda:0"},
        )
        for i in range(8)
        for quant, size in (("none", 16_000_000_000), ("bnb-int8", 8_400_000_000))
    ]
    environment = Environment(id="e", identity={"gpu": "a card"}, state={})
    results = Results(environments={"e": environment}, records=records)
    (found,) = of("bitsandbytes-int8", "1c", results)
    row = as_row(found)
    assert (row["verdict"], row["value"]) == ("supported", pytest.approx(0.525))


def test_records_of_another_card_do_not_count() -> None:
    def on(gpu: str) -> list[Finding]:
        records = [
            record(
                quant,
                i,
                0.1,
                experiment="rtx-4080-super-quantized",
                variant={"name": quant, "model": "m", "quant": quant, "device": "cuda:0"},
            )
            for i in range(8)
            for quant in ("none", "int8-weight-only")
        ]
        environment = Environment(id="e", identity={"gpu": gpu}, state={})
        return of(ARTICLE, "1f", Results(environments={"e": environment}, records=records))

    assert {e.level for e in on("NVIDIA GeForce RTX 4080")[0].evidence} == {"bound", "published"}
    assert "measured" in {e.level for e in on("NVIDIA GeForce RTX 4080 SUPER")[0].evidence}


def test_too_few_pairs_have_no_interval_and_decide_nothing() -> None:
    (found,) = of("int8-dynamic-doubles-speed", "1b", measured_results(0.5, pairs=3))
    assert found.verdict.outcome == "undecided"
    assert "too few for an interval" in found.note


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"reasons": ("THERMAL_THROTTLE",)}, "THERMAL_THROTTLE"),
        ({"status": "failed", "message": "out of memory"}, "out of memory"),
    ],
)
def test_invalid_records_decide_nothing_and_are_named(more: dict[str, Any], said: str) -> None:
    (found,) = of("int8-dynamic-doubles-speed", "1b", measured_results(0.5, **more))
    assert found.verdict.outcome == "undecided"
    assert said in found.note


@pytest.mark.parametrize(
    "more",
    [
        {"environment": "other"},
        {"experiment": "mixed"},
        {"experiment": "quickstart"},
        {"origin": "synthetic"},
    ],
    ids=["another machine", "another experiment", "one arm of another", "not measured"],
)
def test_records_that_are_no_pair_of_the_experiment_do_not_count(more: dict[str, Any]) -> None:
    (found,) = of("int8-dynamic-doubles-speed", "1b", measured_results(0.5, **more))
    assert found.verdict.decided_by is None


def test_records_of_a_named_second_experiment_count() -> None:
    results = measured_results(0.5)
    results.records[:] = [replace(r, experiment="quickstart") for r in results.records]
    (found,) = of("int8-dynamic-doubles-speed", "1b", results)
    assert found.verdict.outcome == "refuted"
    assert as_row(found)["source"] == "records of quickstart"


def test_cost_is_the_inverse_of_speed() -> None:
    (found,) = of(ARTICLE, "2e", measured_results(0.5))
    row = as_row(found)
    assert (row["verdict"], row["evidence"]) == ("refuted", "measured")
    assert row["value"] == pytest.approx(2.0, rel=0.01)


# --- two cards ------------------------------------------------------------------------------


def of_two_cards(
    speed: float, other: str = "NVIDIA GeForce RTX 3070", other_speed: float = 1.0, **changes: Any
) -> Results:
    """The records that a fleet makes of `two-cards-decode`."""
    super_ = "NVIDIA GeForce RTX 4080 SUPER"
    both = together(
        machine("left", other, speed=other_speed), machine("right", super_, speed=speed)
    )
    name = "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF@0123456789ab:Q4_K_M"
    variant = {
        "name": f"{name}/llama.cpp/q4_k_m",
        "model": name,
        "engine": "llama.cpp",
        "quant": "q4_k_m",
        "device": "cuda:0",
        "dtype": "auto",
        "weights": "w",
    }
    both.records[:] = [
        replace(
            one,
            variant=variant,
            experiment="two-cards-decode",
            workload={"n_prompt": 512, "n_gen": 512, "n_batch": 1},
            samples={
                "prefill_s": one.samples["prefill_s"],
                "itl_s": [[one.samples["itl_s"][0][0] / 8] * 511] * 3,
                "e2e_s": one.samples["e2e_s"],
            },
            **changes,
        )
        for one in both.records
    ]
    return both


def test_records_of_two_cards_decide_before_what_is_published_and_before_the_bound() -> None:
    without = {f.baseline: f for f in of(ARTICLE, "1b") if f.verdict.threshold == 1.5}
    published = without["rtx-3070"].verdict.decided_by
    assert published is None or published.level != "measured"
    found = of(ARTICLE, "1b", of_two_cards(1.6))
    by = {(f.baseline, f.verdict.threshold): f for f in found}
    row = as_row(by["rtx-3070", 1.5])
    assert (row["verdict"], row["evidence"]) == ("supported", "measured")
    assert row["value"] == pytest.approx(1.6, rel=0.02)
    assert row["ci_low"] > 1.5
    assert "NVIDIA GeForce RTX 4080 SUPER over NVIDIA GeForce RTX 3070" in row["scope"]
    assert "cards of one model differ by 8%" in row["scope"]
    assert by["rtx-3070", 2.5].verdict.outcome == "refuted"
    other = by["rtx-3080", 1.5].verdict.decided_by
    assert other is not None
    assert other.level != "measured", "records of one card say nothing of another"


def test_two_cards_beyond_the_bound_decide_nothing_and_say_so() -> None:
    found = of(ARTICLE, "1b", of_two_cards(4.0))
    row = next(as_row(f) for f in found if f.baseline == "rtx-3070")
    assert row["verdict"] == "undecided"
    assert "beyond the bound" in row["note"]


def test_two_cards_with_other_versions_or_bad_records_are_no_evidence() -> None:
    bad = of_two_cards(1.6, reasons=("THERMAL_THROTTLE",))
    (found,) = [
        f for f in of(ARTICLE, "1b", bad) if (f.baseline, f.verdict.threshold) == ("rtx-3070", 1.5)
    ]
    (item,) = [e for e in found.evidence if e.level == "measured"]
    assert "THERMAL_THROTTLE" in item.invalid
    differ = of_two_cards(1.6)
    one = differ.environments["env-left"]
    differ.environments["env-left"] = replace(one, identity=one.identity | {"torch": "2.9"})
    (item,) = [
        e
        for f in of(ARTICLE, "1b", differ)
        if (f.baseline, f.verdict.threshold) == ("rtx-3070", 1.5)
        for e in f.evidence
        if e.level == "measured"
    ]
    assert "torch 2.9 / 2.13.0" in item.invalid


def test_what_two_cards_still_lack_is_said_by_card() -> None:
    todo = {m.experiment: m for m in missing(load_claims(ARTICLE), of_two_cards(1.6))}
    left = todo["two-cards-decode"]
    assert left.n_missing == 7 * 8
    assert "rtx-3070" not in left.cards
    assert "rtx-4090" in left.cards
    assert len(todo["two-cards-batch"].cards) == 5


# --- a rate ---------------------------------------------------------------------------------


def on_two_h100(tok_s: float, n: int = 4, gpus: int = 2, **more: Any) -> Results:
    """The records of `unsloth-r1-two-h100`: 16 requests of 128 tokens, give or take 1%."""
    file = "DeepSeek-R1-UD-IQ1_S/DeepSeek-R1-UD-IQ1_S-00001-of-00003.gguf"
    repo = f"unsloth/DeepSeek-R1-GGUF@0123456789ab:{file}"
    variant = {
        "name": f"{repo}/llama.cpp/ud-iq1_s",
        "model": repo,
        "engine": "llama.cpp",
        "quant": "ud-iq1_s",
        "device": "cuda:0+cuda:1",
    }
    work = {"n_prompt": 32, "n_gen": 128, "n_batch": 16}
    records = []
    for i in range(n):
        seconds = 16 * 128 / tok_s * (1 + 0.005 * (i - 1.5))
        samples = {
            "prefill_s": [seconds / 10],
            "itl_s": [[seconds * 0.9 / 127] * 127],
            "e2e_s": [seconds],
        }
        made = record("ud-iq1_s", i, 0.1, variant=variant, workload=work, samples=samples)
        records.append(replace(made, experiment="unsloth-r1-two-h100", **more))
    identity = {"cpu": "c", "gpu": "NVIDIA H100 80GB HBM3", "gpus": gpus}
    return Results(
        environments={"e": Environment(id="e", identity=identity, state={})}, records=records
    )


@pytest.mark.parametrize(("tok_s", "outcome"), [(160, "supported"), (100, "refuted")])
def test_a_measured_rate_decides_by_its_interval(tok_s: float, outcome: str) -> None:
    (found,) = of("unsloth-r1", "1c", on_two_h100(tok_s))
    row = as_row(found)
    assert (row["verdict"], row["evidence"]) == (outcome, "measured")
    assert row["value"] == pytest.approx(tok_s, rel=0.01)
    assert 0.98 * tok_s < row["ci_low"] < row["value"] < row["ci_high"] < 1.02 * tok_s
    assert "4 replicates" in row["note"]
    (of_one,) = of("unsloth-r1", "1b", on_two_h100(tok_s))
    assert all(item.level != "measured" for item in of_one.evidence), "of one request, not of 16"


def test_a_rate_of_other_cards_or_of_one_replicate_decides_nothing() -> None:
    for results in (on_two_h100(160, gpus=1), on_two_h100(160, n=1)):
        (found,) = of("unsloth-r1", "1c", results)
        assert found.verdict.outcome == "undecided"
    other = on_two_h100(160)
    identity = other.environments["e"].identity | {"gpu": "NVIDIA A100-SXM4-80GB"}
    other.environments["e"] = replace(other.environments["e"], identity=identity)
    (found,) = of("unsloth-r1", "1c", other)
    assert all(item.level != "measured" for item in found.evidence)


@pytest.mark.parametrize("code", ["THERMAL_THROTTLE", "NEIGHBOURS"])
def test_a_rate_with_a_reason_against_it_is_named_and_not_counted(code: str) -> None:
    results = on_two_h100(160)
    results.records[2] = replace(results.records[2], reasons=(code,))
    (found,) = of("unsloth-r1", "1c", results)
    assert found.verdict.outcome == "undecided"
    (item,) = [e for e in found.evidence if e.level == "measured"]
    assert item.invalid.startswith(code)


def test_what_a_rate_still_lacks_is_said_by_its_cards() -> None:
    (left,) = missing(load_claims("unsloth-r1"), Results())
    assert (left.n_missing, left.cards) == (2 * 4, ("2 x h100-sxm",))
    assert left.sub_claims == ("1a", "1b", "1c")
    (less,) = missing(load_claims("unsloth-r1"), on_two_h100(160))
    assert less.n_missing == 4
    (same,) = missing(load_claims("unsloth-r1"), on_two_h100(160, gpus=1))
    assert same.n_missing == 8


def test_every_experiment_of_a_claim_is_there() -> None:
    for name in claim_files():
        assert [m.to_write for m in missing(load_claims(name), Results()) if m.to_write] == []


def test_missing_counts_what_is_still_to_measure() -> None:
    def left(results: Results) -> dict[str, int | None]:
        return {m.experiment: m.n_missing for m in missing(load_claims(ARTICLE), results)}

    before = left(Results())
    assert before["two-cards-decode"] == 9 * 8  # cards, replicates
    assert before["dynamic-int8"] == 2 * 4 * 8 * 2  # models, schemes, pairs, batches
    variant = {"name": "smollm2-135m-instruct/transformers/none"}
    work = {"n_prompt": 128, "n_gen": 128, "n_batch": 1}
    done = record("none", 0, 0.1, variant=variant, workload=work)
    assert left(Results(records=[done]))["dynamic-int8"] == before["dynamic-int8"] - 1
    refused = replace(done, status="failed", reasons=("UNSUPPORTED",))
    assert left(Results(records=[refused]))["dynamic-int8"] == before["dynamic-int8"] - 1
    failed = replace(done, status="failed", reasons=("CRASH",))
    assert left(Results(records=[failed]))["dynamic-int8"] == before["dynamic-int8"]


# --- the command -------------------------------------------------------------------------------


def test_json_keeps_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["claim"] for row in rows} == set(claim_files())
    for row in rows:
        assert tuple(row)[: len(CONTRACT)] == CONTRACT
        assert row["verdict"] in ("supported", "refuted", "undecided", "not_testable")
        assert row["evidence"] is None or row["evidence"] in EVIDENCE
        assert row["note"] or row["verdict"] in ("supported", "refuted")


def test_strict_fails_on_a_refuted_claim(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--claim", "torchao-readme", "--strict"]) == 0
    assert main(["claims", "--claim", "impossible-throughputs", "--strict"]) == 1
    assert main(["claims", "--claim", "impossible-throughputs"]) == 0
    capsys.readouterr()


def test_one_sentence_a_claim() -> None:
    file = load_claims(ARTICLE)
    first, second = sentences(file, findings(file))
    assert first.startswith(
        "Claim 1 is not supported by this evidence, and is partly false: refuted for the latest "
        "card (1a), single-request decode (1b, 14 of 16 readings)"
    )
    assert second.startswith(
        "Claim 2 holds only in part: supported for the list-price ratio to o1 (2a)"
    )
    assert second.endswith("not testable for the cost of a solved task (2f).")


def test_explain_shows_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--claim", ARTICLE, "--explain"]) == 0
    out = capsys.readouterr().out
    assert "output: $2.19 / $60 = 3.6500%" in out
    assert "RTX 4080 SUPER came out 2024-01-31, RTX 5080 2025-01-30" in out
    assert "most that rtx-3080 allows" in out
    assert f"sha256 {load_claims(ARTICLE).sha256}" in out


def test_a_missing_results_folder_is_an_input_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["claims", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
