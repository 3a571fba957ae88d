"""Speculative decoding inside a server: how often its guesses were right, by its own counters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from bench.engines.endpoint.client import Client
from bench.engines.endpoint.http import HttpError
from bench.engines.speculation import VLLM_COUNTERS, speculation

SAMPLE: Final = re.compile(r"^([a-zA-Z_:]+)(?:\{[^}]*\})? ([0-9.eE+]+)$", re.MULTILINE)
"""A line of Prometheus's text format: name, labels, value."""


async def counters(client: Client) -> dict[str, int]:
    """vLLM's counters at /metrics; none of a server that has no such page or guesses nothing."""
    try:
        head, body = await client.get("/metrics")
    except HttpError:
        return {}
    if head.status != 200:
        return {}
    told: dict[str, float] = {}
    for name, value in SAMPLE.findall(body.decode(errors="replace")):
        told[name] = told.get(name, 0.0) + float(value)
    found = {ours: told.get(f"{theirs}_total") for ours, theirs in VLLM_COUNTERS.items()}
    return {name: int(value) for name, value in found.items() if value is not None}


class Guesses:
    """Counts of a workload: by the server's counters, else by what llama.cpp says of each answer
    (`draft_n`, `draft_n_accepted`)."""

    def __init__(self, before: Mapping[str, int]) -> None:
        self._before = before
        self._drafts = self._guessed = self._accepted = 0

    def add(self, timings: Mapping[str, Any] | None) -> None:
        """One answer's own timings."""
        told = timings or {}
        if isinstance(guessed := told.get("draft_n"), int):
            accepted = int(told.get("draft_n_accepted") or 0)
            self._guessed += guessed
            self._accepted += accepted
            self._drafts += int(told.get("predicted_n") or 0) - accepted

    def figures(self, after: Mapping[str, int]) -> dict[str, Any]:
        """For the record's notes; nothing of a server that does not guess. One that does, and
        found nothing to guess from, has counts of 0."""
        rise = {name: count - self._before.get(name, 0) for name, count in after.items()}
        if rise.keys() == VLLM_COUNTERS.keys():
            return {"speculation": speculation(**rise)}
        if self._guessed:
            counted = {"guessed": self._guessed, "accepted": self._accepted}
            return {"speculation": speculation(drafts=self._drafts, **counted)}
        return {}
