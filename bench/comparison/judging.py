"""Which replicates are pairs, and what speaks against a pair. docs/method.md.

Pairs are held as columns, so that a hundred thousand of them are judged as quickly as ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Final

from bench.records.codes import Part, excludes, touches
from bench.statistics import deviation
from bench.summary import Doubt, Replicate
from bench.summary.pooling import Pooling, pooled
from bench.summary.replicate import against

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Flags = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

CV_LIMIT: Final = 0.05
TEMPERATURE_LIMIT_C: Final = 5.0
BREAK_S: Final = 3600.0
"""Arms that started further apart than this, and than `BREAK_TIMES` the usual, had a break
between them."""
BREAK_TIMES: Final = 3.0
POWER_CAP_LIMIT: Final = 0.1
"""Share of the samples; one sample in ten of a short window is chance."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs of two arms, measured side by side; the i-th is the i-th of either side."""

    baseline: Pooling
    candidate: Pooling
    marks: tuple[tuple[Doubt, Flags], ...]
    """What only the two together show, and of which pairs."""

    def __len__(self) -> int:
        return len(self.baseline)

    def __iter__(self) -> Iterator[tuple[Replicate, Replicate]]:
        return zip(self.baseline, self.candidate, strict=True)

    def counts(self, parts: frozenset[Part]) -> Flags:
        """Which pairs are evidence for figures made of these parts."""
        found = _clean(self.baseline, parts) & _clean(self.candidate, parts)
        for doubt, seen in self.marks:
            if doubt.touches(parts) and excludes(doubt.code):
                found &= ~seen
        return found

    def codes(self, which: Flags, parts: frozenset[Part]) -> set[str]:
        """The codes of some pairs that touch figures made of these parts."""
        found = _codes(self.baseline, which, parts) | _codes(self.candidate, which, parts)
        return found | {
            doubt.code for doubt, seen in self.marks if doubt.touches(parts) and seen[which].any()
        }

    def times_us(self) -> tuple[Whole, Whole]:
        """When the first and the second of each pair started, in microseconds since 1970."""
        import numpy as np

        both = self.baseline.whole("started_us"), self.candidate.whole("started_us")
        return np.minimum(*both), np.maximum(*both)


def _clean(side: Pooling, parts: frozenset[Part]) -> Flags:
    """Which replicates have no code that makes them no evidence."""
    import numpy as np

    codes, doubts = side.doubts_of()
    clean = [not any(excludes(code) for code in against(each, parts)) for each in doubts]
    found: Flags = np.array(clean, dtype=bool)[codes]
    return found


def _codes(side: Pooling, which: Flags, parts: frozenset[Part]) -> set[str]:
    import numpy as np

    codes, doubts = side.doubts_of()
    return {code for at in np.unique(codes[which]).tolist() for code in against(doubts[at], parts)}


def pairs_of(baseline: Iterable[Replicate], candidate: Iterable[Replicate]) -> Pairs:
    """Good replicates of equal index, in their order; of several runs, those side by side.

    Each replicate stands in one pair at most. Where an index was measured more than once (two runs,
    two machines), those of one machine, of one experiment, and near in time go together.
    """
    one, other = pooled(baseline).good, pooled(candidate).good
    first, second = _matched(one, other)
    one, other = one.part(first), other.part(second)
    return Pairs(one, other, tuple(_marks(one, other)))


def _matched(one: Pooling, other: Pooling) -> tuple[Whole, Whole]:
    """The places of the two of each pair, by index."""
    import numpy as np

    ours, theirs = one.whole("index"), other.whole("index")
    if _each_once(ours) and _each_once(theirs):
        _, first, second = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
        return first, second
    # Those of one machine and experiment go together before any others.
    near, also_near = _numbered(one, other)
    if not (_each_once(near) and _each_once(also_near)):
        places = (range(len(one)), range(len(other)))
        return _columns(_side_by_side(one, other, places))
    _, first, second = np.intersect1d(near, also_near, assume_unique=True, return_indices=True)
    left = (np.delete(np.arange(len(one)), first), np.delete(np.arange(len(other)), second))
    rest = _columns(_side_by_side(one, other, (left[0].tolist(), left[1].tolist())))
    first, second = np.append(first, rest[0]), np.append(second, rest[1])
    order = np.lexsort((first, ours[first]))
    return first[order], second[order]


def _each_once(values: Whole) -> bool:
    import numpy as np

    return len(np.unique(values)) == len(values)


def _numbered(one: Pooling, other: Pooling) -> list[Whole]:
    """Numbers that are equal for equal machine, experiment and index."""
    import numpy as np

    places: dict[tuple[str, str, int], int] = {}
    names = ("environment", "experiment", "index")
    return [
        np.array(
            [
                places.setdefault(key, len(places))
                for key in zip(*(side.listed(name) for name in names), strict=True)
            ],
            dtype=np.int64,
        )
        for side in (one, other)
    ]


def _columns(pairs: Iterable[tuple[int, int]]) -> tuple[Whole, Whole]:
    import numpy as np

    found = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _side_by_side(
    one: Pooling, other: Pooling, places: tuple[Iterable[int], Iterable[int]]
) -> Iterator[tuple[int, int]]:
    """Pairs of some replicates where an index is there more than once: the nearest first."""
    free: dict[int, tuple[list[int], list[int]]] = {}
    for side, replicates in enumerate((one, other)):
        index = replicates.whole("index").tolist()
        for place in places[side]:
            free.setdefault(index[place], ([], []))[side].append(place)
    known = [
        list(zip(*(each.listed(name) for name in APART), strict=True)) for each in (one, other)
    ]
    for index_of in sorted(free):
        ours, theirs = free[index_of]
        if len(ours) == len(theirs) == 1:
            yield ours[0], theirs[0]
            continue
        ways = sorted((_distance(known[0][b], known[1][c]), b, c) for b in ours for c in theirs)
        used: tuple[set[int], set[int]] = (set(), set())
        for _, b, c in ways:
            if b not in used[0] and c not in used[1]:
                used[0].add(b)
                used[1].add(c)
                yield b, c


APART: Final = ("environment", "experiment", "started_us")
"""By what replicates of one index are near to each other."""


def _distance(one: tuple[str, str, int], other: tuple[str, str, int]) -> tuple[bool, bool, float]:
    return one[0] != other[0], one[1] != other[1], abs(one[2] - other[2]) / 1e6


def _marks(one: Pooling, other: Pooling) -> Iterator[tuple[Doubt, Flags]]:
    """What speaks against pairs and only the two together show."""
    yield _doubt("DRIFT"), one.flag("drifts") | other.flag("drifts")
    for code, name, limit in (
        ("START_TEMPERATURE", "temperature_start_c", TEMPERATURE_LIMIT_C),
        ("POWER_CAP_DIFFERS", "power_cap_share", POWER_CAP_LIMIT),
    ):
        # A figure that one side lacks is nan, and so is a difference to it, which is above nothing.
        yield _doubt(code), abs(one.number(name) - other.number(name)) > limit
    ours, theirs = (side.listed("requests_id") for side in (one, other))
    yield _doubt("REQUESTS_DIFFER"), _told_apart(ours, theirs)


def _told_apart(ours: list[str | None], theirs: list[str | None]) -> Flags:
    """Where both are known and differ; older records do not tell their requests."""
    import numpy as np

    both = zip(ours, theirs, strict=True)
    return np.array([None not in (a, b) and a != b for a, b in both], dtype=bool)


def _doubt(code: str) -> Doubt:
    return Doubt(code, touches(code))


def in_turns(pairs: Pairs) -> Pairs:
    """The pairs of two arms at one workload; those that were not side by side are marked.

    So is a pair between whose two another replicate of these arms started on this machine (all A
    then all B, a replicate made up for later), and one with a break between (a run resumed later):
    drift is then in its ratio. Pairs across machines have a code of their own.
    """
    import numpy as np

    if not len(pairs):
        return pairs
    first, second = pairs.times_us()
    apart = (second - first) / 1e6
    usual = float(np.sort(apart)[(len(apart) - 1) // 2])
    late = apart > max(BREAK_S, BREAK_TIMES * usual)
    both = [np.array(each.listed("environment")) for each in (pairs.baseline, pairs.candidate)]
    starts = [each.whole("started_us") for each in (pairs.baseline, pairs.candidate)]
    for environment in dict.fromkeys(both[0].tolist()):
        every = [time[place == environment] for time, place in zip(starts, both, strict=True)]
        here = np.sort(np.concatenate(every))
        mine = both[0] == environment
        before = np.searchsorted(here, second[mine], side="left")
        late[mine] |= before > np.searchsorted(here, first[mine], side="right")
    late &= both[0] == both[1]
    return replace(pairs, marks=(*pairs.marks, (_doubt("OUT_OF_TURN"), late)))


def varies(replicates: Iterable[Replicate]) -> bool:
    """Whether the decode rates (or prefill, for one new token) differ too much: CV."""
    import numpy as np

    good = pooled(replicates).good
    decode, prefill = good.figure("decode_tok_s"), good.figure("prefill_tok_s")
    rates = np.where(np.isnan(decode) | (decode == 0), prefill, decode)
    known: list[float] = rates[~np.isnan(rates)].tolist()
    return len(known) > 1 and deviation(known) / fmean(known) > CV_LIMIT
