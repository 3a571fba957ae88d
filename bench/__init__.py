"""What a token really costs on this card, and whether a change makes it faster and cheaper."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pandas

__version__ = "0.1.0"


def read_results(*paths: str | Path) -> pandas.DataFrame:
    """Results folders or files as a DataFrame, one row a record: docs/data.md lists its columns.

    Lines that cannot be read are left out and listed in `frame.attrs["problems"]`.
    Raises InputError.
    """
    from bench.exchange.frame import read_results

    return read_results(*paths)
