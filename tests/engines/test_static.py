"""Modes with a static cache, on tiny real models: the tokens of eager mode, one compiled step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.engines.graph.attention import attend, attention, way_of
from bench.engines.graph.compiling import ON_CUDA, Compiling, compiling
from bench.engines.graph.slots import Slots, cache_length
from bench.engines.messages import Job
from bench.errors import InputError, UnsupportedError
from bench.schemes import scheme
from tests.conftest import TINY
from tests.generating import generate, load

# What the compiler warns of is its own.
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning", "default::UserWarning")


@pytest.fixture
def job(tiny_folder: Path) -> Job:
    return Job(
        architecture=TINY,
        folder=tiny_folder,
        random_seed=0,
        initializer_range=0.02,
        quant="none",
        mode="compiled",
        dtype="auto",
        device="cpu",
        threads=None,
        seed=7,
        replicate=0,
    )


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Any:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def _trace_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace as ever, but run what was traced as it is: no minutes of generating code."""
    real = torch.compile

    def compile_(function: Any, *, options: Any, **rest: Any) -> Any:
        return real(function, backend="eager", **rest)

    monkeypatch.setattr(torch, "compile", compile_)


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize(
    ("region", "n_prompt"),
    [("layer", 1), ("layer", 12), pytest.param("model", 12, marks=pytest.mark.slow)],
)
def test_compiled_makes_the_tokens_of_eager_mode(job: Job, region: str, n_prompt: int) -> None:
    eager = load(replace(job, mode="eager"))
    eager.start(n_prompt=n_prompt, n_gen=20, n_batch=2)
    runs = load(replace(job, options={"compile": region}))
    runs.start(n_prompt=n_prompt, n_gen=20, n_batch=2)
    assert generate(runs, 20) == generate(eager, 20)
    notes = runs.notes()
    assert notes["tokens_as_eager"] == notes["tokens_checked"] == 16
    assert notes["compile_s"] > 0
    step = notes["step"]
    assert step["calls"] == sum(step["by"].values()) > 0
    assert step["copies_weights"] is False
    runs.start(n_prompt=n_prompt, n_gen=20, n_batch=2)
    assert runs.notes()["step"] == step  # compiled before, and the same
    assert notes["cache_length"] == 256
    # two tensors a layer, two layers: batch 2, two heads of 8, float32
    assert notes["cache_bytes"] == 2 * 2 * 2 * 2 * 256 * 8 * 4


@pytest.mark.usefixtures("_trace_only")
def test_requests_do_not_see_what_the_one_before_left(job: Job) -> None:
    runs = load(job)
    runs.start(n_prompt=12, n_gen=8, n_batch=1)
    first = generate(runs, 8)
    assert generate(runs, 8) == first
    runs.rewind()
    for _ in range(7):
        runs.step()
    assert runs.tokens() == first


@pytest.mark.usefixtures("_trace_only")
def test_prompts_of_different_lengths_share_one_compiled_step(job: Job) -> None:
    runs = load(job)
    runs.start(n_prompt=16, n_gen=4, n_batch=1)
    generate(runs, 4)
    once = graphs()
    for n_prompt in (24, 40):
        runs.start(n_prompt=n_prompt, n_gen=4, n_batch=1)
        generate(runs, 4)
    # each new length costs the prompt's layer, and nothing else
    assert graphs() == once + 2


@pytest.mark.usefixtures("_trace_only")
def test_all_layers_share_one_compiled_layer(job: Job) -> None:
    counts = []
    for n_layers in (2, 6):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        deep = replace(job, folder=None, architecture=TINY | {"num_hidden_layers": n_layers})
        runs = load(deep)
        runs.start(n_prompt=16, n_gen=4, n_batch=1)
        counts.append(graphs())
    assert counts[0] == counts[1]


def one_row_is_right(quant: str) -> bool:
    """Whether one row of a compiled layer is right on this CPU: of int8-dynamic, torch 2.13 gives
    numbers in the ten thousands on an Intel Xeon with AMX, and right ones for two rows."""
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        quantize_,
    )

    dynamic = quant == "int8-dynamic"
    layer = torch.nn.Sequential(torch.nn.Linear(32, 32, bias=False)).eval()
    quantize_(layer, Int8DynamicActivationInt8WeightConfig() if dynamic else Int8WeightOnlyConfig())
    row = torch.randn(1, 1, 32)
    with torch.inference_mode():
        expected, found = layer(row), torch.compile(layer)(row)
    torch._dynamo.reset()
    return bool(torch.allclose(found, expected, atol=1e-3))


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["int8-dynamic", "int8-weight-only"])
def test_torchao_schemes_run_compiled(job: Job, quant: str) -> None:
    eager = load(replace(job, mode="eager", quant=quant))
    eager.start(n_prompt=20, n_gen=8, n_batch=1)
    runs = load(replace(job, quant=quant))
    if not one_row_is_right(quant):
        with pytest.raises(UnsupportedError, match="it would be measured wrong"):
            runs.start(n_prompt=20, n_gen=8, n_batch=1)
        return
    runs.start(n_prompt=20, n_gen=8, n_batch=1)
    assert len(generate(runs, 8)[0]) == 8
    assert runs.notes()["tokens_as_eager"] >= 1


@pytest.mark.usefixtures("_trace_only")
@pytest.mark.parametrize("way", ["sdpa", "split"])
@pytest.mark.parametrize(
    "architecture",
    [
        {"model_type": "llama"},
        {"model_type": "qwen3", "head_dim": 8},
        {"model_type": "mistral", "sliding_window": None},
        {
            "model_type": "qwen3_moe",
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 8,
            "moe_intermediate_size": 32,
        },
        {
            "model_type": "gemma3_text",
            "sliding_window": 64,
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 8,
        },
    ],
    ids=lambda a: a["model_type"],
)
def test_architectures_agree_with_eager_mode(
    job: Job, architecture: dict[str, Any], way: str
) -> None:
    options = {"attention": way}
    runs = load(replace(job, folder=None, architecture=TINY | architecture, options=options))
    runs.start(n_prompt=12, n_gen=8, n_batch=2)
    assert runs.notes()["tokens_as_eager"] == 8
    assert runs.notes()["attention"] == way
    assert runs.notes()["step"] is None  # nothing was compiled here


@pytest.mark.parametrize(("merge", "called"), [("norms", "attend"), ("rotation", "attend_new")])
def test_a_step_that_is_told_the_last_place_compiles(job: Job, merge: str, called: str) -> None:
    """The operation that a GPU's kernel stands behind, through the compiler; here its reference."""
    runs = load(replace(job, options={"attention": "split", "merge": merge}))
    runs.start(n_prompt=12, n_gen=20, n_batch=2)
    notes = runs.notes()
    assert notes["tokens_as_eager"] == 16
    assert notes["step"]["by"][f"torch.ops.gpu_cost_bench.{called}"] == 1
    assert notes["step"]["copies_weights"] is False


@pytest.mark.usefixtures("_trace_only")
def test_a_sequence_longer_than_a_sliding_window_is_refused(job: Job) -> None:
    sliding = {
        "model_type": "gemma3_text",
        "sliding_window": 16,
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    runs = load(replace(job, folder=None, architecture=TINY | sliding))
    with pytest.raises(UnsupportedError, match="sliding window of 16"):
        runs.start(n_prompt=12, n_gen=8, n_batch=1)


@pytest.mark.usefixtures("_trace_only")
def test_quality_is_read_through_the_plain_path(job: Job) -> None:
    plain, runs = load(replace(job, mode="eager")), load(job)
    window = list(range(40))
    torch.testing.assert_close(runs.log_probs(window), plain.log_probs(window))
    assert graphs() == 0
    runs.set_prompt(window[:10])
    plain.set_prompt(window[:10])
    assert generate(runs, 6) == generate(plain, 6)


def test_cuda_graphs_need_cuda(job: Job) -> None:
    with pytest.raises(UnsupportedError, match="mode cuda-graph needs a CUDA device, not cpu"):
        load(replace(job, mode="cuda-graph"))


def test_options_are_checked() -> None:
    assert compiling({}, graph=True) == Compiling("layer", {})
    assert compiling({"inductor.max_autotune": True}, graph=False).inductor == {
        "max_autotune": True
    }
    with pytest.raises(InputError, match="unknown option compile 'layers'; did you mean 'layer'"):
        compiling({"compile": "layers"}, graph=True)
    tuned = compiling({"inductor.max_autotune": True}, graph=True, kind="cuda").inductor
    assert tuned == {
        "coordinate_descent_tuning": True,
        "coordinate_descent_check_all_directions": False,
        "score_fusion_memory_threshold": 1,
        "max_autotune": True,
    }
    with pytest.raises(InputError, match=r"unknown option of compiled modes 'inductr\.x'"):
        compiling({"inductr.x": True}, graph=True)
    with pytest.raises(InputError, match="is for mode cuda-graph"):
        compiling({"compile": "none"}, graph=False)
    with pytest.raises(InputError, match="unknown option attention 'splits'; did you mean 'split'"):
        way_of("splits", "cpu")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("inductor.nonsense", 1, "Unexpected optimization option nonsense$"),
        ("inductor.combo_kernels", "maybe", "got str should be bool"),
    ],
)
def test_an_option_that_the_compiler_does_not_know_is_bad_input(
    job: Job, name: str, value: Any, said: str
) -> None:
    with pytest.raises(InputError, match=rf"option inductor\.NAME: .*{said}"):
        load(replace(job, options={name: value}))


def test_what_a_scheme_needs_of_the_compiler_is_set_on_cuda() -> None:
    needs = scheme("int8-dynamic").inductor
    assert compiling({}, graph=True, needs=needs).inductor == {}
    found = compiling({}, graph=True, kind="cuda", needs=needs).inductor
    assert found == ON_CUDA | {"max_autotune_gemm": True, "split_reductions": False}


def test_prompts_are_compiled_apart_and_not_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def compile_(function: Any, *, options: Any, **_: Any) -> Any:
        made.append(options)
        return lambda tokens: options["coordinate_descent_tuning"]

    monkeypatch.setattr(torch, "compile", compile_)
    how = compiling({"inductor.x": 1}, graph=True, kind="cuda")
    either = how.by_length(lambda tokens: None, lambda tokens: tokens)
    assert made == [ON_CUDA | {"x": 1}, ON_CUDA | {"x": 1, "coordinate_descent_tuning": False}]
    assert either(torch.zeros(2, 1, 8)) is True
    assert either(torch.zeros(2, 5, 8)) is False
    asked = {"inductor.coordinate_descent_tuning": True}  # of both, who asks for it
    assert compiling(asked, graph=True, kind="cuda").for_prompts == {}


def test_our_kernel_reads_the_cache_where_triton_can(monkeypatch: pytest.MonkeyPatch) -> None:
    there: Any = object()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: there)
    assert [way_of(None, kind) for kind in ("cuda", "cpu")] == ["split", "sdpa"]
    assert way_of("sdpa", "cuda") == "sdpa"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert way_of(None, "cuda") == "sdpa"


def test_cache_lengths_are_whole_blocks() -> None:
    assert [cache_length(n, 6) for n in (1, 250, 251)] == [256, 256, 512]


def test_attention_that_is_not_built_here_is_refused() -> None:
    query = torch.zeros(1, 2, 4, 8)
    for name in ("softcap", "s_aux", "position_bias"):
        with pytest.raises(UnsupportedError, match=f"has no {name}: use -e transformers"):
            attention(None, query, query, query, None, **{name: torch.ones(1)})


def test_a_step_attends_to_what_is_filled_and_nothing_else() -> None:
    torch.manual_seed(0)
    position = torch.tensor([5])
    slots = Slots(8, position)
    keys, values = torch.randn(2, 3, 2, 6, 4).unbind(0)  # two heads of keys, six of queries
    query = torch.randn(3, 6, 1, 4)
    slots.update(keys[:, :, :5], values[:, :, :5])
    slots.keys[:, :, 6:] = 1e4  # what an earlier, longer request left
    slots.values[:, :, 6:] = 1e4
    held = slots.update(keys[:, :, 5:], values[:, :, 5:])
    mask = (torch.arange(8) <= position)[None, None, None]
    last = position[None, None, None]
    made, _ = attention(None, query, *held, mask, scaling=0.5)
    torch.testing.assert_close(attention(None, query, *held, last, scaling=0.5)[0], made)
    torch.testing.assert_close(attend(query, *held, last, 0.5), made)
    scores = 0.5 * query @ keys.repeat_interleave(3, 1).transpose(-1, -2)
    expected = scores.softmax(-1) @ values.repeat_interleave(3, 1)
    torch.testing.assert_close(made, expected.transpose(1, 2))
