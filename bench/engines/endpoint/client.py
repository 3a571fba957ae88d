"""One request to the server: made, sent, sent again where that was asked for, and judged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Any

from bench.demand import Asked
from bench.engines.endpoint.http import HttpError, Pool, ResponseHead, ResponseText
from bench.engines.endpoint.settings import ApiKey, EndpointSettings
from bench.engines.endpoint.streams import Stream, message_of
from bench.errors import InputError
from bench.fields import parse_json

RETRIED = frozenset({"refused", "http_429", "http_503"})
DETAIL = 160
"""Characters of a server's words about an error that are kept."""
PAUSE_S = 0.25
"""Before the first retry where the server names no time; twice as long before each further one."""
PAUSE_MAX_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one request. Times in seconds; those of a failure are None."""

    begun_ns: int
    """When the client turned to it: at once, or when its time in a plan of arrivals had come."""
    ended_ns: int
    ttft_s: float | None = None
    """From sending the request on an open connection to the first chunk with text."""
    itl_s: tuple[float, ...] = ()
    """Gaps between chunks with text."""
    e2e_s: float | None = None
    """From sending to the last chunk of the answer."""
    connect_s: float = 0.0
    retried: tuple[str, ...] = ()
    """Kinds of failure that another try followed."""
    failure: str | None = None
    """A word of `bench.engines.endpoint.streams.FAILURES`."""
    detail: str = ""
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    n_empty: int = 0
    n_first: int = 1
    """Chunks with text that came together with the first."""
    timings: Mapping[str, Any] | None = None
    """The server's own, where it tells them."""
    asked: Asked | None = None
    """What was asked for, where requests differ or arrive by a plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestShape:
    """What every request of a workload has in common."""

    n_prompt: int | None
    """Checked against the server's count; None: any."""
    n_gen: int
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Fields beyond the common ones, that this server takes."""


class Client:
    """Requests to one server, in the running event loop."""

    def __init__(self, settings: EndpointSettings, key: ApiKey, model: str) -> None:
        self.settings, self.model = settings, model
        self.key = key
        self.pool = Pool(settings.root, settings.timeout_s)
        chat = settings.api == "chat"
        self._path = "/v1/chat/completions" if chat else "/v1/completions"

    def close(self) -> None:
        self.pool.close()

    async def get(self, path: str) -> tuple[ResponseHead, bytes]:
        """A small document. Raises HttpError."""
        sink = ResponseText()
        head = await self.pool.exchange(path, self.key.headers, b"", sink)
        return head, bytes(sink.body)

    def body(self, prompt: Sequence[int] | str, shape: RequestShape) -> bytes:
        """The request's JSON."""
        asked: dict[str, Any] = {
            "model": self.model,
            "max_tokens": shape.n_gen,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **shape.extras,
        }
        if self.settings.api == "chat":
            asked["messages"] = [{"role": "user", "content": prompt}]
        else:
            asked["prompt"] = prompt
        return json.dumps(asked, separators=(",", ":")).encode()

    async def ask(self, body: bytes, shape: RequestShape, begun_ns: int) -> Answer:
        """Send a request until it is answered or given up; failures are answers too.

        Latency counts from when it was first sent: whoever has to ask again has waited.
        """
        retried: list[str] = []
        first_ns: int | None = None
        while True:
            stream = Stream(most=shape.n_gen)
            head, fault = await self._try(body, stream, shape)
            first_ns = head.sent_ns if first_ns is None else first_ns
            again = fault is not None and fault[0] in RETRIED
            if not again or len(retried) == self.settings.retries:
                about = {
                    "begun_ns": begun_ns,
                    "ended_ns": time.perf_counter_ns(),
                    "connect_s": head.connect_s,
                    "retried": tuple(retried),
                }
                return self._answer(stream, fault, first_ns, about)
            assert fault is not None
            await asyncio.sleep(min(pause_s(head, len(retried)), self.settings.timeout_s))
            retried.append(fault[0])

    async def _try(
        self, body: bytes, stream: Stream, shape: RequestShape
    ) -> tuple[ResponseHead, tuple[str, str] | None]:
        """Send it once; the head of the answer, and what is wrong with it."""
        headers = [*self.key.headers, ("Content-Type", "application/json")]
        before_ns = time.perf_counter_ns()
        try:
            head = await self.pool.exchange(self._path, headers, body, stream)
        except HttpError as error:
            return ResponseHead(sent_ns=before_ns), (error.kind, str(error))
        if head.status != 200:
            return head, (f"http_{head.status}", said(bytes(stream.other)))
        if (coding := head.headers.get("content-encoding", "identity")) != "identity":
            return head, (
                "malformed",
                f"the stream is compressed ({coding}), which was not requested",
            )
        return head, stream.fault(shape.n_gen, shape.n_prompt)

    def _answer(
        self, stream: Stream, fault: tuple[str, str] | None, first_ns: int, about: dict[str, Any]
    ) -> Answer:
        usage = stream.usage or {}
        about |= {
            "n_empty": stream.n_empty,
            "prompt_tokens": usage.get("prompt_tokens"),
            "output_tokens": usage.get("completion_tokens"),
            "timings": stream.timings,
            "cached_tokens": stream.cached_tokens,
        }
        if fault is not None:
            # The key first: a cut through it would leave what no longer looks like it.
            return Answer(failure=fault[0], detail=self.key.hide(fault[1])[:DETAIL], **about)
        return Answer(
            ttft_s=(stream.text_ns[0] - first_ns) / 1e9,
            itl_s=tuple((after - before) / 1e9 for before, after in pairwise(stream.text_ns)),
            e2e_s=(stream.last_ns - first_ns) / 1e9,
            n_first=stream.n_first,
            **about,
        )


def pause_s(head: ResponseHead, retries: int) -> float:
    """Seconds to wait before asking again: what the server names (a number, or a date), else ever
    longer; never more than PAUSE_MAX_S."""
    named = head.headers.get("retry-after", "")
    wait: float = PAUSE_S * 2**retries
    if named.isdecimal():
        wait = float(named)
    elif named:
        with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError, OSError):
            wait = parsedate_to_datetime(named).timestamp() - time.time()
    return min(max(wait, 0.0), PAUSE_MAX_S)


def said(body: bytes) -> str:
    """One line out of the body of an error."""
    try:
        found = parse_json(body)
    except InputError:
        return " ".join(body.decode(errors="replace").split())
    return message_of(found.get("error", found) if isinstance(found, dict) else found)
