"""The kernel of a step's attention on a card: against the reference, and captured in a graph."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from bench.engines.graph import attention, new_token  # noqa: E402  # imports torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def draw(
    batch: int, shared: int, group: int, dim: int, length: int, filled: int, dtype: Any
) -> tuple[Any, ...]:
    """Query, keys, values and the last place."""
    torch.manual_seed(0)
    query = torch.randn(batch, shared * group, 1, dim, device="cuda").to(dtype)
    keys, values = torch.randn(2, batch, shared, length, dim, device="cuda").to(dtype).unbind(0)
    last = torch.full((1, 1, 1, 1), filled - 1, device="cuda")
    return query, keys, values, last


def expected(query: Any, keys: Any, values: Any, last: Any, scale: float) -> Any:
    """In float32, over what is filled."""
    filled = int(last) + 1
    return attention.attend(
        query.float(), keys[:, :, :filled].float(), values[:, :, :filled].float(), last, scale
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("batch", "shared", "group", "dim", "length", "filled"),
    [
        (1, 8, 4, 128, 256, 200),
        (1, 8, 4, 64, 256, 1),
        (3, 2, 1, 80, 512, 300),
        (1, 8, 4, 128, 32768, 30001),
        (64, 8, 4, 128, 512, 511),
        (1, 1, 16, 256, 4096, 4096),
        (2, 4, 7, 128, 1024, 777),
    ],
)
def test_the_kernel_is_near_float32(
    batch: int, shared: int, group: int, dim: int, length: int, filled: int, dtype: Any
) -> None:
    given = draw(batch, shared, group, dim, length, filled, dtype)
    wanted = expected(*given, 0.1)
    given[1][:, :, filled:] = given[2][:, :, filled:] = torch.nan
    found = torch.ops.gpu_cost_bench.attend(*given, 0.1)
    near = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.float(), wanted, rtol=near, atol=near)


def test_a_captured_kernel_follows_the_position() -> None:
    query, keys, values, last = draw(1, 8, 4, 128, 2048, 100, torch.bfloat16)
    attend = torch.ops.gpu_cost_bench.attend
    attend(query, keys, values, last, 0.1)  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = attend(query, keys, values, last, 0.1)
    for filled in (100, 1500, 2048):
        last.fill_(filled - 1)
        graph.replay()
        wanted = expected(query, keys, values, last, 0.1)
        torch.testing.assert_close(made.float(), wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("batch", "shared", "group", "dim", "length", "filled", "normed"),
    [
        (1, 8, 4, 128, 256, 200, False),
        (1, 8, 4, 64, 256, 1, True),
        (3, 2, 1, 80, 512, 300, False),
        (1, 8, 4, 128, 32768, 30001, True),
        (64, 8, 4, 128, 512, 511, False),
    ],
)
def test_a_new_token_is_rotated_and_kept(
    batch: int,
    shared: int,
    group: int,
    dim: int,
    length: int,
    filled: int,
    normed: bool,
    dtype: Any,
) -> None:
    torch.manual_seed(0)

    def some(*shape: int) -> Any:
        return torch.randn(shape, device="cuda").to(dtype)

    projected, angle = some(batch, 1, shared * (group + 2) * dim), some(dim // 2).repeat(2)
    cos, sin = angle.cos(), angle.sin()
    norms = some(2, dim).unbind(0) if normed else (None, None)
    caches = some(2, batch, shared, length, dim)
    last = torch.full((1, 1, 1, 1), filled - 1, device="cuda")
    wanted = caches.float()
    of = [None if one is None else one.float() for one in (projected, cos, sin, *norms)]
    made = new_token.attend_new(*of, 1e-6, *wanted.unbind(0), last, 0.1)
    caches[:, :, :, filled - 1 :] = torch.nan
    found = torch.ops.gpu_cost_bench.attend_new(
        projected, cos, sin, *norms, 1e-6, *caches.unbind(0), last, 0.1
    )
    near = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.float(), made, rtol=near, atol=near)
    kept = caches[:, :, :, :filled].float()
    torch.testing.assert_close(kept, wanted[:, :, :, :filled], rtol=near, atol=near)
