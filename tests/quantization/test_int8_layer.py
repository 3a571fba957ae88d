"""`int8-dynamic-fused`: integers exact, near the float layer, the GPU's kernels interpreted."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bench.errors import UnsupportedError
from bench.quantization import int8_layer
from bench.quantization.int8_layer import LEVELS, Int8Linear, int8_matmul, quantize_rows
from tests.triton_kernels import BUILD, BUILD_ALL, kernels


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(n_in: int, n_out: int, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(n_in, n_out, bias=bias).requires_grad_(False)


@settings(max_examples=30, deadline=None)
@given(
    n_rows=st.integers(1, 40),
    n_in=st.integers(2, 300),
    n_out=st.integers(1, 70),
    seed=st.integers(0, 9),
)
def test_the_product_is_exact(n_rows: int, n_in: int, n_out: int, seed: int) -> None:
    # One column is left out: torch 2.13's torch._int_mm misreads a transposed weight of one column.
    levels = int8_layer.cpu_levels()
    g = torch.Generator().manual_seed(seed)
    q = torch.randint(-levels, levels + 1, (n_rows, n_in), generator=g)
    weight = torch.randint(-127, 128, (n_out, n_in), generator=g).to(torch.int8)
    shift = levels + 1
    found = int8_matmul(
        (q + shift).to(torch.uint8),
        torch.ones(n_rows, 1),
        weight,
        torch.ones(n_out),
        weight.sum(1, dtype=torch.int32) * shift,
        None,
        torch.float32,
    )
    assert torch.equal(found, (q.double() @ weight.double().t()).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shift", [0, 128])
def test_rows_are_quantized_by_their_largest_value(dtype: torch.dtype, shift: int) -> None:
    x = draw(6, 50).to(dtype)
    x[2] = 0
    x[3] *= 1000
    q, top = quantize_rows(x, shift, LEVELS)
    assert q.dtype == (torch.uint8 if shift else torch.int8)
    assert top.shape == (6, 1)
    numbers, scale = q.float() - shift, top / LEVELS
    assert (numbers.abs().amax(1) == torch.tensor([127, 127, 0, 127, 127, 127])).all()
    assert ((numbers * scale - x.float()).abs() <= scale / 2 * 1.001).all()


def test_unsigned_and_signed_are_the_same_numbers() -> None:
    x = draw(4, 33)
    unsigned, signed = quantize_rows(x, 128, LEVELS)[0], quantize_rows(x, 0, LEVELS)[0]
    assert torch.equal(unsigned.int() - 128, signed.int())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 64), (2, 9, 64), (70, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_layer_is_near_the_float_layer(
    bias: bool, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    old = linear(64, 48, bias=bias).to(dtype)
    x = draw(*shape).to(dtype)
    before = old(x)
    after = Int8Linear(old)(x)
    assert after.shape == before.shape
    assert after.dtype == dtype
    assert float((after - before).float().norm() / before.float().norm()) < 0.02


def test_its_quality_is_that_of_torchaos_scheme() -> None:
    """Same granularity, so the same error but for rounding."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        theirs = nn.Sequential(linear(256, 128))
        quantize_(theirs, Int8DynamicActivationInt8WeightConfig())
    x = draw(64, 256)
    before = linear(256, 128)(x)
    ours = Int8Linear(linear(256, 128))(x)
    errors = [float((y - before).norm() / before.norm()) for y in (ours, theirs(x))]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)


def test_the_compiled_layer_is_one_graph_with_the_same_result() -> None:
    layer = Int8Linear(linear(64, 48, bias=True))
    graphs: list[Any] = []

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    x = draw(1, 64)
    compiled = torch.compile(layer, fullgraph=True, backend=keep)
    torch.testing.assert_close(compiled(x), layer(x))
    assert len(graphs) == 1
    assert "gpu_cost_bench.int8_matmul" in graphs[0].code


def test_a_device_whose_product_is_not_exact_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(linear(64, 48))
    exact = torch._int_mm

    def saturating(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return exact(x, weight).clamp(-(2**15), 2**15 - 1)

    monkeypatch.setattr(torch, "_int_mm", saturating)
    with pytest.raises(UnsupportedError, match=r"layer 0 at 1 rows is not the exact product"):
        int8_layer.convert(model, ["0"])


def test_a_cpu_that_saturates_pairs_gets_fewer_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """AVX2 without VNNI adds two products in 16 bits; those of 7-bit numbers fit."""

    def pairs(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        products = x.int()[:, :, None] * weight.int()[None]
        two = products.reshape(x.shape[0], -1, 2, weight.shape[1]).sum(2)
        return two.clamp(-(2**15), 2**15 - 1).sum(1, dtype=torch.int32)

    monkeypatch.setattr(torch, "_int_mm", pairs)
    int8_layer.cpu_levels.cache_clear()
    try:
        layer = Int8Linear(linear(64, 48))
        assert layer.levels == int8_layer.LEVELS_16_BIT
        int8_layer.check(layer, "0")
        x = draw(3, 64)
        before = linear(64, 48)(x)
        assert float((layer(x) - before).norm() / before.norm()) < 0.03
    finally:
        int8_layer.cpu_levels.cache_clear()


@pytest.mark.parametrize("task", ["interpret", BUILD])
def test_the_gpu_kernels_without_a_gpu(task: str, tmp_path: Path) -> None:
    kernels("int8", task, tmp_path)


@pytest.mark.parametrize("task", [BUILD, BUILD_ALL])
def test_the_kernels_are_built_for_amds_chips(task: str, tmp_path: Path) -> None:
    kernels("int8-amd", task, tmp_path)
