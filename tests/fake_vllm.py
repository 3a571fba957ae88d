"""vLLM's public API, as far as `bench.engines.vllm` uses it: a scheduler of a few lines.

Signatures are those of docs.vllm.ai (LLM, SamplingParams, LLMEngine.add_request, step,
abort_request, has_unfinished_requests; RequestOutput, CompletionOutput.token_ids), read 2026-11-23.
A step computes at most `max_num_batched_tokens` tokens: newest tokens first, then prompts, cut
where they do not fit. Tokens count up from the last of the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import log
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(kw_only=True)
class SamplingParams:
    """Of `vllm.SamplingParams`, what is used."""

    temperature: float = 1.0
    max_tokens: int | None = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    detokenize: bool = True
    prompt_logprobs: int | None = None


@dataclass
class Logprob:
    """Of `vllm.logprobs`."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class Counter:
    """Of `LLM.get_metrics`."""

    name: str
    value: int


@dataclass
class CompletionOutput:
    """`RequestOutput.outputs[0]`: all new tokens so far."""

    index: int
    token_ids: Sequence[int]


@dataclass
class RequestOutput:
    """What a step says of a request."""

    request_id: str
    outputs: list[CompletionOutput]
    finished: bool
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None


@dataclass
class Running:
    """A request inside the engine."""

    prompt: list[int]
    params: SamplingParams
    computed: int = 0
    new: list[int] = field(default_factory=list)


class LLMEngine:
    """`LLM.llm_engine`."""

    def __init__(self, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        self.requests: dict[str, Running] = {}
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.steps = 0
        self.stops_at: int | None = None
        """Ends every request after so many tokens: what `min_tokens` forbids."""
        self.guesses = False
        """Whether each step after a prompt's guesses two tokens, of which one is right."""
        self.drafts = self.accepted = 0

    def add_request(
        self, request_id: str, prompt: Mapping[str, Any], params: SamplingParams
    ) -> None:
        assert request_id not in self.requests
        self.requests[request_id] = Running(list(prompt["prompt_token_ids"]), params)

    def has_unfinished_requests(self) -> bool:
        return bool(self.requests)

    def abort_request(self, request_ids: list[str]) -> None:
        for name in request_ids:
            del self.requests[name]

    def step(self) -> list[RequestOutput]:
        self.steps += 1
        room, told = self.max_num_batched_tokens, []
        running = list(self.requests.items())[: self.max_num_seqs]
        for name, one in sorted(running, key=lambda item: not item[1].new):
            taken = min(room, len(one.prompt) + len(one.new) - one.computed)
            room -= taken
            one.computed += taken
            if taken and one.computed == len(one.prompt) + len(one.new):
                limit = self.stops_at or one.params.max_tokens
                self._make(one, limit)
                finished = len(one.new) == limit
                told.append(RequestOutput(name, [CompletionOutput(0, list(one.new))], finished))
                if finished:
                    del self.requests[name]
        return told

    def _make(self, one: Running, limit: int | None) -> None:
        made = len(one.new)
        one.new.append(one.prompt[-1] + made + 1)
        if self.guesses and made:
            self.drafts += 1
            if limit is None or len(one.new) < limit:
                one.new.append(one.prompt[-1] + made + 2)
                one.computed += 1
                self.accepted += 1


class Tokenizer:
    """Bytes."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [0] * add_special_tokens + list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode()


class LLM:
    """`vllm.LLM`; keeps what it was given."""

    def __init__(
        self,
        model: str,
        *,
        load_format: str = "auto",
        skip_tokenizer_init: bool = False,
        dtype: str = "auto",
        quantization: str | None = None,
        seed: int = 0,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool = False,
        kv_cache_dtype: str = "auto",
        enable_prefix_caching: bool = True,
        max_num_seqs: int = 256,
        max_num_batched_tokens: int = 8192,
        max_model_len: int | None = None,
        async_scheduling: bool | None = None,
        speculative_config: dict[str, Any] | None = None,
        disable_log_stats: bool = False,
        max_logprobs: int = 20,
        hf_overrides: dict[str, Any] | None = None,
    ) -> None:
        self.given = dict(locals())
        if load_format == "dummy":
            self.given["config"] = json.loads((Path(model) / "config.json").read_text())
        self.llm_engine = LLMEngine(max_num_seqs, max_num_batched_tokens)
        self.llm_engine.guesses = speculative_config is not None

    def apply_model(self, func: Callable[[Any], Any]) -> list[Any]:
        raise RuntimeError("this is no vLLM")

    def get_metrics(self) -> list[Counter]:
        assert not self.given["disable_log_stats"]
        told = self.llm_engine
        counted = {
            "drafts": told.drafts,
            "draft_tokens": 2 * told.drafts,
            "accepted_tokens": told.accepted,
        }
        return [Counter(f"vllm:spec_decode_num_{name}", n) for name, n in counted.items()]

    def generate(
        self, prompts: list[dict[str, Any]], params: SamplingParams, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        """A token's probability halves with each number above the one before it in the prompt."""
        assert params.prompt_logprobs is not None
        (prompt,) = prompts
        tokens = prompt["prompt_token_ids"]
        told: list[dict[int, Logprob] | None] = [None]
        for before, token in pairwise(tokens):
            likely = [before + 1 + i for i in range(params.prompt_logprobs)]
            told.append({one: Logprob((before - one) * log(2)) for one in {*likely, token}})
        return [RequestOutput("0", [CompletionOutput(0, [0])], True, told)]

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer()


def package() -> ModuleType:
    """The package `vllm`."""
    made: Any = ModuleType("vllm")
    made.__version__ = "0.33.0"
    made.LLM, made.SamplingParams = LLM, SamplingParams
    return made
