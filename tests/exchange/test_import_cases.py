"""Files of strangers: each gives the figures that were worked out from it by hand."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.records.check import check_results

CASES = Path(__file__).parents[1] / "data" / "imports" / "cases"
EXPECTED: dict[str, dict[str, Any]] = json.loads((CASES / "expected.json").read_text())
PRICES = ("usd_per_mtok", "usd_per_mtok_input", "usd_per_mtok_output")
WITHIN = 0.01


def holds(wanted: Any, found: Any) -> bool:
    """Whether a figure is the wanted one: within 1%, a part of a text, one of a list, a rule."""
    if wanted is None:
        return found in (None, "")
    if isinstance(wanted, list):
        return any(holds(one, found) for one in wanted)
    if isinstance(wanted, dict):
        rules = {
            "min": lambda least: found not in (None, "") and float(found) >= least,
            "max": lambda most: found not in (None, "") and float(found) <= most,
            "not": lambda other: not holds(other, found),
            "re": lambda pattern: re.search(pattern, str(found)) is not None,
            "not_re": lambda pattern: re.search(pattern, str(found)) is None,
        }
        return all(rules[name](value) for name, value in wanted.items())
    if isinstance(wanted, int | float):
        return found not in (None, "") and float(found) == pytest.approx(wanted, rel=WITHIN)
    return str(wanted).lower() in str(found).lower()


def pipe(case: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """What a shell's `|` does, where the case has one."""
    if name := case.get("stdin"):
        stream = io.TextIOWrapper(io.BytesIO((CASES / name).read_bytes()))
        patch.setattr("sys.stdin", stream)


class Case:
    """An import run as a user runs it, and what the other verbs then show."""

    def __init__(
        self, name: str, into: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self.case, self.into, self._capsys = EXPECTED[name], into, capsys
        patch.chdir(CASES)
        pipe(self.case, patch)
        self.code, _, self.err = self.call("import", *self.case["args"], "--into", str(into))

    def call(self, *arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        out, err = self._capsys.readouterr()
        return code, out, err

    def rows(self) -> list[dict[str, Any]]:
        """Each record's columns, with its prices at 0.42 USD an hour of a card."""
        code, out, err = self.call("export", str(self.into), "--to", "csv")
        assert code == 0, err
        priced = self.priced("--rent", "0.42")
        return [row | self._price(row, priced) for row in csv.DictReader(io.StringIO(out))]

    def priced(self, *flags: str) -> list[dict[str, Any]]:
        code, out, err = self.call("cost", str(self.into), *flags, "-o", "json")
        assert code == 0, err
        found: list[dict[str, Any]] = json.loads(out)
        return found

    def _price(self, row: dict[str, Any], priced: list[dict[str, Any]]) -> dict[str, Any]:
        keys = ("variant", "environment", "n_prompt", "n_gen")
        found = next(p for p in priced if all(str(p[key]) == row[key] for key in keys))
        return {name: found[name] for name in PRICES} | {"n_devices": found["gpus"]}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_of_a_stranger(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(name, tmp_path / "into", capsys, monkeypatch)
    wanted = case.case
    refusal = wanted.get("refused") or wanted.get("or_refused")
    if "refused" in wanted or (refusal and case.code == 2):
        assert case.code == 2
        assert re.search(str(refusal), case.err)
        assert len(case.err.splitlines()) == 1
        assert not case.into.exists()
        return
    assert case.code == 0, case.err
    assert check_results(case.into).problems == ()
    rows = case.rows()
    assert len(rows) == len(wanted["rows"])
    left = list(rows)
    for one in wanted["rows"]:
        nearest = min(left, key=lambda row: len(faults(one, row)))
        assert faults(one, nearest) == {}
        left.remove(nearest)
    assert not any("CONTRADICTION" in row["reasons"] for row in rows), "the file is right"
    works = {(r["variant"], r["n_prompt"], r["n_gen"], r["n_batch"]) for r in rows}
    assert len(works) == wanted.get("arms", len(works))
    said = case.err + " ".join(row["reasons"] + row["absent"] for row in rows)
    assert re.search(wanted.get("says", ""), said)
    for mix, price in wanted.get("mix", {}).items():
        priced = case.priced("--rent", "0.42", "--mix", mix)
        assert any(holds(price, row["usd_per_mtok"]) for row in priced)
    _, table, _ = case.call("cost", str(case.into), "--rent", "0.42")
    assert [text for text in wanted.get("table", ()) if text not in table] == []


def faults(wanted: dict[str, Any], row: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What of a record is not as it should be."""
    return {
        name: (value, row.get(name))
        for name, value in wanted.items()
        if not holds(value, row.get(name))
    }


def test_every_file_is_recognised_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bench import auto` writes what naming the tool writes."""
    for name, wanted in EXPECTED.items():
        if "refused" in wanted or name == "llama-bench-folder":
            continue
        case = Case(name, tmp_path / name, capsys, monkeypatch)
        pipe(wanted, monkeypatch)
        auto = tmp_path / f"{name}-auto"
        code = main(["import", "auto", *wanted["args"][1:], "--into", str(auto)])
        assert code == case.code, name
        if code == 0:
            assert (auto / "records.jsonl").read_text() == (
                case.into / "records.jsonl"
            ).read_text(), name


def test_what_is_of_no_tool_is_one_line_with_what_was_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("It was fast.\n")
    assert main(["import", "auto", str(path), "--into", str(tmp_path / "into")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not a known tool's result; looked for llama-bench (" in line
