"""Share of the power limit, from published rows."""

from __future__ import annotations

import pytest

from bench.predict.board_power import (
    FILE,
    expected_share,
    gddr_line,
    power_rows,
    validate_power,
)
from bench.roofline.gpus import gpus


def test_published_power_is_in_order() -> None:
    assert validate_power() == []
    assert len(power_rows()) == 40


def test_a_batch_draws_more_than_a_single_request() -> None:
    one, many = (expected_share(gpus()["h200-sxm"], n) for n in (1, 64))

    assert one is not None
    assert many is not None
    assert 0.5 < one.low <= one.median <= one.high < many.high <= 1


def test_a_gddr_card_draws_more_the_more_it_reads() -> None:
    """Posted for an RTX 3060 of 170 W: 111 W on a 135M model, 149 W on one of 0.5B."""
    card = gpus()["rtx-3060"]
    idle, busy = (expected_share(card, 1, read) for read in (0.2, 0.8))

    assert idle is not None
    assert busy is not None
    assert 0.5 < idle.median < busy.median <= 1
    assert idle.low <= 111 / 170 <= idle.high
    assert busy.low <= 149 / 170 <= busy.high
    assert gddr_line().rows >= 5


def test_kinds_that_nobody_measured_have_no_share() -> None:
    assert expected_share(gpus()["rtx-4080"], 8, 0.5) is None
    assert expected_share(gpus()["rtx-4080"], 1) is None
    assert expected_share(gpus()["l4"], 1, 0.5) is None
    assert expected_share(gpus()["apple-m4"], 1, 0.5) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a100-sxm-40gb", "a9", "gpu: 'a9' is not in the catalog"),
        ("222.1", "700", "power_w: 175% of the power limit"),
        ("222.1", "much", "could not convert"),
    ],
)
def test_problems_name_their_line(tmp_path, old, new, message) -> None:
    head, first, *_ = FILE.read_text(encoding="utf-8").splitlines()
    file = tmp_path / "power.csv"
    file.write_text(f"{head}\n{first.replace(old, new)}\n", encoding="utf-8")

    assert [message in problem for problem in validate_power(file)] == [True]
    assert validate_power(file)[0].startswith(f"{file}:2: ")
