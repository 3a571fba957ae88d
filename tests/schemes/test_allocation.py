from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import InputError
from bench.schemes.allocation import (
    Option,
    Target,
    hull,
    parse,
    total_bytes,
    total_kld,
    within_bytes,
    within_kld,
)

FOUR, EIGHT = "int4", "int8"
LAYERS = {
    "sensitive": [Option(FOUR, 10, 0.5), Option(EIGHT, 20, 0.01)],
    "dull": [Option(FOUR, 10, 0.1), Option(EIGHT, 20, 0.01)],
}


def levels(chosen: dict[str, Option]) -> dict[str, str]:
    return {name: option.level for name, option in chosen.items()}


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("mixed:5.0bit", Target(bits=5.0)),
        ("mixed:6bit", Target(bits=6.0)),
        ("mixed:kld<0.02", Target(max_kld=0.02)),
    ],
)
def test_names_state_a_target(name: str, target: Target) -> None:
    assert parse(name) == target


@pytest.mark.parametrize(
    "name", ["mixed:", "mixed:5", "mixed:kld<0", "mixed:ppl<1", "mixed:5,0bit"]
)
def test_names_that_state_none(name: str) -> None:
    with pytest.raises(InputError, match=r"such as mixed:5\.0bit"):
        parse(name)


def test_the_sensitive_layer_gets_the_bits() -> None:
    assert levels(within_bytes(LAYERS, 30)) == {"sensitive": EIGHT, "dull": FOUR}
    assert levels(within_bytes(LAYERS, 40)) == {"sensitive": EIGHT, "dull": EIGHT}


def test_a_step_that_does_not_fit_leaves_room_for_smaller_ones() -> None:
    layers = {
        "large": [Option(FOUR, 100, 1.0), Option(EIGHT, 200, 0.0)],
        "small": [Option(FOUR, 10, 0.01), Option(EIGHT, 20, 0.0)],
    }
    assert levels(within_bytes(layers, 130)) == {"large": FOUR, "small": EIGHT}


def test_a_budget_below_the_least() -> None:
    with pytest.raises(InputError, match="below 20, the least"):
        within_bytes(LAYERS, 19)


def test_a_bound_takes_no_more_bytes_than_it_needs() -> None:
    assert levels(within_kld(LAYERS, 0.6)) == {"sensitive": FOUR, "dull": FOUR}
    assert levels(within_kld(LAYERS, 0.2)) == {"sensitive": EIGHT, "dull": FOUR}
    assert levels(within_kld(LAYERS, 0.0)) == {"sensitive": EIGHT, "dull": EIGHT}


def test_an_option_above_the_hull_is_not_taken() -> None:
    found = hull([Option("a", 10, 1.0), Option("b", 20, 0.9), Option("c", 30, 0.0)])
    assert [option.level for option in found] == ["a", "c"]


layer_options = st.lists(
    st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=3
).map(lambda points: [Option(str(i), size, kld) for i, (size, kld) in enumerate(points)])


@given(st.dictionaries(st.text("abcd", min_size=1, max_size=1), layer_options, min_size=1))
def test_no_allocation_of_as_few_bytes_is_better(layers: dict[str, list[Option]]) -> None:
    """At the bytes that a bound made it use, against every combination."""
    for bound in (0.0, 0.3, 1.0):
        chosen = within_kld(layers, bound)
        size, kld = total_bytes(chosen), total_kld(chosen)
        for picks in itertools.product(*layers.values()):
            pick = dict(zip(layers, picks, strict=True))
            if total_bytes(pick) <= size:
                assert total_kld(pick) >= kld - 1e-9


@given(
    st.dictionaries(st.text("abcd", min_size=1, max_size=1), layer_options, min_size=1),
    st.integers(0, 60),
)
def test_a_budget_is_kept(layers: dict[str, list[Option]], spare: int) -> None:
    least = sum(hull(options)[0].size_bytes for options in layers.values())
    assert total_bytes(within_bytes(layers, least + spare)) <= least + spare
