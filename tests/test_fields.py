"""Every problem of a file is listed, with its key path."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from bench import fields
from bench.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    size: int
    share: float = 0.5

    def problems(self) -> Iterator[str]:
        if self.share > 1:
            yield "share: more than all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: str
    kind: Literal["a", "b"] = "a"
    since: datetime.date | None = None
    inner: Inner | None = None
    sizes: tuple[int, ...] = ()
    many: tuple[Inner, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


def problems(text: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "f.toml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        fields.load(Outer, path)
    return [problem.removeprefix(f"{path}: ") for problem in error.value.problems]


def test_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text(
        'name = "x"\nsince = 2025-01-20\nsizes = [1, 2]\n[inner]\nsize = 3\nshare = 1\n'
        '[[many]]\nsize = 4\n[notes]\na = "b"\n'
    )
    assert fields.load(Outer, path) == Outer(
        name="x",
        since=datetime.date(2025, 1, 20),
        sizes=(1, 2),
        inner=Inner(size=3, share=1.0),
        many=(Inner(size=4),),
        notes={"a": "b"},
    )


def test_every_problem_is_listed(tmp_path: Path) -> None:
    found = problems(
        'kind = "c"\nsince = "soon"\nsizes = [1, "2"]\nnmae = "x"\n[inner]\nsize = 1.5\n', tmp_path
    )
    assert found == [
        "nmae: unknown key; did you mean 'name'?",
        "name: missing",
        "kind: 'c' is not one of 'a', 'b'",
        "since: expected a date (2025-01-31), got 'soon'",
        "inner.size: expected a whole number, got 1.5",
        "sizes[1]: expected a whole number, got '2'",
    ]


def test_values_are_checked_with_their_path(tmp_path: Path) -> None:
    text = 'name = "x"\n[[many]]\nsize = 1\n[[many]]\nsize = 1\nshare = 2\n'
    assert problems(text, tmp_path) == ["many[1].share: more than all"]


def test_nan_is_no_figure(tmp_path: Path) -> None:
    text = 'name = "x"\n[inner]\nsize = 1\nshare = nan\n'
    assert problems(text, tmp_path) == ["inner.share: nan is not a finite number"]


def test_true_is_no_number(tmp_path: Path) -> None:
    assert problems('name = "x"\n[inner]\nsize = true\n', tmp_path) == [
        "inner.size: expected a whole number, got True"
    ]


def test_broken_toml_is_named_with_its_line(tmp_path: Path) -> None:
    (found,) = problems('name = "x"\n= 1\n', tmp_path)
    assert "not valid TOML" in found
    assert "line 2" in found


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        fields.load(Outer, tmp_path / "none.toml")
