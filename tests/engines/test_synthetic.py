"""The scripted engine through the real worker, runner, records and comparison: no time passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cli import main
from bench.records.file import read


def script(folder: Path, options: str, *, pairs: int = 8, measure: str = "") -> list[str]:
    path = folder / "experiment.toml"
    path.write_text(
        f"""
name = "scripted"
question = "Does the method find what was put in?"
[grid]
engine = ["synthetic"]
quant = ["none", "fast"]
n_prompt = [16]
n_gen = [8]
[grid.options]
{options}
[measure]
pairs = {pairs}
iterations = 8
window_s = 0.0
{measure}
"""
    )
    return ["run", str(path), "--into", str(folder / "out"), "-o", "json"]


def compared(
    folder: Path, options: str, capsys: pytest.CaptureFixture[str], **settings: int
) -> dict[str, dict[str, object]]:
    assert main(script(folder, options, **settings)) == 0
    capsys.readouterr()
    assert main(["compare", str(folder / "out"), "-o", "json"]) == 0
    return {row["metric"]: row for row in json.loads(capsys.readouterr().out)}


def test_arms_are_compared_with_the_baseline_of_the_experiment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def bases(*flags: str) -> set[str]:
        capsys.readouterr()
        assert main(["compare", str(tmp_path / "out"), "-o", "json", *flags]) == 0
        return {row["baseline"].split("/")[2] for row in json.loads(capsys.readouterr().out)}

    assert main([*script(tmp_path, "", pairs=2), "--baseline", "fast"]) == 0
    assert bases() == {"fast"}
    assert bases("--baseline", "none") == {"none"}
    assert bases("--candidate", "fast") == {"none"}  # the baseline itself: another is found
    (tmp_path / "out/experiments.jsonl").unlink()
    assert bases() == {"none"}


def test_replicates_that_were_measured_before_are_counted_and_not_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(script(tmp_path, "", pairs=2)) == 0
    assert "measured before" not in capsys.readouterr().err
    assert main(script(tmp_path, "", pairs=3)) == 0
    said = capsys.readouterr().err
    assert "4 of 6 replicates were measured before" in said
    assert "[4/6]" not in said
    assert "[5/6]" in said
    assert "[6/6]" in said


def test_an_effect_that_was_put_in_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = compared(
        tmp_path, 'noise = 0.01\nrestart = 0.01\noutliers = 0.05\n"speedup.fast" = 1.5', capsys
    )
    assert rows["decode"]["verdict"] == "higher"
    assert rows["decode"]["ci_low"] < 1.5 < rows["decode"]["ci_high"]  # type: ignore[operator]
    records = read(tmp_path / "out").records
    assert {record.origin for record in records} == {"synthetic"}
    assert {record.device["clock"] for record in records} == {"scripted"}
    assert records[0].model["weights_bytes"] is None
    assert "no model" in records[0].absent["weights_bytes"]


def test_a_against_a_is_not_called_different(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = compared(tmp_path, "noise = 0.01\nrestart = 0.01\noutliers = 0.05", capsys)
    assert {row["verdict"] for row in rows.values()} <= {"same", "ambiguous"}
    assert not any(row["significant"] for row in rows.values())


def test_a_speed_that_is_never_steady_is_invalid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = compared(tmp_path, 'drift = 0.2\n"speedup.fast" = 1.5', capsys, pairs=6)
    assert rows["decode"]["verdict"] == "invalid"
    assert set(rows["decode"]["reasons"]) == {"DRIFT", "NO_STEADY_STATE"}  # type: ignore[call-overload]


def test_slow_first_requests_are_warmed_up(tmp_path: Path) -> None:
    assert main(script(tmp_path, "warmup_requests = 2", pairs=1)) == 0
    (record, _) = read(tmp_path / "out").records
    assert record.warmup["steady"] is True
    assert record.warmup["prefill_s"] == pytest.approx([0.1] * 2 + [0.05] * 4)
    assert record.samples["prefill_s"] == pytest.approx([0.05] * 8)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        ("oom", "OOM"),
        ("crash", "CRASH"),
        ("kill", "CRASH"),
        ("hang", "TIMEOUT"),
        ("miscount", "TOKEN_COUNT"),
        ("nonfinite", "NONFINITE"),
    ],
)
def test_failures_are_records_and_the_plan_goes_on(failure: str, code: str, tmp_path: Path) -> None:
    limit = "time_limit_s = 3.0" if failure == "hang" else ""
    assert main(script(tmp_path, f'fail = "{failure}"', pairs=2, measure=limit)) == 0
    records = read(tmp_path / "out").records
    failed = [record for record in records if record.status == "failed"]
    assert {record.reasons for record in failed} == {(code,)}
    assert {record.variant["quant"] for record in failed} == {"none"}
    assert sum(r.variant["quant"] == "fast" and r.status == "ok" for r in records) == 2


def test_a_misspelt_script_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(script(tmp_path, "noize = 0.1", pairs=1)) == 2
    assert "noize: unknown key; did you mean 'noise'" in capsys.readouterr().err


def test_a_pilot_fixes_the_number_of_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = script(tmp_path, 'restart = 0.01\n"speedup.fast" = 1.5')
    assert main([*command, "--target", "2%"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "the pilot suggests" in line]
    pairs = int(said[0].split("suggests ")[1].split()[0])
    assert pairs >= 6
    records = read(tmp_path / "out").records
    assert len(records) == 2 * pairs  # the pilot's pairs are among them
    assert main([*command, "--target", "0.001%"]) == 2
    assert "would take" in capsys.readouterr().err


def test_each_replicate_is_shown_when_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(script(tmp_path, "drift = 0.2", pairs=1)) == 0
    lines = capsys.readouterr().err.splitlines()
    shown = [line for line in lines if "decode tok/s" in line]
    assert len(shown) == 2
    assert "/none/drift=0.2, replicate 1, 16+8 x 1: prefill tok/s " in shown[0] + shown[1]
    assert all("NO_STEADY_STATE" in line for line in shown)
