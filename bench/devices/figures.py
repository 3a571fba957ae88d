"""A figure is read, or it is absent with the reason: the one pattern of every reader here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")


class Unreadable(Exception):  # noqa: N818  not an error: an answer, and its message is the reason
    """This figure cannot be read here; the message says why."""


NOT_LISTED: Final = "the driver lists none of the server's processes, as in a container"


@dataclass(slots=True)
class Figures:
    """Figures as they are read, and why the others are missing."""

    values: dict[str, Any] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def read(self, name: str, get: Callable[[], T]) -> T | None:
        """Keep what `get` returns under `name`; if it raises Unreadable, keep its reason."""
        try:
            value = get()
        except Unreadable as reason:
            self.absent[name] = str(reason)
            return None
        self.values[name] = value
        return value


def above_zero(what: str, value: Any) -> float:
    """A power or a clock: 0 is no reading of a card that is there. Raises Unreadable."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise Unreadable(f"{what}: {value!r} is not a number") from None
    if not 0 < number < math.inf:
        raise Unreadable(f"{what} reads {number:g}: the sensor failed")
    return number


def text_of(path: Path) -> str:
    """The text of a file of the system, stripped. Raises Unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}") from error


def number_of(path: Path) -> int:
    """The whole number that a file of the system holds. Raises Unreadable."""
    text = text_of(path)
    try:
        return int(text)
    except ValueError:
        raise Unreadable(f"{path}: {text[:40]!r} is not a number") from None
