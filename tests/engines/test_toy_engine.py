"""A new engine is one file and one entry, and is then seen everywhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.cli import main
from bench.engines import registry
from bench.records.file import read
from bench.runner import arms
from tests.engines import toy_engine


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ENGINES, "toy", toy_engine.ROW)  # type: ignore[arg-type]
    monkeypatch.setattr(arms, "WORKER", (sys.executable, "-m", "tests.engines.toy_engine"))


@pytest.mark.usefixtures("toy")
def test_it_is_run_compared_exported_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    experiment = tmp_path / "toy.toml"
    experiment.write_text(
        'name = "toy"\nquestion = "Is half as long faster?"\nlevel = "quick"\n'
        "[measure]\npairs = 3\nwindow_s = 0.0\nidle_s = 0.0\n"
        '[grid]\nmodel = ["llama-3.2-1b@random"]\nengine = ["toy"]\nquant = ["none", "half"]\n'
        'n_prompt = [8]\nn_gen = [4]\ndevice = "cpu"\n'
    )
    assert main(["run", str(experiment), "--into", str(folder), "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["engine"], row["quant"]) for row in rows} == {("toy", "none"), ("toy", "half")}
    results = read(folder)
    assert all(record.status == "ok" for record in results.records)
    (environment,) = results.environments.values()
    assert environment.identity["pytest"]  # the packages of its entry are recorded

    assert main(["compare", str(folder), "-o", "json"]) == 0
    decode = [row for row in json.loads(capsys.readouterr().out) if row["metric"] == "decode"]
    assert [row["ratio"] > 1.2 for row in decode] == [True]

    exported = tmp_path / "out.csv"
    assert main(["export", str(folder), "--to", "csv", "--out", str(exported)]) == 0
    capsys.readouterr()
    assert "toy" in exported.read_text()

    page = tmp_path / "page.html"
    assert main(["report", str(folder), "--to", str(page)]) == 0
    assert "toy" in page.read_text()


@pytest.mark.usefixtures("toy")
def test_it_is_listed_and_its_modes_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines", "-o", "json"]) == 0
    listed = {row["engine"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["toy"]["modes"] == ["eager"]
    code = main(["run", "-m", "llama-3.2-1b@random", "-e", "toy", "--mode", "fast"])
    assert code == 2
    assert "unknown mode 'fast'" in capsys.readouterr().err
