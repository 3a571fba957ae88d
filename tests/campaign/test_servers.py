"""Servers that hang, drip, swell, stop or contradict themselves: counted, in time, no figures."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest

from bench.engines.endpoint import http, streams
from bench.errors import BenchError
from tests.campaign.mutate import VALUES, changed, torn
from tests.campaign.seeds import report, rng
from tests.engines.test_serving import engine
from tests.scripted_server import Exchange, ScriptedServer, good, scripted

TIMEOUT_S = 0.3
LONGEST_S = 20.0
"""Beyond which a fault hangs the harness: far above what any of them may take."""
N_PROMPT, N_GEN = 8, 4
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
Reply = Callable[[Exchange], Awaitable[None]]


def event(table: Any) -> bytes:
    return b"data: " + json.dumps(table).encode() + b"\n\n"


def token(text: Any = " t", reason: Any = None, **more: Any) -> bytes:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": reason}], **more})


def usage(**changes: Any) -> bytes:
    told = {"prompt_tokens": N_PROMPT, "completion_tokens": N_GEN} | changes
    return event({"choices": [], "usage": told})


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


LENGTH, DONE, LAST = token("", "length"), b"data: [DONE]\n\n", b"0\r\n\r\n"
GOOD = [token()] * N_GEN + [LENGTH, usage(), DONE]


def raw(*parts: bytes, close: bool = True, pause_s: float = 0.002) -> Reply:
    """Write these bytes, one after the other, and close."""

    async def reply(to: Exchange) -> None:
        for part in parts:
            to.writer.write(part)
            await to.writer.drain()
            await asyncio.sleep(pause_s)
        if close:
            to.writer.close()

    return reply


def stream(*events: bytes) -> Reply:
    """These events, in chunks of their own, well framed."""
    return raw(CHUNKED, *(chunk(one) for one in events), LAST, close=False)


def then_silent(*parts: bytes) -> Reply:
    async def reply(to: Exchange) -> None:
        await raw(*parts, close=False)(to)
        await asyncio.sleep(60)

    return reply


def dripping(begin: bytes, drop: bytes) -> Reply:
    """The beginning, and then the same few bytes for ever: never silent, never new."""

    async def reply(to: Exchange) -> None:
        to.writer.write(begin)
        while True:
            to.writer.write(drop)
            await to.writer.drain()
            await asyncio.sleep(0.02)

    return reply


def hangs() -> Iterator[tuple[str, Reply]]:
    whole = [CHUNKED, *(chunk(one) for one in GOOD), LAST]
    places: Mapping[str, tuple[bytes, ...]] = {
        "accepted": (),
        "status line": (b"HTTP/1.1 2",),
        "headers": (HEAD,),
        "after the head": (CHUNKED,),
        "size of a chunk": (CHUNKED, b"1f"),
        "within an event": (CHUNKED, chunk(GOOD[0][:10])),
        "after a token": tuple(whole[:2]),
        "before the reason": tuple(whole[: N_GEN + 1]),
        "before usage": tuple(whole[: N_GEN + 2]),
        "before the last chunk": tuple(whole[:-1]),
    }
    for name, parts in places.items():
        yield f"silent: {name}", then_silent(*parts)
    yield "drips a status line", dripping(b"", b"H")
    yield "drips headers", dripping(HEAD, b"X-A: b\r\n")
    yield "drips one header", dripping(HEAD + b"X-A: ", b"b")
    yield "drips informational heads", dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n")
    yield "drips comments", dripping(CHUNKED, chunk(b": ping\n\n"))
    yield "drips blank lines", dripping(CHUNKED, chunk(b"\n"))
    yield "drips empty tokens", dripping(CHUNKED, chunk(token("")))
    yield "drips one line", dripping(CHUNKED, chunk(b"x"))
    yield "drips after its end", dripping(CHUNKED + b"".join(map(chunk, GOOD)), chunk(b":\n"))
    yield "drips usage", dripping(CHUNKED, chunk(usage(completion_tokens=1)))
    yield "drips a size", dripping(CHUNKED, b"0")


def swollen() -> Iterator[tuple[str, Reply]]:
    megabyte = b"x" * (1 << 20)
    yield "a header of 1 MB", raw(HEAD + b"X-A: " + megabyte + b"\r\n\r\n")
    yield "100,000 headers", raw(HEAD + b"X-A: b\r\n" * 100_000 + b"\r\n")
    yield "a status line of 1 MB", raw(b"HTTP/1.1 200 " + megabyte + b"\r\n\r\n")
    yield "a body without an end", dripping(CHUNKED, chunk(b": " + megabyte + b"\n"))
    yield "a line without an end", dripping(CHUNKED, chunk(megabyte))
    yield "a token without an end", dripping(CHUNKED + b"fffffff\r\ndata: ", megabyte)
    yield "tokens without an end", dripping(CHUNKED, chunk(token() * 1000))
    yield "a token of 1 MB, then silence", then_silent(CHUNKED, chunk(token(megabyte.decode())))
    yield (
        "an error of 1 MB",
        raw(b"HTTP/1.1 500 E\r\nContent-Length: 1048576\r\n\r\n" + megabyte, close=False),
    )
    yield "a chunk of 2^60", then_silent(CHUNKED, b"1000000000000000\r\nx")
    yield "a chunk of a size of 1,000 digits", raw(CHUNKED, b"f" * 1000 + b"\r\n")
    yield "nested 100,000 deep", stream(b"data: " + b"[" * 100_000 + b"\n\n")
    yield "an object nested 100,000 deep", stream(b"data: " + b'{"a":' * 100_000 + b"\n\n")
    yield "a number of 100,000 digits", stream(b'data: {"usage": ' + b"9" * 100_000 + b"}\n\n")


def framed() -> Iterator[tuple[str, Reply]]:
    body = b"".join(GOOD)
    length = f"Content-Length: {len(body)}\r\n".encode()
    yield "two lengths", raw(HEAD + length + b"Content-Length: 3\r\n\r\n" + body)
    yield "a negative length", raw(HEAD + b"Content-Length: -1\r\n\r\n" + body)
    yield "a length that is a word", raw(HEAD + b"Content-Length: many\r\n\r\n" + body)
    yield "a length beyond the body", raw(HEAD + b"Content-Length: 99999999\r\n\r\n" + body)
    yield "a length within the body", raw(HEAD + b"Content-Length: 30\r\n\r\n" + body)
    yield "a size that is a word", raw(CHUNKED, b"zz\r\n", body)
    yield "a negative size", raw(CHUNKED, b"-5\r\nhello\r\n")
    yield "a size below the chunk", raw(CHUNKED, b"3\r\n" + body + b"\r\n" + LAST)
    yield "an unknown coding", raw(HEAD + b"Transfer-Encoding: rot13\r\n\r\n" + body)
    yield "no version", raw(b"200 OK\r\n\r\n" + body)
    yield "another protocol", raw(b"SSH-2.0-OpenSSH_9.9\r\n")
    yield "TLS bytes", raw(b"\x15\x03\x01\x00\x02\x02\x28")
    yield "zero bytes", raw(b"\0" * 4096)
    yield "headers without a colon", raw(b"HTTP/1.1 200 OK\r\nhello\r\n\r\n" + body)
    yield "a control character in a header", raw(HEAD + b"X-A: \x1b[2J\r\n\r\n" + body)
    yield "compressed", raw(HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(body))
    yield "compressed and not said", raw(HEAD + b"\r\n" + gzip.compress(body))
    yield "UTF-16", raw(HEAD + b"\r\n" + body.decode().encode("utf-16"))
    yield "a page", raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>hello</html>")
    yield "nothing", raw(HEAD + b"Content-Length: 0\r\n\r\n", close=False)
    yield "an upgrade", raw(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n" + body)
    yield "a second answer at once", raw(b"HTTP/1.1 500 E\r\nContent-Length: 0\r\n\r\n" * 2)


def lies() -> Iterator[tuple[str, Reply]]:
    tokens = [token()] * N_GEN
    odd = (None, True, -1, 0, 3, 5, 10**9, 1.5, "4", "x", [], [4], {}, {"n": 4})
    for value in odd:
        yield f"makes {value!r}", stream(*tokens, LENGTH, usage(completion_tokens=value), DONE)
    for value in (None, -1, 7, 9, "8", [], 8.5):
        yield f"was asked {value!r}", stream(*tokens, LENGTH, usage(prompt_tokens=value), DONE)
    for value in ("x", 4, [], [1], True, {}):
        yield (
            f"usage is {value!r}",
            stream(*tokens, LENGTH, event({"choices": [], "usage": value}), DONE),
        )
    yield (
        "usage twice, differing",
        stream(*tokens, LENGTH, usage(), usage(completion_tokens=5), DONE),
    )
    yield (
        "another prompt at the end",
        stream(*tokens, usage(), LENGTH, usage(prompt_tokens=9), DONE),
    )
    yield "usage taken back", stream(*tokens, LENGTH, usage(completion_tokens=9), usage(), DONE)
    yield (
        "repeats the request",
        stream(event({"prompt": "x", "max_tokens": 4}), *tokens, LENGTH, usage(), DONE),
    )
    yield "text after its end", stream(*tokens[1:], LENGTH, token(), usage(), DONE)
    yield "more chunks than tokens", stream(*tokens * 3, LENGTH, usage(), DONE)
    yield "no text", stream(*[token("")] * N_GEN, LENGTH, usage(), DONE)
    yield "no reason", raw(CHUNKED, *(chunk(one) for one in [*tokens, usage()]), LAST, close=False)
    yield "no usage", stream(*tokens, LENGTH, DONE)
    yield "all at once", raw(CHUNKED + b"".join(map(chunk, GOOD)) + LAST, close=False)
    yield "an error among tokens", stream(*tokens, event({"error": {"message": "no room"}}), DONE)
    yield "an error that is a list", stream(event({"error": [1, {"a": None}]}), DONE)
    yield "an error of control characters", stream(event({"error": "\x1b]0;x\x07\x1b[2J"}), DONE)
    for value in ("x", 5, {"a": 1}, [1], [[]], ["x"], [{"delta": 3}], [{"text": {"a": 1}}]):
        yield f"choices are {value!r}", stream(event({"choices": value}), DONE)
    for value in ("[1]", "null", "7", '"x"', "{", "NaN", "\ufeff{}", "{'a': 1}", "\\ud800"):
        yield f"an event {value!r}", stream(b"data: " + value.encode() + b"\n\n", DONE)


def statuses() -> Iterator[tuple[str, Reply]]:
    codes = (201, 204, 206, 226, 300, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404, 405)
    codes += (408, 409, 413, 415, 418, 421, 422, 426, 428, 429, 431, 451, 500, 501, 502, 503, 504)
    for code in (*codes, 507, 511, 520, 599):
        location = b"Location: http://127.0.0.1:9/\r\n" if code // 100 == 3 else b""
        yield (
            f"status {code}",
            raw(f"HTTP/1.1 {code} E\r\n".encode() + location + b"Content-Length: 0\r\n\r\n"),
        )
    for code in ("000", "099", "600", "999", "20", "2000", "-1", "abc"):
        yield f"status {code}", raw(f"HTTP/1.1 {code} E\r\nContent-Length: 0\r\n\r\n".encode())


def waits() -> Iterator[tuple[str, Reply]]:
    odd = ("", "x", "-1", "0", "1e9", "99999999999999", "nan", "inf", "0x10", "1;2", "\u0661")
    for value in (*odd, "Wed, 21 Oct 2999 07:28:00 GMT", "Thu, 99 Foo 2026", "9999-12-31"):
        head = f"HTTP/1.1 503 Busy\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n"
        yield f"Retry-After {value!r}", raw(head.encode())


def cut(random: Any) -> Iterator[tuple[str, Reply]]:
    whole = CHUNKED + b"".join(map(chunk, GOOD)) + LAST
    for at in sorted(random.sample(range(len(whole)), 40)):
        yield f"cut after {at} of {len(whole)} bytes", raw(whole[:at])


def mutated(random: Any) -> Iterator[tuple[str, Reply]]:
    tables = [
        {"choices": [{"index": 0, "text": " t", "finish_reason": None}], "usage": None},
        {"choices": [{"index": 0, "delta": {"content": " t"}, "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens": N_PROMPT, "completion_tokens": N_GEN}},
        {"choices": [], "timings": {"prompt_n": 8, "cache_n": 0, "predicted_n": 4}},
    ]
    for _ in range(100):
        table = random.choice(tables)
        if random.random() < 0.3:
            text, what = torn(json.dumps(table).encode(), random)
        else:
            made, what = changed(table, random)
            text = json.dumps(made).encode()
        events = list(GOOD)
        events.insert(random.randrange(len(events)), b"data: " + text + b"\n\n")
        yield what, stream(*events)


HARMLESS = frozenset({"a length within the body", "drips after its end"})
"""After which a figure may stand: the answer had ended, or is refused by another name."""
FIXED = {"hang": hangs, "size": swollen, "frame": framed, "lie": lies, "status": statuses}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test can reach: the ones shipped take seconds to fill."""
    monkeypatch.setattr(http, "MOST_BODY_BYTES", 8 << 20)
    monkeypatch.setattr(http, "LOOK_S", 0.05)
    monkeypatch.setattr(streams, "MOST_EVENT_BYTES", 4 << 20)


def harm(runs: Any, server: Any, reply: Reply) -> tuple[str | None, bool]:
    """What a fault did that it must not, and whether figures were made of it."""

    async def answer(to: Exchange) -> None:
        with contextlib.suppress(ConnectionError):
            await reply(to)

    server.reply = answer
    before = time.monotonic()
    try:
        runs.serve(2, 0.0)
        figures = True
    except BenchError as error:
        figures = False
        said = str(error)
        if "\n" in said or len(said) > 2000:
            return f"a message of {len(said)} characters", figures
    except Exception as error:
        return f"{type(error).__name__}: {error!s:.90}", False
    took = time.monotonic() - before
    return (f"took {took:.0f} s" if took > LONGEST_S else None), figures


def tried(part: str, faults: list[tuple[str, Reply]], *, may: bool, **options: Any) -> None:
    """Each fault in its turn on one engine; after all of them it measures as before."""
    failures = []
    with scripted(good) as server, engine(server.url, timeout_s=TIMEOUT_S, **options) as runs:
        runs.start(N_PROMPT, N_GEN, 2)
        for name, reply in faults:
            why, figures = harm(runs, server, reply)
            if why is None and figures and not may and name not in HARMLESS:
                why = "measured"
            failures += [f"{name}: {why}"] if why else []
        why, figures = harm(runs, server, good)
        failures += [] if figures else [f"not well again afterwards: {why}"]
    report(part, len(faults), failures)


@pytest.mark.parametrize("kind", FIXED)
def test_no_such_answer_is_measured(kind: str) -> None:
    tried(f"servers/{kind}", list(FIXED[kind]()), may=False)


def test_a_wait_that_a_server_names_is_bounded() -> None:
    tried("servers/wait", list(waits()), may=False, retries=1)


def test_no_answer_that_stops_is_measured() -> None:
    tried("servers/cut", list(cut(rng("servers/cut"))), may=False)


def test_no_mutated_event_breaks_the_client() -> None:
    tried("servers/events", list(mutated(rng("servers/events"))), may=True)


def test_no_answer_about_itself_breaks_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server says of its models, version and settings, when it is met."""
    values = [value for value in VALUES if value != "\ud800"]
    failures, texts = [], [json.dumps(value) for value in values]
    texts += [json.dumps({"data": value}) for value in values]
    texts += [json.dumps({"data": [{"id": value}]}) for value in values]
    texts += ["", "{", "[" * 100_000, "\x1b[2J", "<html>", '{"data": NaN}']
    real, told = ScriptedServer.answer, [""]

    async def answer(self: ScriptedServer, to: Exchange) -> None:
        if to.path.startswith("/v1/") and to.path != "/v1/models":
            await real(self, to)
        else:
            await to.status(200, told[0])

    monkeypatch.setattr(ScriptedServer, "answer", answer)
    with scripted(good) as server:
        for told[0] in texts:
            try:
                with engine(server.url, timeout_s=TIMEOUT_S):
                    pass
            except BenchError:
                pass
            except Exception as error:
                failures.append(f"{told[0][:60]!r}: {type(error).__name__}: {error!s:.90}")
    report("servers/about", len(texts), failures)
