"""The counts of the campaign at the end of a run, and that a whole one is large enough."""

from __future__ import annotations

import pytest

from tests.campaign.seeds import SEED, TRIED, counted

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
    """The counts are looked at last."""
    items.sort(key=lambda item: item.name == "test_the_campaign_is_large_enough")
