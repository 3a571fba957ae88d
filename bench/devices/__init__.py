"""Reading the device: energy, memory, temperature, clocks, throttling, foreign processes.

A reader says what it can, and for each figure that it cannot give it says why. Readers never
import engines and never touch the device's settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.device_names import kind_of, members


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


def reader_for(device: str, own: Sequence[str] | None = None) -> Reader:
    """The reader of a device as torch names it: `cpu`, `cuda:0`, `xpu:0`, `mps`, ...; of several
    that hold one model `cuda:0+cuda:1`; of a server elsewhere `remote`, of one on this machine
    `remote:cuda:0`.

    `own` are those of several that this process computes on; None: all. A device that cannot be
    read gets a reader that says so; this never fails for want of one.
    """
    kind = kind_of(device)
    if kind == "remote":
        return _server_reader(device.partition(":")[2])
    names = members(device)
    if len(names) > 1:
        from bench.devices.several import GroupReader

        return GroupReader(names, [
            _reader(name, host=name == names[0], memory=own is None or name in own)
            for name in names
        ])  # fmt: skip
    return _reader(device)


def _reader(device: str, *, host: bool = True, memory: bool = True) -> Reader:
    """The reader of one device, with or without the host's figures and torch's of its memory."""
    from bench.devices.host import HostReader
    from bench.devices.none import NullReader

    kind = kind_of(device)
    if kind == "cpu":
        return HostReader()
    if kind == "cuda":
        return _gpu_reader(device, host=host, memory=memory)
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
    from bench.devices.several import GroupReader

    if device == "":
        return RemoteReader()
    if device == "cpu":
        return LocalServerReader(HostReader())
    names = members(device)
    try:
        cards = [open_card(name) for name in names]
    except Unreadable as reason:
        return RemoteReader(str(reason))
    first, *more = cards
    readers = [GpuReader(first, host=HostReader(computes=False)), *map(GpuReader, more)]
    return LocalServerReader(readers[0] if not more else GroupReader(names, readers))


def _gpu_reader(device: str, *, host: bool, memory: bool) -> Reader:
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
    return GpuReader(
        card,
        host=HostReader(computes=False) if host else None,
        memory=TorchMemory(device) if memory else None,
    )
