"""Machines and cards as sides of a comparison: which stand together, and what must be alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache, cached_property
from typing import Any, Final

from bench import fields
from bench.data import DATA
from bench.errors import InputError
from bench.roofline.gpus import match
from bench.statistics.unpaired import MIN_MACHINES
from bench.summary import ArmSettings, Host, Row
from bench.summary.pooling import Pooling, joined, pooled

THE_MACHINE: Final = ("host", "cpu", "memory", "gpu", "architecture")
"""Starts of the names of facts that make a machine what it is: they differ, and nobody minds."""

NAMED: Final = ("gpu_driver", "os", "python", "bench", "settings")
"""Facts that are named where they differ; every other one is the version of a package, and what
computes must be the same."""

NOT_AN_ARM: Final = ("name", "device", "packages", "threads", "source")
"""Settings that say where an arm ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSpread:
    """What cards of one model differ by, as published."""

    name: str
    title: str
    url: str
    published: str
    read: date
    average: float
    """As a share of the median card's speed."""
    largest: float
    scope: str


@cache
def card_spread() -> CardSpread:
    """The figures of bench/data/spread.toml."""
    return fields.load(CardSpread, DATA / "spread.toml")


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One arm at one workload on one machine, or on three and more of one card."""

    card: str
    machines: tuple[tuple[Row, ...], ...]
    """The rows of each machine: several only if environments are pooled."""

    @property
    def label(self) -> str:
        if len(self.machines) > 1:
            return f"{self.card} ({len(self.machines)} machines)"
        return self.machines[0][0].label

    @property
    def rows(self) -> list[Row]:
        return [row for rows in self.machines for row in rows]

    @cached_property
    def of_machines(self) -> tuple[Pooling, ...]:
        """The replicates of each machine."""
        return tuple(joined([pooled(row.replicates) for row in rows]) for rows in self.machines)

    @cached_property
    def replicates(self) -> Pooling:
        return joined(self.of_machines)

    @property
    def arm(self) -> ArmSettings:
        return self.machines[0][0].arm

    def named(self, selector: str) -> bool:
        """Whether a selector means it: a card, a machine's label or host, or an environment."""
        known = {self.card, self.label}
        for row in self.rows if len(self.machines) == 1 else ():
            known |= {row.host.title, str(row.host.identity.get("host"))}
            if len(selector) >= 4 and row.host.id.startswith(selector):
                return True
        return selector in known


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Dollars for an hour of a card, and where they come from."""

    usd_per_hour: Mapping[str, float] = field(default_factory=dict)
    """By the card's name here, or '' for every machine."""
    source: str = ""

    def of(self, side: Side) -> float | None:
        """Of all cards that the arm worked on as one."""
        hourly = self.usd_per_hour.get(side.card, self.usd_per_hour.get(""))
        return None if hourly is None else hourly * side.arm.cards * side.machines[0][0].host.gpus


def card_of(host: Host) -> str:
    """The card by its catalog name, or as its driver names it; the CPU where there is none."""
    found = match(host.gpu) if host.gpu else None
    if found is None:
        return host.title
    return found.name if host.gpus == 1 else f"{host.gpus} x {found.name}"


def sides_of(rows: Sequence[Row], named: Sequence[str | None], *, pool: bool) -> list[Side]:
    """Machines, three and more of one card together; one that is named stands alone."""
    machines: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        machines.setdefault(row.host.hardware, []).append(row)
    alone = []
    for each in machines.values():
        chosen = [row for row in each if any(s and _starts(row.host.id, s) for s in named)] or each
        if len({row.host.id for row in chosen}) > 1 and not pool:
            ids = ", ".join(row.host.id[:8] for row in chosen)
            raise InputError(
                f"{each[0].arm.name} was measured on {each[0].host.title} in several environments "
                f"({ids}): name one with --baseline or --candidate, or --pool them"
            )
        alone.append(Side(card=card_of(each[0].host), machines=(tuple(chosen),)))
    cards: dict[str, list[Side]] = {}
    for side in alone:
        single = any(s and s != side.card and side.named(s) for s in named)
        cards.setdefault(side.label if single else side.card, []).append(side)
    return [side for group in cards.values() for side in _together(group)]


def _starts(id_: str, selector: str) -> bool:
    return len(selector) >= 4 and id_.startswith(selector)


def _together(group: list[Side]) -> list[Side]:
    if len(group) < MIN_MACHINES:
        return group
    rows = tuple(rows for side in group for rows in side.machines)
    return [Side(card=group[0].card, machines=rows)]


def differences(base: Side, other: Side) -> tuple[list[str], list[str]]:
    """What must agree and does not, and what is only named: `torch 2.13 / 2.12`."""
    must, named = [], []
    for name in sorted({*base.arm.settings, *other.arm.settings} - {*NOT_AN_ARM}):
        both = [_texts(side.arm.settings.get(name) for side in (base, other))]
        must += [f"{name} {text}" for text in both if text]
    kinds = _texts(side.arm.device.partition(":")[0] for side in (base, other))
    named += [f"device {kinds}"] if kinds else []
    hosts = [[row.host for row in side.rows] for side in (base, other)]
    names = {name for side in hosts for host in side for name in host.identity}
    for name in sorted(names):
        each = [
            {repr(host.identity.get(name)): host.identity.get(name) for host in s} for s in hosts
        ]
        if len({*each[0], *each[1]}) < 2 or not (name in NAMED or not name.startswith(THE_MACHINE)):
            continue
        values = ["+".join(str(value) for value in side.values()) for side in each]
        text = f"{name} {' / '.join(values)}"
        known = all(value is not None for side in each for value in side.values())
        # A package that one side lacks did not compute there.
        (must if known and name not in NAMED else named).append(text)
    return must, named


def _texts(pair: Iterator[Any]) -> str:
    one, other = map(str, pair)
    return "" if one == other else f"{one} / {other}"


def scope_of(base: Side, other: Side) -> str:
    """What the ratio speaks of, in words."""
    several = [len(side.machines) > 1 for side in (base, other)]
    if all(several):
        n, m = len(base.machines), len(other.machines)
        return f"cards of these models, estimated from {n} and {m} machines"
    spread = card_spread()
    differ = (
        f"cards of one model differ by {spread.average:.0%} on average, up to "
        f"{spread.largest:.0%} ({spread.name}, {spread.published})"
    )
    if any(several):
        one, many = (base, other) if several[1] else (other, base)
        return f"this {one.card} and cards of the model {many.card}; {differ}"
    return f"these two machines; {differ}"
