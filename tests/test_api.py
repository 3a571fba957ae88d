"""The Python API: the names that are kept, and docs/python.md executed."""

from __future__ import annotations

import doctest
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import bench
from bench.errors import InputError

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "python.md"


def test_every_public_name_is_there_once_and_no_module_hides_it() -> None:
    rooms = bench._ROOMS
    named = [name for names in rooms.values() for name in names]
    assert sorted([*named, "__version__"]) == sorted(bench.__all__) == bench.__all__
    for name in bench.__all__:
        assert getattr(bench, name) is not None
    modules = {path.stem for path in (ROOT / "bench").iterdir()}
    assert modules & set(bench.__all__) == set()
    assert set(bench.__all__) <= set(dir(bench))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bench.nothing


def test_the_type_checkers_imports_are_the_same_names() -> None:
    source = (ROOT / "bench/__init__.py").read_text()
    block = source.partition("if TYPE_CHECKING:")[2].partition("__version__")[0]
    for room, names in bench._ROOMS.items():
        (listed,) = re.findall(rf"from bench\.{re.escape(room)} import (\([^)]*\)|[^\n(]+)", block)
        assert set(re.findall(r"\w+", listed)) == set(names)


def test_importing_it_loads_nothing() -> None:
    code = "import sys; old = set(sys.modules); import bench; print(*(set(sys.modules) - old))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert set(done.stdout.split()) <= {"bench", "bench._version", "__future__"}


def test_the_page_is_what_python_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (experiment,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "mine.toml").write_text(experiment, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    outcome = doctest.testfile(str(PAGE), module_relative=False)

    assert outcome.attempted > 12
    assert outcome.failed == 0


def test_the_page_names_the_whole_api() -> None:
    text = PAGE.read_text(encoding="utf-8")
    kinds = {"Environment", "Record", "QualityRecord", "__version__"}  # docs/records.md
    for name in set(bench.__all__) - kinds:
        assert re.search(rf"`{name}\b", text), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two scripted arms, 6 pairs."""
    place = tmp_path_factory.mktemp("api") / "results"
    bench.run(scripted(), place)
    return place


def scripted() -> bench.Experiment:
    options = {"noise": 0.01, "speedup.fast": 1.5}
    grid = bench.Grid(
        engine=("synthetic",), quant=("none", "fast"), n_prompt=(16,), n_gen=(8,), options=options
    )
    return bench.Experiment(
        name="api",
        question="?",
        grid=grid,
        measure={"pairs": 6, "window_s": 0.1},
        quality=bench.Quality(text=None),
        cost=bench.CostAssumption(usd_per_hour=0.36, source="a test"),
    )


def test_results_may_be_read_or_named(folder: Path) -> None:
    read = bench.read(folder)
    assert len(read.records) == 12
    assert bench.compare(read) == bench.compare(folder) == bench.compare(str(folder))
    row = bench.summarise(folder, scripted())[0]
    assert row["usd_per_mtok"] == pytest.approx(0.36 / 3600 / row["total_tok_s"] * 1e6)
    assert bench.summarise(folder)[0]["usd_per_mtok"] is None


def test_a_broken_line_is_warned_about(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text((folder / "records.jsonl").read_text() + '{"schema": 1')
    with pytest.warns(UserWarning, match=r"records\.jsonl:\d+: not valid JSON"):
        assert len(bench.summarise(tmp_path)) == 2


def test_bad_input_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="price: give either rent or scenario"):
        bench.price(folder)
    with pytest.raises(InputError, match="--rent"):
        bench.price(folder, rent=-1.0)
    with pytest.raises(InputError, match="no finished measurement"):
        bench.price(bench.Results(), rent=1.0)
    with pytest.raises(InputError, match="each arm's baseline is the stored one"):
        bench.compare(folder, against=folder, baseline="none")
    with pytest.raises(InputError, match="hold the same records"):
        bench.compare(folder, against=folder)
    with pytest.raises(InputError, match="is not lower-case letters"):
        bench.run(replace(scripted(), name="Not a name"), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def another_run(folder: Path, **changes: object) -> bench.Results:
    """The same records as if they were measured on another day."""
    results = bench.read(folder)
    later = [replace(r, started_at=f"2030{r.started_at[4:]}", **changes) for r in results.records]
    return replace(results, records=later)  # type: ignore[type-var]  # Results is a dataclass


def test_each_arm_against_itself_in_another_run(folder: Path) -> None:
    rows = bench.compare(another_run(folder), against=folder, metrics=["decode"])
    assert [row["candidate"].split("/")[2] for row in rows] == ["none", "fast"]
    assert all(row["baseline"] == row["candidate"] + "/stored" for row in rows)
    assert all(row["ratio"] == 1 and row["verdict"] == "same" for row in rows)
    assert all(row["reasons"] == ["STORED_BASELINE"] for row in rows)
    (one,) = bench.compare(
        another_run(folder), against=folder, metrics=["decode"], candidate="fast"
    )
    assert one["candidate"].split("/")[2] == "fast"


def test_another_machine_is_refused_or_marked(folder: Path) -> None:
    later = another_run(folder, environment="of another machine")
    with pytest.raises(InputError, match="different machines"):
        bench.compare(later, against=folder)
    rows = bench.compare(later, against=folder, metrics=["decode"], pool=True)
    assert rows[0]["reasons"] == ["CONFIG_DIFFERS", "STORED_BASELINE"]


def test_an_arm_that_is_not_stored_is_named(folder: Path) -> None:
    other = [
        replace(r, variant=r.variant | {"name": "m/e/new"}) for r in another_run(folder).records
    ]
    with pytest.raises(InputError, match="no arm of the results is among the stored ones"):
        bench.compare(bench.Results(records=other), against=folder)


@pytest.mark.parametrize(("step_s", "paired"), [(1, True), (7, False)])
def test_runs_that_took_turns_are_pairs(folder: Path, step_s: int, paired: bool) -> None:
    """Old replicate i starts at 10 i seconds, the new one `step_s` before it or after it, in turn;
    with 7 seconds a pair overlaps the next."""
    old, new = bench.Results(), bench.Results()
    for record in bench.read(folder).records:
        at = 20 + 10 * record.replicate
        shift = step_s if record.replicate % 2 else -step_s
        old.records.append(replace(record, started_at=f"2030-01-01T00:{at // 60:02}:{at % 60:02}"))
        at += shift
        new.records.append(replace(record, started_at=f"2030-01-01T00:{at // 60:02}:{at % 60:02}"))
    rows = bench.compare(new, against=old, metrics=["decode"], pool=True)
    assert [("STORED_BASELINE" in row["reasons"]) for row in rows] == [not paired] * 2


def test_the_command_gates_on_a_stored_run(folder: Path, tmp_path: Path, capsys) -> None:
    from bench.cli import main
    from bench.records import to_json

    later = another_run(folder)
    lines = [*later.environments.values(), *later.records]
    (tmp_path / "records.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))
    command = [
        "compare",
        str(tmp_path),
        "--against",
        str(folder),
        "--metric",
        "decode",
        "-o",
        "json",
    ]
    assert main([*command, "--fail-below", "0.97"]) == 0
    assert {row["verdict"] for row in json.loads(capsys.readouterr().out)} == {"same"}
    assert main([*command, "--fail-below", "1.01"]) == 1
    assert main([*command, "--baseline", "none"]) == 2
    assert "--baseline: cannot be combined with --against" in capsys.readouterr().err
