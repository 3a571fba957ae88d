"""What the leader of several client processes and its members say to each other, and how.

Messages are pickled, as both ends are this program: from the leader `Meet`, `Asking`, a load,
`Begin` and orders (`drain`, `stop`); from a member `Set`, then `Sent` and `Ended` of each request,
then `ClientLoad`.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from dataclasses import dataclass
from typing import Any, Final

from bench.engines.endpoint.settings import EndpointSettings

SIZE: Final = struct.Struct(">Q")
"""Before each message: its length."""


@dataclass(frozen=True, slots=True)
class Meet:
    """The first order: the server, and the model's name there."""

    settings: EndpointSettings
    model: str


@dataclass(frozen=True, slots=True)
class Begin:
    """To those that are set: when a plan begins, `time.perf_counter_ns`."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class Set:
    """A member has done what must come before a load."""

    clock_ns: int
    """Its `time.perf_counter_ns`."""


class Wire:
    """One end of a socket for messages, in the running event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def on(cls, end: socket.socket) -> Wire:
        return cls(*await asyncio.open_connection(sock=end))

    def send(self, message: Any) -> None:
        """Never waits: what the other has not read yet is kept."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._writer.write(SIZE.pack(len(data)) + data)

    async def hear(self) -> Any:
        """The next message; None when the other has gone."""
        try:
            (size,) = SIZE.unpack(await self._reader.readexactly(SIZE.size))
            return pickle.loads(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        self._writer.transport.abort()
