"""Imported arms: a ratio, the reason why it is no verdict, and no evidence for claims."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.claims.files import load_claims
from bench.claims.findings import findings
from bench.cli import main
from bench.comparison import Rules, compare
from bench.errors import InputError
from bench.exchange.importing import import_file
from bench.predict.user_rows import rows_of
from bench.records.file import Results, read
from bench.report.tables.compare import table
from tests.exchange.test_import import SAMPLES
from tests.summary.test_summary import record


def two_arms(folder: Path, ratio: float = 4.0) -> Path:
    """llama-bench's documented test of a 4-bit file, and the same one slower in 16 bits."""
    rows = json.loads(SAMPLES["llama-bench"].read_text())
    slow = [
        row
        | {
            "model_filename": "models/Qwen2.5-7B-Instruct-F16.gguf",
            "model_type": "qwen2 7B F16",
            "model_size": 15_238_000_000,
            "samples_ns": [round(one * ratio) for one in row["samples_ns"]],
            "samples_ts": [one / ratio for one in row["samples_ts"]],
            "avg_ns": row["avg_ns"] * ratio,
            "avg_ts": row["avg_ts"] / ratio,
        }
        for row in rows
    ]
    path, into = folder / "both.json", folder / "into"
    path.write_text(json.dumps(rows + slow))
    main(
        [
            "import",
            "llama-bench",
            str(path),
            "--into",
            str(into),
            "-m",
            "deepseek-r1-distill-qwen-7b",
        ]
    )
    return into


def comparison(into: Path, **rules: Any) -> dict[tuple[str, int], dict[str, Any]]:
    rows = compare(read(into), Rules(**rules), baseline="f16")
    return {(row.metric, row.sizes.n_gen): table(row) for row in rows if row.sizes}


def test_repeats_of_another_tool_give_a_ratio_and_no_verdict(tmp_path: Path) -> None:
    rows = comparison(two_arms(tmp_path))
    assert rows["decode", 128]["ratio"] == pytest.approx(4.0)
    assert rows["prefill", 0]["ratio"] == pytest.approx(4.0)
    assert rows["cost", 128]["ratio"] == pytest.approx(0.25)
    for row in rows.values():
        assert row["verdict"] == "ambiguous"
        assert row["ci_low"] is row["ci_high"] is None
        assert row["n_pairs"] == 0
        assert "NOT_PAIRED" in row["reasons"]
        assert row["significant"] is False
    assert ("decode", 0) not in rows, "no row for what no test measured"


def test_many_imports_do_not_become_pairs(tmp_path: Path) -> None:
    """Ten runs of each arm: their indices say nothing of what ran beside what."""
    for number in range(10):
        rows = json.loads(SAMPLES["llama-bench"].read_text())
        both = []
        for row in rows:
            row["test_time"] = f"2025-04-24T11:58:{number:02}Z"
            both += [
                row,
                row
                | {
                    "model_filename": "models/Qwen2.5-7B-Instruct-F16.gguf",
                    "model_type": "qwen2 7B F16",
                    "model_size": 15_238_000_000,
                    # Three times as slow: twice would be above the card's bound.
                    "samples_ns": [3 * one for one in row["samples_ns"]],
                    "samples_ts": [one / 3 for one in row["samples_ts"]],
                    "avg_ns": row["avg_ns"] * 3,
                    "avg_ts": row["avg_ts"] / 3,
                },
            ]
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(both))
        import_file("llama-bench", path, tmp_path / "into")
    row = comparison(tmp_path / "into")["decode", 128]
    assert (row["n_pairs"], row["verdict"]) == (0, "ambiguous")


def test_the_table_says_why_and_the_gate_holds_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = two_arms(tmp_path)
    capsys.readouterr()
    assert main(["compare", str(into), "--baseline", "f16", "--fail-below", "1.1"]) == 1
    out, err = capsys.readouterr()
    assert "no interval, and no verdict" in out
    assert "`NOT_PAIRED` (every workload): figures of another tool" in out
    assert "no verdict on decoding at 0+128 x 1" in out
    assert "--level standard" not in out, "more of the same would not help"
    assert "no valid interval (NOT_PAIRED)" in err


def test_imported_and_measured_are_not_mixed(tmp_path: Path) -> None:
    results = read(two_arms(tmp_path))
    results.records.append(record("none"))
    with pytest.raises(InputError, match="of different origin are not mixed"):
        compare(results, Rules())


def test_claims_are_not_decided_by_imports(tmp_path: Path) -> None:
    """The same figures decide a claim as our own records, and not as another tool's."""
    file = load_claims("int8-dynamic-doubles-speed")
    ways = [p.decided_by.records for c in file.claims for p in c.sub_claims]
    (way,) = {w.experiment for w in ways if w is not None}
    own = [
        record(quant, i, gap=0.1 if quant == "none" else 0.5, experiment=way)
        for i in range(8)
        for quant in ("none", "int8-dynamic")
    ]
    ours = findings(file, Results(records=own))
    levels = {item.level for found in ours for item in found.evidence}
    assert "measured" in levels
    theirs = findings(file, Results(records=[replace(r, origin="llama-bench") for r in own]))
    assert "measured" not in {item.level for found in theirs for item in found.evidence}
    assert [f.verdict.outcome for f in theirs] == [f.verdict.outcome for f in findings(file)]


def test_the_verb_says_that_imports_are_no_evidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = two_arms(tmp_path)
    capsys.readouterr()
    assert main(["claims", "--claim", "int8-dynamic-doubles-speed"]) == 0
    alone = capsys.readouterr().out
    assert main(["claims", str(into), "--claim", "int8-dynamic-doubles-speed"]) == 0
    out, err = capsys.readouterr()
    assert "records of origin llama-bench are not evidence" in err
    assert out == alone


def test_the_predictor_is_not_fitted_on_imports(tmp_path: Path) -> None:
    rows, left = rows_of([two_arms(tmp_path)])
    assert rows == []
    assert left == ["records imported from llama-bench are left out of the fit"]
