"""CPU package energy through RAPL counters (/sys/class/powercap), readable by root only.

Linux shows AMD's counters under the same name, `intel-rapl`. They are updated about every
millisecond and wrap round at `max_energy_range_uj`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.devices.figures import Unreadable, number_of, text_of

FOLDER = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Rapl:
    """The package counters of this machine, one a socket."""

    zones: tuple[Path, ...]

    def read_uj(self) -> tuple[int, ...]:
        """Each package's counter, microjoule. Raises Unreadable."""
        return tuple(number_of(zone / "energy_uj") for zone in self.zones)

    def ranges_uj(self) -> tuple[int, ...]:
        """Where each counter wraps round, microjoule."""
        return tuple(number_of(zone / "max_energy_range_uj") for zone in self.zones)


def find(folder: Path = FOLDER) -> Rapl:
    """The package counters, tried once. Raises Unreadable with the reason."""
    if not folder.is_dir():
        raise Unreadable(
            f"no RAPL: {folder} is not there (a virtual machine, or a kernel without powercap)"
        )
    # `intel-rapl:0` is a package, `intel-rapl:0:0` a part of it that is already counted there.
    zones = [
        zone
        for zone in sorted(folder.glob("intel-rapl:*"))
        if zone.name.count(":") == 1 and text_of(zone / "name").startswith("package")
    ]
    if not zones:
        raise Unreadable(f"no RAPL: {folder} shows no CPU package")
    rapl = Rapl(tuple(zones))
    try:
        rapl.read_uj()
        rapl.ranges_uj()
    except Unreadable as error:
        raise Unreadable(f"RAPL counters are readable by root only: {error}") from error
    return rapl


def unwrap(before: int, after: int, limit: int) -> int:
    """What a counter that wraps round at `limit` (its highest value) rose by, one wrap at most."""
    return after - before if after >= before else after - before + limit + 1


def most_s(ranges_uj: tuple[int, ...], watts: float = 500.0) -> float:
    """Seconds after which a package drawing `watts` may have wrapped a second time unseen."""
    return min(ranges_uj) / 1e6 / watts
