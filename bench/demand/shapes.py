"""Published shapes of requests by name: `bench/data/demand/shapes.toml`, dated, with source."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from bench import fields
from bench.data import DATA
from bench.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedShape:
    """One published shape."""

    prompt: str
    """A distribution, as `bench.demand.lengths` reads it."""
    gen: str
    turns: str = ""
    system: int = 0
    think: float = 0.0
    source: str
    source_date: datetime.date
    """When the source was read."""
    note: str

    @property
    def settings(self) -> dict[str, str]:
        """As the words of a description."""
        said = {"prompt": self.prompt, "gen": self.gen, "turns": self.turns}
        more = {"system": f"{self.system}", "think": f"{self.think:g}"}
        return {key: value for key, value in (said | more).items() if value}


@cache
def shapes() -> Mapping[str, PublishedShape]:
    """Name -> shape. Raises InputError that lists what is wrong with the file."""
    path = DATA / "demand" / "shapes.toml"
    problems: list[str] = []
    found = {
        name: fields.build(PublishedShape, table, name, problems)
        for name, table in fields.read_toml(path).items()
    }
    if problems:
        raise InputError(*(f"{path}: {problem}" for problem in problems))
    return {name: shape for name, shape in found.items() if shape is not None}
