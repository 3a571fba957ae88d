"""Any server that speaks OpenAI's API: vLLM, llama-server, SGLang, TGI, Ollama.

The server has loaded its model already, so nothing is loaded here; it is asked who it is, and which
fields of a request it takes. Requests are whole and streamed; their times are those of the client.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

from bench.demand import Asked, demand
from bench.engines.endpoint import identity
from bench.engines.endpoint.client import Answer, Client, RequestShape
from bench.engines.endpoint.guesses import Guesses, counters
from bench.engines.endpoint.http import WatchedLoop
from bench.engines.endpoint.load import ClosedLoop, Window, arrivals, open_loop
from bench.engines.endpoint.prompts import Vocabulary, next_length
from bench.engines.endpoint.quality import PromptScores
from bench.engines.endpoint.settings import ApiKey, EndpointSettings, settings
from bench.engines.endpoint.source import Source
from bench.engines.endpoint.steady import SteadyStream, length_of
from bench.engines.endpoint.window import counts, failed, served
from bench.engines.messages import Job, Loaded, Served, Timed
from bench.errors import InputError, UnsupportedError
from bench.experiment import Workload
from bench.quality.top import TopPrediction

PROBE_TOKENS = 8
FINE = (None, "token_count", "buffered")
"""Ends of a probe that say the fields were taken: its two tokens may well come together."""
ROUND_TRIES = 3
ANY_SHARE = 0.9999
"""Of a probe's requests that may fail: at a rate that is too high all may."""
CALIBRATIONS = 4
"""Requests that may be spent on finding how many words make a prompt of so many tokens."""


class ArrivalClock:
    """Names what timed the requests; they come timed."""

    name = "client: bytes stamped as they arrive"


class EndpointEngine:
    """See `bench.engines.Engine`; whole requests, and windows of many at once."""

    def __init__(self) -> None:
        self.clock = ArrivalClock()
        self._runner: asyncio.Runner | None = None
        self._settings = EndpointSettings(url="")
        self._extras: Mapping[str, Any] = {}
        self._vocabulary_size: int | None = None
        self._seed = ""
        self._next = 0
        self._workload: Workload | None = None
        self._source: Source | None = None

    def load(self, job: Job) -> Loaded:
        self._settings = settings(job.options)
        self._seed = f"{job.seed}/{job.replicate}"
        self._key = ApiKey(self._settings.key_env)
        self._client = Client(self._settings, self._key, self._settings.model)
        self._scores = PromptScores(self._client)
        self._runner = asyncio.Runner(loop_factory=WatchedLoop)
        try:
            found = self._runner.run(self._meet(job.architecture.get("vocab_size")))
        except (InputError, UnsupportedError):
            self.close()
            raise
        self._counts = found["kind"] == "vllm"
        return self._describe(found)

    def _describe(self, found: Mapping[str, Any]) -> Loaded:
        model = self._client.model
        told = {
            "n_params": identity.figure(found, model, "n_params"),
            "weights_bytes": identity.figure(found, model, "size"),
            "quantized_fraction": None,
        }
        why = "the server does not say"
        return Loaded(
            device=self._settings.device,
            dtype="as-served",
            n_params=told["n_params"],
            weights_bytes=told["weights_bytes"],
            quantized_fraction=None,
            dynamic=None,
            kernel=None,
            absent={name: why for name, value in told.items() if value is None},
            details={
                "server": identity.without_folders(found),
                "served_model": identity.without_folders(model),
                "api": self._settings.api,
                "prompts": "text" if self._vocabulary_size is None else "tokens",
                "fields": sorted(self._extras),
            },
        )

    async def _meet(self, of_card: int | None) -> dict[str, Any]:
        """Find out who answers, and how to ask. `of_card`: the vocabulary's size by the card."""
        client, wanted = self._client, self._settings.prompts
        found = await identity.identify(client)
        client.model = identity.served_model(self._settings.model, found)
        vocabulary_size = of_card or identity.figure(found, client.model, "n_vocab")
        if wanted == "tokens" and vocabulary_size is None:
            raise InputError("options.prompts: tokens need a model card (-m) to draw from")
        if wanted != "text" and self._settings.api == "completions" and vocabulary_size:
            answer, extras = await identity.accepted(client, self._words(vocabulary_size))
            if answer.failure in FINE or wanted == "tokens":
                self._settle(answer, extras, vocabulary_size)
                return found
        self._settle(*await identity.accepted(client, self._words(None)), None)
        return found

    def _words(self, size: int | None) -> Vocabulary:
        return Vocabulary(seed=f"{self._seed}/probe", n=PROBE_TOKENS, size=size)

    def _settle(self, answer: Answer, extras: Mapping[str, Any], size: int | None) -> None:
        """Keep what was found to work. Raises UnsupportedError if nothing does."""
        if answer.failure not in FINE:
            raise failed([answer], counts(Window(answers=[answer])))
        self._extras, self._vocabulary_size = extras, size

    def close(self) -> None:
        """Close the connections."""
        if self._runner is not None:
            self._client.close()
            self._runner.close()
            self._runner = None

    def _run(self, work: Any) -> Any:
        assert self._runner is not None, "load comes first"
        return self._runner.run(work)

    def expect(self, workload: Workload) -> None:
        self._workload = workload if workload.requests or workload.slo else None

    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        chosen = self._settings
        if chosen.rate is not None and n_batch != 1:
            raise InputError("options.rate: concurrency follows the arrivals; use -b 1")
        self._n_batch, self._n_gen = n_batch, n_gen
        self._seed_of_work = f"{self._seed}/{n_prompt}/{n_gen}/{n_batch}"
        extras = {
            name: n_gen if name == "min_tokens" else value for name, value in self._extras.items()
        }
        self._shape = RequestShape(n_prompt=n_prompt, n_gen=n_gen, extras=extras)
        length = self._run(self._calibrate(n_prompt))
        self._prompts = self._vocabulary(length)
        self._shared = n_prompt - length
        self._next = 0
        self._guesses = Guesses(self._counters())
        self._source = self._sourced()

    def _sourced(self) -> Source | None:
        """What is asked for by a workload that says more than lengths: the same at every rate."""
        asked = self._workload
        if asked is None:
            return None
        alike = f"prompt={asked.n_prompt} gen={asked.n_gen}"
        # Not the seed of the work: its name holds the lengths' means alone.
        return Source(demand(asked.requests or alike), f"{self._seed}/{asked.requests}")

    def _vocabulary(self, length: int) -> Vocabulary:
        return Vocabulary(
            seed=self._seed_of_work,
            n=length,
            size=self._vocabulary_size,
            distinct=not self._settings.prefix_cache,
        )

    async def _calibrate(self, n_prompt: int) -> int:
        """How many words, or token numbers, make a prompt of exactly `n_prompt` tokens.

        A server may add a template, or a token for the beginning.
        """
        tried: list[tuple[int, int]] = []
        length: int | None = n_prompt
        shape = RequestShape(
            n_prompt=None, n_gen=1, extras={**self._shape.extras, **_one(self._extras)}
        )
        while length is not None and len(tried) < CALIBRATIONS:
            body = self._client.body(self._vocabulary(length).prompt(0), shape)
            answer = await self._client.ask(body, shape, time.perf_counter_ns())
            if answer.prompt_tokens is None:
                raise failed([answer], counts(Window(answers=[answer])))
            if answer.prompt_tokens == n_prompt:
                return length
            tried.append((length, answer.prompt_tokens))
            length = next_length(tried, n_prompt)
        words, tokens = tried[-1]
        raise UnsupportedError(
            f"no prompt of exactly {n_prompt} tokens could be made: {words} words or "
            f"numbers are {tokens}; a model card (-m) allows numbers, or try another --n-prompt",
            "TOKEN_COUNT",
        )

    async def _ask(self) -> Answer:
        """The next request of the workload."""
        index, self._next = self._next, self._next + 1
        body = self._client.body(self._prompts.prompt(index), self._shape)
        answer = await self._client.ask(body, self._shape, time.perf_counter_ns())
        self._guesses.add(answer.timings)
        return answer

    async def _ask_for(self, asked: Asked) -> Answer:
        """A request of a workload whose requests differ; the template's tokens come on top."""
        parts = list(asked.parts)
        name, length = parts[-1]
        parts[-1] = (name, max(length - self._shared, 1))
        extras = {
            key: asked.n_gen if key == "min_tokens" else value
            for key, value in self._shape.extras.items()
        }
        # Words are near enough to tokens; how many they were is what the server says.
        exact = asked.n_prompt if self._vocabulary_size is not None else None
        shape = RequestShape(n_prompt=exact, n_gen=asked.n_gen, extras=extras)
        body = self._client.body(self._prompts.pieces(parts), shape)
        answer = await self._client.ask(body, shape, time.perf_counter_ns())
        return replace(answer, asked=asked)

    async def _ask_next(self) -> Answer:
        """The next request of a closed loop whose requests differ."""
        assert self._source is not None
        asked = self._source.take()
        answer = await self._ask_for(asked)
        self._source.answered(asked)
        return answer

    def request(self, n_gen: int) -> Timed:
        """One request for each sequence, all at once: for the warm-up, which no figure rests on.

        Where failures are allowed, half of a round is enough, and a worse one is tried again.
        """
        assert n_gen == self._n_gen
        allowed = self._n_batch // 2 if self._settings.allow_failed else 0
        for _ in range(ROUND_TRIES if self._settings.allow_failed else 1):
            answers = self._run(_together(self._ask, self._n_batch))
            good = [answer for answer in answers if answer.failure is None]
            if len(good) >= max(self._n_batch - allowed, 1):
                return in_step(good)
        raise failed(answers, counts(Window(answers=answers)))

    def serve(self, rounds: int, seconds: float) -> Served:
        """A window of requests at this workload's concurrency, or at the rate of arrivals."""
        chosen = self._settings
        if self._workload is not None and self._workload.rate is not None:
            return self._probe(self._workload, self._workload.rate)
        if chosen.rate is None:
            loop = ClosedLoop(
                self._ask if self._source is None else self._ask_next,
                self._n_batch,
                rounds=rounds,
                seconds=seconds,
                allow_failed=chosen.allow_failed,
            )
            window = self._run(loop.run())
            return self._served(window, chosen, rounds * self._n_batch)
        count = chosen.n_requests or max(rounds, math.ceil(chosen.rate * seconds))
        times = arrivals(chosen.rate, count, f"{self._seed_of_work}/arrivals")
        work = open_loop(
            self._ask if self._source is None else self._ask_next,
            times,
            allow_failed=chosen.allow_failed,
        )
        return self._served(self._run(work), chosen, count)

    def _probe(self, asked: Workload, rate: float) -> Served:
        """A window at a rate of arrivals. What fails is beyond the limits, and no error."""
        assert self._source is not None
        judged = asked.n_requests or 1
        stream = SteadyStream(
            self._ask_for,
            self._source.demand.requests(self._source.seed, length_of(judged)),
            rate=rate,
            judged=judged,
            slo=asked.slo,
        )
        allowed = replace(self._settings, allow_failed=ANY_SHARE)
        return self._served(self._run(stream.run()), allowed, judged)

    def _served(self, window: Window, chosen: EndpointSettings, planned: int) -> Served:
        shares = self._source is not None and self._source.demand.shares
        hit = replace(chosen, prefix_cache=True) if shares else chosen
        return served(window, hit, planned, self._shared)

    def reset(self) -> None:
        """Requests hold nothing over."""

    def synchronize(self) -> None:
        """An answer is whole when its call returns."""

    def prefill(self) -> None:
        raise UnsupportedError("a server cannot run a prefill alone")

    def tokens(self) -> list[list[int]]:
        return []  # text and a count of tokens is what comes; each answer's count was checked

    def notes(self) -> Mapping[str, Any]:
        """What prompts were made of: their words or token numbers, and tokens that all share; how
        often the server guessed right, where it guesses."""
        told = {"prompt_length": self._prompts.n, "shared_tokens": self._shared}
        return told | self._guesses.figures(self._counters())

    def _counters(self) -> Mapping[str, int]:
        """Of a server that counts its guesses, so far."""
        found: Mapping[str, int] = self._run(counters(self._client)) if self._counts else {}
        return found

    def log_probs(self, window: Sequence[int]) -> Any:
        raise UnsupportedError("a server returns only the likeliest tokens (`top_log_probs`)")

    def top_log_probs(self, window: Sequence[int]) -> TopPrediction:
        """See `bench.quality.top.TellsTop`."""
        found: TopPrediction = self._run(self._scores.top(window))
        return found

    def tokenize(self, text: str) -> list[int]:
        found: list[int] = self._run(self._scores.tokens(text))
        return found

    def detokenize(self, tokens: Sequence[int]) -> str:
        raise UnsupportedError("a server is not asked to turn tokens into text")


def _one(extras: Mapping[str, Any]) -> dict[str, Any]:
    return {"min_tokens": 1} if "min_tokens" in extras else {}


async def _together(ask: Any, count: int) -> list[Answer]:
    return list(await asyncio.gather(*(ask() for _ in range(count))))


def in_step(answers: Sequence[Answer]) -> Timed:
    """Requests that were sent together as one batch: a token is made when all have made it.

    Where chunks are not tokens, the sequences have no common steps, and one gap stands for all.
    """
    first = max(answer.ttft_s or 0.0 for answer in answers)
    last = max(answer.e2e_s or 0.0 for answer in answers)
    made = [list(accumulate((answer.ttft_s or 0.0, *answer.itl_s))) for answer in answers]
    if {len(times) for times in made} != {answer.output_tokens for answer in answers}:
        return Timed(prefill_s=first, itl_s=[last - first] if last > first else [])
    ends = [max(times) for times in zip(*made, strict=True)]
    return Timed(prefill_s=first, itl_s=[after - before for before, after in pairwise(ends)])
