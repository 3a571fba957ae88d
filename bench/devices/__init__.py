"""Reading the device: energy, memory, temperature, clocks, throttling, foreign processes.

A reader says what it can, and for each figure that it cannot give it says why. Readers never
import engines and never touch the device's settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read over one window."""

    energy: Mapping[str, Any] = field(default_factory=dict)
    """`energy_j`, `window_s`, `scope`, `systematic_error`, ...; empty where there is no counter."""
    memory: Mapping[str, Any] = field(default_factory=dict)
    """`peak_device_bytes`, `peak_host_bytes` over the window."""
    device: Mapping[str, Any] = field(default_factory=dict)
    """Temperatures, clocks, power, event reasons, foreign load."""
    reasons: tuple[str, ...] = ()
    """Codes of `bench.records.codes.CODES` seen in the window."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Figure -> why it is missing."""


class Reader(Protocol):
    """Reads one device over windows. A window is `begin`, work, `end`; windows do not nest."""

    has_energy: bool
    """Whether there is an energy counter, so that windows for energy are worth filling."""

    def identity(self) -> Mapping[str, Any]:
        """What must not differ between pooled records: name, driver, power limit, memory, ..."""

    def begin(self) -> None:
        """Open a window. With an energy counter this waits for its tick."""

    def end(self) -> Reading:
        """Close the window."""

    def idle(self, seconds: float) -> None:
        """Measure the power at rest, with whatever is loaded, and whether others are at work;
        later windows carry it. Does nothing where neither can be read."""

    def close(self) -> None:
        """Give back whatever the reader holds."""
