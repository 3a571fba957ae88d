"""One archive of results to hand on: what is in it is listed before it is written.

Records hold no home, user, host name nor key (docs/privacy.md); what was written before they kept
to that is cleaned on the way in. Nothing but the files named here is taken along.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import fields, hiding
from bench.errors import InputError
from bench.experiment.kept import AS_RUN, BY_HAND
from bench.records import FILE, from_json, to_json
from bench.records.file import lines, results_file
from bench.text import plain

BESIDE = (AS_RUN, BY_HAND, "doctor.txt")
"""What belongs to a results folder beside its records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of the archive."""

    name: str
    data: bytes
    note: str = ""


def members(paths: Sequence[Path]) -> list[Member]:
    """The files that an archive of these results holds. Raises InputError for what is none."""
    found = [member for path in paths for member in _of(path)]
    if not found:
        raise InputError(f"{', '.join(map(str, paths))}: holds nothing to share")
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two folders have the same name: {twice[0]}; share them one by one")
    return found


def _of(path: Path) -> Iterator[Member]:
    file = results_file(path)
    folder = file.parent
    name = hiding.private(folder.resolve().name) or "results"
    yield _records(file, f"{name}/{FILE}")
    for one in BESIDE:
        beside = folder / one
        if beside.is_file() and not beside.is_symlink():
            text = hiding.private(hiding.hide(fields.read_text(beside)))
            yield Member(name=f"{name}/{one}", data=text.encode())


def _records(file: Path, name: str) -> Member:
    """Every line that can be read, cleaned; the others are left out and counted."""
    made, broken = io.BytesIO(), 0
    for _, text in lines(file):
        try:
            line = from_json(text)
        except InputError:
            broken += 1
            continue
        told: dict[str, Any] = hiding.private(hiding.hide_all(asdict(line)))
        made.write(to_json(type(line)(**told)).encode() + b"\n")
    note = f"{broken} broken lines left out" if broken else ""
    return Member(name=name, data=made.getvalue(), note=note)


def listed(found: Sequence[Member]) -> Iterator[str]:
    """A line a file: its size and what was done to it."""
    for one in found:
        yield plain(f"{len(one.data):>12,} bytes  {one.name}{'  ' + one.note if one.note else ''}")


def archive(found: Sequence[Member]) -> bytes:
    """A .tar.gz of them: no owner, no time, nothing of this machine."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=6) as made:
        for one in found:
            about = tarfile.TarInfo(one.name)
            about.size, about.mode, about.mtime = len(one.data), 0o644, 0
            made.addfile(about, io.BytesIO(one.data))
    return stream.getvalue()
