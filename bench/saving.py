"""A file that the user names: written whole or not at all, and only over another file.

A device, a pipe or `/dev/stdout` is written to; it is never replaced. A link stays a link.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Final

from bench.errors import of_path


def save(data: bytes, path: Path, hint: str = "", more: Iterable[bytes] = ()) -> None:
    """Write the data to `path`, and make its folder. `hint` ends the message of an error; `more`
    follows the data, made while it is written.

    Raises InputError for a path that cannot be right (a folder, a loop of links), UnsupportedError
    where there is no room or no right to write.
    """
    try:
        if path.exists() and not path.is_file():
            _through(chain((data,), more), path)
        else:
            _whole(chain((data,), more), path.resolve())
    except (OSError, RuntimeError) as error:  # `resolve` says RuntimeError of a loop
        raise of_path(error, path, hint) from error


def _through(parts: Iterable[bytes], path: Path) -> None:
    """Into what is no file: IsADirectoryError for a folder, ENXIO for a pipe nobody reads."""
    held = _pipe(path) if path.is_fifo() else os.open(path, os.O_WRONLY)
    try:
        for part in parts:
            written = 0
            while written < len(part):
                written += os.write(held, part[written:])
    finally:
        os.close(held)


WAIT_S: Final = 5.0
"""How long a named pipe may have no reader; opening it would wait for ever."""


def _pipe(path: Path) -> int:
    """The handle of a named pipe, once somebody reads."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            held = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > until:
                raise
            time.sleep(0.05)
            continue
        os.set_blocking(held, True)
        return held


def _whole(parts: Iterable[bytes], path: Path) -> None:
    """Beside the file, then in its place; what is half written is taken away."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(held, "wb") as stream:
            stream.writelines(parts)
        Path(name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
