"""Requests of one workload: made from a description that any client process can be given."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench.demand import Asked
from bench.engines.endpoint.client import Answer, Client, RequestShape
from bench.engines.endpoint.prompts import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What the requests of a workload are made of."""

    vocabulary: Vocabulary
    shape: RequestShape
    """Of requests that are alike."""
    n_template: int
    """Tokens that the server adds to each prompt."""


class Asker:
    """See `bench.engines.endpoint.sending.Asks`."""

    def __init__(self, client: Client, asking: Asking) -> None:
        self._client, self._asking = client, asking

    async def ask(self, place: int, asked: Asked | None = None) -> Answer:
        """Send a request and wait for its answer."""
        if asked is not None:
            return await self._ask_for(asked)
        shape = self._asking.shape
        body = self._client.body(self._asking.vocabulary.prompt(place), shape)
        return await self._client.ask(body, shape, time.perf_counter_ns())

    async def _ask_for(self, asked: Asked) -> Answer:
        """A request of a workload whose requests differ; the template's tokens come on top."""
        vocabulary = self._asking.vocabulary
        parts = list(asked.parts)
        name, length = parts[-1]
        parts[-1] = (name, max(length - self._asking.n_template, 1))
        # Words are near enough to tokens; how many they were is what the server says.
        exact = asked.n_prompt if vocabulary.size is not None else None
        shape = RequestShape(
            n_prompt=exact,
            n_gen=asked.n_gen,
            extras=with_least(self._asking.shape.extras, asked.n_gen),
        )
        body = self._client.body(vocabulary.pieces(parts), shape)
        answer = await self._client.ask(body, shape, time.perf_counter_ns())
        return replace(answer, asked=asked)


def with_least(extras: Mapping[str, Any], n_gen: int) -> dict[str, Any]:
    """The fields of a request that asks for so many tokens, where the server takes `min_tokens`."""
    return dict(extras) | ({"min_tokens": n_gen} if "min_tokens" in extras else {})
