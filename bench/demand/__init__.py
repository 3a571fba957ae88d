"""What users ask of a server: lengths, sessions, shared beginnings, arrivals.

A demand is a line of text, kept in records: the name of a shipped shape (`chat`), a trace file
(`trace:FILE`), or a description of its own:

    prompt=lognormal:512:0.8 gen=uniform:64:256 turns=4 system=200 think=1.5

`Demand.requests` turns it into a list of requests. Equal seeds, equal requests, in every arm and at
every rate. Standard library only.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from statistics import fmean
from typing import Final

from bench.demand.lengths import Lengths, lengths
from bench.demand.shapes import shapes
from bench.demand.traces import TraceRequest, read_trace
from bench.errors import InputError, unknown

TRACE: Final = "trace:"
KEYS: Final = ("prompt", "gen", "turns", "system", "think")
LARGEST: Final = 1 << 20
"""Tokens of a prompt or an answer, and turns of a session, at most."""
HASHED: Final = 256
"""Requests that a hash is of."""
MEAN_OF: Final = 2000
"""Requests that nominal lengths are the mean of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request. Two requests share the part of their prompts that is made alike."""

    n_prompt: int
    n_gen: int
    parts: tuple[tuple[str, int], ...]
    """Name of a stream of tokens and how many are taken from its beginning, in order. Their sum
    is `n_prompt`; streams of equal name hold equal tokens."""
    n_shared: int = 0
    """Tokens at its beginning that an earlier request also began with: what a cache may hold."""
    session: int = 0
    turn: int = 0
    """0: arrives by the plan; above: `think_s` after the answer to the turn before it."""
    think_s: float = 0.0
    gap: float = 1.0
    """Time since the arrival before it, in mean times between arrivals (of sessions)."""


def _length(one: Asked) -> int:
    return one.n_prompt + one.n_gen


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """How long requests are and what they share; `spec` is its text."""

    spec: str
    prompt: Lengths | None = None
    """New tokens of each turn, after the system prompt."""
    gen: Lengths | None = None
    turns: Lengths | None = None
    system: int = 0
    """Tokens that every prompt begins with."""
    think_s: float = 0.0
    trace: tuple[TraceRequest, ...] = ()

    def requests(self, seed: str, count: int) -> list[Asked]:
        """`count` requests, by session and turn. A trace is begun again where it ends."""
        return list(itertools.islice(self._made(seed), count))

    def sessions(self, seed: str) -> Iterator[tuple[Asked, ...]]:
        """The same requests without end, each session's turns together."""
        for _, turns in itertools.groupby(self._made(seed), key=lambda one: one.session):
            yield tuple(turns)

    def sha256(self, seed: str) -> str:
        """Of the lengths of the first requests: equal, where the same is asked for."""
        first = [[one.n_prompt, one.n_gen, one.n_shared] for one in self.requests(seed, HASHED)]
        return hashlib.sha256(json.dumps(first).encode()).hexdigest()

    def _made(self, seed: str) -> Iterator[Asked]:
        return self._replayed(seed) if self.trace else self._drawn(seed)

    @property
    def shares(self) -> bool:
        """Whether prompts begin alike on purpose."""
        if self.trace:
            return any(one.blocks or one.session is not None for one in self.trace)
        return bool(self.system or self.turns)

    def mean_lengths(self) -> tuple[int, int]:
        """Tokens of a prompt and of an answer, rounded means: the nominal size in records."""
        each = self.requests("mean", MEAN_OF)
        return round(fmean(a.n_prompt for a in each)), round(fmean(a.n_gen for a in each))

    def peak_lengths(self, seeds: Iterable[str], count: int, n_batch: int) -> tuple[int, int]:
        """Tokens of a prompt and of an answer, means over the `n_batch` longest of the first
        `count` requests of a seed, rounded up; of the seed where they are longest."""
        rounds = (sorted(self.requests(seed, count), key=_length)[-n_batch:] for seed in seeds)
        longest = max(rounds, key=lambda each: sum(map(_length, each)))
        return ceil(fmean(a.n_prompt for a in longest)), ceil(fmean(a.n_gen for a in longest))

    def _drawn(self, seed: str) -> Iterator[Asked]:
        assert self.prompt is not None
        assert self.gen is not None
        draw = random.Random(f"{seed}/demand")
        for session in itertools.count():
            turns = self.turns.draw(draw) if self.turns else 1
            before, last_gen, gap = self.system, 0, draw.expovariate(1.0)
            for turn in range(turns):
                n_new, n_gen = self.prompt.draw(draw), self.gen.draw(draw)
                n_prompt = before + n_new
                own = (f"session {session}", n_prompt - self.system)
                yield Asked(
                    n_prompt=n_prompt,
                    n_gen=n_gen,
                    parts=(("system", self.system), own) if self.system else (own,),
                    # The answer's own tokens are not known here: others stand in for them.
                    n_shared=before - last_gen if turn or session else 0,
                    session=session,
                    turn=turn,
                    think_s=self.think_s if turn else 0.0,
                    gap=gap,
                )
                before, last_gen = n_prompt + n_gen, n_gen

    def _replayed(self, seed: str) -> Iterator[Asked]:
        """The trace's requests with the trace's gaps, rounds of them salted apart."""
        first, last = self.trace[0].at_s, self.trace[-1].at_s
        # One gap more than there are between the requests, before each round but the first.
        mean = (last - first) / max(len(self.trace) - 1, 1) or 1.0
        draw = random.Random(f"{seed}/demand")
        timed = last > first
        for lap in itertools.count():
            seen: set[tuple[int, ...]] = set()
            longest: dict[str, int] = {}
            at = first - mean
            for number, one in enumerate(self.trace):
                parts = one.parts(f"{lap}/{number}")
                gap = (one.at_s - at) / mean if timed else draw.expovariate(1.0)
                yield Asked(
                    n_prompt=one.n_prompt,
                    n_gen=one.n_gen,
                    parts=tuple((f"{lap}/{name}", n) for name, n in parts),
                    n_shared=one.shared(seen, longest),
                    session=lap * len(self.trace) + number,
                    gap=gap,
                )
                at = one.at_s


@cache
def demand(spec: str) -> Demand:
    """The demand that a text describes. Raises InputError that says what is wrong with it."""
    text = spec.strip()
    if text.startswith(TRACE):
        return Demand(spec=spec, trace=read_trace(text.removeprefix(TRACE)))
    if "=" in text:
        return _described(spec, _words(text))
    known = shapes()
    if text not in known:
        raise InputError(
            unknown("requests", text, known) + "; or describe them: 'prompt=DIST gen=DIST', or "
            "trace:FILE"
        )
    return _described(spec, known[text].settings)


def _words(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in text.split():
        key, sign, value = word.partition("=")
        if key not in KEYS or not sign:
            raise InputError(f"requests: '{word}' is not KEY=VALUE with one of {', '.join(KEYS)}")
        if key in found:
            raise InputError(f"requests: {key} is repeated")
        found[key] = value
    return found


def _described(spec: str, table: dict[str, str]) -> Demand:
    for key in ("prompt", "gen"):
        if key not in table:
            raise InputError(f"requests: {key} is missing in '{spec}'")
    drawn = {key: lengths(table[key], key) for key in ("prompt", "gen", "turns") if key in table}
    return Demand(
        spec=spec,
        prompt=drawn["prompt"],
        gen=drawn["gen"],
        turns=drawn.get("turns"),
        system=int(_number(table, "system", whole=True)),
        think_s=_number(table, "think", whole=False),
    )


def _number(table: dict[str, str], key: str, *, whole: bool) -> float:
    text = table.get(key, "0")
    try:
        value = float(int(text) if whole else float(text))
    except ValueError:
        value = -1.0
    if not 0 <= value <= LARGEST:
        kind = "a whole number" if whole else "a number of seconds"
        raise InputError(f"requests: {key}: '{text}' is not {kind} of at least 0")
    return value


def arrival_times(
    asked: Sequence[Asked], rate: float, over: int | None = None
) -> list[float | None]:
    """Seconds at which each request arrives, so that exactly `rate` arrive a second in the mean.

    None for later turns of a session, which follow the answer before them. Every rate has the same
    pattern, stretched: what a faster one does differently is the server's doing. The pattern is
    stretched to its own mean as well, that of the first `over` requests (all of them): a Poisson
    process of so many arrivals in a given time.
    """
    leading = asked[:over]
    per_session = len(leading) / sum(one.gap for one in leading if one.turn == 0)
    at, times = 0.0, list[float | None]()
    for one in asked:
        if one.turn:
            times.append(None)
            continue
        at += one.gap * per_session / rate
        times.append(at)
    return times
