"""One streamed answer: when its tokens came, how many there were, and what is wrong with it.

An event of the stream is a chunk: it may hold one token, several, or none (a role, a finish reason,
half a character). So tokens are counted by the server's `usage`, and chunks only mark time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from types import MappingProxyType
from typing import Any, Final

import msgspec

from bench.errors import InputError
from bench.fields import parse_json, shown

FAILURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "refused": "no connection could be made",
        "timeout": "no data came within the time limit",
        "disconnected": "the connection was closed before an answer began",
        "truncated": "the answer stopped before its end",
        "empty_stream": "the answer held no text",
        "buffered": "all tokens, or many at first, came at once: something buffers them",
        "malformed": "the answer does not follow the API",
        "server_error": "the stream held an error instead of tokens",
        "no_usage": "the server did not report token counts",
        "token_count": "the number of tokens is not the number asked for",
        "http_STATUS": "the server answered with that status, such as http_429 or http_500",
    }
)
"""Kinds of failure, counted apart."""

STREAM: Final = re.compile(rb"\s*(data|event|id|retry)?:")
"""How a stream of events begins: a field, or a comment."""


ASKED: Final = frozenset({"prompt", "messages", "max_tokens", "stream_options"})
"""Keys of a request that no chunk of an answer has."""

KEPT: Final = frozenset({"usage", "timings", "error"})
"""Keys of a chunk whose values go on: only then it is checked to its depth."""

MOST_EVENT_BYTES: Final = 16 << 20

_decode = msgspec.json.Decoder().decode
"""About four times as fast as `json.loads`."""


class Events:
    """Splits a body into the `data` of server-sent events (WHATWG HTML, section 9.2)."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The events that are whole once `data` has come."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MOST_EVENT_BYTES:
            raise OverflowError("a line of the stream never ends")
        for raw in lines:
            line = raw.removesuffix(b"\r")
            if not line:
                if self._data:
                    yield b"\n".join(self._data)
                    self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            # Comments (pings), event names, ids: nothing of ours.

    @property
    def left(self) -> bool:
        """Whether an event was begun and not ended."""
        return bool(self._rest.strip() or self._data)


@dataclass(slots=True)
class Stream:
    """A sink for a streamed answer. Times are of `time.perf_counter_ns`."""

    alive_ns: int = 0
    text_ns: list[int] = field(default_factory=list)
    """When each chunk with text came."""
    last_ns: int = 0
    """When the last chunk of the answer itself came: text, or the reason for its end."""
    n_events: int = 0
    n_empty: int = 0
    """Chunks of the answer without text or a reason to end."""
    usage: Mapping[str, Any] | None = None
    timings: Mapping[str, Any] | None = None
    """The server's own, where it sends some (llama.cpp)."""
    finished: bool = False
    """Whether the stream said its end: a finish reason, or [DONE]."""
    trouble: tuple[str, str] | None = None
    """Kind and detail of the first thing wrong."""
    full: bool = False
    """Whether nothing more is taken."""
    most: int | None = None
    """Chunks with text that there can be, where that is known: one a token."""
    _counted_at_end: bool = False
    other: bytearray = field(default_factory=bytearray)
    """The beginning of a body that is no stream of events."""
    _events: Events = field(default_factory=Events)

    def feed(self, at_ns: int, data: bytes) -> None:
        if not self.text_ns and len(self.other) < 2000:
            self.other += data[:2000]
        try:
            for event in self._events.feed(data):
                self._event(at_ns, event)
        except OverflowError as error:
            self.trouble, self.full = ("malformed", str(error)), True

    def _event(self, at_ns: int, event: bytes) -> None:
        self.n_events += 1
        if event.strip() == b"[DONE]":
            self.finished = True
        elif self.trouble is None:
            self._take(at_ns, event)

    def _take(self, at_ns: int, event: bytes) -> None:
        try:
            chunk = _decoded(event)  # most hold a word, of which nothing is kept
            if isinstance(chunk, dict) and chunk.keys() & KEPT:
                chunk = parse_json(event, MOST_EVENT_BYTES)
            if not isinstance(chunk, dict):
                raise InputError("no object")
            if error := chunk.get("error"):
                self.trouble = ("server_error", message_of(error))
                return
            if "choices" not in chunk and ASKED & chunk.keys():
                self.trouble = ("malformed", "an event that repeats the request")
                return
            self._count(table(chunk.get("usage")))
            self.timings = table(chunk.get("timings")) or self.timings
            for choice in chunk.get("choices") or ():
                self._choice(at_ns, choice)
        except (InputError, ValueError, RecursionError, TypeError, AttributeError):
            self.trouble = ("malformed", f"not a chunk: {shown(event)}")

    def _count(self, usage: Mapping[str, Any]) -> None:
        """Keep what the server counts. Counts may grow with the answer; what was said of its end,
        or of the prompt, must not be taken back."""
        before = self.usage
        if not usage:
            return
        if before is not None and self._contradicts(before, usage):
            self.trouble = ("malformed", "two token counts that differ (`usage`)")
        self.usage, self._counted_at_end = usage, self.finished

    def _contradicts(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
        was, made = before.get("completion_tokens"), now.get("completion_tokens")
        if before.get("prompt_tokens") != now.get("prompt_tokens"):
            return True
        if not (isinstance(was, int) and isinstance(made, int)):
            return was != made
        return made < was or (self._counted_at_end and made != was)

    def _choice(self, at_ns: int, choice: Mapping[str, Any]) -> None:
        if text_of(choice):
            if self.finished:
                self.trouble = ("malformed", "text after the reason why the answer ended")
            self.text_ns.append(at_ns)
            if self.most is not None and len(self.text_ns) > self.most:
                self.trouble = ("malformed", f"more than {self.most} chunks for so many tokens")
                self.full = True
            self.last_ns = self.alive_ns = at_ns
        elif choice.get("finish_reason"):
            self.last_ns = at_ns
        else:
            self.n_empty += 1
        self.finished = self.finished or bool(choice.get("finish_reason"))

    def fault(self, n_gen: int, n_prompt: int | None) -> tuple[str, str] | None:
        """Kind and detail of what is wrong with the whole answer; None if nothing is.

        `n_prompt` None: any length of prompt will do.
        """
        if self.trouble is not None:
            return self.trouble
        if not self.n_events and self.other.strip() and not STREAM.match(self.other):
            return self._no_stream()
        if not self.finished or self._events.left:
            return "truncated", f"the stream stopped after {len(self.text_ns)} chunks"
        if not self.text_ns:
            return "empty_stream", f"{self.n_empty} chunks, none with text"
        if self.usage is None:
            return "no_usage", "no `usage` in the stream; is stream_options.include_usage known?"
        made, asked = self.usage.get("completion_tokens"), self.usage.get("prompt_tokens")
        if made != n_gen:
            return "token_count", f"made {made} tokens, not {n_gen}"
        if n_prompt is not None and asked != n_prompt:
            return "token_count", f"the prompt had {asked} tokens, not {n_prompt}"
        if n_gen > 1 and self.last_ns == self.text_ns[0]:
            return "buffered", f"all {n_gen} tokens came at once"
        if len(self.text_ns) > n_gen:
            return "malformed", f"{len(self.text_ns)} chunks for {n_gen} tokens"
        return None

    def _no_stream(self) -> tuple[str, str]:
        """An answer in one piece, though a stream was asked for: an error, or no streaming."""
        try:
            found = table(parse_json(bytes(self.other)))
        except InputError:
            start = " ".join(bytes(self.other[:80]).decode(errors="replace").split())
            return "malformed", f"the answer is not a stream of events: {start!r}"
        if error := found.get("error"):
            return "server_error", message_of(error)
        return "malformed", "the server does not stream"

    @property
    def n_first(self) -> int:
        """Chunks with text that came together with the first."""
        return sum(1 for _ in takewhile(self.text_ns[0].__eq__, self.text_ns))

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that the server took from a cache; None where it does not say."""
        told = table((self.usage or {}).get("prompt_tokens_details"))
        found = told.get("cached_tokens", (self.timings or {}).get("cache_n"))
        return found if isinstance(found, int) else None


def _decoded(event: bytes) -> Any:
    """What an event's JSON holds. Raises ValueError."""
    try:
        return _decode(event)
    except msgspec.DecodeError:  # NaN among log-probabilities: json takes it, the standard does not
        return json.loads(event)


def table(value: Any) -> Mapping[str, Any]:
    """`value` if it is a table, else an empty one."""
    return value if isinstance(value, dict) else {}


def text_of(choice: Mapping[str, Any]) -> str:
    """The text that a choice of either API brings, thinking and tool calls included."""
    delta = choice.get("delta") or {}
    for found in (
        choice.get("text"),
        delta.get("content"),
        delta.get("reasoning_content"),
        delta.get("reasoning"),
    ):
        if found:
            return str(found)
    return "".join(
        str((call.get("function") or {}).get("arguments") or "")
        for call in delta.get("tool_calls") or ()
    )


def message_of(error: Any) -> str:
    """One line out of what servers put under `error`, or of a body that holds it."""
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error.get("error") or error
        if isinstance(error, dict):
            return message_of(error) if "message" in error else json.dumps(error)
    return " ".join(str(error).split())
