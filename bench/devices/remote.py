"""The reader of a server somewhere else: this machine's counters say nothing of it.

What the client does here is told apart from the server's figures: how late it was is measured with
the requests (`bench.serving.load`), and this machine's load is kept for a look.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.devices import Reading
from bench.devices.host import HostReader
from bench.devices.none import FIGURES

NAME = "remote"
WHY = "the server's machine is not read from here"


class RemoteReader:
    """Says of each figure of the server's machine that it is not seen."""

    has_energy = False

    def __init__(self) -> None:
        self._host = HostReader(computes=False)

    def identity(self) -> Mapping[str, Any]:
        return {**self._host.identity(), "device": NAME}

    def begin(self) -> None:
        self._host.begin()

    def end(self) -> Reading:
        host = self._host.end()
        return Reading(
            device={name: value for name, value in host.device.items() if "cores" in name},
            absent=dict.fromkeys((*FIGURES, "peak_memory_bytes"), WHY),
        )

    def idle(self, seconds: float) -> None:
        """There is no counter."""

    def close(self) -> None:
        self._host.close()
