"""Texts that quality is measured on: those shipped in bench/data/text, or the user's own file.

Standard library only. Origin and licence of the shipped ones: bench/data/text/LICENSE.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.data import DATA
from bench.errors import InputError, unknown

FOLDER: Final = DATA / "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text and its identity."""

    name: str
    """Name of a shipped text, or the file name of the user's own."""
    text: str
    sha256: str
    """Of the text in UTF-8, with newlines as `\\n`."""


def texts() -> dict[str, Path]:
    """Shipped texts by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.txt"))}


def read_text(name_or_path: str) -> Text:
    """The shipped text of that name, else the file at that path. Raises InputError."""
    known = texts()
    path = known.get(name_or_path, Path(name_or_path).expanduser())
    looks_like_path = "/" in name_or_path or bool(path.suffix)
    if not path.exists() and not looks_like_path:
        message = unknown("text", name_or_path, known)
        raise InputError(f"{message}; or give the path of a text file of your own")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a UTF-8 text file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; convert it first") from None
    if not text.strip():
        raise InputError(f"{path}: the file is empty; give a text to measure quality on")
    name = name_or_path if name_or_path in known else path.name
    return Text(name=name, text=text, sha256=hashlib.sha256(text.encode()).hexdigest())
