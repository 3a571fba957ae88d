"""Readers for a server: on a machine somewhere else, or, where the user says so, on this one.

What the client does here is told apart from the server's figures: how late it was is measured with
the requests (`bench.engines.endpoint.load`), and this machine's load is kept for a look.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.devices import Reader, Reading
from bench.devices.figures import Figures, Unreadable
from bench.devices.host import HostReader, processes
from bench.devices.none import FIGURES
from bench.experiment.devices import REMOTE

if TYPE_CHECKING:
    from bench.devices.gpu.reader import Card

WHY = "a server's machine cannot be read from here"


class RemoteReader:
    """Says of each figure of the server's machine that it is not seen."""

    has_energy = False
    cards: Sequence[Card] = ()

    def __init__(self, why: str = WHY) -> None:
        self._why = why
        self._host = HostReader(computes=False)

    def identity(self) -> Mapping[str, Any]:
        return {**self._host.identity(), "device": REMOTE}

    def begin(self) -> None:
        self._host.begin()

    def end(self) -> Reading:
        host = self._host.end()
        return Reading(
            device={name: value for name, value in host.device.items() if "cores" in name},
            absent=dict.fromkeys((*FIGURES, "peak_memory_bytes"), self._why),
        )

    def idle(self, seconds: float) -> None:
        """There is no counter."""

    def close(self) -> None:
        self._host.close()


class LocalServerReader:
    """The reader of the device that a server on this machine computes on.

    The server is another process, so that other processes on the device are no fault here, and the
    memory of this one is not the server's.
    """

    def __init__(self, inner: Reader, cards: Sequence[Card] = ()) -> None:
        self._inner = inner
        self.cards = cards
        self.has_energy = inner.has_energy

    def identity(self) -> Mapping[str, Any]:
        return self._inner.identity()

    def begin(self) -> None:
        self._inner.begin()

    def end(self) -> Reading:
        read = self._inner.end()
        return dataclasses.replace(
            read,
            memory={},
            reasons=tuple(reason for reason in read.reasons if reason != "FOREIGN_PROCESS"),
            absent={
                **read.absent,
                "peak_memory_bytes": "the server's memory is not this process's",
                "foreign_processes": "the server cannot be told from other processes",
            },
        )

    def idle(self, seconds: float) -> None:
        self._inner.idle(seconds)

    def close(self) -> None:
        self._inner.close()


class StartedServerReader:
    """The reader of a server that was started for this run: its processes are known.

    `pid` leads them. Peaks of single processes add up to an upper bound of what they held at once.
    Of the cards' memory it is what they hold when the window ends.
    """

    def __init__(self, inner: LocalServerReader | RemoteReader, pid: int) -> None:
        self._inner = inner
        self._pid = pid
        self._members: list[int] = []
        self._reset = False
        self.has_energy = inner.has_energy

    def identity(self) -> Mapping[str, Any]:
        return self._inner.identity()

    def begin(self) -> None:
        with contextlib.suppress(Unreadable):
            self._members = processes.family(self._pid)
        self._reset = processes.reset_peaks(self._members)
        self._inner.begin()

    def end(self) -> Reading:
        read = self._inner.end()
        found = Figures()
        found.read("peak_host_bytes", lambda: processes.peak_bytes(self._members))
        if found.values:
            scope = "window" if self._reset else "process"
            found.values |= {"peak_host_scope": scope, "processes": len(self._members)}
        cards = self._inner.cards
        if cards:
            held = lambda: sum(card.held_by(self._members) for card in cards)  # noqa: E731
            found.read("peak_device_bytes", held)
        peak = "peak_device_bytes" if cards else "peak_host_bytes"
        known = {*found.values, *(["peak_memory_bytes"] if peak in found.values else [])}
        absent = {name: why for name, why in read.absent.items() if name not in known}
        return dataclasses.replace(
            read, memory={**read.memory, **found.values}, absent=absent | found.absent
        )

    def idle(self, seconds: float) -> None:
        self._inner.idle(seconds)

    def close(self) -> None:
        self._inner.close()
