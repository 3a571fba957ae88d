"""What msgspec accepts at once `bench.fields` accepts too, and sound lines are accepted at once."""

from __future__ import annotations

import json
import sys
from functools import cache
from random import Random
from typing import Any

import pytest

from bench import fields
from bench.errors import InputError
from bench.fields import converter
from bench.records import from_json, quick, shape
from tests.campaign import base
from tests.campaign.mutate import mutated_line

KINDS = ("card", "server", "imported")
SHAPES = {"measurement": shape.MEASUREMENT, "quality": shape.QUALITY}


def mutated(count: int) -> list[bytes]:
    draw = Random(5)
    lines = [line for kind in KINDS for line in base.lines(kind)]
    return [mutated_line(draw.choice(lines), draw)[0] for _ in range(count)]


def value_of(parse: Any, text: bytes) -> Any:
    try:
        return repr(parse(text))
    except InputError as error:
        return f"refused: {error}"


def test_json_is_read_as_the_standard_library_reads_it() -> None:
    texts = [
        *mutated(2000),
        *(b"-0", b"1e99", b"1e999", b"12345678901234567890123", b'"\\ud800"', b"[" * 2000, b"\xff"),
    ]
    for text in texts:
        assert value_of(quick.parse_json, text) == value_of(fields.parse_json, text), text


@cache
def whole(name: str) -> Any:
    return shape._whole(id(SHAPES[name]))


def test_what_is_accepted_at_once_would_be_accepted_in_words() -> None:
    accepted = 0
    for text in mutated(3000):
        try:
            table = fields.parse_json(text)
        except InputError:
            continue
        if not isinstance(table, dict) or str(table.get("kind")) not in SHAPES:
            continue
        one = SHAPES[table["kind"]]
        if quick.accepts(whole(table["kind"]))(table):
            accepted += 1
            problems: list[str] = []
            for name, kind in one.items():
                if name in table:
                    converter(kind)(table[name], name, problems)
            assert problems == [], text
    assert accepted > 300


def test_sound_lines_are_accepted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> None:
        raise AssertionError("looked at in words")

    lines = [line for kind in KINDS for line in base.lines(kind)]
    monkeypatch.setattr(shape, "_checks", slow)
    for line in lines:
        from_json(line)


def test_without_msgspec_everything_is_looked_at_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgspec", None)
    quick.accepts.cache_clear()
    quick._decoder.cache_clear()
    try:
        for line in base.lines("card"):
            from_json(line)
        line = json.loads(base.lines("card")[1])
        line["workload"]["n_gen"] = -1
        with pytest.raises(InputError, match=r"workload\.n_gen"):
            from_json(json.dumps(line))
    finally:
        quick.accepts.cache_clear()
        quick._decoder.cache_clear()
