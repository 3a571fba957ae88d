"""llama.cpp: what its server's figures are taken for, and the engine on the embedded file."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.engines import Steps
from bench.engines.llama_cpp.common import (
    MOST_SEQUENCES,
    LlamaSettings,
    check_workload,
    cpu_flags,
    file_of,
    gpu_indices,
    gpu_layers,
    missing_instructions,
    settings_of,
    threads_of,
)
from bench.engines.llama_cpp.server import (
    UNTOLD,
    LlamaServerEngine,
    LlamaTold,
    check_prompt,
    instants,
    timed,
)
from bench.engines.llama_cpp.steps import LlamaPythonEngine
from bench.engines.messages import Job
from bench.engines.registry import engine
from bench.errors import InputError, UnsupportedError
from bench.experiment import Workload
from bench.models import gguf
from bench.models.prompts import random_tokens
from bench.worker import check_tokens, request
from tests import fake_llama
from tests.fakes import FakeClock
from tests.models.test_gguf_file import write as write_gguf
from tests.split_gguf import split


@pytest.fixture(scope="module")
def job(embedded_gguf: Path) -> Job:
    return Job(
        architecture={},
        folder=None,
        gguf=embedded_gguf,
        random_seed=0,
        initializer_range=0.02,
        quant="q4_1",
        mode="eager",
        dtype="auto",
        device="cpu",
        threads=1,
        seed=7,
        replicate=0,
    )


def event(count: int, at_ms: float, *tokens: int, stop: bool = False) -> dict[str, Any]:
    timings = {"prompt_ms": 100.0, "prompt_n": 5, "predicted_n": count, "predicted_ms": at_ms}
    return {"stop": stop, "tokens": list(tokens), "timings": timings}


def sequence(*events: dict[str, Any]) -> LlamaTold:
    one = LlamaTold()
    for each in events:
        one.add(each)
    return one


def test_prefill_and_gaps_are_the_servers_own() -> None:
    one = sequence(
        event(1, 0.001, 4), event(2, 30.0, 5), event(3, 50.0, 6), event(3, 50.0, stop=True)
    )
    found = timed([one], 3)
    assert found.prefill_s == pytest.approx(0.1)
    assert found.itl_s == pytest.approx([0.03, 0.02])
    assert one.tokens == [4, 5, 6]


def test_the_slowest_sequence_of_a_batch_says_when() -> None:
    fast = sequence(event(1, 0.0, 1), event(2, 10.0, 1), event(3, 40.0, 1))
    slow = sequence(event(1, 0.0, 1), event(2, 20.0, 1), event(3, 30.0, 1))
    slow.timings = {**slow.timings, "prompt_ms": 105.0}
    found = timed([fast, slow], 3)
    assert found.prefill_s == pytest.approx(0.105)
    assert found.itl_s == pytest.approx([0.020, 0.015])  # 125 then 140 ms


def test_a_token_inside_a_character_comes_with_the_next_one() -> None:
    one = sequence(event(1, 0.0, 7), event(4, 30.0, 8), event(5, 45.0, stop=True))
    assert instants(one.counts, 5) == [0.0, 10.0, 20.0, 30.0, 45.0]
    assert one.tokens == [7, UNTOLD, UNTOLD, 8]


def test_tokens_past_the_last_are_left_out() -> None:
    # The server goes on to the end of a character: the third token was not asked for.
    assert instants([(1, 0.0), (3, 20.0)], 2) == [0.0, 10.0]


def test_too_few_tokens_are_an_error() -> None:
    with pytest.raises(UnsupportedError, match="made 2 tokens instead of 3") as error:
        instants([(1, 0.0), (2, 20.0)], 3)
    assert error.value.code == "TOKEN_COUNT"


@pytest.mark.parametrize("timings", [{"prompt_n": 4}, {"prompt_n": 5, "cache_n": 1}, {}])
def test_a_prompt_out_of_a_cache_is_no_prefill(timings: dict[str, int]) -> None:
    check_prompt({"prompt_n": 5, "cache_n": 0}, 5)
    with pytest.raises(UnsupportedError, match="prompt tokens of 5") as error:
        check_prompt(timings, 5)
    assert error.value.code == "TOKEN_COUNT"


def test_instructions_that_the_build_does_not_use_are_named(tmp_path: Path) -> None:
    info = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 0 | LLAMAFILE = 1 | "
    assert missing_instructions(info, {"avx", "avx2", "avx512f", "sse"}) == ["AVX2", "AVX512"]
    assert missing_instructions("CPU : AVX = 1 | AVX2 = 1", {"avx", "avx2"}) == []
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx avx2\nbugs\t: avx512f\n")
    assert cpu_flags(file) == {"fpu", "avx", "avx2"}
    assert cpu_flags(tmp_path / "none") == set()


def test_settings_are_llama_cpps_own_names() -> None:
    options = {"n_gpu_layers": 12, "flash_attn": "on", "type_k": "q8_0"}
    expected = LlamaSettings(n_gpu_layers=12, flash_attn="on", type_k="q8_0")
    assert settings_of(options) == expected
    for wrong, problem in (
        ({"ngl": 1}, "options.ngl: unknown key"),
        ({"flash_attn": "yes"}, "options.flash_attn: 'yes' is not one of"),
        ({"n_gpu_layers": -2}, "options.n_gpu_layers: must be at least -1"),
    ):
        with pytest.raises(InputError, match=problem):
            settings_of(wrong)


def test_layers_go_to_the_gpu_where_there_is_one() -> None:
    assert gpu_layers(LlamaSettings(), "cpu") == 0
    assert gpu_layers(LlamaSettings(), "cuda:0") == 999
    assert gpu_layers(LlamaSettings(n_gpu_layers=0), "cuda:0") == 0
    names = ("cpu", "cuda:0", "cuda:1", "mps:0", "cuda:2+cuda:0")
    assert [gpu_indices(name) for name in names] == [[], [0], [1], [0], [2, 0]]
    with pytest.raises(InputError, match="the device is the CPU"):
        gpu_layers(LlamaSettings(n_gpu_layers=3), "cpu")


def test_threads_are_the_physical_cores_unless_told(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert threads_of(replace(job, threads=3)) == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 4)
    assert threads_of(replace(job, threads=None)) == 4
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
    assert threads_of(replace(job, threads=None)) == 1


def test_more_than_llama_cpp_holds_is_refused() -> None:
    check_workload(8192, 8192, MOST_SEQUENCES)
    with pytest.raises(UnsupportedError, match="8193 tokens are more than the model's context"):
        check_workload(8193, 8192, 1)
    with pytest.raises(UnsupportedError, match="holds 256 sequences at once, not 257"):
        check_workload(8, None, 257)


def test_the_file_must_be_in_the_arms_scheme(job: Job) -> None:
    with pytest.raises(InputError, match=r"Q4_1\.gguf is 'q4_1', not 'q8_0'"):
        file_of(replace(job, quant="q8_0"))
    with pytest.raises(InputError, match="no --dtype"):
        file_of(replace(job, dtype="float16"))
    with pytest.raises(InputError, match="this model has none"):
        file_of(replace(job, gguf=None))


def test_without_a_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.engines.llama_cpp.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match="pip install xllamacpp"):
        engine("llama.cpp")


def test_the_package_that_gives_single_steps_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.engines.llama_cpp.find_spec", lambda name: object())
    assert isinstance(engine("llama.cpp"), LlamaPythonEngine)


@pytest.fixture(scope="module")
def server(job: Job) -> Iterator[LlamaServerEngine]:
    """xllamacpp with the embedded file."""
    pytest.importorskip("xllamacpp")
    made = LlamaServerEngine()
    loaded = made.load(job)
    assert loaded.n_params == 134_515_008
    assert loaded.weights_bytes == 96_576_768
    assert (loaded.dtype, loaded.dynamic) == ("float32", None)
    assert loaded.details["package"] == "xllamacpp"
    yield made
    made.close()


class TestServer:
    """Whole requests, for real."""

    @pytest.mark.parametrize("n_batch", [1, 3])
    def test_a_request_makes_exactly_its_tokens(
        self, server: LlamaServerEngine, n_batch: int
    ) -> None:
        workload = Workload(n_prompt=12, n_gen=8, n_batch=n_batch)
        server.start(12, 8, n_batch)
        one = request(server, FakeClock([0.0]), 8)
        check_tokens(server, workload)
        first = server.tokens()
        assert len(one.itl_s) == 7
        assert all(gap > 0 for gap in (one.prefill_s, *one.itl_s))
        assert one.prefill_s + sum(one.itl_s) < one.host_s  # HTTP is outside the server's own
        request(server, FakeClock([0.0]), 8)
        assert server.tokens() == first  # greedy, and nothing kept from the request before

    def test_a_prefill_is_a_request_of_one_token(self, server: LlamaServerEngine) -> None:
        server.start(12, 8, 2)
        server.prefill()
        assert [len(new) for new in server.tokens()] == [1, 1]
        assert not isinstance(server, Steps)

    def test_characters_of_several_tokens_do_not_change_the_count(
        self, server: LlamaServerEngine
    ) -> None:
        server.start(4, 16, 1)
        server._prompts = [server.tokenize("東京は日本の首都であり、")]
        timing = server.request(16)
        assert len(timing.itl_s) == 15
        (made,) = server.tokens()
        assert len(made) == 16
        assert UNTOLD in made
        assert server.notes()["merged_tokens"] == made.count(UNTOLD)

    def test_log_probs_are_over_the_whole_vocabulary(self, server: LlamaServerEngine) -> None:
        window = server.tokenize("The capital of France is Paris")
        found = server.log_probs(window)
        assert found.shape == (len(window) - 1, 49152)
        assert [math.fsum(map(math.exp, row.tolist())) for row in found] == pytest.approx(
            [1] * len(found), rel=1e-3
        )
        assert found[-1].argmax() == window[-1]

    def test_text_round_trip(self, server: LlamaServerEngine) -> None:
        assert server.detokenize(server.tokenize("Grüße, 東京")) == "Grüße, 東京"

    def test_a_prompt_longer_than_the_context_is_refused(self, server: LlamaServerEngine) -> None:
        with pytest.raises(UnsupportedError, match="context of 8192"):
            server.start(8190, 3, 1)

    def test_what_the_server_refuses_is_told(self, server: LlamaServerEngine) -> None:
        with pytest.raises(UnsupportedError, match="server: 400"):
            server._ask("/completion", {"prompt": {"no": "prompt"}})

    def test_a_model_in_several_files_is_the_same_model(
        self, server: LlamaServerEngine, job: Job, tmp_path: Path
    ) -> None:
        first, *rest = split(job.gguf, tmp_path, 100)
        assert len(rest) == 2
        made = LlamaServerEngine()
        loaded = made.load(replace(job, gguf=first))
        try:
            assert loaded.n_params == 134_515_008
            assert loaded.weights_bytes == pytest.approx(96_576_768, rel=1e-5)
            assert loaded.details["tensor_types"] == gguf.read(job.gguf).tensor_types
            for one in (made, server):
                one.start(12, 8, 1)
                request(one, FakeClock([0.0]), 8)
            assert made.tokens() == server.tokens()
        finally:
            made.close()
        rest[0].unlink()
        with pytest.raises(InputError, match=r"-00002-of-00003\.gguf: No such file"):
            LlamaServerEngine().load(replace(job, gguf=first))

    def test_a_model_that_the_build_does_not_know_is_named(self, job: Job, tmp_path: Path) -> None:
        file = write_gguf(tmp_path / "tiny.gguf")
        file.write_bytes(file.read_bytes().replace(b"llama", b"zzzzz"))
        with pytest.raises(UnsupportedError, match=r"cannot load tiny.*architecture 'zzzzz'"):
            LlamaServerEngine().load(replace(job, gguf=file, quant="q8_0"))

    def test_a_gpu_needs_a_build_for_it(self, job: Job) -> None:
        pytest.importorskip("xllamacpp")
        with pytest.raises(UnsupportedError, match="no GPU backend"):
            LlamaServerEngine().load(replace(job, device="cuda:0"))


class TestSteps:
    """llama-cpp-python's functions, on a stand-in for them."""

    @pytest.fixture
    def runs(self, job: Job, monkeypatch: pytest.MonkeyPatch) -> LlamaPythonEngine:
        monkeypatch.setitem(sys.modules, "llama_cpp", fake_llama.package())
        made = LlamaPythonEngine()
        loaded = made.load(job)
        assert loaded.details["package"] == "llama-cpp-python"
        return made

    def test_each_sequence_goes_its_own_way(self, runs: LlamaPythonEngine) -> None:
        runs.start(12, 4, 3)
        runs.prefill()
        for _ in range(3):
            runs.step()
        expected = []
        for prompt in random_tokens(7, fake_llama.VOCABULARY, 12, 3):
            held = list(prompt)
            for _ in range(4):
                held.append((held[-1] + len(held)) % fake_llama.VOCABULARY)
            expected.append(held[12:])
        assert runs.tokens() == expected
        check_tokens(runs, Workload(n_prompt=12, n_gen=4, n_batch=3))

    def test_one_gpu_is_used_or_none(self, job: Job, runs: LlamaPythonEngine) -> None:
        api = runs._api
        assert vars(api.model_params) == {"n_gpu_layers": 0}
        with pytest.raises(UnsupportedError, match="compiled without a GPU backend"):
            LlamaPythonEngine().load(replace(job, device="cuda:1"))
        api.has_gpu = True
        on_gpu = LlamaPythonEngine()
        on_gpu.load(replace(job, device="cuda:1"))
        expected = {"n_gpu_layers": 999, "main_gpu": 1, "split_mode": 0}
        assert vars(api.model_params) == expected
        on_gpu.start(12, 4, 1)
        assert (api.params.op_offload, api.params.offload_kqv) == (True, True)

    def test_several_gpus_share_the_model_and_no_others(
        self, job: Job, runs: LlamaPythonEngine
    ) -> None:
        api = runs._api
        api.has_gpu = True
        for options, mode in (({}, 1), ({"split": "row"}, 2)):
            LlamaPythonEngine().load(replace(job, device="cuda:1+cuda:3", options=options))
            assert (api.model_params.main_gpu, api.model_params.split_mode) == (1, mode)
            assert list(api.model_params.tensor_split) == [0, 1, 0, 1]
        with pytest.raises(UnsupportedError, match="does not know split = 'tensor'"):
            LlamaPythonEngine().load(
                replace(job, device="cuda:0+cuda:1", options={"split": "tensor"})
            )
        with pytest.raises(InputError, match="needs several devices"):
            LlamaPythonEngine().load(replace(job, device="cuda:0", options={"split": "row"}))

    def test_rewind_goes_back_to_the_state_after_prefill(self, runs: LlamaPythonEngine) -> None:
        runs.start(12, 4, 2)
        for back in (runs.reset, runs.rewind):
            back()
            if back == runs.reset:
                runs.prefill()
            for _ in range(3):
                runs.step()
            if back == runs.reset:
                first = runs.tokens()
        assert runs.tokens() == first

    def test_log_probs_are_normalised(self, runs: LlamaPythonEngine) -> None:
        found = runs.log_probs([3, 4, 5])
        assert found.shape == (2, fake_llama.VOCABULARY)
        total = math.log(math.exp(5) + fake_llama.VOCABULARY - 1)
        assert found[0].max() == pytest.approx(5 - total, rel=1e-6)
        assert found[1].argmax() == 4 + 2

    def test_memory_is_given_back(self, runs: LlamaPythonEngine) -> None:
        for n_batch in (1, 2):
            runs.start(12, 4, n_batch)
        runs.close()
        assert runs._api.freed == 2
        assert runs._api.batches == 0

    def test_a_context_holds_every_sequence(self, job: Job, runs: LlamaPythonEngine) -> None:
        runs.start(30, 4, 3)
        params = runs._api.params
        assert (params.n_seq_max, params.n_ctx, params.n_threads) == (3, 3 * 256, 1)
        assert params.n_batch >= 3 * 30
        assert (params.op_offload, params.offload_kqv) == (False, False)
        assert runs.notes() == {"context": 3 * 256}
        with pytest.raises(UnsupportedError, match=f"context of {fake_llama.CONTEXT}"):
            runs.start(fake_llama.CONTEXT, 1, 1)

    def test_text_round_trip(self, runs: LlamaPythonEngine) -> None:
        assert runs.detokenize(runs.tokenize("Grüße")) == "Grüße"
