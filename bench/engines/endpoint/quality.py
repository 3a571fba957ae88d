"""Quality of a server by its own log-probabilities, where it tells those of a prompt.

vLLM does: `prompt_logprobs` of a completion, by token number. SGLang does: `input_top_logprobs` of
its own `/generate`. `echo` of the completions API tells texts of the likeliest tokens, not which
they are, but the log-probability of each of the prompt: perplexity without divergence. All this
needs `/tokenize`. llama.cpp's server, TGI and Ollama tell those of new tokens alone.
Sources: vLLM's OpenAI-compatible server; SGLang's native API, seen 2026-11-29.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class PromptQuestion:
    """A way to ask for the likeliest tokens of a prompt."""

    path: str
    body: Callable[[Sequence[int], int], dict[str, Any]]
    """Of the prompt's tokens, and how many to tell of each position."""
    answer: Callable[[dict[str, Any], Sequence[int], int], TopPrediction]
    """Of what was answered, the prompt's tokens, and as many."""


class PromptScores:
    """What a server says of prompts that it does not continue."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: tuple[PromptQuestion, int] | None = None
        """What it answers, and as many tokens as it tells of each position."""

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
        if self._known is not None:
            return await self._answer(*self._known, window)
        refusal = UnsupportedError(NOT_TOLD)
        for question, k in (
            (VLLM, TOP_K),
            (VLLM, FEWEST),
            (SGLANG, TOP_K),
            (ECHO, 1),
        ):
            try:
                found = await self._answer(question, k, window)
            except UnsupportedError as error:
                refusal = error if question is VLLM else refusal
                continue
            self._known = question, k
            return found
        raise refusal

    async def _answer(
        self, question: PromptQuestion, k: int, window: Sequence[int]
    ) -> TopPrediction:
        asked = {"model": self._client.model, **question.body(window, k)}
        table = await self._asked(question.path, asked, NOT_TOLD)
        try:
            return question.answer(table, window, k)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UnsupportedError(NOT_TOLD) from error

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
            raise UnsupportedError(f"{why}: {path} does not answer with JSON") from error
        return table if isinstance(table, dict) else {}


def _of_vllm(table: Mapping[str, Any], window: Sequence[int], k: int) -> TopPrediction:
    told = table["choices"][0]["prompt_logprobs"][1:]
    positions = [{int(t): float(one["logprob"]) for t, one in each.items()} for each in told]
    return top_prediction(positions, window, k)


def _of_sglang(table: Mapping[str, Any], window: Sequence[int], k: int) -> TopPrediction:
    """Entries are [log-probability, token, its text]; the text's own token stands apart."""
    meta = table["meta_info"]
    own, likeliest = meta["input_token_logprobs"][1:], meta["input_top_logprobs"][1:]
    positions = [
        {int(token): float(log_prob) for log_prob, token, *_ in [*tops, one]}
        for tops, one in zip(likeliest, own, strict=True)
    ]
    return top_prediction(positions, window, k)


def _of_echo(table: Mapping[str, Any], window: Sequence[int], _: int) -> TopPrediction:
    """The prompt's tokens stand before the new one; a server that ignores `echo` tells that
    alone."""
    told = table["choices"][0]["logprobs"]["token_logprobs"]
    if len(told) != len(window) + 1 or table["usage"]["prompt_tokens"] != len(window):
        raise ValueError("another number of tokens")
    return TopPrediction(indices=(), log_probs=(), given=[float(one) for one in told[1:-1]])


VLLM: Final = PromptQuestion(
    "/v1/completions",
    lambda window, k: {
        "prompt": list(window),
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": k,
    },
    _of_vllm,
)
SGLANG: Final = PromptQuestion(
    "/generate",
    lambda window, k: {
        "input_ids": list(window),
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": k,
    },
    _of_sglang,
)
ECHO: Final = PromptQuestion(
    "/v1/completions",
    lambda window, k: {
        "prompt": list(window),
        "max_tokens": 1,
        "temperature": 0,
        "echo": True,
        "logprobs": k,
    },
    _of_echo,
)
