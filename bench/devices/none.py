"""The reader of a device that no other reader knows: host and torch's memory, the rest absent."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bench.devices import Reading
from bench.devices.figures import Figures
from bench.devices.gpu.torch_memory import TorchMemory
from bench.devices.host import HostReader

FIGURES = ("energy_j", "temperature_c", "sm_mhz", "memory_mhz", "power_limit_w", "event_reasons")


class NullReader:
    """Says of each figure of the device why it is missing."""

    has_energy = False

    def __init__(self, device: str, why: str) -> None:
        self._device = device
        self._why = why
        self._host = HostReader(computes=False)
        self._scripted = device == "synthetic"
        # A device that torch does not know has no memory there, and torch need not be loaded.
        self._memory = None if self._scripted else TorchMemory(device)

    def identity(self) -> Mapping[str, Any]:
        return {**self._host.identity(), "device": self._device}

    def begin(self) -> None:
        if self._memory:
            self._memory.begin()
        self._host.begin()

    def end(self) -> Reading:
        host = self._host.end()
        memory = self._memory.end() if self._memory else Figures()
        return dataclasses.replace(
            host,
            reasons=() if self._scripted else host.reasons,  # nothing else moves scripted time
            energy={},  # the host's own energy would be taken for the device's
            memory={**host.memory, **memory.values},
            absent={**host.absent, **memory.absent, **dict.fromkeys(FIGURES, self._why)},
        )

    def idle(self, seconds: float) -> None:
        """There is nothing to read."""

    def close(self) -> None:
        self._host.close()
