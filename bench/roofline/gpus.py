"""The catalog of cards: dense peaks, bandwidth, memory, power, price and date, each with a source.

`bench/data/gpus.toml` holds one table a card; adding a card is adding a table. Standard library
only, because the measuring tower asks it what the device in front of it can do.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Literal

from bench import fields
from bench.data import DATA
from bench.errors import InputError, unknown
from bench.models import NAME

FILE: Final = DATA / "gpus.toml"
GIB: Final = 2**30
Precision = Literal["bf16", "fp8", "int8"]

FIGURES: Final = (
    "vram_gib",
    "bandwidth_gb_s",
    "bf16_tflops",
    "fp8_tflops",
    "int8_tops",
    "sms",
    "boost_mhz",
    "tdp_w",
    "launch_usd",
    "released",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One card. Peaks are dense, with 32-bit accumulation; a figure nobody sourced is None."""

    name: str
    """The table's key: lower-case, as people type it."""
    title: str
    arch: str
    """Architecture: Ampere, Ada, Hopper, Blackwell, CDNA3."""
    compute_capability: str | None = None
    vram_gib: float
    """Memory as sold; drivers show a little less."""
    bandwidth_gb_s: float
    """Data sheet memory bandwidth, 10^9 bytes/s."""
    bf16_tflops: float | None = None
    fp8_tflops: float | None = None
    int8_tops: float | None = None
    sms: int | None = None
    """Streaming multiprocessors, or compute units."""
    boost_mhz: float | None = None
    tdp_w: float
    launch_usd: float | None = None
    released: datetime.date
    kind: Literal["consumer", "datacenter", "workstation"]
    aliases: tuple[str, ...] = ()
    """Device names as drivers report them, beyond the title itself."""
    source: str
    """Where the figures were read, unless `sources` says otherwise."""
    read: datetime.date
    """When they were read."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Source of single figures."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Why a figure is missing."""
    note: str = ""

    @property
    def bandwidth(self) -> float:
        """Bytes per second."""
        return self.bandwidth_gb_s * 1e9

    @property
    def vram_bytes(self) -> int:
        return int(self.vram_gib * GIB)

    @property
    def hbm(self) -> bool:
        """Whether the memory is stacked: data centre cards above 1200 GB/s are."""
        return self.kind == "datacenter" and self.bandwidth_gb_s > 1200

    def peak(self, precision: Precision) -> float | None:
        """Dense operations per second at that precision; None if no sourced figure exists."""
        tera = {"bf16": self.bf16_tflops, "fp8": self.fp8_tflops, "int8": self.int8_tops}[precision]
        return None if tera is None else tera * 1e12

    def source_of(self, figure: str) -> str:
        """Where one figure comes from."""
        return self.sources.get(figure, self.source)

    def problems(self) -> Iterator[str]:
        if not NAME.fullmatch(self.name):
            yield f"name: {self.name!r} is not lower-case letters, digits, '.', '_', '-'"
        for name in FIGURES:
            value = getattr(self, name)
            if isinstance(value, float) and not value > 0:
                yield f"{name}: must be above 0"
            if value is None and name not in self.absent:
                yield f"absent.{name}: say why the figure is missing"
        for name in (*self.sources, *self.absent):
            if name not in FIGURES:
                yield f"sources, absent: no such figure: {name}"
        yield from self._implausible()

    def _implausible(self) -> Iterator[str]:
        """A peak that is likely sparse: 8-bit runs at 2x 16-bit, int8 on GeForce at 4x."""
        for name in ("fp8_tflops", "int8_tops"):
            value = getattr(self, name)
            if value is None or self.bf16_tflops is None:
                continue
            most = 4.2 if self.kind == "consumer" else 2.1
            if value / self.bf16_tflops > most:
                yield f"{name}: {value / self.bf16_tflops:.1f}x bf16; is it a sparse figure?"


@cache
def gpus() -> Mapping[str, Gpu]:
    """Every card of the catalog by name. InputError lists every problem in the file."""
    cards, problems = _read(FILE)
    if problems:
        raise InputError(*problems)
    return cards


def _read(path: Path) -> tuple[dict[str, Gpu], list[str]]:
    found: list[str] = []
    cards: dict[str, Gpu] = {}
    for name, table in fields.read_toml(path).items():
        if not isinstance(table, Mapping):
            found.append(f"{name}: expected a table")
        elif card := fields.build(Gpu, {"name": name, **table}, name, found):
            cards[name] = card
    return cards, [f"{path}: {problem}" for problem in found]


def validate_gpus(path: Path = FILE) -> list[str]:
    """Every problem in the catalog, one line each."""
    try:
        cards, problems = _read(path)
    except InputError as error:
        return list(error.problems)
    known: dict[str, str] = {}
    for card in cards.values():
        for alias in _names(card):
            if known.setdefault(alias, card.name) != card.name:
                problems.append(f"{path}: {card.name}: '{alias}' also names {known[alias]}")
    return problems


def resolve_gpu(name: str) -> Gpu:
    """The card a user means: a catalog name, a title, or what a driver reports."""
    card = gpus().get(name) or match(name)
    if card is None:
        raise InputError(unknown("gpu", name, gpus()))
    return card


def match(device_name: str) -> Gpu | None:
    """The card that a driver reports under this name, or None: never a near miss.

    'NVIDIA GeForce RTX 4080 SUPER' is not an RTX 4080, and 'Laptop GPU' names another chip.
    """
    wanted = _plain(device_name)
    return next((card for card in gpus().values() if wanted in _names(card)), None)


def _names(card: Gpu) -> set[str]:
    return {_plain(name) for name in (card.name, card.title, *card.aliases)}


def _plain(name: str) -> str:
    """Lower case without the words that vendors add or leave out."""
    text = re.sub(r"\b(nvidia|geforce|amd|instinct|graphics|tesla)\b", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "", text)
