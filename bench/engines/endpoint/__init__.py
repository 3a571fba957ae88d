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
from statistics import median
from typing import Any

from bench.demand import Demand, demand
from bench.engines.endpoint import identity
from bench.engines.endpoint.asking import Asking, with_least
from bench.engines.endpoint.client import Answer, Client, RequestShape
from bench.engines.endpoint.crew import Alone, Crew, clients_for
from bench.engines.endpoint.guesses import Guesses, counters
from bench.engines.endpoint.http import WatchedLoop
from bench.engines.endpoint.load import ClosedWindow, Judge, OpenWindow, Window, arrivals
from bench.engines.endpoint.prompts import Vocabulary, next_length
from bench.engines.endpoint.quality import PromptScores
from bench.engines.endpoint.sending import Load, Streams, at_once, of_sessions, planned
from bench.engines.endpoint.settings import ApiKey, EndpointSettings, settings
from bench.engines.endpoint.steady import SteadyWindow, length_of, ramp_of
from bench.engines.endpoint.window import counts, failed, served
from bench.engines.messages import Job, Loaded, Served, Timed
from bench.errors import InputError, UnsupportedError
from bench.experiment import Workload
from bench.quality.top import TopPrediction

PROBE_TOKENS = 8
FINE = (None, "token_count", "buffered")
"""Ends of a probe that say the fields were taken: its two tokens may well come together."""
ENDLESS = 1 << 40
"""Places of a closed loop: more than it takes."""
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
        self._demand: Demand | None = None

    def load(self, job: Job) -> Loaded:
        self._settings = settings(job.options)
        self._seed = f"{job.seed}/{job.replicate}"
        self._key = ApiKey(self._settings.key_env)
        self._client = Client(self._settings, self._key, self._settings.model)
        self._clients: Alone | Crew = Alone(self._client)
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
            self._clients.close()
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
        extras = with_least(self._extras, n_gen)
        self._shape = RequestShape(n_prompt=n_prompt, n_gen=n_gen, extras=extras)
        length = self._run(self._calibrate(n_prompt))
        self._asking = Asking(
            vocabulary=self._vocabulary(length), shape=self._shape, n_template=n_prompt - length
        )
        self._next = 0
        self._guesses = Guesses(self._counters())
        self._demand = self._demanded()
        rate = chosen.rate or (self._workload.rate if self._workload else None)
        self._employ(self._wanted(rate * n_gen if rate else 0.0))

    def _demanded(self) -> Demand | None:
        """What is asked for by a workload that says more than lengths: the same at every rate."""
        asked = self._workload
        if asked is None:
            return None
        return demand(asked.requests or f"prompt={asked.n_prompt} gen={asked.n_gen}")

    @property
    def _seed_of_demand(self) -> str:
        """Not the seed of the work: its name holds the lengths' means alone."""
        return f"{self._seed}/{self._workload.requests if self._workload else ''}"

    def _wanted(self, chunks_s: float) -> int:
        """How many client processes, for about so many chunks a second."""
        told = self._settings.clients
        return told if isinstance(told, int) else clients_for(chunks_s)

    def _employ(self, n: int) -> None:
        """Have that many client processes, ready for this workload's requests."""
        if self._clients.n != n:
            self._clients.close()
            alone = n == 1
            self._clients = (
                Alone(self._client) if alone else Crew(n, self._settings, self._client.model)
            )
        self._run(self._clients.prepare(self._asking))

    def _send(self, load: Load, judge: Judge) -> Window:
        """Send a load by all client processes."""
        window: Window = self._run(self._clients.run(load, judge))
        for answer in window.answers:
            self._guesses.add(answer.timings)
        return window

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
        extras = with_least(self._extras, 1)
        shape = RequestShape(n_prompt=None, n_gen=1, extras=extras)
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

    def request(self, n_gen: int) -> Timed:
        """One request for each sequence, all at once: for the warm-up, which no figure rests on.

        Where failures are allowed, half of a round is enough, and a worse one is tried again.
        """
        assert n_gen == self._n_gen
        allowed = self._n_batch // 2 if self._settings.allow_failed else 0
        for _ in range(ROUND_TRIES if self._settings.allow_failed else 1):
            load = at_once(self._taken(self._n_batch), self._n_batch)
            answers = self._send(load, OpenWindow(self._n_batch, allow_failed=1.0)).answers
            good = [answer for answer in answers if answer.failure is None]
            if len(good) >= max(self._n_batch - allowed, 1):
                timed = in_step(good)
                self._grow(timed)
                return timed
        raise failed(answers, counts(Window(answers=answers)))

    def _grow(self, timed: Timed) -> None:
        """Employ as many client processes as a round of the warm-up shows to be needed."""
        step_s = median(timed.itl_s) if timed.itl_s else timed.prefill_s
        n = self._wanted(self._n_batch / step_s) if step_s else 1
        if n > self._clients.n:
            self._employ(n)

    def _taken(self, count: int) -> int:
        """The place of the next of so many requests; none has the place of another."""
        first, self._next = self._next, self._next + count
        return first

    def serve(self, rounds: int, seconds: float) -> Served:
        """A window of requests at this workload's concurrency, or at the rate of arrivals."""
        chosen = self._settings
        if self._workload is not None and self._workload.rate is not None:
            return self._probe(self._workload, self._workload.rate)
        if chosen.rate is None:
            judge = ClosedWindow(
                self._n_batch, rounds=rounds, seconds=seconds, allow_failed=chosen.allow_failed
            )
            return self._served(self._send(self._streams(), judge), chosen, rounds * self._n_batch)
        count = chosen.n_requests or max(rounds, math.ceil(chosen.rate * seconds))
        if self._demand is not None:
            load = of_sessions(self._demand.requests(self._seed_of_demand, count), chosen.rate)
        else:
            times = arrivals(chosen.rate, count, f"{self._seed_of_work}/arrivals")
            load = planned(times, self._taken(count))
        window = self._send(load, OpenWindow(count, allow_failed=chosen.allow_failed))
        return self._served(window, chosen, count)

    def _streams(self) -> Streams:
        """A closed loop, for as long as it is judged."""
        spec = self._demand.spec if self._demand is not None else ""
        return Streams(
            n=self._n_batch,
            first=self._taken(ENDLESS),
            spec=spec,
            seed=self._seed_of_demand,
            mine=range(self._n_batch),
        )

    def _probe(self, asked: Workload, rate: float) -> Served:
        """A window at a rate of arrivals. What fails is beyond the limits, and no error."""
        assert self._demand is not None
        judged = asked.n_requests or 1
        each = self._demand.requests(self._seed_of_demand, length_of(judged))
        load = of_sessions(each, rate, ramp_of(judged) + judged)
        allowed = replace(self._settings, allow_failed=ANY_SHARE)
        return self._served(self._send(load, SteadyWindow(judged, asked.slo)), allowed, judged)

    def _served(self, window: Window, chosen: EndpointSettings, planned: int) -> Served:
        shares = self._demand is not None and self._demand.shares
        hit = replace(chosen, prefix_cache=True) if shares else chosen
        return served(window, hit, planned, self._asking.n_template)

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
        told = {
            "prompt_length": self._asking.vocabulary.n,
            "shared_tokens": self._asking.n_template,
        }
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
        raise UnsupportedError("a server does not turn tokens into text")


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
