"""What the client spends on a chunk that arrives: shown by pytest-benchmark, never asserted.

    pytest tests/perf/test_serving_perf.py --benchmark-enable

`stamp` is what stands between a byte's arrival and its time stamp where others arrived with it;
`read` is framing, events and JSON, done when all are stamped. Their sum bounds the chunks a second
that one client can take, docs/serving.md.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from bench.engines.endpoint.http import Connection
from bench.engines.endpoint.streams import Stream

pytest.importorskip("pytest_benchmark")

CHUNKS = 1000
EVENT = {
    "id": "cmpl-0123456789abcdef",
    "object": "text_completion",
    "created": 1795431736,
    "model": "model",
    "choices": [{"index": 0, "text": " word", "finish_reason": None}],
}
BODY = f"data: {json.dumps(EVENT)}\n\n".encode()
PIECE = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n"


class Deaf(asyncio.Transport):
    """Takes what is written and sends nothing."""

    def write(self, data: Any) -> None:
        pass

    def abort(self) -> None:
        pass


async def begun() -> tuple[Connection, Stream, asyncio.Task[Any]]:
    """A connection in the middle of an answer."""
    connection, stream = Connection(), Stream()
    connection.connection_made(Deaf())
    asked = connection.exchange("/", [("Host", "a")], b"{}", stream, 60.0)
    task = asyncio.create_task(asked)
    await asyncio.sleep(0)
    connection.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await asyncio.sleep(0)
    return connection, stream, task


def test_stamp(benchmark: Any) -> None:
    async def one() -> None:
        connection, _, task = await begun()

        def arrive() -> None:
            for _ in range(CHUNKS):
                connection.data_received(PIECE)

        benchmark.pedantic(arrive, rounds=1)
        task.cancel()

    benchmark.extra_info["chunks"] = CHUNKS
    asyncio.run(one())


def test_read(benchmark: Any) -> None:
    async def one() -> None:
        connection, stream, task = await begun()
        for _ in range(CHUNKS):
            connection.data_received(PIECE)
        benchmark.pedantic(connection.read, rounds=1)
        assert len(stream.text_ns) == CHUNKS
        task.cancel()

    benchmark.extra_info["chunks"] = CHUNKS
    asyncio.run(one())
