"""The catalog of cards: dense peaks, bandwidth, memory, power, price and date, each with a source.

`bench/data/gpus.toml` holds one table a card; adding a card is adding a table. Standard library
only, because the measuring tower asks it what the device in front of it can do.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final, Literal

from bench import fields
from bench.data import DATA
from bench.errors import InputError, unknown
from bench.models import NAME
from bench.roofline.said import count_of, size_of, spelled_out

FILE: Final = DATA / "gpus.toml"
GIB: Final = 2**30
GEFORCE: Final = frozenset({"Turing", "Ampere", "Ada", "Blackwell"})
APPLE_SMALL_GIB: Final = 32
APPLE_SHARES: Final = (2 / 3, 3 / 4)
"""Metal's `recommendedMaxWorkingSetSize` by memory, up to `APPLE_SMALL_GIB` and above: 10,923 MB of
16 GB, 21,845 of 32, 73,728 of 96 (logs in abetlen/llama-cpp-python#687, ollama/ollama#434,
ggml-org/llama.cpp#3213). macOS 26 gives more: 107.5 GiB of 128 (antirez/ds4#893)."""
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
    """Architecture: Ampere, Ada, Hopper, Blackwell, RDNA3, CDNA3, Xe2, Apple, CPU."""
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
    tdp_w: float | None = None
    """Power limit as sold; of a laptop, what the data base lists."""
    power_range_w: tuple[float, ...] = ()
    """Least and most power limit that makers of laptops may set."""
    launch_usd: float | None = None
    released: datetime.date | None = None
    kind: Literal["consumer", "laptop", "workstation", "datacenter", "integrated", "apple", "cpu"]
    memory: str | None = None
    """Kind of memory: GDDR6, HBM3, LPDDR5X, DDR5."""
    unified: bool = False
    """The memory is the computer's own, so there is no other to offload to."""
    memory_choices_gib: tuple[float, ...] = ()
    """Sizes it is sold with, where `vram_gib` is the largest."""
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
        if self.memory is not None:
            return self.memory.startswith("HBM")
        return self.kind == "datacenter" and self.bandwidth_gb_s > 1200

    @property
    def geforce(self) -> bool:
        """Whether 16-bit products summed in 16 bits run at twice the catalogued rate."""
        return self.kind in ("consumer", "laptop") and self.arch in GEFORCE

    @property
    def usable_bytes(self) -> int:
        """What a model may take: macOS keeps a part of unified memory."""
        if self.kind != "apple":
            return self.vram_bytes
        return int(self.vram_bytes * APPLE_SHARES[self.vram_gib > APPLE_SMALL_GIB])

    def with_memory(self, gib: float) -> Gpu:
        """The same with another amount of memory."""
        return replace(self, vram_gib=gib)

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
        low_high = self.power_range_w
        if low_high and not (len(low_high) == 2 and 0 < low_high[0] < low_high[1]):
            yield "power_range_w: expected [least, most]"
        for name in (*self.sources, *self.absent):
            if name not in (*FIGURES, "power_range_w"):
                yield f"sources, absent: no such figure: {name}"
        yield from self._implausible()

    def _implausible(self) -> Iterator[str]:
        """A peak that is likely sparse: 8-bit runs at 2x 16-bit, int8 on GeForce at 4x."""
        for name in ("fp8_tflops", "int8_tops"):
            value = getattr(self, name)
            if value is None or self.bf16_tflops is None:
                continue
            most = 4.2 if self.geforce else 2.1
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
    """The card a user means: a catalog name, a title, what a driver reports, or one of these
    without its series (`4060 Ti`, `5090`), in short (`4080S`) or with its memory (`M4 Max 64GB`).
    """
    said = name.strip().lower()
    card = _named(name) or _named(spelled_out(said)) or _with_size(name)
    if card is None:
        if several := count_of(said):
            raise InputError(
                f"gpu '{name}': name one card, and their number by --n-gpus {several[0]}"
            )
        raise InputError(unknown("gpu", name, gpus()))
    return card


def _named(name: str) -> Gpu | None:
    return gpus().get(name) or match(name) or match(f"{_series(name)}{name}")


def _with_size(name: str) -> Gpu | None:
    """The card of a name that ends with a size of memory; None for no such name.

    InputError for a size that the card is not sold with.
    """
    found = size_of(name.strip().lower())
    if found is None:
        return None
    base, gib = spelled_out(found[0]), found[1]
    card = _named(base)
    if card is None:
        return None
    if exact := _named(f"{base} {gib}gb"):
        return exact
    fewer_cores = re.compile(rf"{re.escape(card.name)}-\d+c")
    for one in (card, *(c for c in gpus().values() if fewer_cores.fullmatch(c.name))):
        if gib in (one.vram_gib, *one.memory_choices_gib):
            return one.with_memory(gib)
    sizes = ", ".join(f"{size:g}" for size in card.memory_choices_gib or (card.vram_gib,))
    raise InputError(
        f"gpu '{name}': {card.name} is sold with {sizes} GiB; for another size, "
        f"`bench predict --gpu {card.name} --memory {gib}`"
    )


def _series(name: str) -> str:
    """The series of the card of that name, where only one has such a card; else nothing."""
    wanted = _plain(name)
    found = {
        series
        for series in ("rtx", "gtx", "rx", "arc")
        if any(f"{series}{wanted}" in _names(card) for card in gpus().values())
    }
    return f"{found.pop()} " if len(found) == 1 else ""


@cache
def match(device_name: str) -> Gpu | None:
    """The card that a driver reports under this name, or None: never a near miss.

    'NVIDIA GeForce RTX 4080 SUPER' is not an RTX 4080, and 'Laptop GPU' names another chip.
    """
    wanted = _plain(device_name)
    return next((card for card in gpus().values() if wanted in _names(card)), None)


def _names(card: Gpu) -> set[str]:
    return {_plain(name) for name in (card.name, card.title, *card.aliases)}


DRIVER: Final = re.compile(r"\s\((radv|amdvlk|nvk|aco|llvm|dg2|bmg|acm|lnl|arl|mtl)\b[^()]*\)$")
"""What Vulkan's drivers put behind a card's name: `AMD Radeon RX 7900 XTX (RADV NAVI31)`."""


def _plain(name: str) -> str:
    """Lower case without the words that vendors add or leave out."""
    text = re.sub(
        r"\b(nvidia|geforce|amd|instinct|graphics|tesla|intel|radeon|apple|generation|\(r\)|\(tm\))\b",
        " ",
        re.sub(r"\((r|tm)\)", " ", DRIVER.sub("", name.lower())),
    )
    return re.sub(r"[^a-z0-9]+", "", text)
