"""One reading stage: the same figures, machines and doubts wherever results are read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest, ranksums

import bench
from bench.claims import SubClaim
from bench.claims.measured import measured
from bench.cli import main
from bench.engines.endpoint import window
from bench.exchange.exporting import export
from bench.exchange.frame import frame
from bench.experiment import Experiment, Grid
from bench.records import Environment, QualityRecord, Record, to_json
from bench.records.codes import CODES, Code
from bench.records.file import Results, read
from bench.report.page import assemble
from bench.report.page.document import to_markdown
from bench.report.tables.run import show
from bench.statistics import percentile, rank_sum_z, wilson
from bench.summary import METRICS, Metric, summarise
from bench.summary.quality import percentile as of_quality
from bench.summary.rows import tail
from tests.comparison.test_comparison import arms
from tests.report_results import quality, record

GPU = "NVIDIA GeForce RTX 4080 SUPER"
"""Decodes at most about 98 tok/s of llama-3.1-8b in 8 bits: 7.5 GB at 736 GB/s."""
FAST_S = 1 / 500
INT8 = "llama-3.1-8b/transformers/int8-weight-only"


def machine(gpu: str = GPU, id_: str = "e-4080", host: str = "node1") -> Environment:
    identity = {"gpu": gpu, "gpu_power_limit_w": 320.0, "host": host, "cpu": "Xeon"}
    return Environment(id=id_, identity=identity, state={})


def timed(quant: str, replicate: int, step_s: float, **changes: Any) -> Record:
    """One request at a time, 512 prompt tokens in 0.1 s and 64 new ones."""
    base = record(quant, 1, replicate, origin="measured", environment="e-4080", energy={})
    wobble = 1 + replicate / 1000
    samples = {
        "prefill_s": [0.1 * wobble] * 3,
        "itl_s": [[step_s * wobble] * 63] * 3,
        "e2e_s": [(0.1 + 63 * step_s) * wobble] * 3,
    }
    return replace(base, samples=samples, **changes)


def beyond_the_bound(pairs: int = 8) -> Results:
    """An unquantized arm at 40 tok/s, possible; and one in 8 bits at 500, impossible."""
    records = [
        one
        for i in range(pairs)
        for one in (timed("none", i, 1 / 40), timed("int8-weight-only", i, FAST_S))
    ]
    return Results(records=records, environments={"e-4080": machine()})


def stored(results: Results, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [*results.environments.values(), *results.records, *results.qualities]
    (folder / "records.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))
    return folder


def test_what_is_above_the_bound_is_invalid_in_every_reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = beyond_the_bound()
    folder = stored(results, tmp_path / "r")

    by_metric = {row["metric"]: row for row in bench.compare(results)}
    for metric in ("decode", "tpot", "prefill", "e2e", "cost"):
        assert by_metric[metric]["verdict"] == "invalid", metric
        assert by_metric[metric]["significant"] is False
        assert "ABOVE_BOUND" in by_metric[metric]["reasons"]
    assert by_metric["memory"]["verdict"] != "invalid"  # no matter of time

    assert main(["compare", str(folder), "--fail-below", "2"]) == 1  # the ratio would be 12.5
    assert "no valid interval (ABOVE_BOUND)" in capsys.readouterr().err

    plain, fast = bench.summarise(results)
    assert (plain["valid"], plain["reasons"]) == (True, [])
    assert (fast["valid"], fast["reasons"]) == (False, ["ABOVE_BOUND"])
    assert fast["figure_reasons"]["decode_tok_s"] == ["ABOVE_BOUND"]
    assert "peak_memory_bytes" not in fast["figure_reasons"]

    (cheap,) = [row for row in bench.price(results, rent=1.0) if row["variant"] == INT8]
    assert (cheap["valid"], cheap["reasons"]) == (False, ["ABOVE_BOUND"])

    table = frame(results)
    marked = table[table.variant == INT8]
    assert set(marked.reasons) == {"ABOVE_BOUND"}
    assert not marked.valid.any()
    assert "ABOVE_BOUND" in export(results, "md").data.decode()
    for form in ("pytorch-hud", "pytest-benchmark"):
        assert "ABOVE_BOUND" in export(results, form).data.decode(), form
    assert "ABOVE_BOUND" in to_markdown(assemble([folder]))


def test_a_claim_does_not_rest_on_what_is_above_the_bound() -> None:
    part: Any = bench_claim()
    (found,) = measured(part, "none", summarise(beyond_the_bound()))
    assert found.value is None
    assert found.invalid is not None
    assert found.invalid.startswith("ABOVE_BOUND")


def bench_claim() -> SubClaim:
    from types import SimpleNamespace

    way = SimpleNamespace(
        experiment="demo", also=(), n_batch=None, gpu=None, across=None, figure="decode_tok_s"
    )
    made: Any = SimpleNamespace(
        treatment="int8-weight-only",
        decided_by=SimpleNamespace(records=way),
        quality_gate=None,
    )
    return made  # type: ignore[no-any-return]


def two_machines() -> Results:
    """One arm and its baseline, each on an RTX 4080 SUPER and on an H200, with its quality."""
    records = [
        timed(quant, i, step_s, environment=id_, key=f"{quant}{i}")
        for id_, step_s in (("e-4080", 1 / 20), ("e-h200", 1 / 100))
        for quant in ("none", "int8-weight-only")
        for i in range(2)
    ]
    return Results(
        records=records,
        environments={
            "e-4080": machine(),
            "e-h200": machine("NVIDIA H200", "e-h200", "node2"),
        },
        qualities=[
            quality(quant, environment=id_, origin="measured")
            for id_ in ("e-4080", "e-h200")
            for quant in ("none", "int8-weight-only")
        ],
    )


def test_two_machines_are_two_rows_in_every_reader(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = two_machines()
    rows = [row for row in bench.summarise(results) if row["variant"] == INT8]
    assert [row["machine"] for row in rows] == [GPU, "NVIDIA H200"]
    assert [round(row["decode_tok_s"]) for row in rows] == [20, 100]
    assert [row["n_replicates"] for row in rows] == [2, 2]

    folders = [
        stored(replace_records(results, id_), tmp_path / id_) for id_ in ("e-4080", "e-h200")
    ]
    assert main(["compare", *map(str, folders), "--pareto", "-o", "json"]) == 0
    arms_ = [row for row in json.loads(capsys.readouterr().out) if row["variant"] == INT8]
    assert {row["machine"] for row in arms_} == {GPU, "NVIDIA H200"}
    assert main(["compare", *map(str, folders), "--pareto"]) == 0
    assert "| machine" in capsys.readouterr().out

    assert main(["export", *map(str, folders), "--to", "md"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "int8" in line]
    assert len(lines) == 2
    assert GPU in lines[0]
    assert "NVIDIA H200" in lines[1]
    assert main(["export", *map(str, folders), "--to", "csv"]) == 0
    exported = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    speeds = {(row["gpu"], round(float(row["decode_tok_s"]))) for row in exported}
    assert speeds == {(GPU, 20), ("NVIDIA H200", 100)}


def replace_records(results: Results, environment: str) -> Results:
    """The part of one environment."""
    return Results(
        records=[r for r in results.records if r.environment == environment],
        environments={environment: results.environments[environment]},
        qualities=[q for q in results.qualities if q.environment == environment],
    )


def test_quality_of_one_machine_is_not_that_of_the_other() -> None:
    results = two_machines()
    worse = replace(results.qualities[-1], nll=tuple(x + 1 for x in results.qualities[-1].nll))
    results.qualities[-1] = worse
    first, second = (row["ppl"] for row in bench.summarise(results) if row["variant"] == INT8)
    assert second == pytest.approx(first * 2.718281828)


def test_the_99th_percentile_of_1_to_100_is_99_everywhere() -> None:
    values = [float(n) for n in range(1, 101)]
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    assert "nearest rank" in page
    assert percentile(values, 0.99) == tail(values) == 99.0
    assert of_quality is percentile
    assert window.percentile is percentile  # type: ignore[attr-defined]
    assert percentile(values, 0.95) == 95.0
    assert percentile(values[:20], 0.95) == 19.0  # 0.95 * 20 is a little above 19 in floats
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([], 0.5) is None


def test_our_own_statistics_are_scipys() -> None:
    ours, theirs = wilson(90, 100), binomtest(90, 100).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    first, second = [1.0, 2.0, 2.5, 4.0], [3.0, 3.5, 5.0, 6.0]
    assert rank_sum_z(first, second) == pytest.approx(-ranksums(first, second).statistic)


UNSTEADY = {"reasons": ("NO_STEADY_STATE",), "warmup": {"steady": False, "unsteady": ["prefill"]}}


def unsteady(warmup: dict[str, Any] = UNSTEADY["warmup"]) -> Results:  # type: ignore[assignment]
    """Two arms whose prompts' times had not settled; decoding had."""
    change: Callable[[int, str], dict[str, Any]] = lambda i, q: UNSTEADY | {"warmup": warmup}  # noqa: E731
    return arms(1.5, change=change)


def test_unsteady_prefill_leaves_decoding_valid_everywhere() -> None:
    results = unsteady()
    by_metric = {row["metric"]: row for row in bench.compare(results)}
    assert (by_metric["decode"]["verdict"], by_metric["decode"]["reasons"]) == ("higher", [])
    assert (by_metric["tpot"]["verdict"], by_metric["tpot"]["reasons"]) == ("lower", [])
    for metric in ("prefill", "ttft", "e2e", "cost"):  # a request holds its prompt
        assert by_metric[metric]["verdict"] == "invalid"
        assert by_metric[metric]["reasons"] == ["NO_STEADY_STATE"]

    experiment = Experiment(name="e", question="?", grid=Grid(model=("m",)))
    (row, _) = json.loads(show(experiment, results, Path("x"), "json"))
    assert row["valid"] is True
    assert row["reasons"] == ["NO_STEADY_STATE"]
    assert row["figure_reasons"]["prefill_tok_s"] == ["NO_STEADY_STATE"]
    assert not {"decode_tok_s", "tpot_s"} & row["figure_reasons"].keys()
    text = show(experiment, results, Path("x"), "md")
    assert "yes, but prefill: NO_STEADY_STATE" in text

    table = frame(results)
    assert table.valid.all()
    assert "decode_tok_s" not in table.figure_reasons[0]
    assert "prefill_tok_s" in table.figure_reasons[0]
    assert "yes, but prefill: NO_STEADY_STATE" in export(results, "md").data.decode()


def test_a_record_that_does_not_say_which_phase_was_unsteady_is_doubtful_in_both() -> None:
    row = bench.summarise(unsteady({"steady": False}))[0]
    assert row["valid"] is False
    assert row["figure_reasons"]["decode_tok_s"] == ["NO_STEADY_STATE"]


def test_unsteady_decoding_leaves_prefill_valid() -> None:
    results = unsteady({"steady": False, "unsteady": ["decode"]})
    assert bench.summarise(results)[0]["valid"] is False
    by_metric = {row["metric"]: row["verdict"] for row in bench.compare(results)}
    assert (by_metric["prefill"], by_metric["decode"]) == ("higher", "invalid")


def test_a_new_metric_is_one_entry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longest = Metric(
        name="longest_gap_s",
        meaning="longest time between two tokens, s",
        of=lambda raw: max(gap for gaps in raw.record.samples["itl_s"] for gap in gaps),
        parts=frozenset({"decode"}),
        compared="longest-gap",
        words="longest gap",
        heading="longest gap s",
    )
    monkeypatch.setitem(METRICS, longest.name, longest)
    results = arms(2.0)
    folder = stored(results, tmp_path / "r")

    assert bench.summarise(results)[0]["longest_gap_s"] == pytest.approx(0.1, rel=0.02)
    experiment = Experiment(name="e", question="?", grid=Grid(model=("m",)))
    assert "longest gap s" in show(experiment, results, Path("x"), "md")
    assert main(["compare", str(folder), "--metric", "longest-gap", "-o", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["verdict"], row["better"]) == ("lower", "lower")
    assert row["ratio"] == pytest.approx(0.5, rel=0.01)
    assert "longest_gap_s" in export(results, "csv").data.decode().splitlines()[0]
    assert "longest gap s" in export(results, "md").data.decode()
    page = assemble([folder])
    assert "longest gap s" in [head.text for head in page.headline[0].heads]
    assert "longest-gap" in to_markdown(page)
    assert "longest_gap_s" in page.downloads["summary.csv"].splitlines()[0]


def test_a_new_code_is_one_entry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = Code(
        name="FAN_STOPPED",
        sentence="the fan of the card stood still",
        touches=frozenset({"decode"}),
        excludes=True,
    )
    monkeypatch.setitem(CODES, code.name, code)
    results = arms(2.0, change=lambda i, q: {"reasons": ("FAN_STOPPED",)})
    folder = stored(results, tmp_path / "r")
    sentence = "the fan of the card stood still"

    assert main(["validate", str(folder)]) == 0
    capsys.readouterr()
    experiment = Experiment(name="e", question="?", grid=Grid(model=("m",)))
    assert sentence in show(experiment, results, Path("x"), "md")
    row = bench.summarise(results)[0]
    assert row["valid"] is False
    assert "prefill_tok_s" not in row["figure_reasons"]
    by_metric = {one["metric"]: one for one in bench.compare(results)}
    assert by_metric["decode"]["verdict"] == "invalid"
    assert by_metric["decode"]["reasons"] == ["FAN_STOPPED"]
    assert (by_metric["prefill"]["verdict"], by_metric["prefill"]["reasons"]) == ("higher", [])
    assert main(["compare", str(folder)]) == 0
    assert sentence in capsys.readouterr().out
    assert set(frame(results).reasons) == {"FAN_STOPPED"}
    assert sentence in to_markdown(assemble([folder]))


def test_a_former_name_of_a_code_is_read_as_the_code() -> None:
    results = arms(2.0, change=lambda i, q: {"reasons": ("FAILED_REQUESTS",)})
    assert bench.summarise(results)[0]["reasons"] == ["REQUESTS_FAILED"]
    (row,) = bench.compare(results, metrics=["decode"])
    assert (row["verdict"], row["reasons"]) == ("invalid", ["REQUESTS_FAILED"])


def test_every_code_is_on_the_page_of_the_method() -> None:
    page = (Path(__file__).parents[2] / "docs" / "method.md").read_text()
    assert [name for name in CODES if f"`{name}`" not in page] == []


def test_a_code_that_does_not_exclude_says_why_a_verdict_may_stand() -> None:
    assert [code.name for code in CODES.values() if not code.excludes and not code.still] == []


def test_reading_again_gives_the_same(tmp_path: Path) -> None:
    both = two_machines()
    results = read(
        *(stored(replace_records(both, id_), tmp_path / id_) for id_ in both.environments)
    )
    assert not results.problems
    summary = summarise(results)
    assert summarise(summary) is summary
    assert len(summary) == 4
    assert {type(one.record) for one in summary.qualities} == {QualityRecord}
