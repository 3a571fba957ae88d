"""Replicates looked at together: a column of each property, whatever they lie in.

`Listed` makes the columns of replicates that were read from their records; `bench.summary.stored`
has them as columns already. Both give the same figures, so what is computed of columns is computed
once. numpy is imported inside: the table of `bench run` needs none.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, overload

from bench.summary.replicate import Doubt, Replicate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]
    Flags = NDArray[np.bool_]

PHASES: Final = ("whole", "prefill", "decode")


class Pooling(Sequence[Replicate]):
    """Replicates as columns; each column is in their order."""

    __slots__ = ()

    @overload
    def __getitem__(self, at: int) -> Replicate: ...
    @overload
    def __getitem__(self, at: slice) -> Pooling: ...
    @abstractmethod
    def __getitem__(self, at: int | slice) -> Replicate | Pooling: ...

    @abstractmethod
    def part(self, which: Flags | Whole) -> Pooling:
        """Those at some places, or those that a flag marks."""

    @abstractmethod
    def figure(self, name: str) -> Floats:
        """One of METRICS; nan where it is missing, and of failures."""

    @abstractmethod
    def number(self, name: str) -> Floats:
        """A property that is a number; nan for None."""

    @abstractmethod
    def whole(self, name: str) -> Whole:
        """A property that is a whole number."""

    @abstractmethod
    def flag(self, name: str) -> Flags:
        """A property that is true or false."""

    @abstractmethod
    def listed(self, name: str) -> list[Any]:
        """Any property, as it is."""

    @abstractmethod
    def window(self, phase: str, name: str) -> Floats:
        """A figure of the window of energy of one of PHASES; nan where there is none."""

    @abstractmethod
    def doubts_of(self) -> tuple[Whole, list[tuple[Doubt, ...]]]:
        """All doubts that there are, and which of them each replicate has."""

    @abstractmethod
    def apart(self, *names: str) -> Iterator[Replicate]:
        """The first replicate of each combination of values that differ; of numbers only whether
        they are missing counts. `energy` stands for the words about its windows."""

    def with_others(self, others: Sequence[Pooling]) -> Pooling | None:  # noqa: ARG002
        """These and others, if they lie in the same columns; None if they do not."""
        return None

    @property
    def good(self) -> Pooling:
        """Those that finished."""
        ok = self.flag("ok")
        return self if ok.all() else self.part(ok)

    def once(self, name: str) -> list[Any]:
        """The values of a property that differ, in order of first appearance."""
        return _unlike(self.listed(name))

    def each(self, name: str) -> list[float]:
        """A figure of each finished replicate that has it."""
        return known(self.figure(name))

    def all_doubts(self) -> frozenset[Doubt]:
        """Every code of any, with what it touches."""
        import numpy as np

        codes, doubts = self.doubts_of()
        return frozenset(doubt for code in np.unique(codes).tolist() for doubt in doubts[code])


def known(values: Floats) -> list[float]:
    """The numbers that are not nan."""
    import numpy as np

    found: list[float] = values[~np.isnan(values)].tolist()
    return found


def _unlike(values: Iterable[Any]) -> list[Any]:
    """Equal values once; tables, which have no hash, are told apart by comparing."""
    seen: set[Any] = set()
    found: list[Any] = []
    tables: list[Any] = []
    for value in values:
        if isinstance(value, Mapping):
            if not any(value is one or value == one for one in tables):
                tables.append(value)
                found.append(value)
        elif value not in seen:
            seen.add(value)
            found.append(value)
    return found


class Listed(Pooling):
    """Replicates that were made of their records."""

    __slots__ = ("_made", "_replicates")

    def __init__(self, replicates: Iterable[Replicate]) -> None:
        self._replicates = tuple(replicates)
        self._made: dict[tuple[str, ...], Any] = {}

    def __len__(self) -> int:
        return len(self._replicates)

    @overload
    def __getitem__(self, at: int) -> Replicate: ...
    @overload
    def __getitem__(self, at: slice) -> Listed: ...
    def __getitem__(self, at: int | slice) -> Replicate | Listed:
        found = self._replicates[at]
        return found if isinstance(found, Replicate) else Listed(found)

    def __iter__(self) -> Iterator[Replicate]:
        return iter(self._replicates)

    def part(self, which: Flags | Whole) -> Listed:
        if which.dtype.kind == "b":
            kept = zip(self._replicates, which.tolist(), strict=True)
            return Listed(one for one, wanted in kept if wanted)
        return Listed(self._replicates[at] for at in which.tolist())

    def figure(self, name: str) -> Floats:
        values = (one.figures[name] if one.ok else None for one in self)
        found: Floats = self._column(("figure", name), values, float)
        return found

    def number(self, name: str) -> Floats:
        found: Floats = self._column(("number", name), (getattr(one, name) for one in self), float)
        return found

    def whole(self, name: str) -> Whole:
        found: Whole = self._column(("whole", name), (getattr(one, name) for one in self), "int64")
        return found

    def flag(self, name: str) -> Flags:
        found: Flags = self._column(("flag", name), (getattr(one, name) for one in self), bool)
        return found

    def listed(self, name: str) -> list[Any]:
        return [getattr(one, name) for one in self]

    def window(self, phase: str, name: str) -> Floats:
        def value(one: Replicate) -> Any:
            return getattr(getattr(one.energy, phase), name)

        found: Floats = self._column(("window", phase, name), map(value, self), float)
        return found

    def doubts_of(self) -> tuple[Whole, list[tuple[Doubt, ...]]]:
        import numpy as np

        places: dict[tuple[Doubt, ...], int] = {}
        codes = [places.setdefault(one.doubts, len(places)) for one in self]
        return np.array(codes, dtype=np.int64), list(places)

    def apart(self, *names: str) -> Iterator[Replicate]:  # noqa: ARG002  # all may differ
        return iter(self)

    def _column(self, key: tuple[str, ...], values: Iterable[Any], kind: Any) -> Any:
        import numpy as np

        if key not in self._made:
            self._made[key] = np.array(list(values), dtype=kind)  # None becomes nan
        return self._made[key]


def pooled(replicates: Iterable[Replicate]) -> Pooling:
    """Replicates as columns."""
    return replicates if isinstance(replicates, Pooling) else Listed(replicates)


def joined(parts: Sequence[Pooling]) -> Pooling:
    """All replicates of some parts together."""
    if len(parts) == 1:
        return parts[0]
    return parts[0].with_others(parts[1:]) or Listed(one for part in parts for one in part)


def listed(replicates: Sequence[Replicate], name: str) -> list[Any]:
    """A property of each replicate, as it is."""
    if isinstance(replicates, Pooling):
        return replicates.listed(name)
    return [getattr(one, name) for one in replicates]


def once(replicates: Sequence[Replicate], name: str) -> list[Any]:
    """The values of a property that differ, in order of first appearance."""
    if isinstance(replicates, Pooling):
        return replicates.once(name)
    return _unlike(getattr(one, name) for one in replicates)


def apart(replicates: Sequence[Replicate], *names: str) -> Iterator[Replicate]:
    """At least the first replicate of each combination of values that differ: `Pooling.apart`."""
    return replicates.apart(*names) if isinstance(replicates, Pooling) else iter(replicates)
