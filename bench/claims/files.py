"""Claim files: find, load and check those that ship and those of users."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from bench import fields
from bench.claims import ClaimFile
from bench.data import shipped
from bench.errors import BenchError, InputError, unknown


def claim_files() -> dict[str, Path]:
    """Name -> file of every shipped claim."""
    return {path.stem: path for path in sorted(shipped("claims").glob("*.toml"))}


def load_claims(ref: str) -> ClaimFile:
    """Read the claims of one source: a shipped name, or a file. InputError lists every problem."""
    path = Path(ref)
    if path.suffix != ".toml" and not path.exists():
        known = claim_files()
        if ref not in known:
            raise InputError(unknown("claim", ref, known) + "; or give a .toml file")
        path = known[ref]
    fields.read_toml(path)  # names the file where it cannot be read
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = fields.load(ClaimFile, path, sha256=digest)
    if loaded.name != path.stem:
        raise InputError(f"{path}: name: {loaded.name!r} is not the file's name {path.stem!r}")
    return loaded


def validate_claims(paths: Sequence[Path] | None = None) -> list[str]:
    """Every problem of every claim file (all that ship, if none are given), one line each."""
    found: list[str] = []
    for path in claim_files().values() if paths is None else paths:
        try:
            load_claims(str(path))
        except InputError as error:
            found += error.problems
        except BenchError as error:
            found.append(f"{path}: {error}")
    return found
