"""Requests of a demand, session by session, for as long as a closed loop asks for them."""

from __future__ import annotations

from bench.demand import Asked, Demand


class Source:
    """Sessions by number: equal seeds, equal sessions, whoever asks for which."""

    def __init__(self, demand: Demand, seed: str) -> None:
        self._drawn: list[tuple[Asked, ...]] = []
        self._rest = demand.sessions(seed)

    def session(self, number: int) -> tuple[Asked, ...]:
        """The turns of a session."""
        while len(self._drawn) <= number:
            self._drawn.append(next(self._rest))
        return self._drawn[number]
