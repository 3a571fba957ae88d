"""A server whose times are known: it ticks by its own clock, in a process of its own.

    python -m tests.ticking_server tick --ttft 0.1 --tpot 0.02
    python -m tests.ticking_server queue --servers 1 --service 0.02

`tick`: each request gets its first token `ttft` after it came and one each `tpot` after that,
however many there are. `queue`: `servers` requests are served at once, first come first served, for
`service` seconds each (or `--lognormal SIGMA` around that mean), and answered whole at the end:
with -n 1 an M/D/k or M/G/k queue. What it really did, by its own stamps, is at /truth. Prints its
address.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import json
import math
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(table: dict[str, Any]) -> bytes:
    return chunk(b"data: " + json.dumps(table).encode() + b"\n\n")


TOKEN = event(
    {
        "id": "t",
        "object": "text_completion",
        "model": "m",
        "choices": [{"index": 0, "text": " token", "logprobs": None, "finish_reason": None}],
    }
)
CHAT_TOKEN = event(
    {
        "id": "t",
        "object": "chat.completion.chunk",
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": " token"}, "finish_reason": None}],
    }
)
LAST = event({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
DONE = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def usage(n_prompt: int, n_gen: int, cached: int) -> bytes:
    told = {"cached_tokens": cached}
    return event(
        {
            "choices": [],
            "usage": {
                "prompt_tokens": n_prompt,
                "completion_tokens": n_gen,
                "prompt_tokens_details": told,
            },
        }
    )


class Cache:
    """What a prefix cache would hold: blocks of 16 tokens, as vLLM's."""

    def __init__(self) -> None:
        self._held: set[int] = set()

    def hit(self, prompt: Any) -> int:
        words = prompt if isinstance(prompt, list) else prompt.split()
        held, whole = 0, True
        for end in range(16, len(words) + 1, 16):
            name = hash(tuple(words[:end]))
            whole = whole and name in self._held
            held = end if whole else held
            self._held.add(name)
        return held


class Connection(asyncio.Protocol):
    def __init__(self, serves: Serves) -> None:
        self._serves, self._data = serves, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        at = time.perf_counter()
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].decode()
            lines = head.lower().split("\r\n")
            length = next((int(x[15:]) for x in lines if x.startswith("content-length:")), 0)
            if len(self._data) < end + 4 + length:
                return
            body, self._data = (
                self._data[end + 4 : end + 4 + length],
                self._data[end + 4 + length :],
            )
            self._answer(head.split()[1], body, at)

    def _answer(self, path: str, body: bytes, at: float) -> None:
        if path == "/v1/models":
            self._page({"data": [{"id": "m", "owned_by": "ticking"}]})
        elif path == "/health":
            self._page({})
        elif path == "/truth":
            self._page(self._serves.truth())
        elif not (body and path.endswith("/completions")):
            self.transport.write(b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\n{}")
        else:
            asked = json.loads(body)
            asked.setdefault("max_tokens", asked.get("max_completion_tokens"))
            if "messages" in asked:
                asked["prompt"] = " ".join(str(one["content"]) for one in asked["messages"])
            self._serves.take(self, asked, at)

    def _page(self, table: Any) -> None:
        text = json.dumps(table).encode()
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))


class Serves:
    """What both kinds have in common."""

    def __init__(self) -> None:
        self.ttfts: list[float] = []
        self.tpots: list[float] = []
        self.cache = Cache()

    def truth(self) -> dict[str, Any]:
        """By the server's own stamps since it was last asked."""
        found = {"ttft_s": self.ttfts, "tpot_s": self.tpots}
        self.ttfts, self.tpots = [], []
        return found

    def end(self, to: Connection, asked: dict[str, Any]) -> bytes:
        prompt = asked["prompt"]
        n = len(prompt if isinstance(prompt, list) else prompt.split())
        return LAST + usage(n, asked["max_tokens"], asked["cached"]) + DONE

    def take(self, to: Connection, asked: dict[str, Any], at: float) -> None:
        raise NotImplementedError


class Ticks(Serves):
    """One loop sends whatever is due, by absolute times."""

    def __init__(self, ttft: float, tpot: float) -> None:
        super().__init__()
        self._ttft, self._tpot = ttft, tpot
        self._due: list[tuple[float, int, Any]] = []
        self._number = 0
        self._wake: asyncio.TimerHandle | None = None

    def take(self, to: Connection, asked: dict[str, Any], at: float) -> None:
        self._number += 1
        asked["cached"] = self.cache.hit(asked["prompt"])
        state = [to, asked, at, 0, 0.0]
        heapq.heappush(self._due, (at + self._ttft, self._number, state))
        self._plan()

    def _plan(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if self._due:
            loop = asyncio.get_running_loop()
            late = self._due[0][0] - time.perf_counter()
            self._wake = loop.call_later(max(late, 0.0), self._send)

    def _send(self) -> None:
        self._wake = None
        while self._due and self._due[0][0] <= (now := time.perf_counter()):
            due, number, state = heapq.heappop(self._due)
            to, asked, at, made, first = state
            if to.transport.is_closing():
                continue  # its client has what it wanted
            made += 1
            if made == 1:
                state[4] = first = now
                self.ttfts.append(now - at)
            token = CHAT_TOKEN if "messages" in asked else TOKEN
            data = (HEAD if made == 1 else b"") + token
            if made == asked["max_tokens"]:
                if made > 1:
                    self.tpots.append((now - first) / (made - 1))
                data += self.end(to, asked)
            else:
                state[3] = made
                heapq.heappush(self._due, (due + self._tpot, number, state))
            to.transport.write(data)
        self._plan()


class Queue(Serves):
    """First come first served by so many at once; service times from a seed."""

    def __init__(self, servers: int, service: float, sigma: float, seed: int) -> None:
        super().__init__()
        self._free = [0.0] * servers
        self._service, self._sigma = service, sigma
        self._draw = random.Random(seed)

    def take(self, to: Connection, asked: dict[str, Any], at: float) -> None:
        asked["cached"] = self.cache.hit(asked["prompt"])
        seconds = self._service
        if self._sigma:
            seconds *= self._draw.lognormvariate(-(self._sigma**2) / 2, self._sigma)
        begin = max(at, heapq.heappop(self._free))
        heapq.heappush(self._free, begin + seconds)
        wait = begin + seconds - time.perf_counter()
        asyncio.get_running_loop().call_later(max(wait, 0.0), self._send, to, asked, at)

    def _send(self, to: Connection, asked: dict[str, Any], at: float) -> None:
        self.ttfts.append(time.perf_counter() - at)
        if not to.transport.is_closing():
            to.transport.write(HEAD + TOKEN + self.end(to, asked))


async def run(serves: Serves) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(serves), "127.0.0.1", 0, backlog=1024)
    host, port = server.sockets[0].getsockname()[:2]
    sys.stdout.write(f"http://{host}:{port}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)  # until the parent closes the pipe


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("tick", "queue"))
    for name, value in (("ttft", 0.1), ("tpot", 0.02), ("service", 0.02), ("lognormal", 0.0)):
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    serves: Serves = Ticks(args.ttft, args.tpot)
    if args.kind == "queue":
        serves = Queue(args.servers, args.service, args.lognormal, args.seed)
    assert math.isfinite(args.service)
    asyncio.run(run(serves))


@contextlib.contextmanager
def ticking(kind: str, **settings: float) -> Iterator[str]:
    """Address of such a server, in a process of its own."""
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.ticking_server", kind, *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            assert server.stdin is not None
            server.stdin.close()


def truth(url: str) -> dict[str, Any]:
    """What the server really did since it was last asked."""
    with urllib.request.urlopen(f"{url}/truth") as page:
        found: dict[str, Any] = json.load(page)
    return found


if __name__ == "__main__":
    main()
