"""Which reader reads a device, by the name that torch gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.devices import Reader
from bench.devices.several import Others, WithOthers
from bench.experiment.devices import behind, is_remote, kind_of, members

if TYPE_CHECKING:
    from bench.devices.remote import LocalServerReader, RemoteReader


def reader_for(device: str, own: Sequence[str] | None = None) -> Reader:
    """The reader of a device as torch names it: `cpu`, `cuda:0`, `xpu:0`, `mps`, ...; of several
    that hold one model `cuda:0+cuda:1`; of a server elsewhere `remote`, of one on this machine
    `remote:cuda:0`.

    `own` are those of several that this process computes on; None: all. A device that cannot be
    read gets a reader that says so; this never fails for want of one.
    """
    if is_remote(device):
        return server_reader(device)
    names = members(device)
    if len(names) > 1:
        from bench.devices.several import GroupReader

        return GroupReader(
            names,
            [
                _reader(name, host=name == names[0], memory=own is None or name in own)
                for name in names
            ],
        )
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


def server_reader(device: str) -> LocalServerReader | RemoteReader:
    """The reader of the device that a server computes on, if that is one of this machine.

    torch has no part in it: its context would take memory on the server's card.
    """
    from bench.devices.figures import Unreadable
    from bench.devices.gpu.card import open_card
    from bench.devices.gpu.reader import GpuReader
    from bench.devices.host import HostReader
    from bench.devices.remote import LocalServerReader, RemoteReader
    from bench.devices.several import GroupReader

    computes = behind(device)
    if computes == "":
        return RemoteReader()
    if computes == "cpu":
        return LocalServerReader(HostReader())
    names = members(computes)
    try:
        cards = [open_card(name) for name in names]
    except Unreadable as reason:
        return RemoteReader(str(reason))
    first, *more = cards
    readers = [GpuReader(first, host=HostReader(computes=False)), *map(GpuReader, more)]
    return LocalServerReader(readers[0] if not more else GroupReader(names, readers), cards)


def _gpu_reader(device: str, *, host: bool, memory: bool) -> Reader:
    """The reader of an NVIDIA or AMD card; torch calls both `cuda`."""
    from bench.devices.figures import Unreadable
    from bench.devices.gpu.card import open_card
    from bench.devices.gpu.reader import GpuReader
    from bench.devices.gpu.torch_memory import TorchMemory
    from bench.devices.host import HostReader
    from bench.devices.none import NullReader

    try:
        card = open_card(device)
    except Unreadable as reason:
        return NullReader(device, str(reason))
    return GpuReader(
        card,
        host=HostReader(computes=False) if host else None,
        memory=TorchMemory(device) if memory else None,
    )


def reader_of(device: str, others: Others | None, server_pid: int | None = None) -> Reader:
    """The reader of a device or several, with the memory of the engine's other processes, or of the
    server that was started for it."""
    if server_pid is not None:
        from bench.devices.remote import StartedServerReader

        return StartedServerReader(server_reader(device), server_pid)
    if others is None:
        return reader_for(device)
    return WithOthers(reader_for(device, own=others.own), others)
