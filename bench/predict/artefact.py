"""The fitted model as it is shipped: parameters, widths of intervals, what was seen.

`bench/data/predict/model.json` is made by `scripts/fit-predictor` when data or formulas change; a
test holds its `inputs_sha256` against them. Standard library only, because `bench predict` starts
with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from bench import fields
from bench.data import DATA
from bench.errors import InputError
from bench.predict.terms import Point, fixed_share

FILE: Final = DATA / "predict" / "model.json"
COVERAGE: Final = 0.90
"""Share of new measurements that an interval is meant to hold."""
LEAST: Final = 20
"""Rows that a group needs for a width of its own."""
FEW: Final = 8
"""Rows from which a group's own errors may widen the interval of the group above it."""
WIDEST: Final = 0.549
"""The largest q of offload, and of what one source alone measured: three times from end to end.
Rows of offload come from few hosts, and whoever asks can state the host's rate and what is left on
it; a wider interval would say nothing."""
Novelty = Literal["engine", "kernel", "arch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What measurements there are of each engine."""

    kernels: Mapping[str, tuple[str, ...]]
    archs: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedModel:
    """The fit."""

    inputs_sha256: str
    """Of all that it was fitted on."""
    n_rows: int
    parameters: Mapping[str, float]
    """Logs, by the names of `bench.predict.terms`."""
    widths: Mapping[str, float]
    """q of each group's interval."""
    few: Mapping[str, float]
    """The same of groups with FEW rows, but not LEAST."""
    novel: Mapping[str, float]
    """q of a question with an engine, family of schemes or architecture that no row has."""
    launches: float
    """q over the share of fixed time, where that is large: hosts and drivers differ most in it."""
    ratio: float
    """q of a ratio of two cards."""
    seen: Seen
    prefill: tuple[float, ...]
    prefill_width: float
    prefill_engines: tuple[str, ...]

    def novelty(self, p: Point) -> tuple[Novelty, ...]:
        """What a question has that no measurement has."""
        if p.engine not in self.seen.kernels:
            return ("engine",)
        new: list[Novelty] = []
        if p.kernel not in self.seen.kernels[p.engine]:
            new.append("kernel")
        if p.gpu.arch not in self.seen.archs[p.engine]:
            new.append("arch")
        return tuple(new)

    def width(self, kind: str, p: Point) -> float:
        """q of the interval x e^-q .. x e^q of a question."""
        name, own = next(
            (name, self.widths[name]) for name in groups_of(kind, p) if name in self.widths
        )
        # Without new builds in its group, a measurement of one's own strays as posts do.
        if p.new and p.n_batch == 1 and not name.endswith("new"):
            own = max(own, self.widths.get("posts", 0.0))
        groups = groups_of(kind, p)
        own = max(own, *(self.few.get(group, 0.0) for group in groups))
        if p.n_batch == 1 and not p.host_bytes:
            own = max(own, min(self.launches * fixed_share(p, self.parameters), WIDEST))
        # Errors of other engines say little of an engine with hardly a row of this kind.
        if not any(group in self.widths or group in self.few for group in groups[:2]):
            own = max(own, self.novel["engine"])
        # One row by builds that keep the latent in the cache: as good as a scheme without rows.
        if p.latent and p.layers.experts:
            own = max(own, self.novel["kernel"])
        return max(own, *(self.novel[fold] for fold in self.novelty(p)), 0.0)


def groups_of(kind: str, p: Point) -> tuple[str, ...]:
    """Groups that a row or a question belongs to, the narrowest first."""
    load = "one" if p.n_batch == 1 else "batch"
    age = "new" if p.new else "old"
    posts = ("posts",) if p.new and p.n_batch == 1 and kind in ("dense", "small") else ()
    return (
        f"{kind}, {p.engine}, {load}, {age}",
        f"{kind}, {p.engine}, {load}",
        f"{kind}, {load}, {age}",
        f"{kind}, {load}",
        *posts,
        load,
        "all",
    )


@cache
def shipped(path: Path = FILE) -> FittedModel:
    """The model that ships. InputError where the file is not what it should be."""
    problems: list[str] = []
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
    found = fields.build(FittedModel, table, path.name, problems)
    if found is None:
        raise InputError(*problems)
    return found


def write(model: FittedModel, path: Path = FILE) -> None:
    """Write the model as JSON, one parameter a line."""
    table: dict[str, Any] = asdict(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
