"""The vLLM engine against a fake of vLLM's public API; test_vllm_cpu.py has the real one."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.engines.messages import Job
from bench.engines.registry import declines, refusal
from bench.engines.vllm import VllmEngine
from bench.errors import InputError, UnsupportedError
from bench.experiment import Variant, Workload
from bench.models.prompts import random_tokens
from bench.schemes import Device
from bench.worker import check_tokens, request
from tests import fake_vllm
from tests.fakes import FakeClock


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", fake_vllm.package())
    for name in ("HF_HUB_OFFLINE", "VLLM_ENABLE_V1_MULTIPROCESSING"):
        monkeypatch.setenv(name, "")  # the engine sets them: put back afterwards


@pytest.fixture
def job() -> Job:
    return Job(
        architecture={"vocab_size": 1000},
        folder=Path("/models/m"),
        random_seed=0,
        initializer_range=0.02,
        quant="none",
        mode="cuda-graph",
        dtype="bfloat16",
        device="cuda:0",
        threads=None,
        seed=7,
        replicate=0,
    )


def loaded(job: Job) -> tuple[VllmEngine, Any]:
    runs = VllmEngine()
    runs.load(job)
    return runs, runs._llm


def test_what_is_asked_of_vllm(job: Job) -> None:
    options = {"kv_cache_dtype": "fp8", "max_num_seqs": 64, "max_num_batched_tokens": 2048}
    _, llm = loaded(replace(job, quant="fp8_per_tensor", options=options))
    wanted = {
        "model": "/models/m",
        "dtype": "bfloat16",
        "quantization": "fp8_per_tensor",
        "kv_cache_dtype": "fp8",
        "max_num_seqs": 64,
        "max_num_batched_tokens": 2048,
        "seed": 7,
        "enable_prefix_caching": False,
        "trust_remote_code": False,
        "enforce_eager": False,
    }
    assert {name: llm.given[name] for name in wanted} == wanted
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_the_cards_that_are_named_are_the_cards_that_work(job: Job) -> None:
    _, llm = loaded(job)
    assert llm.given["tensor_parallel_size"] == 1
    _, llm = loaded(replace(job, device="cuda:0+cuda:1"))
    assert llm.given["tensor_parallel_size"] == 2
    with pytest.raises(InputError, match=r"-d cuda:0\+cuda:1 names the cards that are measured"):
        loaded(replace(job, options={"tensor_parallel_size": 2}))
    with pytest.raises(UnsupportedError, match="set CUDA_VISIBLE_DEVICES"):
        loaded(replace(job, device="cuda:1"))


def test_bf16_is_no_quantization_and_eager_is_a_mode(job: Job) -> None:
    _, llm = loaded(replace(job, mode="eager"))
    assert llm.given["quantization"] is None
    assert llm.given["enforce_eager"] is True


def test_auto_is_bf16_as_on_other_engines(job: Job) -> None:
    runs = VllmEngine()
    assert runs.load(replace(job, dtype="auto")).dtype == "bfloat16"
    assert runs._llm.given["dtype"] == "bfloat16"


def test_random_weights_are_vllms_own_of_the_cards_shape(job: Job) -> None:
    runs, llm = loaded(replace(job, folder=None))
    assert llm.given["load_format"] == "dummy"
    assert llm.given["config"] == {"vocab_size": 1000}
    with pytest.raises(UnsupportedError, match="no tokenizer"):
        runs.tokenize("text")


def test_an_online_scheme_is_called_online(job: Job) -> None:
    found = VllmEngine().load(replace(job, quant="fp8_per_block"))
    assert found.dynamic == "online"
    assert found.quantized_fraction is None
    assert "does not expose its model" in found.absent["weights_bytes"]
    assert VllmEngine().load(job).dynamic is None


def test_what_torchao_quantizes_is_told_in_torchaos_own_words(job: Job) -> None:
    from torchao.core.config import config_from_dict
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow

    runs = VllmEngine()
    found = runs.load(replace(job, quant="torchao_fp8_per_row"))
    given = runs._llm.given
    assert given["quantization"] == "torchao"
    config = config_from_dict(json.loads(given["hf_overrides"]["quantization_config_dict_json"]))
    assert isinstance(config, Float8DynamicActivationFloat8WeightConfig)
    assert config == Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
    assert found.dynamic == "activations"
    runs.load(job)
    assert runs._llm.given["hf_overrides"] is None


def test_without_torchao_the_message_says_where_it_is_missing(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao.core.config", None)
    with pytest.raises(UnsupportedError, match="vLLM's environment lacks torchao"):
        VllmEngine().load(replace(job, quant="torchao_fp8_per_row"))


@pytest.mark.parametrize("n_batch", [1, 5])
def test_every_request_makes_exactly_its_tokens(job: Job, n_batch: int) -> None:
    runs, llm = loaded(job)
    runs.start(12, 4, n_batch)
    one = request(runs, FakeClock([0.1]), 4)
    check_tokens(runs, Workload(n_prompt=12, n_gen=4, n_batch=n_batch))
    prompts = random_tokens(7, 1000, 12, n_batch)
    assert runs.tokens() == [[prompt[-1] + i for i in (1, 2, 3, 4)] for prompt in prompts]
    assert (one.prefill_s, one.itl_s) == (0.1, [0.1] * 3)
    assert runs.notes() == {"early_tokens": 0}
    assert llm.llm_engine.steps == 4  # one for the prompts, one for each further token
    assert not llm.llm_engine.has_unfinished_requests()


def test_requests_that_differ_join_as_others_end(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, llm = loaded(job)
    runs.start(12, 4, 2)
    sizes, running = [(5, 3), (7, 6), (9, 1), (4, 4)], []
    step = llm.llm_engine.step

    def counted() -> Any:
        running.append(len(llm.llm_engine.requests))
        return step()

    monkeypatch.setattr(llm.llm_engine, "step", counted)
    served = runs.together(sizes, 2)
    told = [one.counts for one in served.requests]
    assert [(one.n_prompt, one.n_gen) for one in told if one is not None] == sizes
    assert [len(one.itl_s) for one in served.requests] == [2, 5, 0, 3]
    assert running == [2] * 6 + [1] * 2  # 14 tokens, two a step until the last is alone
    assert all(one.e2e_s <= served.wall_s for one in served.requests)
    with pytest.raises(UnsupportedError, match="more than max_num_seqs"):
        runs.together(sizes, 257)
    llm.llm_engine.stops_at = 2
    with pytest.raises(UnsupportedError, match="made 2 tokens, not 3"):
        runs.together(sizes, 2)


def test_prompts_that_are_cut_into_steps_are_one_prefill(job: Job) -> None:
    runs, llm = loaded(replace(job, options={"max_num_batched_tokens": 16}))
    runs.start(12, 6, 3)
    runs.prefill()
    assert llm.llm_engine.steps > 1
    assert min(map(len, runs.tokens())) == 1
    assert max(map(len, runs.tokens())) > 1  # the first of them decodes meanwhile
    assert runs.notes() == {"early_tokens": sum(map(len, runs.tokens())) - 3}
    for _ in range(5):
        runs.step()
    assert [len(new) for new in runs.tokens()] == [6] * 3


def test_requests_above_the_limit_are_refused(job: Job) -> None:
    # They would wait until others had ended: most decoding would be taken for prefill.
    runs, _ = loaded(replace(job, options={"max_num_seqs": 2}))
    assert runs.most_sequences == 2
    runs.start(12, 4, 2)
    with pytest.raises(UnsupportedError, match=r"3 requests at once .* max_num_seqs = 2"):
        runs.start(12, 4, 3)


@pytest.mark.parametrize(
    ("limit", "window", "words"),
    [
        (100, 0, "a request has 160 tokens, prompt and new"),
        (512, 512, "quality in windows of 512 tokens needs 513"),
        (513, 512, None),
        (160, 0, None),
    ],
)
def test_a_limit_that_is_too_small_is_said_before_anything_starts(
    limit: int, window: int, words: str | None
) -> None:
    arm = Variant(model="m", engine="vllm", options={"max_model_len": limit})
    why = declines(arm, [Workload(n_prompt=128, n_gen=32)], window)
    assert why is None if words is None else words in str(why)


def test_what_was_aborted_on_its_way_is_no_request_of_ours(job: Job) -> None:
    runs, llm = loaded(job)
    runs.start(12, 4, 2)
    step = llm.llm_engine.step
    late = fake_vllm.RequestOutput("0-7", [fake_vllm.CompletionOutput(0, [1, 2, 3])], True)
    llm.llm_engine.step = lambda: [late, *step()]
    request(runs, FakeClock([0.1]), 4)
    check_tokens(runs, Workload(n_prompt=12, n_gen=4, n_batch=2))


def test_a_reset_ends_what_is_unfinished(job: Job) -> None:
    runs, llm = loaded(job)
    runs.start(12, 4, 2)
    for _ in range(2):  # as when the energy of prefill is measured
        runs.reset()
        runs.prefill()
    assert len(llm.llm_engine.requests) == 2


def test_fewer_tokens_than_asked_for_are_an_error(job: Job) -> None:
    runs, llm = loaded(job)
    llm.llm_engine.stops_at = 2
    runs.start(12, 4, 2)
    with pytest.raises(UnsupportedError, match="before 3 tokens") as error:
        request(runs, FakeClock([0.1]), 4)
    assert error.value.code == "TOKEN_COUNT"


def test_what_it_cannot_do_is_refused_with_the_reason(job: Job) -> None:
    runs, _ = loaded(job)
    with pytest.raises(UnsupportedError, match="without its prefill"):
        runs.rewind()
    with pytest.raises(UnsupportedError, match="top_log_probs"):
        runs.log_probs([1, 2])
    with pytest.raises(InputError, match="speculative_config: no JSON object"):
        VllmEngine().load(replace(job, options={"speculative_config": "ngram"}))
    with pytest.raises(InputError, match=r"options\.max_num_seq: unknown key; did you mean"):
        VllmEngine().load(replace(job, options={"max_num_seq": 3}))


def test_guesses_are_counted_from_the_beginning_of_a_workload(job: Job) -> None:
    config = '{"method": "ngram", "num_speculative_tokens": 2}'
    runs, llm = loaded(replace(job, options={"speculative_config": config}))
    assert llm.given["speculative_config"] == {"method": "ngram", "num_speculative_tokens": 2}
    assert llm.given["disable_log_stats"] is False
    for _ in range(2):
        runs.start(12, 5, 1)
        before = llm.llm_engine.steps
        request(runs, FakeClock([0.1]), 5)
        check_tokens(runs, Workload(n_prompt=12, n_gen=5, n_batch=1))
        assert llm.llm_engine.steps - before == 3  # the prompt, then two tokens each
        assert runs.notes()["speculation"] == {
            "drafts": 2,
            "guessed_tokens": 4,
            "accepted_tokens": 2,
            "acceptance_rate": 0.5,
            "tokens_per_step": 2.0,
        }
    assert loaded(job)[1].given["disable_log_stats"] is True


def test_the_likeliest_tokens_are_told_with_that_of_the_text(job: Job) -> None:
    runs, _ = loaded(job)
    told = runs.top_log_probs([5, 6, 900])
    assert [tokens[:3] for tokens in told.indices] == [[6, 7, 8], [7, 8, 9]]
    assert len(told.indices[0]) == len(told.log_probs[0]) == 256
    assert told.given == pytest.approx([-math.log(2), -894 * math.log(2)])


def test_on_a_cpu_weights_are_float32_and_threads_are_told(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    runs = VllmEngine()
    on_cpu = replace(job, device="cpu", mode="eager", dtype="auto", threads=3)
    assert runs.load(on_cpu).dtype == "float32"
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "2"


def test_what_needs_a_gpu_is_refused_on_a_cpu(job: Job) -> None:
    with pytest.raises(UnsupportedError, match="no CUDA graphs on a CPU"):
        VllmEngine().load(replace(job, device="cpu"))
    variant = Variant(model="m", engine="vllm", quant="fp8_per_block")
    cpu = Device(name="cpu", kind="cpu")
    assert "cannot cast weights to fp8" in str(refusal(variant, cpu))
    assert refusal(replace(variant, quant="none"), cpu) is None


def test_without_the_package_it_says_so(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UnsupportedError, match="needs the package vllm"):
        VllmEngine().load(job)


def test_text_round_trip(job: Job) -> None:
    runs, _ = loaded(job)
    assert runs.detokenize(runs.tokenize("Grüße")) == "Grüße"
