"""That the campaign is as large as it is said to be."""

from __future__ import annotations

import pytest

from tests.campaign.conftest import FAULTS, INPUTS
from tests.campaign.seeds import TRIED, counted

PARTS = ("records", "validate", "page", "texts", "characters", "keys", "peaks", "config.json")
PARTS += ("stamps", "shapes", "messages", "toml", "cards", "servers/hang", "servers/size")
PARTS += ("servers/frame", "servers/lie", "servers/status", "servers/wait", "servers/cut")
PARTS += ("servers/events", "servers/about", "processes/streams", "processes/signals")
PARTS += ("processes/limits", "processes/workers", "processes/clocks", "processes/results")


def test_the_campaign_is_large_enough() -> None:
    missing = [one for one in PARTS if not any(part.startswith(one) for part in TRIED)]
    if missing:
        pytest.skip(f"only a part of the campaign was run: not {', '.join(missing)}")
    faults, _, inputs = counted()
    assert faults >= FAULTS
    assert inputs >= INPUTS
