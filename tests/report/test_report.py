"""The report: what stands on the page, that it is safe, and that it never vanishes silently."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.cost.hour import as_scenario
from bench.errors import InputError
from bench.experiment import CostAssumption, load_experiment
from bench.records import Record
from bench.records.file import read
from bench.report.page import PageOptions, assemble, pictures
from bench.report.page.blocks import Report, Table
from bench.report.page.document import to_markdown
from bench.report.page.drawing import LIGHT, VARIABLES, for_page, to_png, to_svg
from bench.report.page.machines import MOST_REPLICATES, MOST_ROWS, machines
from bench.report.page.webpage import to_html
from bench.report.page.words import between, number, ratio
from tests.report_results import ARMS, environment, quality, record, write, write_card

ROOT = Path(__file__).parents[2]
QUICKSTART = load_experiment(str(ROOT / "results" / "quickstart-cpu" / "experiment.toml"))
EVIL = '</script><img src=x onerror="alert(1)">&lt;b>'


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_card(tmp_path_factory.mktemp("report") / "card")


@pytest.fixture(scope="module")
def report(card: Path) -> Report:
    return assemble([card])


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return to_html(report)


class Tags(HTMLParser):
    """Every tag with its attributes, and the ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def ids(self) -> list[str]:
        return [str(attrs["id"]) for _, attrs in self.tags if "id" in attrs]


def test_the_first_screen_has_question_verdicts_and_the_table(report: Report) -> None:
    assert report.question.startswith("Does 8-bit make an 8B model faster")
    int8, fp8 = report.verdicts
    assert (int8.tone, int8.words, int8.figure) == ("good", "Faster, at equal quality", "1.53×")
    assert (fp8.tone, fp8.words) == ("mixed", "Faster, not at equal quality")
    heads = [head.text for head in report.headline[0].heads]
    assert heads == [
        "variant",
        "workload",
        "decode",
        "prefill",
        "memory",
        "energy",
        "perplexity",
        "cost",
        "valid",
        "records",
    ]
    assert len(report.headline[0].lines) == len(ARMS) * 4


def test_figures_of_the_table_are_those_of_the_records(report: Report, card: Path) -> None:
    from bench.api import summarise
    from bench.cost.pricing import Terms, price
    from bench.cost.throughput import throughputs

    rows = summarise(read(card))
    cost = CostAssumption(usd_per_hour=2.0, utilization=0.5, source="x")
    costs = price(throughputs(read(card)), as_scenario(cost), Terms())
    for line, row, paid in zip(report.headline[0].lines, rows, costs, strict=True):
        values = [cell.value for cell in line.cells]
        keys = ("decode_tok_s", "prefill_tok_s", "peak_memory_bytes")
        expected = [row[key] for key in (*keys, "energy_per_output_token_j", "ppl_ratio")]
        expected.append(paid.usd_per_mtok)
        assert values[2:8] == pytest.approx(expected)
        assert line.cells[7].detail == between(paid.ci_low, paid.ci_high)


def test_every_part_of_the_answer_is_there(report: Report) -> None:
    drawn = {picture.id for picture in report.pictures if picture.spec}
    assert drawn == {
        "m1-forest",
        "m1-ratio-batch",
        "m1-latency",
        "m1-cost-curve",
        "m1-trade-weights",
        "m1-trade-cost",
        "m1-roofline",
        "m1-joules",
        "m1-pay-back",
    }
    assert [section.id for section in report.sections] == [
        "m1-ratios",
        "m1-batch",
        "m1-quality",
        "m1-limit",
        "m1-energy",
        "m1-apis",
        "claims",
        "m1-machine",
        "m1-behind",
    ]
    assert all(not section.missing for section in report.sections)
    claims = next(section for section in report.sections if section.id == "claims")
    assert any(isinstance(block, Table) and block.lines for block in claims.blocks)


def test_no_measured_point_lies_above_the_roof(report: Report) -> None:
    spec = next(p.spec for p in report.pictures if p.id == "m1-roofline")
    assert spec is not None
    rows = [row for data in spec["datasets"].values() for row in data]
    points = [row for row in rows if "phase" in row]
    top = max(row["y"] for row in rows if "phase" not in row)
    bandwidth = 4.8e12
    assert len(points) == len(ARMS) * 4 * 2
    assert all(row["y"] <= min(top, row["x"] * bandwidth) for row in points)


def test_what_is_missing_says_why() -> None:
    report = assemble([ROOT / "results" / "quickstart-cpu"], PageOptions(claims=()))
    missing = {section.id: section.missing for section in report.sections if section.missing}
    assert "only one batch size was measured" in missing["m1-batch"]
    assert "a CPU has no data sheet here" in missing["m1-limit"]
    assert "RAPL" in missing["m1-energy"]
    assert "No claims" in missing["claims"]
    assert any("No energy: no RAPL" in note for note in report.headline[0].notes)
    words = [verdict.words for verdict in report.verdicts]
    assert all(word.startswith("No verdict") for word in words)
    assert "No verdict from 3 pairs (6 are needed); not at equal quality" in words
    arms = [f"{arm} against none" for arm in QUICKSTART.grid.quant[1:]]
    assert [verdict.name for verdict in report.verdicts] == arms  # in the experiment's order
    assert {verdict.tone for verdict in report.verdicts} == {"open"}


def test_a_single_arm_and_no_experiment_are_no_error(tmp_path: Path) -> None:
    lines = [environment(), *(record("none", 1, i) for i in range(2))]
    report = assemble([write(tmp_path, lines, experiment=None)], PageOptions(claims=()))
    assert report.verdicts == ()
    assert "there is only one arm" in report.no_verdict
    assert report.question == "What does a token cost on this machine?"
    assert "no price given" in report.headline[0].lines[0].cells[-3].detail
    assert "<h1>" in to_html(report)


def test_failed_replicates_are_shown_not_left_out(tmp_path: Path) -> None:
    lines = [environment(), *(record("none", 1, i) for i in range(6))]
    lines += [
        record(
            "fp8-dynamic",
            1,
            i,
            status="failed",
            reasons=("OOM",),
            samples={},
            memory={},
            energy={},
            model={},
            message="out of memory",
        )
        for i in range(6)
    ]
    report = assemble([write(tmp_path, lines)], PageOptions(claims=()))
    failed = report.headline[0].lines[1].cells
    assert failed[1].text == "–"
    assert "OOM" in failed[-2].detail
    html = to_html(report)
    assert "out of memory" in html


def test_only_failed_records_are_a_page_that_says_why(tmp_path: Path) -> None:
    failed: dict[str, Any] = {
        "status": "failed",
        "reasons": ("OOM",),
        "samples": {},
        "memory": {},
        "energy": {},
        "model": {},
        "message": "out of memory",
    }
    lines = [environment(), *(record(q, 1, i, **failed) for q in ARMS for i in range(3))]
    report = assemble([write(tmp_path, lines)], PageOptions(claims=()))
    assert [line.cells[-1].text for line in report.headline[0].lines] == ["0 of 3"] * 3
    first = report.verdicts[0]
    assert (first.figure, first.facts[0]) == ("–", "decoding speed")
    assert first.words.startswith("No verdict: out of memory")
    assert "out of memory" in to_html(report)


def test_quality_without_a_timed_record_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="quality, but no timed record"):
        assemble([write(tmp_path, [environment(), *(quality(q) for q in ARMS)])])


def test_rent_replaces_the_experiments_assumption(card: Path) -> None:
    cost = CostAssumption(usd_per_hour=4.0, utilization=0.5, source="--rent")
    dear = assemble([card], PageOptions(claims=(), cost=cost)).headline[0].lines[0].cells[7].value
    cheap = assemble([card], PageOptions(claims=())).headline[0].lines[0].cells[7].value
    assert dear is not None
    assert cheap is not None
    assert dear == pytest.approx(2 * cheap)


def test_a_baseline_that_is_not_there_is_refused(card: Path) -> None:
    with pytest.raises(InputError, match="--baseline: unknown baseline 'nonee'"):
        assemble([card], PageOptions(baseline="nonee"))


def test_records_of_other_tools_are_shown_and_not_judged(tmp_path: Path) -> None:
    file = ROOT / "tests" / "data" / "imports" / "llama-bench" / "smollm2.json"
    assert main(["import", "llama-bench", str(file), "--into", str(tmp_path)]) == 0
    report = assemble([tmp_path], PageOptions(claims=()))
    assert report.warnings[0].startswith("Origin of the records: llama-bench")
    assert report.verdicts == ()
    assert "– (llama-bench times the prompt apart" in to_markdown(report)
    assert "<h1>" in to_html(report)


def test_arms_that_were_not_measured_in_pairs_have_a_ratio_and_no_verdict(tmp_path: Path) -> None:
    lines = [environment()]
    lines += [record(q, 1, i, origin="vllm") for i in range(8) for q in ("none", "fp8-dynamic")]
    (verdict,) = assemble([write(tmp_path, lines)], PageOptions(claims=())).verdicts
    assert verdict.figure == "1.37×"
    assert verdict.tone == "open"
    assert verdict.words.startswith("No verdict: ")


def test_a_rate_above_the_bound_is_no_evidence(tmp_path: Path) -> None:
    # The figures of the H200 on a card with a sixth of its bandwidth.
    card = write_card(tmp_path, gpu="NVIDIA L40S")
    report = assemble([card], PageOptions(claims=()))
    assert (
        report.verdicts[0].words
        == "No verdict: faster than the physical limit: a measurement error"
    )
    assert all("ABOVE_BOUND" in line.cells[-2].detail for line in report.headline[0].lines[:2])
    ratios = next(p.table for p in report.pictures if p.id == "m1-forest")
    assert ratios is not None
    said = {line.cells[1].text: line.cells[4].text for line in ratios.lines}
    assert said["memory"] == "lower"
    assert said["decode"] == "invalid"


# ---- several machines


def test_only_comparable_rows_of_two_machines_are_compared(tmp_path: Path) -> None:
    h200 = write_card(tmp_path / "a", pairs=6)
    lines = [environment("NVIDIA L40S", "e-l40s")]
    lines += [
        record(q, 1, i, environment="e-l40s") for i in range(6) for q in ("none", "fp8-dynamic")
    ]
    other = write(tmp_path / "b", lines)
    report = assemble([h200, other], PageOptions(claims=()))
    beside = next(section for section in report.sections if section.id == "machines")
    (table,) = beside.blocks
    assert isinstance(table, Table)
    assert [head.text for head in table.heads][2:] == ["NVIDIA H200", "NVIDIA L40S"]
    assert [line.cells[1].text for line in table.lines] == ["512+64 ×1", "512+64 ×1"]
    # No verdict crosses machines: each has its own baseline.
    assert {verdict.href for verdict in report.verdicts} == {"m1-ratios", "m2-ratios"}
    assert report.verdicts[0].name == "int8-weight-only against none, NVIDIA H200"
    assert report.explorer["rows"][-1]["name"].endswith(", NVIDIA L40S")
    ids = Tags(to_html(report)).ids()
    assert len(ids) == len(set(ids))


def test_equal_machines_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    folders = []
    for name, changes in (("a", {"gpu_driver": "1"}), ("b", {"gpu_driver": "2"})):
        base = environment(id_=f"e-{name}-long-identifier")
        one = replace(base, identity=base.identity | changes)
        lines = [one, *(record(q, 1, i, environment=one.id) for i in range(6) for q in ARMS)]
        folders.append(write(tmp_path / name, lines))
    report = assemble(folders, PageOptions(claims=()))
    assert list(dict.fromkeys(v.machine for v in report.verdicts)) == [
        "NVIDIA H200 (driver 1)",
        "NVIDIA H200 (driver 2)",
    ]
    html = to_html(report)
    assert html.count('<h2 class="place">NVIDIA H200 (') == 2
    captions = re.findall(r"<caption[^>]*>(?!.*NVIDIA)(.*?)</caption>", html)
    assert captions == ["Cost under your assumptions", "What drives it", "Machines"]


# ---- safety


def test_the_policy_names_exactly_the_scripts_and_styles_that_run(page: str) -> None:
    tags = Tags(page).tags
    policy = next(a["content"] for t, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    inline = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    inline += re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert len(inline) == 3
    for text in inline:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_the_page_loads_nothing_and_has_no_handlers(page: str) -> None:
    for tag, attributes in Tags(page).tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert "style" not in attributes
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        if tag == "a":
            assert str(attributes["href"]).startswith("#")


def test_links_lead_to_places_in_the_page(page: str) -> None:
    parsed = Tags(page)
    ids = parsed.ids()
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for t, a in parsed.tags if t == "a"}
    assert targets <= set(ids)


def test_markup_in_records_stays_text(tmp_path: Path) -> None:
    named = {"name": f"m/transformers/{EVIL}", "quant": EVIL, "model": EVIL}
    lines = [environment(gpu=EVIL)]
    for i in range(6):
        lines.append(record("none", 1, i))
        evil = record("fp8-dynamic", 1, i)
        lines.append(
            record(
                "fp8-dynamic",
                1,
                i,
                variant=evil.variant | named,
                key=f"{EVIL}{i}",
                reasons=(EVIL,),
                message=EVIL,
            )
        )
    lines += [quality("none")]
    text = f'name = "demo"\nquestion = {json.dumps(EVIL)}\n'
    report = assemble([write(tmp_path, lines, text)], PageOptions(claims=()))
    html = to_html(report)
    tags = Tags(html).tags
    assert "img" not in {tag for tag, _ in tags}
    assert all("onerror" not in attributes for _, attributes in tags)
    data = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)
    assert EVIL in json.loads(data[0])["rows"][-1]["name"]
    assert "<img" not in to_markdown(report).replace("&lt;img", "")


# ---- the other writers


def test_downloads_hold_the_records_as_they_were(
    report: Report, card: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "records.jsonl"
    copy.write_text(report.downloads["records.jsonl"], encoding="utf-8")
    assert read(copy).records == read(card).records
    assert report.downloads["summary.csv"].count("\n") == 1 + len(ARMS) * 4


def test_markdown_has_the_same_figures(report: Report) -> None:
    text = to_markdown(report)
    assert text.startswith("# Does 8-bit make an 8B model")
    assert "**int8-weight-only against none**: 1.53×. Faster, at equal quality." in text
    assert "| none" in text
    assert "109.9 (109.6 to 110.2)" in text


def test_figures_are_written_as_svg_and_png(card: Path, tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    assert main(["report", str(card), "--to", str(folder), "--claim", "vllm-fp8"]) == 0
    names = {path.name for path in folder.iterdir()}
    assert {"m1-forest.svg", "m1-forest.png", "m1-roofline.svg"} <= names
    assert (folder / "m1-forest.png").read_bytes().startswith(b"\x89PNG")
    assert "1.53×" in (folder / "m1-forest.svg").read_text(encoding="utf-8")


def test_a_comparison_can_be_drawn(
    card: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ratios.svg"
    assert main(["compare", str(card), "--plot", str(file)]) == 0
    assert "decoding speed" in file.read_text(encoding="utf-8")
    assert main(["compare", str(card), "--plot", str(tmp_path / "ratios.pdf")]) == 2
    assert "ends neither in .svg nor in .png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--to", "x.pdf"], 2, "--to: x.pdf is neither FILE.html, FILE.md nor a folder"),
        (["--to", "x.html", "--utilization", "0.5"], 2, "--utilization: needs --rent"),
        (["--to", "x.html", "--rent", "-1"], 2, "--rent: -1 must be a number above 0"),
        (["--to", "x.html", "--rent", "inf"], 2, "--rent: inf must be a number above 0"),
        (["--to", "x.html", "--claim", "unsloth"], 2, "did you mean 'unsloth-r1'"),
    ],
)
def test_bad_input_is_one_line(
    card: Path,
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(card), *arguments]) == code
    err = [line for line in capsys.readouterr().err.splitlines() if "Origin of" not in line]
    assert len(err) == 1
    assert words in err[0]


# ---- drawing


def test_colours_of_a_chart_are_the_themes() -> None:
    rows = [
        {"variant": f"v{i}", "n_batch": b, "y": b + i, "low": b, "high": b + i + 1}
        for i in range(1, 4)
        for b in (1, 2)
    ]
    spec = pictures.over_batch(rows, ["v1", "v2", "v3"], "y")
    on_page, alone = for_page(spec), to_svg(spec)
    assert re.findall(r"#[0-9a-f]{6}", on_page) == []
    assert all(f"var(--s{i})" in on_page for i in (1, 2, 3))
    assert not [name for name in LIGHT if name in alone]
    assert "style=" not in on_page  # the policy would block it
    css = (ROOT / "bench/report/page/report.css").read_text(encoding="utf-8")
    for variable in VARIABLES.values():
        name = variable.removeprefix("var(").removesuffix(")")
        assert css.count(f"{name}: ") == 3, "light, dark, and dark by the system"
    assert to_png(spec).startswith(b"\x89PNG")


def test_an_arm_looks_alike_in_every_chart_and_no_two_look_the_same() -> None:
    arms = [f"v{i}" for i in range(20)]
    rows = [
        {"variant": arm, "n_batch": b, "y": 1.0, "low": 1.0, "high": 1.0, "x": b, "label": "1"}
        for arm in arms
        for b in (1, 2)
    ]

    def looks(drawn: list[dict[str, Any]], make: Any, *more: str) -> dict[str, tuple[str, str]]:
        points = make(drawn, arms, *more)["layer"][-1 if make is pictures.over_batch else 1]
        colour, shape = (points["encoding"][name]["scale"] for name in ("color", "shape"))
        assert colour["domain"] == shape["domain"]
        return dict(
            zip(colour["domain"], zip(colour["range"], shape["range"], strict=True), strict=True)
        )

    every = looks(rows, pictures.over_batch, "y")
    assert len(set(every.values())) == len(arms)
    assert looks(rows[6:], pictures.batches) == {arm: every[arm] for arm in arms[3:]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.0346, "0.0346"),
        (0.343, "0.343"),
        (1.0, "1.00"),
        (14.08, "14.1"),
        (489.1, "489"),
        (1234.5, "1,234"),
        (25_601.3, "25,601"),
    ],
)
def test_numbers_have_three_figures(value: float, text: str) -> None:
    assert number(value) == text


def test_ratios_and_intervals_as_text() -> None:
    assert ratio(2.756) == "2.76×"
    assert ratio(0.0367) == "0.037×"
    assert between(1.0, 1.0001) == "1.00"
    assert between(None, 2.0) == ""


# ---- size


def many(groups: int, replicates: int) -> list[Record]:
    """Records of more arms and workloads than a page shows."""
    found = []
    for g in range(groups):
        for i in range(replicates):
            base = record("none" if g % 2 else "int8-weight-only", 1, i)
            work = base.workload | {"n_prompt": 8 * (1 + g // 2)}
            found.append(
                record("none" if g % 2 else "int8-weight-only", 1, i, workload=work, key=f"{g}-{i}")
            )
    return found


def test_large_inputs_are_summarised(tmp_path: Path) -> None:
    folder = write(tmp_path, [environment(), *many(2 * MOST_ROWS, 2)])
    report = assemble([folder], PageOptions(claims=()))
    assert len(report.headline[0].lines) == MOST_ROWS
    assert any(f"{MOST_ROWS} of {2 * MOST_ROWS}" in n for n in report.headline[0].notes)
    assert report.downloads["summary.csv"].count("\n") == 1 + 2 * MOST_ROWS


def test_the_first_replicates_are_compared_where_there_are_very_many(tmp_path: Path) -> None:
    folder = write(tmp_path, [environment(), *many(2, MOST_REPLICATES + 5)])
    results = read(folder)
    (machine,) = machines(results, {})
    assert {row.n_pairs for row in machine.compared} == {MOST_REPLICATES}
    assert machine.n_records == len(results.records)
    notes = assemble([folder], PageOptions(claims=())).headline[0].notes
    assert "Of up to 45 replicates of each, the first 40 are used here." in notes
