"""One of several client processes.

    python -m bench.engines.endpoint.member    its orders come by the socket that is its stdin

See `bench.engines.endpoint.crew`. It ends when its leader has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from typing import Any

from bench.engines.endpoint.asking import Asker, Asking
from bench.engines.endpoint.client import Client
from bench.engines.endpoint.http import HttpError, WatchedLoop
from bench.engines.endpoint.sending import Arrivals, Load, Sender, Streams, watched
from bench.engines.endpoint.settings import ApiKey
from bench.engines.endpoint.wire import Meet, Set, Wire


class ClientProcess:
    """Does what its leader says."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._orders: asyncio.Queue[Any] = asyncio.Queue()

    async def serve(self) -> None:
        """Until the leader has gone."""
        listening = asyncio.create_task(self._listen())
        while (order := await self._orders.get()) is not None:
            if isinstance(order, Meet):
                key = ApiKey(order.settings.key_env)
                self._client = Client(order.settings, key, order.model)
                self._set()
            elif isinstance(order, Asking):
                await self._prepare(order)
            elif isinstance(order, Streams | Arrivals):
                await self._send(order)
            # What else comes is an order to a load that has ended.
        await listening

    async def _listen(self) -> None:
        while (order := await self._wire.hear()) is not None:
            self._orders.put_nowait(order)
        self._orders.put_nowait(None)

    def _set(self) -> None:
        self._wire.send(Set(time.perf_counter_ns()))

    async def _prepare(self, asking: Asking) -> None:
        """Be warm: the code is read, and a connection open, before anything is measured."""
        self._asks = Asker(self._client, asking)
        with contextlib.suppress(HttpError):  # what is measured will say so
            await self._client.get("/v1/models")
        self._set()

    async def _send(self, load: Load) -> None:
        """Send a share of a load, with no pause for garbage."""
        sender = Sender(self._asks, self._wire.send)
        gc.collect()
        gc.disable()
        self._set()
        if (begin := await self._orders.get()) is None:
            self._orders.put_nowait(None)
            return
        async with watched() as told:
            obeying = asyncio.create_task(self._obey(sender))
            await sender.run(load, begin.at_ns)
            obeying.cancel()
        gc.enable()
        self._wire.send(told)

    async def _obey(self, sender: Sender) -> None:
        while (order := await self._orders.get()) is not None:
            sender.obey(order)
        sender.obey("stop")
        self._orders.put_nowait(None)


async def _serve(end: socket.socket) -> None:
    await ClientProcess(await Wire.on(end)).serve()


def main() -> int:
    """One client's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader hears it, and ends its members
    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        runner.run(_serve(socket.socket(fileno=os.dup(0))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
