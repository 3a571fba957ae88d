"""The campaign is run as a whole, by one process; its counts stand at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign.seeds import SEED, TRIED, counted

FOLDER = Path(__file__).parent
FAULTS, INPUTS = 300, 3000


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line a part, with the seed that gives the same again."""
    if TRIED:
        terminalreporter.section(f"campaign, BENCH_CAMPAIGN_SEED={SEED}")
        for part, n in sorted(TRIED.items()):
            terminalreporter.write_line(f"{n:6}  {part}")
        terminalreporter.write_line(
            "{:6}  faults, {} hostile words, {} mutated inputs".format(*counted())
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The counts are looked at last, by the process that tried everything."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.alone)
    items.sort(key=lambda item: item.name == "test_the_campaign_is_large_enough")
