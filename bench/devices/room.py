"""How much memory a batch may take on a device, and how much one took."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bench.devices import Reading
from bench.devices.figures import Unreadable
from bench.devices.gpu import torch_memory
from bench.devices.host import machine
from bench.devices.host import peak_bytes as host_peak_bytes
from bench.errors import UnsupportedError
from bench.experiment.devices import members, on_cpu


def peak_bytes(reading: Reading, device: str) -> int:
    """The peak of a window: of the accelerator's allocator, or of the process on a CPU."""
    names: tuple[str, ...] = ("peak_device_reserved_bytes", "peak_device_bytes")
    if on_cpu(device):
        names = ("peak_host_bytes",)
    for name in names:
        if name in reading.memory:
            return int(reading.memory[name])
    reasons = [reading.absent[name] for name in names if name in reading.absent]
    reason = next(iter(reasons), "no reason given")
    raise UnsupportedError(f"the peak of memory cannot be read: {reason}; give -b a number")


def room_bytes(device: str, root: Path = machine.ROOT) -> int:
    """Bytes that could be held on the device, or on several together: what is held, and is free."""
    if on_cpu(device):
        return _host_room(root)
    return sum(map(_device_room, members(device)))


def _device_room(device: str) -> int:
    try:
        return torch_memory.capacity_bytes(device)
    except Unreadable as reason:
        raise UnsupportedError(f"the free memory of {device} cannot be read: {reason}") from reason


def _host_room(root: Path) -> int:
    try:
        room = machine.memory_info("MemAvailable", root) + host_peak_bytes(root)
    except Unreadable as reason:
        raise UnsupportedError(f"the free memory cannot be read: {reason}") from reason
    with contextlib.suppress(Unreadable):
        limit = machine.memory_limit(root)
        room = min(room, limit) if limit is not None else room
    return room
