"""Cost and comparison at a service level: the highest load within limits."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.comparison import Rules, compare
from bench.demand.search import Probe
from bench.records.file import read
from bench.report.page import assemble
from bench.summary import summarise
from bench.summary.service import LoadPoint, ServiceLevel, probe_of
from tests.queues import mgk
from tests.slo_results import SLO, SLOTS, made, write_search

SERVICES = {"m/endpoint/none": 1.0, "m/endpoint/fp8": 0.8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_search(tmp_path_factory.mktemp("slo"), SERVICES)


def test_probes_stand_as_one_row_at_the_load_that_they_found(folder: Path) -> None:
    slow, fast = summarise(read(folder)).rows
    assert slow.level is not None
    assert slow.sizes.slo == SLO
    assert len(slow.level.each) == 8
    assert slow.level.monotone
    found = slow.value("requests_s")
    assert found is not None
    assert slow.value("total_tok_s") == pytest.approx(204 * found)
    curve = slow.level.curve
    assert [one.rate or 0 for one in curve] == sorted(one.rate or 0 for one in curve)
    knee = slow.level.knee
    assert knee is not None
    assert knee.percentiles["ttft_p95"] is not None
    assert knee.rate == pytest.approx(found, rel=0.1)
    assert curve[0].percentiles["ttft_p95"] is None or curve[0].n_requests >= 72
    assert slow.level.cached_share == pytest.approx(0.25)
    assert (fast.value("requests_s") or 0) > found


def test_the_highest_load_is_priced(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--rent", "3.6", "--utilization", "0.5", "-o", "json"]
    assert main(["cost", str(folder), *flags]) == 0
    slow, fast = json.loads(capsys.readouterr().out)
    assert slow["slo"] == SLO
    assert slow["usd_per_mtok"] == pytest.approx(2000 / slow["total_tok_s"])
    assert slow["ci_low"] < slow["usd_per_mtok"] < slow["ci_high"]
    assert slow["usd_per_available_hour"] == pytest.approx(3.6)
    assert slow["usd_per_hour_per_request_s"] == pytest.approx(3.6 / slow["requests_s"])
    assert slow["usd_per_mtok_computed"] == pytest.approx(slow["usd_per_mtok"] * 204 / 154)
    assert slow["user_tok_s"] > 0
    assert fast["usd_per_mtok"] < slow["usd_per_mtok"]


def test_other_limits_are_read_from_the_same_probes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--rent", "1", "--slo", "tpot_p95=0.02", "-o", "json"]
    assert main(["cost", str(folder), *flags]) == 0
    loose = json.loads(capsys.readouterr().out)
    assert {row["slo"] for row in loose} == {"tpot_p95=0.02"}
    assert all(row["total_tok_s"] for row in loose)
    assert main(["cost", str(folder), "--rent", "1", "--slo", "tpot_p95=9"]) == 2
    assert "every rate tried meets" in capsys.readouterr().err
    assert main(["cost", str(folder), "--rent", "1", "--slo", "ttft_p95=0.0001"]) == 2
    assert "do not meet" in capsys.readouterr().err


def test_the_measured_share_of_the_cache_prices_the_api(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def price(*flags: str) -> float:
        assert main(["cost", str(folder), "--against", "openai/gpt-5", "-o", "json", *flags]) == 0
        return float(json.loads(capsys.readouterr().out)[0]["usd_per_mtok"])

    assert price("--cached", "measured") == pytest.approx(price("--cached", "0.25"))
    assert price("--cached", "measured") < price()


def truth(service: float) -> float:
    """Requests a second that such an arm takes, by one long run of its queue."""

    def drawn(draw: random.Random) -> float:
        return draw.lognormvariate(0, 0.2)

    return mgk(SLOTS, 0.36 / 0.2 / service, 60_000, drawn).truth / service


def test_two_settings_at_one_service_level_are_a_paired_ratio(folder: Path) -> None:
    rows = compare(read(folder), Rules(metrics=("cost",)), baseline="none")
    (row,) = [one for one in rows if one.metric == "cost"]
    assert row.n_pairs == 8
    slow, fast = (truth(service) for service in SERVICES.values())
    assert row.ratio == pytest.approx(slow / fast, rel=0.08)
    assert row.ci_low is not None
    assert row.ci_high is not None
    assert row.ci_low < slow / fast < row.ci_high < 1
    assert row.verdict == "lower"


def test_run_says_it_in_words(folder: Path) -> None:
    from bench.report.tables.run import service

    said = service(summarise(read(folder)).rows[0])
    assert "requests a second (" in said
    assert f"meet {SLO}" in said
    assert "at once" in said


def test_the_page_draws_the_curve_and_its_knee(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["report", str(folder), "--rent", "2", "--to", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "What does a token cost at a service level?" in text
    assert "knee, " in text
    assert SLO in text
    assert text.count("requests/s: $") > 4


def test_a_rate_that_is_not_served_keeps_no_limit_however_lax() -> None:
    record = made("m/endpoint/none", 1.0, 0, 0, 4.0)
    lax = "ttft_p95=1000,tpot_p95=1000"
    found = probe_of(record, lax)
    assert found is not None
    assert found.keeps((0.95, 0.95))
    for share, keeps in ((0.95, True), (0.85, False)):
        counted = {**record.device.get("requests", {}), "served_share": share}
        other = replace(record, device={**record.device, "requests": counted})
        probe = probe_of(other, lax)
        assert probe is not None
        assert probe.n == found.n
        assert probe.keeps((0.95, 0.95)) == keeps


def test_requests_that_failed_kept_no_limit() -> None:
    record = made("m/endpoint/none", 1.0, 0, 0, 4.0)
    whole = probe_of(record, SLO)
    some = probe_of(replace(record, device={"requests": {"n_failed": 3}}), SLO)
    assert whole is not None
    assert some == replace(whole, n=whole.n + 3)
    none = replace(record, status="failed", reasons=("REQUESTS_FAILED",), samples={})
    all_failed = replace(none, device={"requests": {"n_failed": 7}})
    assert probe_of(all_failed, SLO) == Probe(rate=4.0, n=7, kept=(0, 0))
    # What says nothing of the server is no probe.
    assert probe_of(none, SLO) is None
    assert probe_of(replace(all_failed, reasons=("CRASH",)), SLO) is None
    assert probe_of(made("m/endpoint/none", 1.0, 0, 0, None), SLO) is None


def level(*replicates: dict[float, int]) -> ServiceLevel:
    """Rate -> requests of 400 that kept the first limit; all kept the second."""
    held = {
        index: tuple(Probe(rate=rate, n=400, kept=(kept, 400)) for rate, kept in each.items())
        for index, each in enumerate(replicates)
    }
    return ServiceLevel(slo=SLO, probes=(), held=held)


@pytest.mark.parametrize(
    ("kept", "monotone"),
    [
        ({1.0: 400, 2.0: 200}, True),
        ({1.0: 200, 2.0: 200}, True),
        ({1.0: 200, 2.0: 250}, True),  # 3.6 standard deviations
        ({2.0: 264, 1.0: 200}, False),  # 4.6
        ({1.0: 400, 2.0: 200, 3.0: 264}, False),
    ],
)
def test_a_lower_rate_that_did_worse_by_more_than_chance_is_seen(
    kept: dict[float, int], monotone: bool
) -> None:
    assert level(kept).monotone is monotone
    assert level({1.0: 400}, kept).monotone is monotone


@pytest.mark.parametrize(
    ("replicates", "why"),
    [
        ([], "no rate of arrivals was measured"),
        ([{1.0: 200, 2.0: 100}, {4.0: 0}], f"even 1 requests a second do not meet {SLO}"),
        ([{1.0: 400}, {2.0: 400}], f"every rate tried meets {SLO}"),
        ([{1.0: 400}, {2.0: 100}], "the search is unfinished; run it again to continue"),
        ([{1.0: 400, 100.0: 0}], "the search is unfinished; run it again to continue"),
        ([{1.0: 400, 1.4: 0}], ""),
    ],
)
def test_a_search_without_a_rate_says_why(replicates: list[dict[float, int]], why: str) -> None:
    assert level(*replicates).absent == why


def test_a_search_in_which_a_lower_rate_did_worse_is_marked(folder: Path) -> None:
    results = read(folder)
    first = [r for r in results.records if r.replicate == 0 and "none" in r.variant["name"]]
    rate = min(r.workload["rate"] for r in first if "rate" in r.workload)
    slow = [
        replace(r, samples=r.samples | {"prefill_s": [100 * s for s in r.samples["prefill_s"]]})
        if r in first and r.workload.get("rate") == rate
        else r
        for r in results.records
    ]
    marked, other = summarise(replace(results, records=slow)).rows
    assert len(marked.good) == 7
    for row, codes in ((marked, {"NOT_MONOTONE"}), (other, set())):
        assert {doubt.code for one in row.replicates for doubt in one.doubts} == codes


def curve(folder: Path, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> list[LoadPoint]:
    """Of the first replicate of the slow arm, with other samples."""
    results = read(folder)
    one = [
        replace(r, samples={**r.samples, **change(r.samples)})
        for r in results.records
        if r.replicate == 0 and "none" in r.variant["name"]
    ]
    found = summarise(replace(results, records=one)).rows[0].level
    assert found is not None
    return found.curve


def test_a_user_has_no_speed_where_few_answered_or_all_at_once(folder: Path) -> None:
    def first_five(samples: Mapping[str, Any]) -> dict[str, Any]:
        return {name: each[:5] for name, each in samples.items() if isinstance(each, list)}

    assert all(point.user_tok_s is not None for point in curve(folder, lambda _: {}))
    assert {point.user_tok_s for point in curve(folder, first_five)} == {None}
    in_one_piece = curve(folder, lambda samples: {"e2e_s": samples["prefill_s"]})
    assert {point.user_tok_s for point in in_one_piece} == {None}


def test_the_goodput_of_a_load_is_all_that_it_answers_where_each_is_in_time(folder: Path) -> None:
    def in_time(samples: Mapping[str, Any]) -> dict[str, Any]:
        n = len(samples["e2e_s"])
        return {"prefill_s": [0.1] * n, "e2e_s": [0.2] * n}

    for point in curve(folder, in_time):
        assert point.goodput_req_s == pytest.approx(point.requests_s)
    last = curve(folder, lambda _: {})[-1]
    assert (last.goodput_req_s or 0) < (last.requests_s or 0)


def test_the_cost_of_the_highest_load_is_a_verdict(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(folder), "--baseline", "none"]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"fp8\*\* against none: a token costs 0\.\d\dx \(.*\) at the highest load "
        r"within ttft_p95=0\.36,tpot_p95=0\.06: cheaper\.",
        said,
    )
    (verdict,) = assemble([folder]).verdicts
    assert verdict.words == "Cheaper, quality not known"
    assert "the highest load within ttft_p95=0.36" in verdict.facts[-1]
    assert main(["compare", str(folder), "--baseline", "fp8"]) == 0
    assert ": dearer." in capsys.readouterr().out
