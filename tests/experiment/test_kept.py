"""What a results folder says of the experiments that it answers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from bench.experiment import load_experiment
from bench.experiment.kept import asked_baseline, kept
from bench.report.page import assemble
from bench.runner import keep_experiment
from tests.report_results import write_card

QUICKSTART = load_experiment("quickstart")


def test_the_experiments_as_they_were_run_are_read_back(tmp_path: Path) -> None:
    other = replace(QUICKSTART, name="other", baseline="int8-dynamic")
    for one in (QUICKSTART, other, replace(QUICKSTART, level="standard")):
        keep_experiment(one, tmp_path)
    found, problems = kept([tmp_path / "records.jsonl"])
    assert problems == []
    assert found == {"quickstart": replace(QUICKSTART, level="standard"), "other": other}
    assert asked_baseline(found, {"quickstart"}) == "none"
    assert asked_baseline(found, {"other"}) == "int8-dynamic"
    assert asked_baseline(found, {"quickstart", "other"}) is None
    assert asked_baseline(found, {"elsewhere"}) is None


def test_lines_that_cannot_be_read_are_told_and_the_rest_is_used(tmp_path: Path) -> None:
    older = {"name": "old", "question": "?", "laid_aside": 1}
    lines = ["{torn", "[]", json.dumps(older), json.dumps(asdict(QUICKSTART))]
    (tmp_path / "experiments.jsonl").write_text("\n".join(lines))
    found, problems = kept([tmp_path])
    assert list(found) == ["quickstart"]
    assert [problem.rpartition("experiments.jsonl:")[2][0] for problem in problems] == list("123")
    assert "laid_aside: unknown key" in problems[2]


def test_what_was_put_there_by_hand_wins(tmp_path: Path) -> None:
    keep_experiment(QUICKSTART, tmp_path)
    (tmp_path / "experiment.toml").write_text('name = "quickstart"\nquestion = "Mine?"\n')
    assert kept([tmp_path])[0]["quickstart"].question == "Mine?"


def test_a_page_of_a_folder_as_it_was_run_has_its_question(tmp_path: Path) -> None:
    card = write_card(tmp_path / "card")
    (card / "experiment.toml").unlink(missing_ok=True)
    assert assemble([card]).question.startswith("What does a token cost")
    keep_experiment(replace(QUICKSTART, question="Which one?"), card)
    assert assemble([card]).question == "Which one?"
