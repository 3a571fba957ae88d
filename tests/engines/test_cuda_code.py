"""What inductor writes for a step of a layer on an H200, without one: tests/pretend_cuda.py."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

MATRICES = 7
"""Of a layer: q, k, v, o, gate, up, down."""

SMALLEST_MATRIX, LARGEST_MATRIX = 1024 * 4096, 14336 * 4096

CASES = {
    # scheme: (calls of a layer, how many of them are products where those have a name)
    "none": (10, {}),
    "int8-weight-only": (10, {}),
    "fp8-weight-only": (10, {}),
    "int8-dynamic": (18, {"triton template": MATRICES}),
    "int8-dynamic-fused": (18, {"torch.ops.gpu_cost_bench.int8_matmul": MATRICES}),
    "fp8-dynamic": (18, {"extern_kernels._scaled_mm": MATRICES}),
    "fp8-dynamic-tensor": (18, {"extern_kernels._scaled_mm": MATRICES}),
    "int4-weight-only": (15, {"torch.ops.aten._weight_int4pack_mm": MATRICES}),
}


def written(scheme: str, n_batch: int) -> dict[str, Any]:
    """What `bench.engines.graph.written.told` says of a step of a layer of Llama 8B."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed (it is for Linux)")
    if torch.cuda.is_available():
        pytest.skip("there is a card here, and tests/gpu")
    done = subprocess.run(
        [sys.executable, "-m", "tests.pretend_cuda", scheme, str(n_batch)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["by"].pop("torch.ops.gpu_cost_bench.attend") == 1
    # cuBLAS' integer product stops at 16 rows or fewer; the other has a thread an output.
    assert not {"extern_kernels._int_mm", "extern_kernels._weight_int8pack_mm"} & set(found["by"])
    return found


@pytest.mark.parametrize("scheme", CASES)
def test_a_step_reads_each_weight_as_it_is_held(scheme: str) -> None:
    found = written(scheme, n_batch=1)
    calls, products = CASES[scheme]
    assert found["calls"] == calls
    assert {name: n for name, n in found["by"].items() if name != "triton"} == products
    # Nothing as large as a weight is made, so no weight is written out in floats and read again.
    assert found["largest_made"] < SMALLEST_MATRIX


@pytest.mark.parametrize(
    ("scheme", "product"),
    [
        ("int8-weight-only", "extern_kernels.mm"),
        ("fp8-weight-only", "extern_kernels.mm"),
        ("int8-dynamic", "triton template"),
    ],
)
def test_at_several_rows_only_some_schemes_read_weights_as_they_are_held(
    scheme: str, product: str
) -> None:
    found = written(scheme, n_batch=4)
    assert found["by"][product] == MATRICES
    copies = found["largest_made"] >= LARGEST_MATRIX
    assert copies == scheme.endswith("weight-only")
