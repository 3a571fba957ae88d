"""Scenarios: the assumptions a cost rests on, each figure with its source and date.

A scenario is a TOML file; any figure is a number or a triangular range. `machine` turns it into
the hourly cost of `bench.cost`, at its likeliest values or at drawn ones (`bench.cost.bands`).
Standard library only; docs/cost.md lists every key.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from bench import cost, fields
from bench.cost.prices import to_usd
from bench.data import DATA
from bench.errors import InputError, unknown
from bench.models import NAME

Basis = Literal["rent", "own"]
FOLDER: Final = DATA / "scenarios"


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A triangular distribution: never outside `low` and `high`, likeliest at `mode`."""

    low: float
    mode: float
    high: float

    def problems(self) -> Iterator[str]:
        if not self.low <= self.mode <= self.high:
            yield f"low, mode, high: {self.low:g}, {self.mode:g}, {self.high:g} are not in order"
        elif self.low == self.high:
            yield "low, high: are equal; write a number"

    def quantile(self, q: float) -> float:
        """The value below which the share `q` of draws lies (0 <= q <= 1)."""
        width, left = self.high - self.low, self.mode - self.low
        if q * width < left:
            return self.low + math.sqrt(q * width * left)
        return self.high - math.sqrt((1 - q) * width * (self.high - self.mode))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcedFigure:
    """One assumption, and where it comes from."""

    value: float | Range
    source: str
    date: datetime.date
    """Day of the source, or on which it was assumed."""
    currency: str = "USD"
    note: str = ""

    def problems(self) -> Iterator[str]:
        if not self.source.strip():
            yield "source: missing"
        if not re.fullmatch(r"[A-Z]{3}", self.currency):
            yield f"currency: {self.currency!r} is not a code such as USD"

    @property
    def likeliest(self) -> float:
        """The number, or the mode of the range."""
        return self.value.mode if isinstance(self.value, Range) else self.value

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest value."""
        if isinstance(self.value, Range):
            return self.value.low, self.value.high
        return self.value, self.value

    def __str__(self) -> str:
        unit = "" if self.currency == "USD" else f" {self.currency}"
        if isinstance(self.value, Range):
            return f"{self.value.mode:g} ({self.value.low:g} to {self.value.high:g}){unit}"
        return f"{self.value:g}{unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What values a figure may take, and which flag gives it."""

    flag: str
    unit: str
    bases: tuple[Basis, ...]
    money: bool = False
    least: float = 0.0
    most: float = math.inf
    zero: bool = True
    """Whether `least` itself is allowed."""
    needed: bool = False

    def problems(self, name: str, figure: SourcedFigure, basis: Basis) -> Iterator[str]:
        """What is wrong with a figure of this name in a scenario of this basis."""
        low, high = figure.ends
        if basis not in self.bases:
            yield f"{name}: does not belong in a scenario of basis '{basis}'"
        if not (math.isfinite(low) and math.isfinite(high)):
            yield f"{name}: {figure} is not a finite number"
        elif low < self.least or (low == self.least and not self.zero) or high > self.most:
            above = "at least" if self.zero else "above"
            limit = f"{above} {self.least:g}" + (
                f" and at most {self.most:g}" if self.most < math.inf else ""
            )
            yield f"{name}: {figure} must be {limit}"
        if not self.money and figure.currency != "USD":
            yield f"{name}: is not money, so it takes no currency"


_BOTH: Final[tuple[Basis, ...]] = ("rent", "own")
RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "utilization": Rule(
            flag="--utilization",
            unit="share of powered hours",
            bases=_BOTH,
            most=1,
            zero=False,
            needed=True,
        ),
        "rent_per_hour": Rule(
            flag="--rent", unit="money/h", bases=("rent",), money=True, zero=False, needed=True
        ),
        "storage_per_hour": Rule(flag="--storage", unit="money/h", bases=("rent",), money=True),
        "egress_per_busy_hour": Rule(
            flag="--egress", unit="money/busy h", bases=("rent",), money=True
        ),
        "price": Rule(
            flag="--own", unit="money", bases=("own",), money=True, zero=False, needed=True
        ),
        "years": Rule(flag="--years", unit="years", bases=("own",), zero=False, needed=True),
        "rate_of_return": Rule(flag="--rate-of-return", unit="share a year", bases=("own",)),
        "salvage_share": Rule(flag="--salvage", unit="share of price", bases=("own",), most=1),
        "host_price": Rule(flag="--host", unit="money", bases=("own",), money=True),
        "opex_per_year": Rule(flag="--opex", unit="money/year", bases=("own",), money=True),
        "powered_share": Rule(
            flag="--powered", unit="share of the year", bases=("own",), most=1, zero=False
        ),
        "electricity_per_kwh": Rule(
            flag="--kwh", unit="money/kWh", bases=("own",), money=True, needed=True
        ),
        "pue": Rule(flag="--pue", unit="ratio", bases=_BOTH, least=1),
        "watts_busy": Rule(flag="--watts-busy", unit="W at the wall", bases=_BOTH, zero=False),
        "watts_idle": Rule(flag="--watts-idle", unit="W at the wall", bases=_BOTH),
        "watts_host": Rule(flag="--watts-host", unit="W beside the card", bases=_BOTH),
    }
)
"""Every figure of a scenario, in the order in which it is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Where and how one machine works, and what that costs."""

    name: str
    title: str
    basis: Basis
    gpu: str | None = None
    """Catalog name of the card that the prices are for; None prices any."""
    gpus: int = 1
    """Number of such machines that worked as one."""
    note: str = ""
    utilization: SourcedFigure
    rent_per_hour: SourcedFigure | None = None
    storage_per_hour: SourcedFigure | None = None
    egress_per_busy_hour: SourcedFigure | None = None
    price: SourcedFigure | None = None
    years: SourcedFigure | None = None
    rate_of_return: SourcedFigure | None = None
    salvage_share: SourcedFigure | None = None
    host_price: SourcedFigure | None = None
    opex_per_year: SourcedFigure | None = None
    powered_share: SourcedFigure | None = None
    electricity_per_kwh: SourcedFigure | None = None
    pue: SourcedFigure | None = None
    watts_busy: SourcedFigure | None = None
    watts_idle: SourcedFigure | None = None
    watts_host: SourcedFigure | None = None

    def problems(self) -> Iterator[str]:
        if not NAME.fullmatch(self.name):
            yield f"name: {self.name!r} is not lower-case letters, digits, '.', '_', '-'"
        if self.gpus < 1:
            yield "gpus: must be at least 1"
        for name, rule in RULES.items():
            figure = getattr(self, name)
            if figure is not None:
                yield from rule.problems(name, figure, self.basis)
            elif rule.needed and self.basis in rule.bases:
                yield f"{name}: missing; a scenario of basis '{self.basis}' needs it"

    @property
    def figures(self) -> dict[str, SourcedFigure]:
        """Name -> figure of those that are given."""
        named = {name: getattr(self, name) for name in RULES}
        return {name: figure for name, figure in named.items() if figure is not None}

    @property
    def prices(self) -> list[SourcedFigure]:
        """What somebody asks for: figures of money that were looked up, not assumed."""
        return [figure for name, figure in self.figures.items() if RULES[name].money]

    @property
    def ranges(self) -> dict[str, Range]:
        """Name -> range of the figures that are ranges."""
        return {
            name: figure.value
            for name, figure in self.figures.items()
            if isinstance(figure.value, Range)
        }

    def values(self, rates: Mapping[str, float]) -> dict[str, float]:
        """Likeliest value of each given figure, money in dollars. InputError without a rate."""
        return {
            name: figure.likeliest * self.usd_factor(name, rates)
            for name, figure in self.figures.items()
        }

    def usd_factor(self, name: str, rates: Mapping[str, float]) -> float:
        """Dollars for one unit of the currency of a figure; 1 where it is no money."""
        figure: SourcedFigure = getattr(self, name)
        return to_usd(1.0, figure.currency, rates) if RULES[name].money else 1.0

    def __str__(self) -> str:
        parts = [f"{name} {figure}" for name, figure in self.figures.items()]
        return f"{self.basis} {self.gpu or 'any card'}: {', '.join(parts)}"


def adapt(
    base: Scenario | None,
    basis: Basis,
    given: Mapping[str, SourcedFigure],
    *,
    gpu: str | None = None,
    gpus: int | None = None,
) -> Scenario:
    """A scenario of the user's own figures, or `base` with some of them replaced.

    Raises InputError with a line for each fault, which names the flag.
    """
    if base is None:
        missing = [
            rule.flag
            for name, rule in RULES.items()
            if rule.needed and basis in rule.bases and name not in given
        ]
        if missing:
            first = "--rent" if basis == "rent" else "--own"
            raise InputError(f"{first} also needs {', '.join(missing)}")
        base = Scenario(name=basis, title="from flags", basis=basis, gpu=gpu, **given)  # type: ignore[arg-type]  # names are checked by RULES
    changed = dataclasses.replace(base, **given, gpus=base.gpus if gpus is None else gpus)  # type: ignore[arg-type]  # as above
    faults = [
        line
        for name, figure in given.items()
        for line in (
            *(f"{RULES[name].flag}: {fault}" for fault in _range_faults(figure)),
            *RULES[name].problems(RULES[name].flag, figure, changed.basis),
        )
    ]
    if faults or (faults := list(changed.problems())):
        raise InputError(*faults)
    return changed


def _range_faults(figure: SourcedFigure) -> list[str]:
    return list(figure.value.problems()) if isinstance(figure.value, Range) else []


def ownership(values: Mapping[str, float]) -> cost.Ownership:
    """The purchase that the values of a scenario of basis `own` describe."""
    return cost.Ownership(
        price_usd=values["price"],
        years=values["years"],
        rate_of_return=values.get("rate_of_return", 0.0),
        salvage_share=values.get("salvage_share", 0.0),
        host_usd=values.get("host_price", 0.0),
        opex_usd_per_year=values.get("opex_per_year", 0.0),
        powered_share=values.get("powered_share", 1.0),
    )


def machine(
    basis: Basis, values: Mapping[str, float], busy_w: float, idle_w: float
) -> cost.HourlyCost:
    """The hourly cost under one set of values, drawing `busy_w` and `idle_w` at the wall."""
    if basis == "rent":
        made = cost.rented(
            values["rent_per_hour"],
            utilization=values["utilization"],
            storage_usd_per_hour=values.get("storage_per_hour", 0.0),
            egress_usd_per_busy_hour=values.get("egress_per_busy_hour", 0.0),
        )
        return dataclasses.replace(made, busy_w=busy_w, idle_w=idle_w, pue=values.get("pue", 1.0))
    return cost.owned(
        ownership(values),
        utilization=values["utilization"],
        usd_per_kwh=values["electricity_per_kwh"],
        busy_w=busy_w,
        idle_w=idle_w,
        pue=values.get("pue", 1.0),
    )


def scenarios(folder: Path = FOLDER) -> dict[str, Path]:
    """Name -> file of every shipped scenario."""
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_scenario(ref: str) -> Scenario:
    """Read a scenario: the name of a shipped one, or a file."""
    path = Path(ref)
    if path.suffix != ".toml":
        known = scenarios()
        if ref not in known:
            raise InputError(unknown("scenario", ref, known) + "; or give a .toml file")
        path = known[ref]
    return fields.load(Scenario, path)


def validate_scenarios(folder: Path = FOLDER) -> list[str]:
    """Every problem in every scenario file of a folder; empty if all is well."""
    problems: list[str] = []
    for name, path in scenarios(folder).items():
        try:
            scenario = fields.load(Scenario, path)
        except InputError as error:
            problems += error.problems
            continue
        if scenario.name != name:
            problems.append(f"{path}: name: {scenario.name!r} is not the file's name {name!r}")
    return problems
