"""Requests of a demand, one after the other, for as long as a closed loop asks for them."""

from __future__ import annotations

from collections import deque

from bench.demand import Asked, Demand

CHUNK = 256
"""Requests that are drawn at first; the more are asked for, the more are drawn."""


class Source:
    """Gives the next request: the next turn of a session that was answered, else a new session.

    A closed loop keeps so many in flight whatever users think, so turns do not wait here.
    """

    def __init__(self, demand: Demand, seed: str) -> None:
        self.demand, self.seed = demand, seed
        self._drawn: list[Asked] = []
        self._at = 0
        self._ready: deque[int] = deque()

    def take(self) -> Asked:
        if self._ready:
            return self._one(self._ready.popleft())
        while self._one(self._at).turn:  # later turns come when the answer before them has
            self._at += 1
        self._at += 1
        return self._one(self._at - 1)

    def answered(self, asked: Asked) -> None:
        """The next turn of its session may come."""
        place = self._place(asked)
        if self._one(place + 1).turn:
            self._ready.append(place + 1)

    def _one(self, place: int) -> Asked:
        if place >= len(self._drawn):  # drawn from the beginning: equal seeds, equal requests
            self._drawn = self.demand.requests(self.seed, max(CHUNK, 2 * place + 2))
        return self._drawn[place]

    def _place(self, asked: Asked) -> int:
        """Where a request is among those drawn; it was drawn, so it is there."""
        return self._drawn.index(asked)
