"""A server that does what the test says: answers, or fails in one of the ways that servers do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Reply = Callable[["Exchange"], Any]
"""Writes one answer: a coroutine function."""


@dataclass(slots=True)
class Exchange:
    """One request, and where its answer goes."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    writer: asyncio.StreamWriter
    number: int

    @property
    def n_gen(self) -> int:
        return int(self.body["max_tokens"])

    @property
    def n_prompt(self) -> int:
        prompt = self.body.get("prompt", "")
        return len(prompt if isinstance(prompt, list) else prompt.split())

    async def status(self, code: int, text: str = "{}", *headers: str) -> None:
        lines = [f"HTTP/1.1 {code} Scripted", *headers, f"Content-Length: {len(text.encode())}"]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n" + text).encode())
        await self.writer.drain()

    async def begin(self) -> None:
        self.writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\nServer: scripted\r\n\r\n"
        )

    async def send(self, data: str | bytes) -> None:
        """One piece of the body."""
        raw = data.encode() if isinstance(data, str) else data
        self.writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        await self.writer.drain()

    async def chunk(self, text: str, reason: str | None = None, **more: Any) -> None:
        what = {"delta": {"content": text}} if "messages" in self.body else {"text": text}
        await self.event({"choices": [{"index": 0, "finish_reason": reason, **what}], **more})

    async def event(self, table: dict[str, Any]) -> None:
        await self.send(f"data: {json.dumps(table)}\n\n")

    async def usage(self, made: int, **details: Any) -> None:
        usage = {"prompt_tokens": self.n_prompt, "completion_tokens": made, **details}
        await self.event({"choices": [], "usage": usage})

    async def end(self) -> None:
        await self.send("data: [DONE]\n\n")
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()


async def good(to: Exchange) -> None:
    """As it should be: one chunk a token, 2 ms apart."""
    await to.begin()
    for number in range(to.n_gen):
        await asyncio.sleep(0.002)
        await to.chunk(f" t{number}")
    await to.chunk("", "length")
    await to.usage(to.n_gen)
    await to.end()


@dataclass(slots=True)
class ScriptedServer:
    """Address, and what was asked of it."""

    reply: Reply
    models: tuple[str, ...] = ("m",)
    pages: Mapping[str, Callable[[Exchange], str]] = field(default_factory=dict)
    """Path -> what it answers, beside the API's own."""
    key: str = ""
    """Asked for in every request, if there is one."""
    asked: list[Exchange] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    in_flight: int = 0
    most_in_flight: int = 0
    url: str = ""
    loop: asyncio.AbstractEventLoop | None = None
    server: asyncio.Server | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
        ):
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                path = first.split()[1]
                to = Exchange(path, headers, json.loads(raw or b"{}"), writer, len(self.asked))
                await self.answer(to)
                if writer.is_closing():
                    return
        writer.close()

    async def answer(self, to: Exchange) -> None:
        if self.key and to.headers.get("authorization") != f"Bearer {self.key}":
            await to.status(401)
        elif to.path == "/v1/models":
            owned = [{"id": name, "owned_by": "vllm"} for name in self.models]
            await to.status(200, json.dumps({"data": owned}), "Server: scripted/1.0")
        elif to.path in self.pages:
            await to.status(200, self.pages[to.path](to))
        elif not to.path.startswith("/v1/"):
            await to.status(404)
        else:
            self.asked.append(to)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            try:
                await self.reply(to)
            finally:
                self.in_flight -= 1

    def die(self) -> None:
        """No new connections, and the open ones are cut. Call it from an answer."""
        assert self.server is not None
        self.server.close()
        for to in self.asked:
            to.writer.transport.abort()


async def turns(count: int) -> None:
    """Let what is ready run, so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


@contextlib.contextmanager
def scripted(reply: Reply = good, **settings: Any) -> Iterator[ScriptedServer]:
    """A running server in a thread of its own."""
    found = ScriptedServer(reply, **settings)
    ready = threading.Event()

    async def run() -> None:
        found.loop = asyncio.get_running_loop()
        found.server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=found.tls)
        host, port = found.server.sockets[0].getsockname()[:2]
        found.url = f"{'https' if found.tls else 'http'}://{host}:{port}"
        ready.set()
        await stopped.wait()
        found.server.close()
        await turns(2)  # what was accepted just now must begin, or nobody closes its socket
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for to in found.asked:
            to.writer.transport.abort()
        await turns(2)

    stopped = asyncio.Event()
    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield found
    finally:
        assert found.loop is not None
        found.loop.call_soon_threadsafe(stopped.set)
        thread.join(10)
