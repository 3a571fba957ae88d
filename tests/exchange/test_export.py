"""Exports: what other tools read, what is dropped, and the way back."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.api import summarise
from bench.cli import main, parser
from bench.errors import InputError, UnsupportedError
from bench.exchange import FORMATS, TOOLS
from bench.exchange.exporting import export
from bench.exchange.frame import COLUMNS, frame
from bench.exchange.importing import import_file
from bench.experiment import CostAssumption
from bench.records import Environment, QualityRecord, Record
from bench.records.file import Results, Writer, read
from bench.summary import SPEEDS
from bench.text import csv_cell
from tests.summary.test_summary import quality, record

ENVIRONMENT = Environment(
    id="e1",
    identity={
        "host": "h",
        "cpu": "C",
        "gpu": "NVIDIA H200",
        "gpu_driver": "580.1",
        "torch": "2.13",
    },
    state={"commit": "c0ffee", "time": "2026-11-23T00:00:00+00:00", "dirty": False},
)
QUICKSTART = Path(__file__).parents[2] / "results" / "quickstart-cpu"


def results(*records: Record, qualities: tuple[QualityRecord, ...] = ()) -> Results:
    return Results(
        environments={"e1": ENVIRONMENT}, records=list(records), qualities=list(qualities)
    )


def text(made: Results, to: str, **stated: Any) -> str:
    price = CostAssumption(source="a test", **stated) if stated else None
    return export(made, to, price).data.decode()


# ---- records of all kinds, for the way there and back ----------------------------------------

seconds = st.floats(1e-6, 1e3, allow_nan=False)
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)


@st.composite
def a_record(draw: st.DrawFn, number: int) -> Record:
    n_gen = draw(st.integers(1, 4))
    prefill = draw(st.lists(seconds, min_size=1, max_size=3))
    gaps = [draw(st.lists(seconds, min_size=n_gen - 1, max_size=n_gen - 1)) for _ in prefill]
    samples = {
        "prefill_s": prefill,
        "itl_s": gaps,
        "e2e_s": [first + sum(rest) for first, rest in zip(prefill, gaps, strict=True)],
    }
    return record(
        draw(st.sampled_from(["none", "int8", "odd|name é"])),
        draw(st.integers(0, 3)),
        key=f"k{number}",
        workload={"n_prompt": draw(st.integers(1, 9)), "n_gen": n_gen, "n_batch": 2},
        started_at=f"2026-11-23T00:00:{draw(st.integers(0, 59)):02}+00:00",
        samples=samples,
        reasons=tuple(draw(st.sets(st.sampled_from(["DRIFT", "NO_STEADY_STATE"])))),
        absent=draw(st.dictionaries(st.sampled_from(["energy_j", "turbo"]), words)),
        memory=draw(st.sampled_from([{}, {"peak_host_bytes": 5000}])),
        energy=draw(st.sampled_from([{}, {"decode": {"energy_j": 3.0, "tokens": 9}}])),
    )


@st.composite
def many(draw: st.DrawFn) -> Results:
    count = draw(st.integers(1, 5))
    return results(
        *(draw(a_record(number)) for number in range(count)),
        qualities=draw(st.sampled_from([(), (quality("none", 2.0), quality("int8", 2.5))])),
    )


@settings(max_examples=15, deadline=None)
@given(many())
def test_our_lines_come_back_as_they_were(made: Results) -> None:
    with TemporaryFolder() as folder:
        path = folder / "out.jsonl"
        path.write_bytes(export(made, "jsonl").data)
        import_file("jsonl", path, folder / "into")
        assert read(folder / "into") == made
        assert import_file("jsonl", path, folder / "into").added == 0


@settings(max_examples=15, deadline=None)
@given(many())
def test_pytest_benchmark_holds_every_speed_of_every_replicate(made: Results) -> None:
    with TemporaryFolder() as folder:
        path = folder / "out.json"
        path.write_bytes(export(made, "pytest-benchmark").data)
        import_file("pytest-benchmark", path, folder / "into")
        back = read(folder / "into")
        assert import_file("pytest-benchmark", path, folder / "into").added == 0
    assert {one.origin for one in back.records} == {"pytest-benchmark"}
    assert _speeds(back) == _speeds(made)
    assert _facts(back) == _facts(made)


def _facts(made: Results) -> list[Any]:
    """What a record of the format can hold beside its speeds."""
    return sorted(
        (
            one.variant["name"],
            one.replicate,
            one.started_at,
            # The records drawn here need not add up, which an import marks.
            tuple(code for code in one.reasons if code != "CONTRADICTION"),
            str(one.workload),
            sorted((name, why) for name, why in one.absent.items() if name != "self_check"),
            str(one.memory),
            str(one.energy),
        )
        for one in made.records
    )


def _speeds(made: Results) -> list[Any]:
    rows = [
        [
            row["variant"],
            row["n_prompt"],
            row["n_gen"],
            row["n_replicates"],
            *(None if row[name] is None else f"{row[name]:.9g}" for name in SPEEDS),
        ]
        for row in summarise(made)
    ]
    return sorted(rows, key=str)


class TemporaryFolder:
    """A folder for each example of a property."""

    def __enter__(self) -> Path:
        import tempfile

        self._folder = tempfile.TemporaryDirectory()
        return Path(self._folder.__enter__())

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


@settings(max_examples=10, deadline=None)
@given(many())
def test_csv_and_parquet_hold_the_table(made: Results) -> None:
    pytest.importorskip("pyarrow")
    table = frame(made)
    types = {c.name: c.type for c in COLUMNS if c.name != "started_at"}
    kept = io.BytesIO(export(made, "csv").data)
    back = pandas.read_csv(kept, dtype=types, parse_dates=["started_at"])
    # Empty text and no text are one in a CSV file.
    strings = [c.name for c in COLUMNS if c.type == "str"]
    left, right = (one.copy() for one in (table, back))
    for one in (left, right):
        one[strings] = one[strings].fillna("")
    left[strings] = left[strings].map(csv_cell)  # what spreadsheets would take for orders
    pandas.testing.assert_frame_equal(left, right)
    stored = pandas.read_parquet(io.BytesIO(export(made, "parquet").data))
    pandas.testing.assert_frame_equal(table, stored)


# ---- single formats --------------------------------------------------------------------------


def test_pytest_benchmark_itself_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "0001_ours.json"
    assert main(["export", str(QUICKSTART), "--to", "pytest-benchmark", "--out", str(path)]) == 0
    tool = [sys.executable, "-m", "pytest_benchmark"]
    done = subprocess.run([*tool, "compare", str(path)], capture_output=True, text=True, check=True)
    assert "smollm2-135m-instruct/transformers/none[128+24x1]" in done.stdout
    storage = tmp_path / "store" / "machine"
    storage.mkdir(parents=True)
    (storage / path.name).write_bytes(path.read_bytes())
    done = subprocess.run(
        [*tool, "--storage", f"file://{storage.parent}", "list"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "0001_ours.json" in done.stdout


def test_pytest_benchmark_holds_a_second_for_each_fresh_process() -> None:
    window = {"energy_j": 30.0, "window_s": 10.0, "tokens": 100, "scope": "gpu-board"}
    made = results(*(record("none", i, energy={"decode": window}) for i in range(3)))
    table = json.loads(text(made, "pytest-benchmark", usd_per_hour=0.36))
    (entry,) = table["benchmarks"]
    info = entry["extra_info"]
    assert entry["stats"]["data"] == [0.5, 0.5, 0.5]
    assert entry["group"] == "m 8+3x2"
    assert info["decode_tok_s"] == pytest.approx(20)
    assert info["energy_per_output_token_j"] == pytest.approx(0.3)
    assert info["usd_per_mtok"] == pytest.approx(1e-4 / 44 * 1e6)
    assert info["usd_per_mtok_low"] == info["usd_per_mtok_high"] == pytest.approx(2.2727, abs=1e-3)
    assert (info["valid"], info["reasons"]) == (True, [])
    assert table["machine_info"]["gpu"] == "NVIDIA H200"
    assert table["machine_info"]["gpu_driver"] == "580.1"
    assert table["commit_info"]["id"] == "c0ffee"


def test_pytest_benchmarks_statistics_are_its_own() -> None:
    """The same numbers as pytest-benchmark makes of the same rounds."""
    from pytest_benchmark.stats import Stats

    from bench.exchange.pytest_benchmark import stats

    data = [0.5, 0.52, 0.47, 0.9, 0.51, 0.49, 0.53]
    theirs = Stats()
    for value in data:
        theirs.update(value)
    ours = stats(data)
    for name in ("min", "max", "mean", "stddev", "median", "rounds", "total", "ops"):
        assert ours[name] == pytest.approx(getattr(theirs, name)), name
    assert set(theirs.as_dict()) <= ours.keys()


def test_pytest_benchmark_is_of_one_machine_and_says_what_it_drops() -> None:
    other = record("none", environment="e2", started_at="2026-11-22T00:00:00+00:00")
    failed = record("int8", status="failed", message="no", reasons=("OOM",), samples={})
    made = export(results(record("none"), failed, other), "pytest-benchmark")
    assert len(json.loads(made.data)["benchmarks"]) == 1
    assert "1 failed record: without figures" in made.dropped
    assert any("1 records of other machines" in line for line in made.dropped)


def test_a_file_of_pytest_benchmark_that_is_not_ours_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "theirs.json"
    entry = {"name": "test_x", "extra_info": {}, "stats": {"data": [1.0]}}
    path.write_text(json.dumps({"machine_info": {}, "benchmarks": [entry]}))
    into = tmp_path / "into"
    assert main(["import", "pytest-benchmark", str(path), "--into", str(into)]) == 2
    assert "'test_x' holds no tokens" in capsys.readouterr().err
    path.write_bytes(export(results(record("none")), "pytest-benchmark").data)
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    assert main(["import", "pytest-benchmark", str(path), "--into", str(into)]) == 2
    assert (
        capsys.readouterr().err
        == f"bench: {path}: schema 2 is newer than 1; update gpu-cost-bench\n"
    )
    assert not into.exists()


def test_the_dashboard_gets_a_metric_an_entry_with_text_maps() -> None:
    made = results(record("none", 0), record("none", 1, gap=0.2), qualities=(quality("none", 2.0),))
    entries = json.loads(text(made, "pytorch-hud", usd_per_hour=0.36))
    metrics = {entry["metric"]["name"]: entry for entry in entries}
    assert metrics["decode_tok_s"]["metric"]["benchmark_values"] == pytest.approx([20, 10])
    assert metrics["ppl"]["metric"]["benchmark_values"] == pytest.approx([7.389], abs=1e-3)
    assert "usd_per_mtok" in metrics
    for entry in entries:
        assert entry["model"]["name"] == "m"
        assert entry["benchmark"]["mode"] == "inference"
        assert entry["runners"][0]["gpu_info"] == "NVIDIA H200"
        assert all(isinstance(v, str) for v in entry["benchmark"]["extra_info"].values())
        assert all(isinstance(v, float | int) for v in entry["metric"]["benchmark_values"])


def test_markdown_is_the_table_of_bench_run() -> None:
    rows = text(results(record("none"), record("int8", gap=0.2)), "md", usd_per_hour=1.0)
    assert rows.splitlines()[0].startswith("| variant")
    assert len(rows.splitlines()) == 4


def test_lines_hold_one_of_each_key_and_say_so() -> None:
    first = record("none", started_at="2026-11-22T00:00:00+00:00")
    again = replace(first, started_at="2026-11-23T00:00:00+00:00")
    failed = replace(again, status="failed", message="no", started_at="2026-11-24T00:00:00+00:00")
    made = export(results(again, first, failed), "jsonl")
    (line,) = [one for one in made.data.decode().splitlines() if '"measurement"' in one]
    assert json.loads(line)["started_at"] == again.started_at
    assert made.dropped == ("2 older duplicates",)


def test_parquet_without_pyarrow_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.exchange.tabular.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match="needs pyarrow: pip install"):
        export(results(record("none")), "parquet")


# ---- the verb --------------------------------------------------------------------------------


@pytest.mark.parametrize("to", sorted(FORMATS.keys() - {"parquet"}))
def test_stdout_is_the_file_and_stderr_what_is_not_in_it(
    to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(QUICKSTART), "--to", to]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    if to != "jsonl":
        assert all(line.startswith(f"bench: not in {to}: ") for line in err.splitlines())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "parquet"], "--to parquet is a binary format; give --out FILE"),
        (["--to", "csv", "--rent", "-1"], "--rent: -1 must be a number above 0"),
        (["--to", "csv", "--utilization", "2"], "--utilization: 2 must be above 0"),
        (["--share", "x.tar.gz", "--rent", "1"], "--rent: cannot be combined with --share"),
    ],
)
def test_bad_flags_are_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(QUICKSTART), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_results_without_a_record_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Writer(tmp_path) as writer:
        writer.append(ENVIRONMENT)
    assert main(["export", str(tmp_path), "--to", "csv"]) == 2
    assert "holds no record" in capsys.readouterr().err


def test_a_file_is_written_whole_or_not(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.csv"
    assert main(["export", str(QUICKSTART), "--to", "csv", "--out", str(out)]) == 0
    assert out.read_text().startswith("key,origin,")
    assert [path.name for path in out.parent.iterdir()] == ["out.csv"]
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["export", str(QUICKSTART), "--to", "csv", "--out", str(blocked / "x")]) == 2
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["file"]


@pytest.mark.parametrize(
    "flags", [("--to", "csv", "--out"), ("--to", "jsonl", "--out"), ("--share",)]
)
@pytest.mark.parametrize("name", ["records.jsonl", "experiments.jsonl", "link"])
def test_results_are_never_written_over(
    flags: tuple[str, ...], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(QUICKSTART, tmp_path / "mine")
    (folder / "link").symlink_to("records.jsonl")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["export", str(folder), *flags, str(folder / name)]) == 2
    assert "belongs to the results; choose another file" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_servers_record_is_exported_and_comes_back(tmp_path: Path) -> None:
    samples = {"prefill_s": [0.2] * 4, "itl_s": [[0.1, 0.1]] * 4, "e2e_s": [0.4] * 4, "wall_s": 0.8}
    made = results(record("none", samples=samples))
    path = tmp_path / "out.json"
    path.write_bytes(export(made, "pytest-benchmark").data)
    import_file("pytest-benchmark", path, tmp_path / "into")
    assert _speeds(read(tmp_path / "into")) == _speeds(made)
    names = {entry["metric"]["name"] for entry in json.loads(text(made, "pytorch-hud"))}
    assert "output_tok_s" in names
    assert "prefill_tok_s" not in names


def test_a_broken_line_of_our_own_stops_the_import(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(export(results(record("none")), "jsonl").data[:-30])
    with pytest.raises(InputError, match=r"out\.jsonl:2: not valid JSON.*nothing was imported"):
        import_file("jsonl", path, tmp_path / "into")
    path.write_text(path.read_text().splitlines()[0].replace('"schema":1', '"schema":2') + "\n")
    with pytest.raises(InputError, match="schema 2 is newer than 1"):
        import_file("jsonl", path, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_a_finished_record_is_imported_over_a_failure_and_not_the_other_way(tmp_path: Path) -> None:
    good, into = record("none"), tmp_path / "into"
    failed = replace(good, status="failed", message="no", samples={})
    for made, added, status in ((failed, 1, "failed"), (good, 1, "ok"), (failed, 0, "ok")):
        path = tmp_path / "out.jsonl"
        path.write_bytes(export(results(made), "jsonl").data)
        assert import_file("jsonl", path, into).added == added
        assert [one.status for one in read(into).records] == [status]


# ---- the page --------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "exchange.md").read_text()


@pytest.mark.parametrize("line", [one[4:] for one in PAGE.splitlines() if one.startswith("    b")])
def test_the_pages_commands_are_understood(line: str) -> None:
    assert parser().parse_args(shlex.split(line)[1:])


def test_the_page_names_every_tool_and_format() -> None:
    for name in (*TOOLS, *FORMATS):
        assert name in PAGE, name
