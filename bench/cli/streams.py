"""Standard streams that hold whatever is done to them: closed, full, or fed control characters."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from bench.errors import UnsupportedError
from bench.hiding import hide
from bench.text import plain


class Guard:
    """A stream through which all text goes: control characters are shown as escapes."""

    def __init__(self, stream: TextIO, *, needed: bool, as_it_is: bool = False) -> None:
        self._stream = stream
        self._needed = needed
        """Whether what cannot be written is an error; progress that nobody sees is not."""
        self._as_it_is = as_it_is

    def write(self, text: str) -> int:
        """Raises BrokenPipeError where the reader has gone, UnsupportedError where it is full."""
        self._try(self._stream.write, hide(text if self._as_it_is else plain(text)))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def own(self) -> Guard:
        """The same for text that has been made plain, with the terminal's orders around it."""
        return Guard(self._stream, needed=self._needed, as_it_is=True)

    def _try(self, work: Any, *arguments: str) -> None:
        try:
            work(*arguments)
        except UnicodeEncodeError:  # a terminal of few characters
            encoding = self._stream.encoding or "ascii"
            self._stream.write(arguments[0].encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:  # ValueError: closed
            _to_nothing(self._stream)
            if not self._needed:
                return
            if isinstance(error, BrokenPipeError):
                raise
            why = getattr(error, "strerror", None) or error
            raise UnsupportedError(f"the output cannot be written: {why}") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Both output streams guarded, while a verb runs."""
    _open_missing()
    before = sys.stdout, sys.stderr
    sys.stdout = Guard(before[0], needed=True)
    sys.stderr = Guard(before[1], needed=False)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _open_missing() -> None:
    """Give streams that were closed before the start to nothing: else the next file that is opened,
    such as the records, would take their place."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
            setattr(sys, name, stream)


def _to_nothing(stream: TextIO) -> None:
    """What is still held back goes nowhere, so that the interpreter's end does not fail on it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
