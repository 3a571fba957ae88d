"""HTTP/1.1 on asyncio: what came, and when. Framing by h11, connections kept and used again.

Bytes are stamped in the event loop's own callback and read later, a little at a time: what arrives
meanwhile is stamped first. `WatchedLoop` tells how late a stamp may be. Proxies are not used.
"""

from __future__ import annotations

import asyncio
import selectors
import ssl
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

MOST_BODY_BYTES: Final = 256 << 20
"""Of one answer: far above what millions of tokens take as a stream."""
SLICE_NS: Final = 300_000
"""Of reading, after which the event loop looks for what has come."""
LOOK_S: Final = 0.5
"""Between looks at how much has come; the measured path itself waits for nothing but bytes."""

Headers = Sequence[tuple[str, str]]


class Sink(Protocol):
    """Takes the body of an answer as it comes."""

    full: bool
    """Whether it takes no more: the exchange is then given up."""
    alive_ns: int
    """When it last got what it waits for; a timeout counts from here."""

    def feed(self, at_ns: int, data: bytes) -> None:
        """Bytes of the body, and when they came (`time.perf_counter_ns`)."""


class HttpError(Exception):
    """The exchange did not end well; `kind` is a word of `streams.FAILURES`."""

    def __init__(self, kind: str, detail: str, *, unanswered: bool = False) -> None:
        self.kind = kind
        self.unanswered = unanswered
        """Whether a connection that had been used before closed without a byte of an answer."""
        super().__init__(detail)


@dataclass(slots=True)
class ResponseHead:
    """Of an answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    sent_ns: int = 0
    """When the request was handed to the system, on an open connection."""
    connect_s: float = 0.0
    """Seconds that opening the connection took before that; 0 where one was open."""


@dataclass(slots=True)
class ResponseText:
    """A sink that keeps the body, up to a limit: for errors and small documents."""

    alive_ns: int = 0
    body: bytearray = field(default_factory=bytearray)
    limit: int = 1 << 20
    full: bool = False
    """Whether more came than is kept."""

    def feed(self, at_ns: int, data: bytes) -> None:  # noqa: ARG002 (a document is waited for whole)
        self.body += data[: self.limit - len(self.body)]
        self.full = len(self.body) >= self.limit


class WatchedSelector(selectors.DefaultSelector):
    """Knows how long the loop had not looked when it found what had come."""

    def __init__(self) -> None:
        super().__init__()
        self._looked_ns = time.perf_counter_ns()
        self._late_ns = 0
        self.lates_ns: list[int] = []
        """Of each arrival since it was emptied: how late its stamp may be at most."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # What is there at once may have come any time since the last look; what has to be waited
        # for comes while it is looked for.
        found = super().select(0)
        there = bool(found) or (timeout is not None and timeout <= 0)
        if not there:
            found = super().select(timeout)
        now = time.perf_counter_ns()
        self._late_ns = now - self._looked_ns if there else 0
        self._looked_ns = now
        return found

    def note(self, at_ns: int) -> None:
        """Something was stamped."""
        self.lates_ns.append(at_ns - self._looked_ns + self._late_ns)


class WatchedLoop(asyncio.SelectorEventLoop):
    """The event loop of the client."""

    def __init__(self) -> None:
        self.watch = WatchedSelector()
        super().__init__(self.watch)


class Backlog:
    """Connections of which something was stamped and is still to be read, first come first.

    Reading a chunk takes longer than stamping it. Read for `SLICE_NS`, then the loop looks again:
    so a stamp is never late by what many others take to be read.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Connection] = deque()
        self.watch: WatchedSelector | None = getattr(self._loop, "watch", None)

    def add(self, connection: Connection) -> None:
        self._waiting.append(connection)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        until_ns = time.perf_counter_ns() + SLICE_NS
        while self._waiting:
            self._waiting[0].read()
            self._waiting.popleft()
            if time.perf_counter_ns() > until_ns:
                break
        if self._waiting:
            self._loop.call_soon(self._read)


class Connection(asyncio.Protocol):
    """One socket, one exchange at a time."""

    def __init__(self, backlog: Backlog | None = None) -> None:
        import h11

        self._backlog = backlog or Backlog()
        self._watch = self._backlog.watch

        self._h11 = h11
        self._state = h11.Connection(our_role=h11.CLIENT)
        self._loop = asyncio.get_running_loop()
        self._arrived: list[tuple[int, bytes]] = []
        self._transport: asyncio.Transport | None = None
        self._sink: Sink | None = None
        self._head = ResponseHead()
        self._done: asyncio.Future[None] | None = None
        self._heard = False
        self._body_bytes = 0
        self.used = 0
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.open = transport, True

    def data_received(self, data: bytes) -> None:
        at_ns = time.perf_counter_ns()
        self._arrived.append((at_ns, data))
        if self._watch is not None:
            self._watch.note(at_ns)
        if len(self._arrived) == 1:
            self._backlog.add(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self.open = False
        self._arrived.append((time.perf_counter_ns(), b""))  # h11: the end of what will come
        self.read()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()  # a server that still makes tokens must learn that it may stop
        self.open = False

    async def exchange(
        self, target: str, headers: Headers, body: bytes, sink: Sink, timeout_s: float
    ) -> ResponseHead:
        """Send a request, feed its answer to `sink`, return its head. Raises HttpError."""
        assert self._transport is not None
        h11, method = self._h11, "POST" if body else "GET"
        length = [("Content-Length", str(len(body)))] if body else []
        request = h11.Request(method=method, target=target, headers=[*headers, *length])
        data = self._state.send(request) or b""
        if body:
            data += self._state.send(h11.Data(data=body)) or b""
        data += self._state.send(h11.EndOfMessage()) or b""
        self._done, self._sink, self._heard = self._loop.create_future(), sink, False
        self._head, self._body_bytes = ResponseHead(sent_ns=time.perf_counter_ns()), 0
        sink.alive_ns = self._head.sent_ns
        self.used += 1
        self._transport.write(data)
        try:
            await self._ended(sink, timeout_s)
            return self._head
        except BaseException:
            self.close()
            raise
        finally:
            self._done = self._sink = None

    async def _ended(self, sink: Sink, timeout_s: float) -> None:
        """Until the answer has ended, or nothing that counts came for `timeout_s`: whatever else a
        server sends (a head that never ends, comments, empty chunks), it is not waited for."""
        assert self._done is not None
        while not self._done.done():
            left = timeout_s - (time.perf_counter_ns() - sink.alive_ns) / 1e9
            if left <= 0:
                raise HttpError("timeout", f"nothing new for {timeout_s:g} s")
            if sink.full or self._body_bytes > MOST_BODY_BYTES:
                raise HttpError("malformed", "the answer is longer than any answer is")
            await asyncio.wait({self._done}, timeout=min(left, LOOK_S))
        self._done.result()

    def read(self) -> None:
        """Read what has arrived and was not read."""
        arrived, self._arrived = self._arrived, []
        for at_ns, data in arrived:
            if self._done is None or self._done.done():
                self.close()  # the server hung up between requests, or says what nobody asked
                return
            self._heard = self._heard or data != b""
            try:
                self._state.receive_data(data)
                self._take(at_ns)
            except self._h11.RemoteProtocolError as error:
                self._fail(error)

    def _take(self, at_ns: int) -> None:
        h11 = self._h11
        while True:
            event = self._state.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Response):
                self._head.status = event.status_code
                self._head.headers = {k.decode(): v.decode("latin-1") for k, v in event.headers}
            elif isinstance(event, h11.Data):
                assert self._sink is not None
                self._body_bytes += len(event.data)
                if self._body_bytes <= MOST_BODY_BYTES:
                    self._sink.feed(at_ns, bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._finish()
                return
            elif isinstance(event, h11.ConnectionClosed):
                raise h11.RemoteProtocolError("closed without an answer")

    def _finish(self) -> None:
        assert self._done is not None
        h11 = self._h11
        if self._state.our_state is h11.DONE and self._state.their_state is h11.DONE:
            self._state.start_next_cycle()
        else:
            self.close()
        self._done.set_result(None)

    def _fail(self, error: Exception) -> None:
        assert self._done is not None
        self.close()
        if self._done.done():
            return
        kind = "truncated" if self._head.status else "disconnected"
        stale = self.used > 1 and not self._heard
        self._done.set_exception(HttpError(kind, str(error), unanswered=stale))


class Pool:
    """Connections to one server, used again where they are still open."""

    def __init__(self, root: str, timeout_s: float) -> None:
        parts = urlsplit(root)
        assert parts.hostname is not None
        secure = parts.scheme == "https"
        self._where: dict[str, Any] = {
            "host": parts.hostname,
            "port": parts.port or (443 if secure else 80),
            "ssl": ssl.create_default_context() if secure else None,
        }
        self._prefix = parts.path
        self._timeout_s = timeout_s
        self._headers: Headers = [
            ("Host", parts.netloc),
            ("User-Agent", "gpu-cost-bench"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),  # compressed, chunks would come when a block is full
        ]
        self._backlog: Backlog | None = None
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()

    async def exchange(self, path: str, headers: Headers, body: bytes, sink: Sink) -> ResponseHead:
        """One request and its whole answer. Raises HttpError.

        A connection that was kept may have been closed by the server meanwhile: such a request is
        sent once more on a fresh one, as it was not answered and cannot have been begun.
        """
        connection, connect_s = await self._take()
        everything = [*self._headers, *headers]
        target = self._prefix + path
        try:
            head = await connection.exchange(target, everything, body, sink, self._timeout_s)
        except HttpError as error:
            if not error.unanswered:
                raise
            self._all.discard(connection)
            connection, connect_s = await self._open()
            head = await connection.exchange(target, everything, body, sink, self._timeout_s)
        finally:
            if connection.open:
                self._idle.append(connection)
            else:
                self._all.discard(connection)
        head.connect_s = connect_s
        return head

    async def warm(self, count: int) -> None:
        """Open connections until `count` are idle."""
        while len(self._idle) < count:
            self._idle.append((await self._open())[0])

    async def _take(self) -> tuple[Connection, float]:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection, 0.0
            self._all.discard(connection)
        return await self._open()

    async def _open(self) -> tuple[Connection, float]:
        before = time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._backlog is None:
                    self._backlog = Backlog()
                backlog = self._backlog
                _, connection = await loop.create_connection(
                    lambda: Connection(backlog), **self._where
                )
        except TimeoutError as error:
            raise HttpError("timeout", f"no connection within {self._timeout_s:g} s") from error
        except OSError as error:  # refused, no route, unknown host, bad certificate
            raise HttpError("refused", error.strerror or str(error)) from error
        self._all.add(connection)
        return connection, time.perf_counter() - before

    def close(self) -> None:
        for connection in self._all:
            connection.close()
        self._idle.clear()
        self._all.clear()
