"""Where an answer of HTTP/1.1 begins and ends, by a server that sends what the test says."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from bench.engines.endpoint.http import MOST_HEAD_BYTES, HttpError, Pool, ResponseHead, ResponseText

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def asked(
    *answers: bytes, closes: bool = False, bytewise: bool = False
) -> tuple[list[tuple[ResponseHead, bytes]], int]:
    """What a client reads, one request an answer, and how many connections that took."""
    left, connections = list(answers), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while left and await reader.readuntil(b"\r\n\r\n"):
                answer = left.pop(0)
                for piece in [answer] if not bytewise else [bytes([byte]) for byte in answer]:
                    writer.write(piece)
                    await writer.drain()
                if closes:
                    break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pool = Pool(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=5.0)
    found = []
    try:
        for _ in answers:
            sink = ResponseText()
            head = await pool.exchange("/", [], b"", sink)
            found.append((head, bytes(sink.body)))
            await asyncio.sleep(0.01)
    finally:
        pool.close()
        server.close()
        await asyncio.sleep(0.05)  # the server's side of each connection ends, too
    return found, connections


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED,
        SIZED,
        b"HTTP/1.1 100 Continue\r\nX-A: b\r\n\r\n" + SIZED,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + CHUNKED,
        SIZED.replace(b"\r\n\r\n", b"\r\nX-A: b\r\nConnection: keep-alive\r\n\r\n"),
    ],
)
def test_an_answer_is_whole_and_its_connection_is_used_again(answer: bytes, bytewise: bool) -> None:
    found, connections = asyncio.run(asked(answer, answer, bytewise=bytewise))
    assert [(head.status, body) for head, body in found] == [(200, b"hello")] * 2
    assert connections == 1
    if b"100 Continue" in answer:
        assert "x-a" not in found[0][0].headers


def test_an_answer_without_a_length_is_as_long_as_its_connection() -> None:
    plain = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello"
    found, connections = asyncio.run(asked(plain, plain, closes=True))
    assert [(head.status, body) for head, body in found] == [(200, b"hello")] * 2
    assert found[0][0].headers == {"content-type": "text/plain"}
    assert connections == 2


def test_a_body_may_come_with_its_head_however_long_it_is() -> None:
    body = b"x" * 3 * MOST_HEAD_BYTES
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    found, connections = asyncio.run(asked(answer, answer))
    assert [got for _, got in found] == [body] * 2
    assert connections == 1


def test_an_answer_without_a_body() -> None:
    ((head, body),), _ = asyncio.run(asked(b"HTTP/1.1 204 No Content\r\n\r\n"))
    assert (head.status, body) == (204, b"")


@pytest.mark.parametrize("more", [b"junk", SIZED, b"\r\n\r\njunk"])
def test_bytes_after_an_answer_end_its_connection(more: bytes) -> None:
    found, connections = asyncio.run(asked(SIZED + more, SIZED))
    assert [body for _, body in found] == [b"hello"] * 2
    assert connections == 2


def test_a_connection_that_is_to_be_closed_is_not_used_again() -> None:
    last = SIZED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    found, connections = asyncio.run(asked(last, last))
    assert [body for _, body in found] == [b"hello"] * 2
    assert connections == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", "disconnected"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "disconnected"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "disconnected"),
        (b"220 mail.example.com ESMTP\r\n\r\n", "disconnected"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "disconnected"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2 * MOST_HEAD_BYTES, "disconnected"),
        (SIZED[:-1], "truncated"),
        (CHUNKED[:-7], "truncated"),
        (CHUNKED.replace(b"5\r\n", b"z\r\n"), "truncated"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "disconnected"),
    ],
)
def test_what_is_no_whole_answer_fails_by_its_kind(answer: bytes, kind: str) -> None:
    with pytest.raises(HttpError) as error:
        asyncio.run(asked(answer, closes=True))
    assert error.value.kind == kind


@pytest.mark.parametrize("target", ["/a b", "/a\r\nX: y", "/\N{SNOWMAN}"])
def test_what_no_request_may_hold_is_not_sent(target: str) -> None:
    async def ask() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        pool = Pool(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=5.0)
        try:
            await pool.exchange(target, [], b"", ResponseText())
        finally:
            pool.close()
            server.close()

    with pytest.raises(HttpError, match="that HTTP does not allow"):
        asyncio.run(ask())
