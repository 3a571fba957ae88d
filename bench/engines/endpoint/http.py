"""HTTP/1.1 on asyncio: what came, and when. Framing by httptools, connections kept and used again.

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
MOST_HEAD_BYTES: Final = 64 << 10
"""Of the status line and headers of one answer."""
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


class Framing:
    """Where one answer begins and ends: what httptools (Node's llhttp) calls while it reads.

    `begun`, `ended` and `whole` say how far it is; httptools does no input or output, which is why
    bytes can be stamped before they are read.
    """

    def __init__(self, sink: Sink) -> None:
        import httptools

        self._parser = httptools.HttpResponseParser(self)
        self.errors = (httptools.HttpParserError, httptools.HttpParserUpgrade)
        """What `feed` raises where bytes are no answer."""
        self._sink = sink
        self._at_ns = 0
        self._head_bytes = self._body_bytes = 0
        self._framed = self._again = False
        self.status, self.headers = 0, dict[str, str]()
        self.begun = False
        """Whether the head is whole."""
        self.ended = False
        """Whether the answer is whole."""
        self.reusable = False
        """Whether the connection takes another request after it."""

    def feed(self, at_ns: int, data: bytes) -> None:
        """Read bytes that came at a time; an empty piece is the end of all. Raises `errors`, and
        ValueError where an answer is larger than any or has not ended."""
        self._at_ns = at_ns
        if not data:
            if not self.begun or self._framed:
                raise ValueError("the connection was closed before the answer had ended")
            self.ended = True  # a body that is as long as the connection
            return
        self._parser.feed_data(data)
        if not self.begun:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                raise ValueError(f"a header of more than {MOST_HEAD_BYTES >> 10} KiB")
        if self._again:
            self.reusable = False  # bytes after the answer, which nobody asked for

    @property
    def too_long(self) -> bool:
        return self._body_bytes > MOST_BODY_BYTES

    def on_message_begin(self) -> None:
        self._again = self._again or self.ended

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._again:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._again or status < 200:
            return
        self.status, self.begun = status, True
        self.reusable = self._parser.should_keep_alive()
        bodiless = status in (204, 304)
        self._framed = bodiless or bool(self.headers.keys() & {"content-length", CODING})

    def on_body(self, data: bytes) -> None:
        if self._again:
            return
        self._body_bytes += len(data)
        if not self.too_long:
            self._sink.feed(self._at_ns, data)

    def on_message_complete(self) -> None:
        if self.begun:
            self.ended = True
        else:  # an answer of 1xx, before the one that counts
            self.headers = {}


CODING: Final = "transfer-encoding"


def request(method: str, target: str, headers: Headers, body: bytes) -> bytes:
    """A request as it is sent. Raises HttpError for what no head may hold."""
    length = [("Content-Length", str(len(body)))] if body else []
    lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in [*headers, *length])]
    if not all(line.isascii() and line.isprintable() for line in lines) or " " in target:
        raise HttpError(
            "malformed", "the address or a header has characters that HTTP does not allow"
        )
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection(asyncio.Protocol):
    """One socket, one exchange at a time."""

    def __init__(self, backlog: Backlog | None = None) -> None:
        self._backlog = backlog or Backlog()
        self._watch = self._backlog.watch
        self._loop = asyncio.get_running_loop()
        self._arrived: list[tuple[int, bytes]] = []
        self._transport: asyncio.Transport | None = None
        self._framing: Framing | None = None
        self._done: asyncio.Future[None] | None = None
        self._heard = False
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
        self._arrived.append((time.perf_counter_ns(), b""))  # the end of what will come
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
        data = request("POST" if body else "GET", target, headers, body)
        framing = self._framing = Framing(sink)
        self._done, self._heard = self._loop.create_future(), False
        sent_ns = sink.alive_ns = time.perf_counter_ns()
        self.used += 1
        self._transport.write(data)
        try:
            await self._ended(sink, timeout_s)
        except BaseException:
            self.close()
            raise
        finally:
            self._done = self._framing = None
        return ResponseHead(status=framing.status, headers=framing.headers, sent_ns=sent_ns)

    async def _ended(self, sink: Sink, timeout_s: float) -> None:
        """Until the answer has ended, or nothing that counts came for `timeout_s`: whatever else a
        server sends (a head that never ends, comments, empty chunks), it is not waited for."""
        assert self._done is not None
        assert self._framing is not None
        while not self._done.done():
            left = timeout_s - (time.perf_counter_ns() - sink.alive_ns) / 1e9
            if left <= 0:
                raise HttpError("timeout", f"no data for {timeout_s:g} s")
            if sink.full or self._framing.too_long:
                raise HttpError("malformed", "the answer exceeds the size limit")
            await asyncio.wait({self._done}, timeout=min(left, LOOK_S))
        self._done.result()

    def read(self) -> None:
        """Read what has arrived and was not read."""
        arrived, self._arrived = self._arrived, []
        for at_ns, data in arrived:
            framing = self._framing
            if framing is None or self._done is None or self._done.done():
                self.close()  # the server hung up between requests, or says what nobody asked
                return
            self._heard = self._heard or data != b""
            try:
                framing.feed(at_ns, data)
            except (*framing.errors, ValueError) as error:
                if not framing.ended:
                    self._fail(framing, error)
                    return
                framing.reusable = False
            if framing.ended:
                if not framing.reusable:
                    self.close()
                self._done.set_result(None)

    def _fail(self, framing: Framing, error: Exception) -> None:
        assert self._done is not None
        self.close()
        kind = "truncated" if framing.status else "disconnected"
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
