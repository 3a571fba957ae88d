"""How much memory a batch may take on a device, and how much one took."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any

from bench.devices import Reading
from bench.devices.figures import Unreadable
from bench.devices.host import machine
from bench.devices.host import peak_bytes as host_peak_bytes
from bench.errors import UnsupportedError
from bench.experiment.devices import kind_of, members, on_cpu


def peak_bytes(reading: Reading, device: str) -> int:
    """The peak of a window: of the accelerator's allocator, or of the process on a CPU."""
    names = ("peak_device_reserved_bytes", "peak_device_bytes")
    for name in ("peak_host_bytes",) if on_cpu(device) else names:
        if name in reading.memory:
            return int(reading.memory[name])
    reason = next(iter(reading.absent.values()), "no reason given")
    raise UnsupportedError(f"the peak of memory cannot be read: {reason}")


def room_bytes(device: str, root: Path = machine.ROOT) -> int:
    """Bytes that could be held on the device, or on several together: what is held, and is free."""
    if on_cpu(device):
        return _host_room(root)
    return sum(map(_device_room, members(device)))


def _device_room(device: str) -> int:
    module: Any = getattr(importlib.import_module("torch"), kind_of(device))
    try:
        free, _total = module.mem_get_info(device)
        return int(free) + int(module.memory_reserved(device))
    except (AttributeError, RuntimeError) as error:
        raise UnsupportedError(f"the free memory of {device} cannot be read: {error}") from error


def _host_room(root: Path) -> int:
    try:
        room = machine.memory_info("MemAvailable", root) + host_peak_bytes(root)
    except Unreadable as reason:
        raise UnsupportedError(f"the free memory cannot be read: {reason}") from reason
    with contextlib.suppress(Unreadable):
        limit = machine.memory_limit(root)
        room = min(room, limit) if limit is not None else room
    return room
