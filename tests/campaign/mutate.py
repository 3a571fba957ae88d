"""Values and bytes that nobody should write, put in place of those that somebody did. Seeded."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    10**9,
    10**30,
    -(2**63),
    0.0,
    -0.5,
    1e-300,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    "nan",
    "a" * 5000,
    "\x1b]0;owned\x07\x1b[2J",
    "| a | b\n| c \\|",
    "<script>alert(1)</script>",
    "=HYPERLINK(1)",
    "\u202e\u2028\x9b31m",
    "\ud800",
    "2026-13-45",
    "9999-12-31T23:59:59.999999+00:00",
    "0001-01-01T00:00:00",
    [],
    {},
    [None],
    [[]],
    [1, "x"],
    [0.0],
    {"a": {"b": []}},
    {"energy_j": 1.0},
    {"": 1},
)

DEEP = "[" * 100_000


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value; of lists the first and last item."""
    found = [at]
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*at, key))
    elif isinstance(value, list):
        for i in {0, len(value) - 1} & set(range(len(value))):
            found += places(value[i], (*at, i))
    return found


def changed(value: Any, rng: Random) -> tuple[Any, str]:
    """The value with one thing in it replaced, removed, doubled or added; and what that was."""
    made = copy.deepcopy(value)
    at = rng.choice(places(made)[1:])
    parent = made
    for step in at[:-1]:
        parent = parent[step]
    last, what = at[-1], rng.choice(("replace", "replace", "replace", "remove", "add", "scale"))
    if what == "remove":
        del parent[last]
        return made, f"without {at}"
    if what == "add" and isinstance(parent[last], list | dict):
        odd = rng.choice(VALUES)
        if isinstance(parent[last], list):
            parent[last].append(odd)
        else:
            parent[last]["odd"] = odd
        return made, f"{at} with {odd!r:.60}"
    if what == "scale" and isinstance(parent[last], int | float):
        factor = rng.choice((-1, 0, 1e-9, 1e9, 1e200))
        parent[last] = parent[last] * factor
        return made, f"{at} times {factor}"
    odd = rng.choice(VALUES)
    parent[last] = odd
    return made, f"{at} = {odd!r:.60}"


def torn(text: bytes, rng: Random) -> tuple[bytes, str]:
    """The bytes with some of them lost, doubled, changed or followed by others."""
    at = rng.randrange(len(text) or 1)
    match rng.choice(("cut", "flip", "double", "insert", "deep", "blank")):
        case "cut":
            return text[:at], f"cut at {at}"
        case "flip":
            return text[:at] + bytes([text[at] ^ (1 << rng.randrange(8))]) + text[at + 1 :], (
                f"bit of byte {at}"
            )
        case "double":
            return text + text, "doubled"
        case "insert":
            odd = rng.choice((b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\n", b'"', b"{", b"NaN"))
            return text[:at] + odd + text[at:], f"{odd!r} at {at}"
        case "deep":
            return DEEP.encode(), "nested 100,000 deep"
        case _:
            return b"", "empty"


def mutated_line(line: str, rng: Random) -> tuple[bytes, str]:
    """One line of JSON, changed in its values or in its bytes."""
    if rng.random() < 0.2:
        made, what = torn(line.encode(), rng)
        return made.replace(b"\n", b" "), what
    value, what = changed(json.loads(line), rng)
    if rng.random() < 0.3:
        value, more = changed(value, rng) if len(places(value)) > 1 else (value, "")
        what = f"{what}; {more}"
    try:
        text = json.dumps(value)
    except RecursionError:
        text = DEEP
    return text.encode(), what
