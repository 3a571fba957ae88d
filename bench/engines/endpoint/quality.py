"""Quality of a server by its own log-probabilities, where it tells those of a prompt.

vLLM does: `prompt_logprobs` of a completion, by token number, and `/tokenize`. llama.cpp's server,
TGI and Ollama tell those of new tokens alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from bench.engines.endpoint.client import Client, said
from bench.engines.endpoint.http import HttpError, ResponseText
from bench.errors import InputError, UnsupportedError
from bench.fields import parse_json
from bench.quality.store import TOP_K
from bench.quality.top import TopPrediction, top_prediction

FEWEST: Final = 20
"""Tokens of a position that vLLM tells unless `--max-logprobs` allows more."""
MOST_BYTES: Final = 32 << 20
"""Of an answer: 256 tokens of 512 positions take about 12 MB."""
NOT_TOLD: Final = "the server returns no log-probabilities of a prompt"


class PromptScores:
    """What a server says of prompts that it does not continue."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._k: int | None = None
        """As many tokens as it tells of each position, once that is known."""

    async def tokens(self, text: str) -> list[int]:
        """Of a text, without special tokens, by the server's own tokenizer.

        Raises UnsupportedError where it has no page for that.
        """
        asked = {"model": self._client.model, "prompt": text, "add_special_tokens": False}
        table = await self._asked("/tokenize", asked, f"{NOT_TOLD} in tokens of its own")
        found = table.get("tokens")
        if not isinstance(found, list) or not all(type(token) is int for token in found):
            raise UnsupportedError("the server's /tokenize gives no token numbers")
        return found

    async def top(self, window: Sequence[int]) -> TopPrediction:
        """The likeliest tokens at each position. Raises UnsupportedError."""
        for k in [self._k] if self._k else [TOP_K, FEWEST]:
            asked = {
                "model": self._client.model,
                "prompt": list(window),
                "max_tokens": 1,
                "temperature": 0,
                "prompt_logprobs": k,
            }
            try:
                table = await self._asked("/v1/completions", asked, NOT_TOLD)
            except UnsupportedError:
                if k in (self._k, FEWEST):
                    raise
                continue
            self._k = k
            return top_prediction(_positions(table), window, k)
        raise AssertionError("the last try returns or raises")

    async def _asked(self, path: str, asked: dict[str, Any], why: str) -> dict[str, Any]:
        sink = ResponseText(limit=MOST_BYTES)
        headers = [*self._client.key.headers, ("Content-Type", "application/json")]
        try:
            head = await self._client.pool.exchange(path, headers, json.dumps(asked).encode(), sink)
        except HttpError as error:
            raise UnsupportedError(f"{why}: {error}") from error
        if head.status != 200:
            words = self._client.key.hide(said(bytes(sink.body)))[:160]
            raise UnsupportedError(f"{why} (HTTP {head.status}: {words})")
        try:
            table = parse_json(bytes(sink.body), MOST_BYTES)
        except InputError as error:
            raise UnsupportedError(f"{why}: {path} answers no JSON") from error
        return table if isinstance(table, dict) else {}


def _positions(table: dict[str, Any]) -> list[dict[int, float]]:
    """`choices[0].prompt_logprobs` without the first token's, of which nothing is told."""
    try:
        told = table["choices"][0]["prompt_logprobs"][1:]
        return [{int(t): float(one["logprob"]) for t, one in each.items()} for each in told]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UnsupportedError(NOT_TOLD) from error
