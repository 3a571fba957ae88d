"""Schemes on a CUDA card: results near the float model, exact integers, what computes them."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device on this machine", allow_module_level=True)

from torch import nn  # noqa: E402  # only where there is a device

from bench import quantization, schemes  # noqa: E402
from bench.engines.transformers.resolving import resolve_device  # noqa: E402
from bench.quantization import int8_layer, layers, seen  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore"),  # of the libraries, which differ by card and version
]
DEVICE = resolve_device("cuda:0")
ERRORS = {
    "int8-dynamic": 0.05,
    "int8-dynamic-fused": 0.05,
    "int8-weight-only": 0.05,
    "fp8-dynamic": 0.15,
    "fp8-dynamic-tensor": 0.15,
    "fp8-weight-only": 0.1,
    "int4-weight-only": 0.3,
    "gemlite-int4": 0.3,
    "bnb-int8": 0.05,
    "bnb-nf4": 0.3,
    "quanto-int8": 0.05,
}


def llama() -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "llama",
        tie_word_embeddings=False,
        vocab_size=1024,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    with torch.device("cuda:0"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def logits(model: Any, n_tokens: int) -> Any:
    with torch.inference_mode():
        tokens = torch.arange(n_tokens, device="cuda:0")[None]
        return model(input_ids=tokens, use_cache=False).logits.float()


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("n_tokens", [1, 40, 100])
def test_results_are_near_those_of_the_float_model(
    name: str, n_tokens: int, record_property: Any
) -> None:
    if reason := quantization.refusal(name, DEVICE):
        pytest.skip(reason)
    model = llama()
    before = logits(model, n_tokens)
    found = quantization.apply(name, model, DEVICE, lambda text: list(text.encode()))
    after = logits(found.model, n_tokens)
    assert float((after - before).norm() / before.norm()) < ERRORS[name]
    held = quantization.held(found.model)
    assert held.quantized_fraction > 0.5
    record_property("kernel", found.kernel)


def test_torchaos_int8_is_a_float_matmul_below_17_rows() -> None:
    found = quantization.apply("int8-dynamic", llama(), DEVICE, lambda text: [])
    one, many = found.details["computed_by"]
    assert "aten::mm float32" in one["operations"] or "aten::matmul float32" in one["operations"]
    assert not any("float32" in operation for operation in many["operations"])
    assert one["moved_bytes_per_weight"] > 8


@pytest.mark.parametrize("n_rows", [1, 2, 15, 16, 17, 33, 64, 65, 300])
@pytest.mark.parametrize(("n_out", "n_in"), [(64, 64), (1000, 520), (4096, 4096), (128, 14336)])
def test_the_fused_product_is_exact(n_rows: int, n_out: int, n_in: int) -> None:
    pytest.importorskip("triton")
    g = torch.Generator().manual_seed(0)
    x = torch.randint(-127, 128, (n_rows, n_in), generator=g).to("cuda:0", torch.int8)
    w = torch.randint(-127, 128, (n_out, n_in), generator=g).to("cuda:0", torch.int8)
    top = torch.ones(n_rows, 1, device="cuda:0")
    scale = torch.ones(n_out, device="cuda:0")
    found = torch.ops.gpu_cost_bench.int8_matmul(x, top, w, scale, None, None, torch.float32)
    assert torch.equal(found, (x.double() @ w.double().t()).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_quantized_as_by_the_reference(dtype: Any) -> None:
    pytest.importorskip("triton")
    from bench.quantization import int8_kernels

    x = torch.randn(7, 4097, device="cuda:0").to(dtype)
    x[3] = 0
    q, top = int8_kernels.quantize_rows(x)
    expected, expected_top = int8_layer.quantize_rows(x, 0, int8_layer.LEVELS)
    assert torch.equal(top, expected_top)
    assert int((q.int() - expected.int()).abs().max()) <= 1  # a division rounded the other way
    assert float((q != expected).float().mean()) < 1e-3


def test_a_captured_layer_makes_what_it_makes_uncaptured() -> None:
    pytest.importorskip("triton")
    layer = int8_layer.Int8Linear(nn.Linear(256, 384, device="cuda:0", dtype=torch.bfloat16))
    x = torch.randn(1, 1, 256, device="cuda:0", dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = layer(x)  # also chooses tile sizes, which cannot happen during capture
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = layer(x)
        y.zero_()
        graph.replay()
        torch.cuda.synchronize()
    assert torch.equal(y, expected)


def test_quantizing_on_the_card_holds_one_layer_twice_at_most() -> None:
    model = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(32)))
    model = model.to("cuda:0", torch.bfloat16)
    layer = 2048 * 2048 * 2
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    layers.convert(schemes.scheme("int8-weight-only"), model, [str(i) for i in range(32)])
    # Quantizing computes in float32, with a few temporaries of one layer's size: not 32 of them.
    assert torch.cuda.max_memory_allocated() - before < 16 * layer
    assert torch.cuda.memory_allocated() < before * 0.6


def test_what_computes_a_layer_is_seen_on_the_card() -> None:
    layer = nn.Linear(256, 256, bias=False, device="cuda:0", dtype=torch.bfloat16)
    log = seen.operations(layer, torch.randn(1, 256, device="cuda:0").bfloat16(), 256 * 256)
    assert [name for name, _ in log if name.endswith("bfloat16")]
