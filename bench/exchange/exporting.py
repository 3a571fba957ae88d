"""Records in other tools' formats. What a format cannot hold is dropped, and said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module

from bench.errors import InputError, unknown
from bench.exchange import FORMATS
from bench.experiment import CostAssumption
from bench.records.file import Results
from bench.summary import Row, Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file's content, and what of the records is not in it."""

    data: bytes
    """The beginning of the content, or all of it."""
    more: Iterable[bytes] = ()
    """The rest, made while it is written: content may be larger than memory."""
    dropped: tuple[str, ...] = field(default=())


def export(results: Results | Summary, to: str, price: CostAssumption | None = None) -> Exported:
    """The results in a format. Raises InputError, and UnsupportedError for a missing package."""
    if to not in FORMATS:
        raise InputError(unknown("format", to, FORMATS))
    module, _, function = FORMATS[to].partition(":")
    write: Callable[[Results | Summary, CostAssumption | None], Exported] = getattr(
        import_module(f"bench.exchange.{module}"), function
    )
    return write(results, price)


def failures(rows: Iterable[Row]) -> list[str]:
    """A line if there are failed records, which have no figure to write."""
    n = sum(row.n_failed for row in rows)
    return [f"{n} failed record{'s' * (n != 1)}: without figures"] if n else []
