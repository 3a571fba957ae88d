"""What inductor writes for a step of a layer on a card, without one: tests/pretend_cuda.py."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.schemes import scheme as row_of

pytestmark = pytest.mark.slow

MATRICES, MERGED = 7, 4
"""Of a layer: q, k, v, o, gate, up, down; and with q, k, v as one and gate, up as another."""

SMALLEST_MATRIX, LARGEST_MATRIX = 1024 * 4096, 2 * 14336 * 4096
VOCABULARY = 128256

ADA, HOPPER, MI300 = "rtx-4080", "h200", "mi300x"
CASES = [
    # scheme, card, how many of its calls are products where those have a name
    ("none", ADA, {}),
    ("none", HOPPER, {}),
    ("int8-weight-only", HOPPER, {}),
    ("fp8-weight-only", ADA, {}),
    ("int8-dynamic", ADA, {"triton template": MERGED}),
    ("int8-dynamic", HOPPER, {"triton template": MERGED}),
    ("int8-dynamic-fused", HOPPER, {"torch.ops.gpu_cost_bench.int8_matmul": MERGED}),
    ("fp8-dynamic", HOPPER, {"extern_kernels._scaled_mm": MERGED}),
    ("fp8-dynamic-tensor", HOPPER, {"extern_kernels._scaled_mm": MATRICES}),
    ("none", MI300, {}),
    ("int8-weight-only", MI300, {}),
    ("int8-dynamic", MI300, {"triton template": MERGED}),
    ("int8-dynamic-fused", MI300, {"torch.ops.gpu_cost_bench.int8_matmul": MERGED}),
]
UNCOUNTED = [("int4-weight-only", ADA)]
"""Schemes whose launches have not been counted since products are merged."""
UNMERGED = ("fp8-dynamic-tensor", "int4-weight-only")
"""Schemes whose q, k and v are products of their own, so that attention cannot take the one."""


SEVERAL_ROWS = [
    ("int8-weight-only", "extern_kernels.mm"),
    ("fp8-weight-only", "extern_kernels.mm"),
    ("int8-dynamic", "triton template"),
]
"""Scheme, and what its products are at several rows."""

CACHES = [("int8", ADA), ("fp8", HOPPER)]
"""Caches in 8 bits."""

ALL = [
    *((card, f"{scheme}:1") for scheme, card, *_ in [*CASES, *UNCOUNTED]),
    *((HOPPER, f"{scheme}:4") for scheme, _ in SEVERAL_ROWS),
    *((card, f"none:1:{kind}") for kind, card in CACHES),
    (HOPPER, "choose:1"),
]


APART = [("none", 7), ("int8-dynamic", 11)]
"""Scheme, and its calls with `merge=norms`: q's rotation, and keys and values with their cache, are
two launches before attention's."""


def all_of(card: str) -> dict[str, dict[str, Any]]:
    """Case -> what `bench.engines.graph.written.told` says of it, from one process a card."""
    return said(card, *(case for name, case in ALL if name == card))


@cache
def said(card: str, *words: str) -> dict[str, dict[str, Any]]:
    """The same of cases, with options of the compiler (`NAME=VALUE`)."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed (it is for Linux)")
    if torch.cuda.is_available():
        pytest.skip("there is a card here, and tests/gpu")
    cases = [word for word in words if "=" not in word]
    done = subprocess.run(
        [sys.executable, "-m", "tests.pretend_cuda", card, *words],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(cases, map(json.loads, done.stdout.splitlines()), strict=True))


def written(scheme: str, n_batch: int, card: str, cache: str = "") -> dict[str, Any]:
    """What is said of a step of a layer of Llama 8B, without its attention."""
    told = all_of(card)[f"{scheme}:{n_batch}:{cache}".rstrip(":")]
    assert "failed" not in told, told["failed"]
    found = told | {"by": dict(told["by"])}
    attend = "attend_narrow" if cache else "attend" if scheme in UNMERGED else "attend_new"
    assert found["by"].pop(f"torch.ops.gpu_cost_bench.{attend}", 0) == (scheme != "choose")
    # cuBLAS' integer product stops at 16 rows or fewer; the other has a thread an output.
    assert not {"extern_kernels._int_mm", "extern_kernels._weight_int8pack_mm"} & set(found["by"])
    return found


def test_few_launches_a_layer() -> None:
    """What is promised (docs/modes.md), on a card of Ada and on one of Hopper."""
    for card in (ADA, HOPPER):
        assert written("none", 1, card)["calls"] <= 7
        assert written("int8-dynamic", 1, card)["calls"] <= 9


@pytest.mark.parametrize(("scheme", "card", "products"), CASES)
def test_a_step_reads_each_weight_as_it_is_held(
    scheme: str, card: str, products: dict[str, int]
) -> None:
    found = written(scheme, 1, card)
    assert found["calls"] == row_of(scheme).launches
    assert {name: n for name, n in found["by"].items() if name != "triton"} == products
    # Nothing as large as a weight is made, so no weight is written out in floats and read again.
    assert found["largest_made"] < SMALLEST_MATRIX


def test_the_likeliest_token_is_found_by_many_programs() -> None:
    """The last norm, the head's product, two stages of the search, and what is kept of it."""
    found = written("choose", 1, HOPPER)
    assert found["calls"] == 5
    assert found["largest_made"] < VOCABULARY + 1024


@pytest.mark.parametrize(("scheme", "card"), UNCOUNTED)
def test_no_scheme_writes_a_weight_out(scheme: str, card: str) -> None:
    found = written(scheme, 1, card)
    assert found["largest_made"] < SMALLEST_MATRIX
    assert row_of(scheme).launches is None


@pytest.mark.parametrize(("scheme", "product"), SEVERAL_ROWS)
def test_at_several_rows_only_some_schemes_read_weights_as_they_are_held(
    scheme: str, product: str
) -> None:
    found = written(scheme, 4, HOPPER)
    assert found["by"][product] == MERGED
    copies = found["largest_made"] >= LARGEST_MATRIX
    assert copies == scheme.endswith("weight-only")


@pytest.mark.parametrize(("kind", "card"), CACHES)
def test_a_cache_in_8_bits_is_written_in_place(kind: str, card: str) -> None:
    """Nothing as large as the cache is made; a key is rounded where it is turned."""
    found = written("none", 1, card, kind)
    assert found["calls"] == dict(APART)["none"]
    assert found["largest_made"] < SMALLEST_MATRIX


@pytest.mark.parametrize(("words", "fewer"), [([], 0), (["combo_kernels=true"], 1)])
def test_attention_apart_from_what_comes_before_it(words: list[str], fewer: int) -> None:
    """Options: rotations and cache are two launches then, or one."""
    found = said(ADA, *(f"{scheme}:1" for scheme, _ in APART), "merge=norms", *words)
    calls = [(case.partition(":")[0], one.get("calls")) for case, one in found.items()]
    assert calls == [(scheme, n - fewer) for scheme, n in APART]
