"""Peak memory of an accelerator over a window, by torch's own allocator.

It counts what torch allocated, not the context, nor what other libraries or processes hold; the
vendor's counter has those (`device_used_bytes` of the GPU readers).
"""

from __future__ import annotations

import sys
from typing import Any

from bench.devices.figures import Figures, Unreadable
from bench.experiment.devices import kind_of


class TorchMemory:
    """Reads `torch.accelerator` memory statistics of one device, resetting them at `begin`."""

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
        except (RuntimeError, AttributeError, AssertionError, ValueError) as error:
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
        except (RuntimeError, AttributeError, AssertionError, ValueError) as error:
            raise Unreadable(f"torch gives no {name} of {self._device}: {error}") from error
        if peak <= 0:
            raise Unreadable(f"torch allocated nothing on {self._device} in this window")
        return peak

    def _module(self) -> Any:
        """`torch.accelerator`, or the module of the device's kind where that has the statistics."""
        kind = kind_of(self._device)
        # Not imported for this: it would take memory of its own on the device.
        torch = sys.modules.get("torch")
        if torch is None:
            raise Unreadable("this engine does not allocate by torch")
        own = getattr(torch, kind, None)
        for module in (own, getattr(torch, "accelerator", None)):
            if module is not None and hasattr(module, "reset_peak_memory_stats"):
                return module
        raise Unreadable(f"torch has no memory statistics for {kind}")
