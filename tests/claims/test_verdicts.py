"""Rules from evidence to verdict, at their edges."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.claims import Direction
from bench.claims.verdicts import STRENGTH, Evidence, Level, Outcome, compare, decide, readings


def measured(low: float | None, high: float | None, **more: Any) -> Evidence:
    value = 2.0 if low is None or high is None else (low + high) / 2
    return Evidence(level="measured", value=value, low=low, high=high, **more)


def ceiling(high: float) -> Evidence:
    return Evidence(level="bound", value=high, high=high)


@pytest.mark.parametrize(
    ("low", "high", "direction", "expected"),
    [
        (1.6, 2.0, "at_least", "supported"),
        (1.5, 2.0, "at_least", "undecided"),  # touches from above
        (1.2, 1.5, "at_least", "undecided"),  # touches from below
        (1.2, 1.4, "at_least", "refuted"),
        (1.4, 1.6, "at_least", "undecided"),
        (1.6, 2.0, "at_most", "refuted"),
        (1.5, 2.0, "at_most", "undecided"),
        (1.0, 1.5, "at_most", "undecided"),
        (1.0, 1.4, "at_most", "supported"),
    ],
)
def test_an_interval_decides_only_beyond_the_threshold(
    low: float, high: float, direction: Direction, expected: Outcome
) -> None:
    assert decide([measured(low, high)], 1.5, direction).outcome == expected


@pytest.mark.parametrize("level", STRENGTH)
@pytest.mark.parametrize("ends", [(None, None), (9.0, 9.0), (0.1, 0.1)])
def test_a_point_decides_nothing(level: Level, ends: tuple[float | None, float | None]) -> None:
    item = Evidence(level=level, value=9.0, low=ends[0], high=ends[1])
    assert decide([item], 1.5, "at_least").outcome == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (2.19 / 60, 0.55 / 15, "supported"),  # 3.650% and 3.667% both round to 3.7%
        (0.0364, 0.0367, "undecided"),
        (0.0376, 0.0380, "refuted"),
        (0.0300, 0.0364, "refuted"),
    ],
)
def test_equal_holds_within_rounding(low: float, high: float, expected: Outcome) -> None:
    item = Evidence(level="list_price", value=low, low=low, high=high, exact=True)
    assert decide([item], 0.037, "equals", rounding=0.0005).outcome == expected


@pytest.mark.parametrize("direction", ["at_least", "at_most", "equals"])
def test_an_exact_figure_at_the_threshold_holds(direction: Direction) -> None:
    item = Evidence(level="list_price", value=0.3, exact=True)
    assert decide([item], 0.1 + 0.2, direction).outcome == "supported"


def test_a_bound_refutes_and_never_supports() -> None:
    assert decide([ceiling(1.4)], 1.5, "at_least").outcome == "refuted"
    assert decide([ceiling(9.0)], 1.5, "at_least").outcome == "undecided"
    floor = Evidence(level="bound", value=2.0, low=2.0, high=3.0)
    verdict = decide([floor], 1.5, "at_least")
    assert verdict.outcome == "undecided"
    assert "never supports" in verdict.note


def test_a_prediction_refutes_where_the_bound_is_open_and_never_supports() -> None:
    likely = Evidence(level="predicted", value=1.1, low=0.95, high=1.3)
    verdict = decide([ceiling(1.6), likely], 1.5, "at_least")
    assert verdict.outcome == "refuted"
    assert verdict.decided_by is likely
    assert decide([ceiling(1.6), likely], 1.2, "at_least").outcome == "undecided"
    assert decide([ceiling(1.6), likely], 0.9, "at_least").outcome == "undecided"
    # What was measured, here or elsewhere, has the word before it, and so has the bound.
    assert decide([likely, measured(1.6, 1.8)], 1.5, "at_least").outcome == "supported"
    assert decide([likely, measured(1.4, 1.6)], 1.5, "at_least").outcome == "undecided"
    low = decide([likely, ceiling(1.4)], 1.5, "at_least").decided_by
    assert low is not None
    assert low.level == "bound"


def test_a_vendor_refutes_itself_and_never_supports() -> None:
    own = Evidence(level="vendor", value=3.0, low=2.9, high=3.1)
    assert decide([own], 1.5, "at_least").outcome == "undecided"
    assert decide([own], 4.0, "at_least").outcome == "refuted"


def test_the_strongest_evidence_decides_and_the_conflict_is_said() -> None:
    weaker = Evidence(level="published", value=3.0, low=2.9, high=3.1)
    verdict = decide([weaker, measured(1.0, 1.2)], 1.5, "at_least")
    assert verdict.outcome == "refuted"
    assert verdict.decided_by is not None
    assert verdict.decided_by.level == "measured"
    assert "weaker evidence says otherwise: published" in verdict.note


def test_weaker_evidence_that_agrees_is_said_too() -> None:
    verdict = decide([ceiling(1.3), measured(1.0, 1.2)], 1.5, "at_least")
    assert verdict.outcome == "refuted"
    assert "weaker evidence says the same: bound" in verdict.note


def test_evidence_of_one_level_that_contradicts_itself_decides_nothing() -> None:
    items = [measured(1.0, 1.2, scope="batch 8"), measured(1.9, 2.2, scope="batch 1")]
    verdict = decide(items, 1.5, "at_least")
    assert verdict.outcome == "undecided"
    said = "measured evidence disagrees: refuted for batch 8, supported for batch 1"
    assert said in verdict.note


def test_own_measurements_support_only_what_holds_in_every_workload() -> None:
    items = [measured(1.9, 2.2, scope="batch 1"), measured(1.4, 1.6, scope="batch 8")]
    verdict = decide(items, 1.5, "at_least")
    assert verdict.outcome == "undecided"
    assert "supported for batch 1, undecided for batch 8" in verdict.note
    assert decide(items[:1] * 2, 1.5, "at_least").outcome == "supported"


def test_an_open_measurement_is_overruled_by_a_bound_alone() -> None:
    open_one = measured(1.4, 1.6)
    weaker = Evidence(level="published", value=3.0, low=2.9, high=3.1)
    assert decide([open_one, weaker], 1.5, "at_least").outcome == "undecided"
    assert decide([open_one, ceiling(1.45)], 1.5, "at_least").outcome == "refuted"


def test_a_measurement_beyond_the_bound_is_an_error_not_a_verdict() -> None:
    for threshold in (1.2, 1.5, 2.0):  # whichever side of the threshold they lie on
        verdict = decide([measured(1.6, 1.8), ceiling(1.4)], threshold, "at_least")
        assert verdict.outcome == "undecided"
        assert "one of the two is wrong" in verdict.note


def test_invalid_evidence_never_decides_and_is_named() -> None:
    verdict = decide([measured(1.6, 1.8, invalid="THERMAL_THROTTLE")], 1.5, "at_least")
    assert (verdict.outcome, verdict.decided_by) == ("undecided", None)
    assert "THERMAL_THROTTLE" in verdict.note


def test_invalid_evidence_leaves_the_word_to_weaker() -> None:
    verdict = decide([measured(1.6, 1.8, invalid="DRIFT"), ceiling(1.4)], 1.5, "at_least")
    assert verdict.outcome == "refuted"


@pytest.mark.parametrize(
    ("problems", "expected", "said"),
    [
        ((), "supported", ""),
        (None, "undecided", "quality was not measured"),
        (("ppl_ratio 1.3 is outside the gate",), "undecided", "not supported at equal quality"),
    ],
)
def test_speed_without_quality_supports_nothing(
    problems: tuple[str, ...] | None, expected: Outcome, said: str
) -> None:
    item = measured(1.6, 1.8, gate_problems=problems)
    verdict = decide([item], 1.5, "at_least", gated=True)
    assert verdict.outcome == expected
    assert said in verdict.note


def test_a_failed_gate_does_not_save_a_claim_that_is_too_slow() -> None:
    item = measured(1.0, 1.2, gate_problems=("outside",))
    assert decide([item], 1.5, "at_least", gated=True).outcome == "refuted"


def test_of_an_up_to_one_workload_is_enough_and_only_a_bound_refutes() -> None:
    slow, fast = measured(1.0, 1.2), measured(1.7, 1.9)
    assert decide([slow, fast], 1.6, "at_least").outcome == "undecided"
    found = decide([slow, fast], 1.6, "at_least", up_to=True)
    assert (found.outcome, found.decided_by) == ("supported", fast)
    open_ = decide([slow], 1.6, "at_least", up_to=True)
    assert open_.outcome == "undecided"
    assert "another workload may reach it" in open_.note
    assert decide([slow, ceiling(1.5)], 1.6, "at_least", up_to=True).outcome == "refuted"


def test_too_few_published_pairs_refute_but_do_not_support() -> None:
    item = Evidence(level="published", value=2, low=1.8, high=2.2, cannot_support="two pairs")
    assert decide([item], 1.5, "at_least").outcome == "undecided"
    assert decide([item], 2.5, "at_least").outcome == "refuted"


def test_readings_that_disagree_are_said() -> None:
    items = [measured(1.8, 2.0)]
    verdicts = [decide(items, threshold, "at_least") for threshold in (1.5, 2.5)]
    assert readings(verdicts) == "the readings disagree: supported at 1.5, refuted at 2.5"
    assert readings(verdicts[:1]) == ""


def test_margin_is_that_of_the_nearer_end() -> None:
    assert decide([measured(1.8, 2.4)], 1.5, "at_least").margin == pytest.approx(0.2)
    assert decide([ceiling(1.2)], 1.5, "at_least").margin == pytest.approx(-0.2)


@given(
    ends=st.lists(st.floats(0.01, 100), min_size=2, max_size=2, unique=True).map(sorted),
    threshold=st.floats(0.01, 100),
)
def test_at_least_and_at_most_are_never_both_held(ends: list[float], threshold: float) -> None:
    low, high = ends
    outcomes = {
        direction: compare((low, high), threshold, direction)
        for direction in ("at_least", "at_most")
    }
    opposite = {"supported": "refuted", "refuted": "supported", "undecided": "undecided"}
    assert outcomes["at_most"] == opposite[outcomes["at_least"]]
    assert (outcomes["at_least"] == "undecided") or not low < threshold < high


def test_a_published_figure_beyond_the_bound_is_no_evidence() -> None:
    stated = Evidence(level="published", value=32.0, low=30.0, high=34.0)
    found = decide([stated, ceiling(19.5)], 28, "at_least")
    assert found.outcome == "refuted"
    assert found.decided_by is not None
    assert found.decided_by.level == "bound"
    assert "beyond the bound and is no evidence" in found.note
