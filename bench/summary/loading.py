"""Results folders -> a summary: by their records, or by the columnar copy of a large file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from bench.records.file import read, results_file
from bench.summary.rows import Summary, summarise

LARGE: Final = 64 << 20
"""Bytes of a results file from which its columnar copy is read instead (docs/records.md)."""


def load(*paths: Path, large: int = LARGE) -> Summary:
    """Read results folders or files into rows; a large file by its columnar copy.

    Raises InputError where there is none. Lines that cannot be read are in `problems`.
    """
    files = [results_file(path) for path in paths]
    if len(files) == 1 and find_spec("pyarrow") and files[0].stat().st_size >= large:
        from bench.summary.stored import stored_summary

        found = stored_summary(files[0])
        if found is not None:
            return found
    return summarise(read(*paths))
