"""Results folders -> a summary: by their records, or by columnar copies where they are large."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.records.file import read, results_file
from bench.summary.rows import Summary, summarise

if TYPE_CHECKING:
    from bench.summary.copies import Say

LARGE: Final = 64 << 20
"""Bytes of all results files from which their columnar copies are read instead: docs/records.md."""


def load(*paths: Path, large: int = LARGE, say: Say | None = None) -> Summary:
    """Read results folders or files into rows; large ones by their columnar copies.

    `say` is told how far it is where copies have to be made. Raises InputError where there are no
    results. Lines that cannot be read are in `problems`.
    """
    files = [results_file(path) for path in paths]
    if by_copy(files, large):
        from bench.summary.gathered import stored_summary

        return stored_summary(files, say)
    return summarise(read(*paths))


def by_copy(files: Sequence[Path], large: int = LARGE) -> bool:
    """Whether some results files are so large that their columnar copies are read."""
    size = sum(file.stat().st_size for file in files)
    return bool(files) and size >= large and find_spec("pyarrow") is not None
