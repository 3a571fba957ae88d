"""Every scheme that a CPU can run, on a tiny model: result, record, bytes; the others as far as
their library goes without a card."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from bench import quantization, schemes
from bench.errors import UnsupportedError
from bench.quantization import layers, seen
from bench.quantization.holding import weight_parts
from tests.quantized import quantize

CPU = quantization.Device(name="cpu", kind="cpu")
KEYS = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
N_LINEAR = 2 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256)
ROWS = 2 * (2 * 128 + 2 * 64 + 2 * 256 + 128)
HEAD_ROWS, HEAD = 512, 512 * 128
FLOATS = 512 * 128 + 5 * 128
"""The embedding and the norms, which nobody quantizes."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # raised on import inside torchao
    pytest.mark.filterwarnings("ignore:.*_stable_hash_for_caching"),  # quanto's, under compile
]


def need(name: str) -> None:
    """Skip where the scheme's package is not installed."""
    if reason := quantization.refusal(name, CPU):
        pytest.skip(reason)


def llama(**changed: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", **{"tie_word_embeddings": False, **KEYS, **changed})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=torch.arange(40)[None], use_cache=False).logits
        return result


def tokenize(text: str) -> list[int]:
    return list(text.encode())


def applied(name: str, model: Any) -> quantization.Applied:
    return quantization.apply(name, model, CPU, tokenize)


ON_CPU = {
    # scheme: error of the logits, bytes of the quantized layers
    "torch-dynamic-int8": (0.06, N_LINEAR + HEAD + 15 * 16),
    "int8-dynamic": (0.03, N_LINEAR + HEAD + 5 * (ROWS + HEAD_ROWS)),
    "int8-dynamic-fused": (0.03, N_LINEAR + HEAD + 8 * (ROWS + HEAD_ROWS)),
    "int8-weight-only": (0.03, N_LINEAR + HEAD + 5 * (ROWS + HEAD_ROWS)),
    "fp8-weight-only": (0.08, N_LINEAR + HEAD + 4 * (ROWS + HEAD_ROWS)),
    "bnb-int8": (0.03, N_LINEAR + 4 * ROWS + 4 * HEAD),
    # A float32 for each block of 64, and the 16 values of the code for each of 14 layers.
    "bnb-nf4": (0.2, N_LINEAR // 2 + N_LINEAR // 64 * 4 + 14 * 16 * 4 + 4 * HEAD),
    "quanto-int8": (0.03, N_LINEAR + 4 * ROWS + 4 * HEAD),
}


@pytest.mark.parametrize("name", ON_CPU)
def test_results_are_near_and_bytes_are_those_counted_by_hand(name: str) -> None:
    need(name)
    model = llama()
    before = logits(model)
    n_params = quantization.held(model).n_params
    found = applied(name, model)
    after = logits(found.model)
    error, low_bytes = ON_CPU[name]
    assert 0 < float((after - before).norm() / before.norm()) < error
    held = quantization.held(found.model)
    assert held.n_params == n_params
    if name != "bnb-nf4":  # on CPUs with bfloat16 units it holds scales in another dtype
        assert held.weights_bytes == low_bytes + 4 * FLOATS
    else:
        assert held.weights_bytes == pytest.approx(low_bytes + 4 * FLOATS, rel=0.03)
    head = 0 if schemes.scheme(name).keeps_head else HEAD
    assert held.quantized_fraction == pytest.approx((N_LINEAR + head) / n_params)
    assert quantization.held(found.model) == held  # also after the first request


@pytest.mark.parametrize("name", ON_CPU)
def test_what_was_quantized_and_what_not_is_recorded(name: str) -> None:
    need(name)
    found = applied(name, llama()).details["layers"]
    if schemes.scheme(name).keeps_head:
        assert found["quantized"] == 14
        (skipped,) = found["skipped"]
        assert (skipped["count"], skipped["layers"]) == (1, ["lm_head"])
        assert "head" in skipped["reason"]
    else:
        assert found == {"quantized": 15, "skipped": []}


SEEN = {
    "torch-dynamic-int8": (["quantized::linear_dynamic packed int8"], 1),
    "int8-dynamic-fused": (["aten::_int_mm int8"], 1),
    "int8-weight-only": (["aten::to int8 -> float32", "aten::mm float32"], 9),
    "fp8-weight-only": (
        [
            "aten::to float8_e4m3fn -> float32",
            "aten::mul float32 -> float32",
            "aten::matmul float32",
        ],
        17,
    ),
    "bnb-int8": (["bitsandbytes::int8_mixed_scaled_mm int8"], 1),
    "quanto-int8": (["quanto::qbytes_mm int8"], 1),
}


@pytest.mark.parametrize("name", SEEN)
def test_what_computes_a_layer_is_seen(name: str) -> None:
    need(name)
    found = applied(name, llama())
    operations, moved = SEEN[name]
    one, many = found.details["computed_by"]
    assert (one["rows"], many["rows"]) == seen.ROWS
    assert one["operations"] == many["operations"] == operations
    assert one["moved_bytes_per_weight"] == pytest.approx(moved, rel=0.01)
    assert found.kernel == ", ".join(operations)


def test_rows_are_named_where_they_matter() -> None:
    def at(rows: int, *operations: str) -> dict[str, Any]:
        return {"rows": rows, "operations": list(operations)}

    assert seen.in_words([at(1, "a", "b"), at(32, "c")]) == "1 row: a, b; 32 rows: c"
    assert seen.in_words([at(1), at(32)]) == "nothing seen"


def test_torchao_reads_the_weight_twice_where_it_sums_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And once where the CPU needs no sums: the record says which."""
    import torchao.kernel.intmm as intmm

    for vnni, operations in (
        (True, ["aten::_int_mm int8", "aten::sum int8"]),
        (False, ["aten::_int_mm int8"]),
    ):
        monkeypatch.setattr(intmm, "_cpu_is_vnni_supported", lambda vnni=vnni: vnni)
        monkeypatch.setattr(intmm, "_cpu_is_amx_tile_supported", lambda: False)
        (one, _) = applied("int8-dynamic", llama()).details["computed_by"]
        assert one["operations"] == operations
        assert one["moved_bytes_per_weight"] == len(operations)


def test_4_bit_weights_are_read_as_4_bits() -> None:
    need("bnb-nf4")
    (one, _) = applied("bnb-nf4", llama()).details["computed_by"]
    assert [name for name in one["operations"] if name.startswith("bitsandbytes::")]
    assert one["moved_bytes_per_weight"] >= 0.5


def test_an_operation_that_fails_is_not_taken_for_the_one_that_computed() -> None:
    """torchao tries an integer matmul, catches its refusal, and multiplies floats."""

    class Tries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(32, 32, dtype=torch.int8), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return torch.mm(x, self.weight)  # floats by integers: refused
            except RuntimeError:
                return torch.mm(x, self.weight.float())

    log = seen.operations(Tries(), torch.ones(1, 32), 32 * 32)
    assert [name for name, _ in log] == ["aten::to int8 -> float32", "aten::mm float32"]
    assert sum(size for _, size in log) == 32 * 32 * (1 + 4 + 4)


def test_the_operation_that_torchao_asks_cublas_for_is_seen() -> None:
    """Its integer matmul on a GPU is an operation on operations, which modes must ask for."""
    from torch._higher_order_ops.out_dtype import out_dtype

    class Integers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(64, 64, dtype=torch.int8), requires_grad=False)

        def forward(self, x: torch.Tensor) -> Any:
            weight = self.weight.t().contiguous()
            return out_dtype(torch.ops.aten.mm.default, torch.int32, x.to(torch.int8), weight)

    assert seen.operations(Integers(), torch.ones(1, 64), 64 * 64) == [
        ("aten::contiguous int8 -> int8", 2 * 64 * 64),
        ("out_dtype(aten::mm) int8", 64 * 64),
    ]


def test_a_tied_head_does_not_take_the_embedding_along() -> None:
    model = llama(tie_word_embeddings=True)
    applied("int8-dynamic-fused", model)
    assert model.model.embed_tokens.weight.dtype == torch.float32
    assert logits(model).isfinite().all()


def freed_one_by_one(convert: Callable[[nn.Module], object], model: nn.Module) -> list[int]:
    """How many float weights are still alive after each layer."""
    alive = {name: weakref.ref(layer.weight) for name, layer in layers.linear_layers(model).items()}
    counts: list[int] = []
    original = nn.Module.__setattr__

    def counting(module: nn.Module, name: str, value: Any) -> None:
        original(module, name, value)
        counts.append(sum(ref() is not None for ref in alive.values()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "__setattr__", counting)
        convert(model)
    return counts


@pytest.mark.parametrize(
    "name", ["int8-weight-only", "int8-dynamic-fused", "bnb-int8", "bnb-nf4", "quanto-int8"]
)
def test_no_more_than_one_layer_is_held_twice(name: str) -> None:
    """Weights are freed as the conversion goes, so that a model that fits can be quantized."""
    need(name)
    model = llama(num_hidden_layers=4)
    n_layers = len(layers.linear_layers(model))
    counts = freed_one_by_one(partial(quantize, name), model)
    kept = 1 if schemes.scheme(name).keeps_head else 0
    assert counts[-1] == kept
    assert any(kept + 1 < count < n_layers - 1 for count in counts)  # and not all at the end


def test_layers_whose_shape_does_not_fit_are_left_and_named(monkeypatch: Any) -> None:
    import torchao.quantization.quant_api as api

    monkeypatch.setattr(api, "_check_hardware_support", lambda granularity: None)
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 24), nn.Linear(24, 16)).bfloat16()
    choice = layers.choose(schemes.scheme("fp8-dynamic"), model)
    assert choice.names == ("0",)
    assert choice.record()["skipped"] == [
        {"count": 2, "reason": "torch._scaled_mm needs multiples of 16", "layers": ["1", "2"]}
    ]
    quantize("fp8-dynamic", model)
    assert [hasattr(m.weight, "__tensor_flatten__") for m in model] == [True, False, False]


def test_a_model_that_would_stay_as_it_is_is_refused() -> None:
    model = nn.Sequential(nn.Linear(24, 24)).bfloat16()
    with pytest.raises(UnsupportedError, match=r"would quantize no layer: .*multiples of 16"):
        quantize("fp8-dynamic", model)
    with pytest.raises(UnsupportedError, match="starts from bfloat16, the layer is float32"):
        quantize("fp8-dynamic", nn.Sequential(nn.Linear(32, 32)))
    with pytest.raises(UnsupportedError, match="no linear layers"):
        quantize("int8-dynamic", nn.Sequential(nn.ReLU()))


def test_a_library_that_skips_a_layer_in_silence_is_found_out(monkeypatch: Any) -> None:
    import torchao.quantization.quant_api as api

    monkeypatch.setattr(api, "_check_hardware_support", lambda granularity: None)
    monkeypatch.setattr(api, "_fp8_mm_compat", lambda weight: False)
    model = nn.Sequential(nn.Linear(64, 32)).bfloat16()
    with pytest.raises(UnsupportedError, match="torchao left 1 layers unquantized"):
        quantize("fp8-dynamic", model)


@pytest.mark.parametrize(("name", "scales"), [("fp8-dynamic", 4 * 128), ("fp8-dynamic-tensor", 4)])
def test_fp8_dynamic_on_the_cpu_that_torchao_does_not_offer(
    monkeypatch: Any, name: str, scales: int
) -> None:
    """torch._scaled_mm has a CPU implementation, so all but the card itself can be run."""
    import torchao.quantization.quant_api as api

    monkeypatch.setattr(api, "_check_hardware_support", lambda granularity: None)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128, bias=False)).bfloat16().requires_grad_(False)
    x = torch.randn(4, 64, dtype=torch.bfloat16)
    before = model(x)
    quantize(name, model)
    assert float((model(x) - before).norm() / before.norm()) < 0.06
    assert quantization.held(model).weights_bytes == 64 * 128 + scales
    log = seen.operations(model[0], x, 64 * 128)
    assert log == [("aten::_scaled_mm float8_e4m3fn", 64 * 128)]


@pytest.mark.parametrize(("n_in", "padded"), [(1024, 1024), (576, 1024), (2048, 2048)])
def test_int4_bytes_with_the_padding_of_its_tiles(monkeypatch: Any, n_in: int, padded: int) -> None:
    """Weights without contents ('meta') go through torchao's packing: its shapes are real."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: (8, 0))
    model = nn.Sequential(nn.Linear(n_in, 60, bias=False, dtype=torch.bfloat16, device="meta"))
    quantize("int4-weight-only", model)
    held = sum(part.numel() * part.element_size() for part in weight_parts(model[0]))
    how = schemes.scheme("int4-weight-only").layout
    assert how.group is not None
    assert held == 64 * padded // 2 + 64 * (padded // how.group) * how.group_bytes


def test_integer_matmuls_of_other_shapes_would_run_on_the_host() -> None:
    """On a GPU torchao's int8 of a shape that cuBLAS refuses is computed on the CPU."""
    layer = nn.Linear(20, 16, device="meta")
    assert (
        layers.fits(schemes.scheme("int8-dynamic"), layer) == "torch._int_mm needs multiples of 8"
    )
    assert layers.fits(schemes.scheme("int8-dynamic"), nn.Linear(20, 16)) is None


def test_blocks_of_4_bits_must_fill_a_row_on_a_cpu() -> None:
    fits = partial(layers.fits, schemes.scheme("bnb-nf4"))
    assert fits(nn.Linear(96, 8)) == "bitsandbytes on a CPU needs n_in a multiple of 64"
    assert fits(nn.Linear(128, 8)) is None
    assert fits(nn.Linear(96, 8, device="meta")) is None


def test_new_modules_are_in_the_mode_of_the_old() -> None:
    """bitsandbytes computes in another way while training."""
    need("bnb-int8")
    model = llama()
    applied("bnb-int8", model)
    assert not any(module.training for module in model.modules())


def test_bitsandbytes_says_nothing_while_it_is_timed(caplog: pytest.LogCaptureFixture) -> None:
    need("bnb-int8")
    model = llama()
    applied("bnb-int8", model)
    with caplog.at_level(logging.INFO):
        logits(model)
    assert [r for r in caplog.records if r.name.startswith("bitsandbytes.autograd")] == []
