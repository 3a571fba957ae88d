"""Which GGUF files of a hub's commit a name means: one, or all that a model is split into."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import InputError
from bench.models import gguf

if TYPE_CHECKING:
    from bench.models.hub import HubFile, Snapshot


def gguf_files(snapshot: Snapshot, asked: str) -> tuple[HubFile, ...]:
    """The one GGUF file that is meant, or all files of a model that is split, the first one first.

    `asked`: its name, a pattern of it, or the scheme in it. Raises InputError where none or several
    are meant, or a file of several is not there.
    """
    files = {f.name: f for f in snapshot.files if f.name.endswith(".gguf")}
    where = f"{snapshot.repo} at {snapshot.revision[:12]}"
    found = list(dict.fromkeys(map(_first_of, meant(sorted(files), asked))))
    if not found:
        there = ", ".join(sorted(files)[:12]) or "none at all"
        raise InputError(f"{where} holds no GGUF file '{asked}'; there is: {there}")
    if len(found) > 1:
        raise InputError(
            f"{where} holds {len(found)} files for '{asked}'; name one: {', '.join(found)}"
        )
    names = [path.as_posix() for path in gguf.parts(Path(found[0]))]
    if gone := [name for name in names if name not in files]:
        raise InputError(f"{where}: {gone[0]} is not there, one of {len(names)} files of a model")
    return tuple(files[name] for name in names)


def meant(names: Sequence[str], asked: str) -> list[str]:
    """The names that are meant; of a model in several files any of theirs."""
    if asked in names:
        return [asked]
    if any(sign in asked for sign in "*?["):
        return [name for name in names if fnmatchcase(name.lower(), asked.lower())]
    if asked.endswith(".gguf"):
        return []
    tag = re.compile(rf"(?:^|[-._/]){re.escape(asked)}(?:[-._/]|$)", re.IGNORECASE)
    return [name for name in names if tag.search(name.removesuffix(".gguf"))]


def _first_of(name: str) -> str:
    """The first of the files that a model is split into, by the name of any of them."""
    return gguf.PART.sub(lambda part: f"-{1:05}-of-{part['count']}.gguf", name)
