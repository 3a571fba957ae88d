"""llama.cpp by whole requests: the server inside the package xllamacpp, asked over loopback.

A batch is one request with n_batch prompts, one slot of the server for each. Times are the
server's own: it says with every token how long the prompt and the tokens so far took, measured
where they are made, so HTTP and JSON are not in them; the worker keeps the host's time around the
whole request beside them. The server's prompt cache is off, which `prompt_n` must confirm.

`prompt_ms` runs from the first prompt token to the first new token sampled, `predicted_ms` from
there on: prefill and the gaps of docs/metrics.md (server-context.cpp in llama.cpp b10566).
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from bench.engines.llama_cpp.common import (
    MOST_SEQUENCES,
    LlamaSettings,
    cannot_load,
    check_workload,
    describe,
    file_of,
    gpu_indices,
    gpu_layers,
    settings_of,
    shares,
    split_mode,
    threads_of,
)
from bench.engines.messages import Job, Loaded, Timed
from bench.errors import UnsupportedError
from bench.models.gguf import GgufFile
from bench.models.prompts import random_tokens

GREEDY: Final = {"samplers": ["top_k"], "top_k": 1, "temperature": 0.0}
UNTOLD: Final = -1
"""Stands for a token whose number the server did not send: part of a character still incomplete."""
LEAST_LOG_PROB: Final = -104.0
"""Below the logarithm of the smallest float32: probabilities that the server's softmax rounds to
0 are given as this, not as the impossible."""
TIMEOUT_S: Final = 3600.0


class OwnTimings:
    """The clock of an engine that is told the time: only its name is ever asked."""

    name = "llama.cpp's own timings"


@dataclass(slots=True)
class LlamaTold:
    """What the server said of one prompt's continuation."""

    tokens: list[int] = field(default_factory=list)
    counts: list[tuple[int, float]] = field(default_factory=list)
    """Number of new tokens so far, and the milliseconds since the first of them."""
    timings: Mapping[str, Any] = field(default_factory=dict)
    """The last ones."""

    def add(self, event: Mapping[str, Any]) -> None:
        self.timings = event["timings"]
        count = int(self.timings["predicted_n"])
        told = list(event.get("tokens", ()))
        if not event["stop"]:
            self.tokens += [UNTOLD] * (count - len(self.tokens) - len(told)) + told
        self.counts.append((count, float(self.timings["predicted_ms"])))


def instants(counts: Iterable[tuple[int, float]], n: int) -> list[float]:
    """Milliseconds from the first new token to each of the first `n`.

    A token that ends inside a character is sent with the next one; its time is then taken to lie
    evenly between those that were told. Raises UnsupportedError (TOKEN_COUNT) for too few.
    """
    made: list[float] = [0.0]
    for count, at in counts:
        missing, before = count - len(made), made[-1]
        made += [before + (at - before) * (i + 1) / missing for i in range(missing)]
    if len(made) < n:
        raise UnsupportedError(f"the server made {len(made)} tokens instead of {n}", "TOKEN_COUNT")
    return made[:n]


def timed(sequences: Sequence[LlamaTold], n_gen: int) -> Timed:
    """Prefill and gaps of a batch: every sequence counts, so the slowest says when.

    All prompts begin in one step of the server (its batch holds them all), so their clocks share
    their zero.
    """
    each = [
        [float(one.timings["prompt_ms"]) + at for at in instants(one.counts, n_gen)]
        for one in sequences
    ]
    slowest = [max(at) / 1e3 for at in zip(*each, strict=True)]
    return Timed(
        prefill_s=slowest[0], itl_s=[after - before for before, after in pairwise(slowest)]
    )


class LlamaServerEngine:
    """See `bench.engines.Engine`; requests are whole."""

    clock = OwnTimings()
    most_sequences = MOST_SEQUENCES

    def __init__(self) -> None:
        self._server: Any = None
        self._shape: tuple[int, int] | None = None
        self._job: Job | None = None
        self._file: GgufFile | None = None
        self._settings = LlamaSettings()
        self._prompts: list[list[int]] = []
        self._new: list[list[int]] = []

    def load(self, job: Job) -> Loaded:
        import xllamacpp

        self._settings, self._file, self._job = settings_of(job.options), file_of(job), job
        if job.device != "cpu" and not accelerators(xllamacpp):
            raise UnsupportedError(
                f"this build of xllamacpp has no GPU backend, so it cannot use {job.device}; its "
                "project's own index has builds for CUDA, ROCm and Vulkan"
            )
        self._serve(n_parallel=1, n_slot=512)
        build = {
            "package": "xllamacpp",
            "version": xllamacpp.__version__,
            "build": str(xllamacpp.BUILD_INFO),
            "system_info": xllamacpp.get_system_info().strip(),
            "requests": "whole, by the server's own timings",
        }
        return describe(job, self._file, build)

    def _serve(self, *, n_parallel: int, n_slot: int) -> None:
        """Have a server with that many slots of at least that many tokens of context."""
        if self._shape is not None and self._shape[0] == n_parallel and self._shape[1] >= n_slot:
            return
        import xllamacpp

        assert self._job is not None
        assert self._job.gguf is not None
        first = self._shape is None
        self.close()
        settings = self._settings
        params = xllamacpp.CommonParams()
        params.model.path = str(self._job.gguf)
        params.hostnames, params.port = ["127.0.0.1"], 0
        params.n_parallel, params.n_ctx = n_parallel, n_parallel * n_slot
        # One step must hold all prompts, or they would not begin together.
        params.n_batch, params.n_ubatch = max(params.n_ctx, 32), settings.n_ubatch
        params.n_gpu_layers = gpu_layers(settings, self._job.device)
        gpus = gpu_indices(self._job.device)
        if not gpus:
            # A build with a GPU backend would use it for large matrices even so.
            params.no_op_offload = params.no_kv_offload = True
        else:  # by default a model is spread over all cards
            mode = f"LLAMA_SPLIT_MODE_{split_mode(self._job, settings)}"
            params.main_gpu = gpus[0]
            params.split_mode = getattr(xllamacpp.llama_split_mode, mode)
            if len(gpus) > 1:
                params.tensor_split = shares(gpus, len(params.tensor_split))
        params.flash_attn_type = getattr(
            xllamacpp.llama_flash_attn_type, FLASH_ATTENTION[settings.flash_attn]
        )
        params.cache_type_k = tensor_type(xllamacpp, settings.type_k)
        params.cache_type_v = tensor_type(xllamacpp, settings.type_v)
        params.cache_ram_mib = 0  # prompts of earlier requests are not kept
        params.fit_params = False  # what was asked for, or an error
        params.verbosity = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads_of(self._job)
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:  # it says no more than that it failed
            name = self._job.gguf.name
            if first:
                raise cannot_load(self._file) from error
            raise UnsupportedError(
                f"llama.cpp loads {name}, but not with {n_parallel} x {n_slot} tokens of context",
                "OOM",
            ) from error
        self._shape = (n_parallel, n_slot)
        # A server that is stopped before its loop has begun waits for itself for ever (xllamacpp
        # 2026.10); one that has answered is in its loop.
        self._ask("/completion", GREEDY | {"prompt": [0], "n_predict": 1, "cache_prompt": False})

    def close(self) -> None:
        """Stop the server, if there is one."""
        self._server, self._shape = None, None

    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        assert self._job is not None
        assert self._file is not None
        shape = self._file.architecture()
        check_workload(n_prompt + n_gen, shape.get("max_position_embeddings"), n_batch)
        # A last token that ends inside a character lets the server go on for a few more.
        self._serve(n_parallel=n_batch, n_slot=-(-(n_prompt + n_gen + 8) // 256) * 256)
        self._prompts = random_tokens(self._job.seed, shape["vocab_size"], n_prompt, n_batch)
        self.reset()

    def reset(self) -> None:
        self._new = []

    def request(self, n_gen: int) -> Timed:
        """All prompts at once, each continued by `n_gen` tokens."""
        found = [LlamaTold() for _ in self._prompts]
        body = GREEDY | {
            "prompt": self._prompts,
            "n_predict": n_gen,
            "ignore_eos": True,
            "stream": True,
            "cache_prompt": False,
            "return_tokens": True,
            "timings_per_token": True,
        }
        for event in self._stream(body):
            found[event["index"]].add(event)
        for prompt, one in zip(self._prompts, found, strict=True):
            check_prompt(one.timings, len(prompt))
        times = timed(found, n_gen)
        # The server may go on past the last token, to finish a character.
        self._new = [(one.tokens + [UNTOLD] * n_gen)[:n_gen] for one in found]
        return times

    def prefill(self) -> None:
        self.request(1)

    def synchronize(self) -> None:
        pass

    def notes(self) -> Mapping[str, Any]:
        """Slots and their tokens of context; tokens that were sent together with the next one."""
        slots, context = self._shape or (None, None)
        merged = sum(new.count(UNTOLD) for new in self._new)
        return {"slots": slots, "slot_context": context, "merged_tokens": merged}

    def tokens(self) -> list[list[int]]:
        return self._new

    def log_probs(self, window: Sequence[int]) -> Any:
        """One request a position, each of one token more, over the whole vocabulary.

        The server's prompt cache makes each request one step; most time goes into JSON.
        """
        import numpy as np

        assert self._file is not None
        vocabulary = self._file.architecture()["vocab_size"]
        self._serve(n_parallel=1, n_slot=max(512, -(-(len(window) + 8) // 256) * 256))
        rows = np.full((len(window) - 1, vocabulary), np.nan, dtype=np.float32)
        for at in range(len(window) - 1):
            body = {
                "prompt": list(window[: at + 1]),
                "n_predict": 1,
                "n_probs": vocabulary,
                "temperature": -1.0,
                "cache_prompt": at > 0,
                "response_fields": ["completion_probabilities"],
            }
            for entry in self._ask("/completion", body)["completion_probabilities"][0][
                "top_logprobs"
            ]:
                rows[at, entry["id"]] = max(entry["logprob"], LEAST_LOG_PROB)
        if np.isnan(rows).any():
            raise UnsupportedError("llama.cpp's server did not give every token's probability")
        return rows

    def tokenize(self, text: str) -> list[int]:
        body = {"content": text, "add_special": False, "parse_special": False}
        return list(self._ask("/tokenize", body)["tokens"])

    def detokenize(self, tokens: Sequence[int]) -> str:
        return str(self._ask("/detokenize", {"tokens": list(tokens)})["content"])

    def _ask(self, path: str, body: Mapping[str, Any]) -> Any:
        with self._post(path, body) as response:
            return json.loads(response.read())

    def _stream(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Events of a streamed request; read whole before any is looked at."""
        with self._post("/completion", body) as response:
            lines = list(response)
        told = [json.loads(line[5:]) for line in lines if line.startswith(b"data:")]
        events = [event for event in told if event is not None]
        for event in events:
            if "error" in event:
                raise UnsupportedError(f"llama.cpp's server: {event['error']}")
        return events

    @contextlib.contextmanager
    def _post(self, path: str, body: Mapping[str, Any]) -> Iterator[http.client.HTTPResponse]:
        """One request, on a connection of its own. Raises UnsupportedError for a refusal."""
        address = self._server.listening_address.partition("//")[2]
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body).encode(), headers)
            response = connection.getresponse()
            if response.status != 200:
                said = response.read(2000).decode(errors="replace")
                raise UnsupportedError(f"llama.cpp's server: {response.status}: {said}")
            yield response


FLASH_ATTENTION: Final = {
    "auto": "LLAMA_FLASH_ATTN_TYPE_AUTO",
    "on": "LLAMA_FLASH_ATTN_TYPE_ENABLED",
    "off": "LLAMA_FLASH_ATTN_TYPE_DISABLED",
}


def check_prompt(timings: Mapping[str, Any], n_prompt: int) -> None:
    """Every prompt token was processed, none taken from a cache; else it was no prefill."""
    processed, cached = timings.get("prompt_n"), timings.get("cache_n", 0)
    if processed != n_prompt or cached:
        raise UnsupportedError(
            f"the server processed {processed} prompt tokens of {n_prompt} and had {cached} cached",
            "TOKEN_COUNT",
        )


def tensor_type(xllamacpp: Any, name: str) -> Any:
    """xllamacpp's constant for a type of the cache. Raises UnsupportedError for an unknown one."""
    found = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{name.upper()}", None)
    if found is None:
        raise UnsupportedError(f"unknown type of the cache '{name}'; f16, q8_0, q4_0, ...")
    return found


def accelerators(xllamacpp: Any) -> list[str]:
    """Devices other than the CPU that this build can compute on."""
    return [
        device["name"]
        for device in xllamacpp.get_device_info()
        if device["type"] != xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    ]
