"""docs/cost.md: its figures are what the code gives, its commands run."""

from __future__ import annotations

import argparse
import doctest
import re
import shlex
from pathlib import Path

import pytest

from bench.cli import cost, prices
from bench.cost.row import KEYS
from bench.cost.scenario import RULES, scenarios
from tests.cost_results import write_results

PAGE = Path(__file__).parents[2] / "docs" / "cost.md"
COMMANDS = re.findall(r"^    \$ bench (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_figures_of_the_page_are_what_the_code_gives() -> None:
    outcome = doctest.testfile(str(PAGE), module_relative=False)

    assert outcome.attempted > 5
    assert outcome.failed == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_run(command, monkeypatch, tmp_path) -> None:
    place = tmp_path / "results" / "local" / "quickstart"
    place.mkdir(parents=True)
    write_results(place)
    monkeypatch.chdir(tmp_path)
    verbs = argparse.ArgumentParser()
    named = verbs.add_subparsers()
    for verb in (cost, prices):
        verb.add(named).set_defaults(run=verb.run)

    args = verbs.parse_args(shlex.split(command))

    assert args.run(args) == 0


def test_the_page_names_every_figure_scenario_and_price_column() -> None:
    text = PAGE.read_text(encoding="utf-8")

    for name in (*RULES, *scenarios()):
        assert f"`{name}`" in text, name
    for name in ("ci_low", "band_low", "split_method", "energy_source", "absent", "cheapest_batch"):
        assert name in KEYS
        assert f"`{name}`" in text
