"""Trace files: when requests came and how long they were, with what they shared.

JSON lines or CSV, columns by Mooncake's names (`timestamp` in milliseconds, `input_length`,
`output_length`, `hash_ids` of blocks of 512 tokens; github.com/kvcache-ai/Mooncake), Azure's
(`TIMESTAMP`, `ContextTokens`, `GeneratedTokens`; github.com/Azure/AzurePublicDataset) or plain ones
(`at_s`, `n_prompt`, `n_gen`, `session`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.errors import InputError
from bench.fields import parse_json, read_text, shown

BLOCK: Final = 512
"""Tokens that one of Mooncake's hashes stands for."""
MOST_BYTES: Final = 1 << 28
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "at": ("timestamp", "TIMESTAMP", "at_s"),
    "n_prompt": ("input_length", "ContextTokens", "n_prompt"),
    "n_gen": ("output_length", "GeneratedTokens", "n_gen"),
    "blocks": ("hash_ids",),
    "session": ("session_id", "session", "chat_id"),
}
"""What is read -> the names of its column."""
LARGEST: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """One line of a trace."""

    at_s: float
    n_prompt: int
    n_gen: int
    blocks: tuple[int, ...] = ()
    """Each stands for `BLOCK` tokens from the prompt's beginning on."""
    session: str | None = None
    """Requests of one session begin alike, as far as the shorter one goes."""

    def parts(self, own: str) -> tuple[tuple[str, int], ...]:
        """Streams that the prompt is made of: its blocks, or its session, and the rest alone."""
        if self.session is not None and not self.blocks:
            return ((f"session {self.session}", self.n_prompt),)
        found, left = [], self.n_prompt
        for block in self.blocks:
            if left > 0:
                found.append((f"block {block}", min(left, BLOCK)))
                left -= BLOCK
        return (*found, (f"own {own}", left)) if left > 0 else tuple(found)

    def shared(self, seen: set[tuple[int, ...]], longest: dict[str, int]) -> int:
        """Tokens that an earlier request began with; what is new is added to both tables."""
        if self.session is not None and not self.blocks:
            before = longest.get(self.session, 0)
            longest[self.session] = max(before, self.n_prompt)
            return min(before, self.n_prompt)
        held, told = 0, False
        for n in range(1, len(self.blocks) + 1):
            known = self.blocks[:n] in seen
            held = n if known and not told else held
            told = told or not known
            seen.add(self.blocks[:n])
        return min(held * BLOCK, self.n_prompt)


def read_trace(file: str) -> tuple[TraceRequest, ...]:
    """The requests of a trace, in the order of their arrival. Raises InputError."""
    path = Path(file).expanduser()
    text = read_text(path, MOST_BYTES)
    rows = _json(path, text) if text.lstrip().startswith("{") else _csv(text)
    found = [_request(row, f"{path}:{number}") for number, row in rows]
    if not found:
        raise InputError(f"{path}: no request in it")
    return tuple(sorted(found, key=lambda one: one.at_s))


def _json(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: expected an object")
        yield number, row


def _csv(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    yield from enumerate(csv.DictReader(text.splitlines()), 2)


def _request(row: Mapping[str, Any], at: str) -> TraceRequest:
    blocks = _found(row, "blocks") or ()
    if not isinstance(blocks, list | tuple) or not all(type(one) is int for one in blocks):
        raise InputError(f"{at}: hash_ids: expected a list of whole numbers")
    session = _found(row, "session")
    return TraceRequest(
        at_s=_seconds(row, at),
        n_prompt=_count(row, "n_prompt", at),
        n_gen=_count(row, "n_gen", at),
        blocks=tuple(blocks),
        session=None if session in (None, "") else str(session),
    )


def _found(row: Mapping[str, Any], what: str) -> Any:
    return next((row[name] for name in COLUMNS[what] if name in row), None)


def _count(row: Mapping[str, Any], what: str, at: str) -> int:
    value = _found(row, what)
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = -1
    if not 0 <= count <= LARGEST:
        names = ", ".join(COLUMNS[what])
        raise InputError(f"{at}: {what} ({names}): {shown(value)} is not a number of tokens")
    return max(count, 1)  # an answer of no token cannot be asked for


def _seconds(row: Mapping[str, Any], at: str) -> float:
    """Arrival: Mooncake's milliseconds, Azure's time of day, or seconds; 0 where nothing says."""
    value = _found(row, "at")
    if value is None:
        return 0.0
    try:
        if "timestamp" in row:
            return float(value) / 1000
        if "TIMESTAMP" in row:
            text = str(value)[:26]  # Azure writes a tenth of a microsecond
            return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{at}: {shown(value)} is not an arrival time") from None
