"""What a GGUF model of a hub says of itself before it is fetched: the headers of its files alone.

The first megabytes of each file are asked for and kept in the cache, so that `bench plan` knows
bytes, types and shape of a model of hundreds of gigabytes. `huggingface_hub` is imported only where
the hub is asked.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from bench.errors import InputError, UnsupportedError
from bench.models import gguf
from bench.models.hub import HubFile, Ref, Snapshot
from bench.models.hub_errors import telling
from bench.models.hub_gguf import gguf_files

FIRST: Final = 8 << 20
"""Bytes of a file that are asked for first: a vocabulary takes some."""
MOST: Final = 128 << 20


def fetch(snapshot: Snapshot, file: str) -> None:
    """Keep the headers of a model's files, unless the files or the headers are here.

    Raises UnsupportedError where the hub cannot be reached or gives no parts of files, InputError
    for what is no GGUF file.
    """
    files = gguf_files(snapshot, file)
    if gguf.is_whole(snapshot.folder / files[0].name):
        return
    for one in files:
        place = _folder(snapshot) / one.name
        if not place.is_file():
            try:
                _fetch(snapshot, one, place)
            except OSError as error:
                raise UnsupportedError(f"{place}: {error.strerror or error}") from error


def told(snapshot: Snapshot, file: str) -> gguf.GgufFile | None:
    """What the model's files say, by themselves or their headers; None where neither are here."""
    files = gguf_files(snapshot, file)
    if gguf.is_whole(here := snapshot.folder / files[0].name):
        return gguf.read(here)
    place = _folder(snapshot)
    if not all((place / one.name).is_file() for one in files):
        return None
    return gguf.read(place / files[0].name, {Path(one.name).name: one.bytes for one in files})


def _folder(snapshot: Snapshot) -> Path:
    from bench.models.weights import cache_folder

    repo = snapshot.repo.replace("/", "--")
    return cache_folder() / "hub" / repo / f"{snapshot.revision}-heads"


def _fetch(snapshot: Snapshot, file: HubFile, place: Path) -> None:
    """As much of a file as its header has; it is in its place once it can be read."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        half, size = Path(scratch) / place.name, FIRST
        while True:
            half.write_bytes(_begin(snapshot, file, size))
            try:
                gguf.read_one(half, file.bytes)
            except InputError:
                if size >= min(MOST, file.bytes):
                    raise
                size *= 2
            else:
                half.replace(place)
                return


def _begin(snapshot: Snapshot, file: HubFile, size: int) -> bytes:
    """The first bytes of a file."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented
        build_hf_headers,
        get_session,
    )

    url = hf_hub_url(snapshot.repo, file.name, revision=snapshot.revision)
    asked = {"Range": f"bytes=0-{size - 1}", "Accept-Encoding": "identity"}
    found = b""
    with (
        telling(Ref(repo=snapshot.repo, revision=snapshot.revision[:12])),
        get_session().stream(
            "GET", url, headers=build_hf_headers() | asked, follow_redirects=True
        ) as answer,
    ):
        answer.raise_for_status()
        if answer.status_code != 206 and file.bytes > size:
            raise UnsupportedError(f"{snapshot.repo}: the hub gives no parts of {file.name}")
        for piece in answer.iter_bytes():
            found += piece
            if len(found) >= size:
                break
    return found[:size]
