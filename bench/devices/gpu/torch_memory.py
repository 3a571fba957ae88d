"""Memory of an accelerator by torch's own allocator: its peak over a window, and what it holds.

It counts what torch allocated, not the context, nor what other libraries or processes hold; the
vendor's counter has those (`device_used_bytes` of the GPU readers). Of MPS torch keeps no peak, and
what `torch.accelerator` has of memory stops there with an internal error (pytorch#167447); so each
kind's own module is asked.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

from bench.devices.figures import Figures, Unreadable
from bench.experiment.devices import kind_of

FAILURES: Final = (AttributeError, RuntimeError, AssertionError, ValueError)
"""What torch raises of a device that it has not, or not with this figure."""


def allocated_bytes(device: str) -> int:
    """What tensors hold on a device now. Raises Unreadable."""
    name = "current_allocated_memory" if kind_of(device) == "mps" else "memory_allocated"
    held = _asked(device, name)
    if held <= 0:
        raise Unreadable(f"torch holds nothing on {device}: the engine allocates without torch")
    return held


def capacity_bytes(device: str) -> int:
    """What a program could hold on a device: what this one's allocator holds, and what is free; on
    a Mac what Metal recommends at most, as the memory is everybody's. Raises Unreadable."""
    if kind_of(device) == "mps":
        return _asked(device, "recommended_max_memory")
    return _asked(device, "mem_get_info") + _asked(device, "memory_reserved")


def reserved_bytes(device: str) -> int:
    """What the allocator keeps of a device now, also without tensors. Raises Unreadable."""
    name = "driver_allocated_memory" if kind_of(device) == "mps" else "memory_reserved"
    return _asked(device, name)


def _asked(device: str, name: str) -> int:
    """A figure of torch's module for the device's kind; of several (free, total) the first."""
    kind = kind_of(device)
    try:
        ask = getattr(getattr(importlib.import_module("torch"), kind), name)
        found = ask() if kind == "mps" else ask(device)  # there is one of them
        return int(found[0] if isinstance(found, tuple) else found)
    except (ImportError, *FAILURES) as error:
        raise Unreadable(f"torch reports no {name} of {device}: {error}") from error


class TorchMemory:
    """Reads the peaks of one device's allocator, resetting them at `begin`."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._why = ""

    def begin(self) -> None:
        """Reset the peaks."""
        try:
            self._module().reset_peak_memory_stats(self._device)
            self._why = ""
        except Unreadable as reason:
            self._why = str(reason)
        except FAILURES as error:
            self._why = f"torch cannot reset the peak of memory of {self._device}: {error}"

    def end(self) -> Figures:
        """`peak_device_bytes` (allocated) and `peak_device_reserved_bytes` of the window."""
        figures = Figures()
        figures.read("peak_device_bytes", lambda: self._peak("max_memory_allocated"))
        figures.read("peak_device_reserved_bytes", lambda: self._peak("max_memory_reserved"))
        return figures

    def _peak(self, name: str) -> int:
        if self._why:
            raise Unreadable(self._why)
        try:
            peak = int(getattr(self._module(), name)(self._device))
        except FAILURES as error:
            raise Unreadable(f"torch reports no {name} of {self._device}: {error}") from error
        if peak <= 0:
            raise Unreadable(f"torch allocated nothing on {self._device} in this window")
        return peak

    def _module(self) -> Any:
        """Torch's module for the device's kind."""
        kind = kind_of(self._device)
        # Not imported for this: it would take memory of its own on the device.
        torch = sys.modules.get("torch")
        if torch is None:
            raise Unreadable("this engine does not allocate by torch")
        module = getattr(torch, kind, None)
        if not hasattr(module, "reset_peak_memory_stats"):
            raise Unreadable(f"torch keeps no peak of memory for {kind}")
        return module
