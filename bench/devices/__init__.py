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
    """Codes of `bench.validity.REASONS` seen in the window."""
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
        """Measure the power at rest, with whatever is loaded; later windows carry it.

        Does nothing where there is no energy counter.
        """

    def close(self) -> None:
        """Give back whatever the reader holds."""


def reader_for(device: str) -> Reader:
    """The reader of a device as torch names it: `cpu`, `cuda:0`, `xpu:0`, `mps`, ...; of a server
    elsewhere `remote`, of one on this machine `remote:cuda:0`.

    A device that cannot be read gets a reader that says so; this never fails for want of one.
    """
    from bench.devices.host import HostReader

    kind = device.partition(":")[0]
    if kind == "cpu":
        return HostReader()
    if kind == "cuda":
        return _gpu_reader(device)
    if kind == "remote":
        return _server_reader(device.partition(":")[2])
    from bench.devices.none import NullReader

    return NullReader(device, f"gpu-cost-bench reads no counters of `{kind}` devices")


def _server_reader(device: str) -> Reader:
    """The reader of the device that a server computes on; '' where that is not of this machine.

    torch has no part in it: its context would take memory on the server's card.
    """
    from bench.devices.card import open_card
    from bench.devices.figures import Unreadable
    from bench.devices.gpu import GpuReader
    from bench.devices.host import HostReader
    from bench.devices.remote import LocalServerReader, RemoteReader

    if device == "":
        return RemoteReader()
    if device == "cpu":
        return LocalServerReader(HostReader())
    try:
        card = open_card(device)
    except Unreadable as reason:
        return RemoteReader(str(reason))
    return LocalServerReader(GpuReader(card, host=HostReader(computes=False)))


def _gpu_reader(device: str) -> Reader:
    """The reader of an NVIDIA or AMD card; torch calls both `cuda`."""
    from bench.devices.card import open_card
    from bench.devices.figures import Unreadable
    from bench.devices.gpu import GpuReader
    from bench.devices.host import HostReader
    from bench.devices.none import NullReader
    from bench.devices.torch_memory import TorchMemory

    try:
        card = open_card(device)
    except Unreadable as reason:
        return NullReader(device, str(reason))
    return GpuReader(card, host=HostReader(computes=False), memory=TorchMemory(device))
