"""What inductor writes for a step of a layer on an H200, without one: tests/pretend_cuda.py."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

MATRICES = 7
"""Of a layer: q, k, v, o, gate, up, down."""

SMALLEST_MATRIX = 1024 * 4096

CASES = {
    # scheme: (launches of a layer, how many of them are products, and what these begin with)
    "none": (10, 5, "triton_red_fused"),
    "int8-weight-only": (10, 5, "triton_red_fused"),
    "fp8-weight-only": (10, 5, "triton_red_fused"),
    "int8-dynamic": (18, MATRICES, "triton_tem_fused__int_mm"),
    "int8-dynamic-fused": (18, MATRICES, "torch.ops.gpu_cost_bench.int8_matmul"),
    "fp8-dynamic": (18, MATRICES, "extern_kernels._scaled_mm"),
    "fp8-dynamic-tensor": (18, MATRICES, "extern_kernels._scaled_mm"),
    "int4-weight-only": (15, MATRICES, "torch.ops.aten._weight_int4pack_mm"),
}


@pytest.mark.parametrize("scheme", CASES)
def test_a_step_reads_each_weight_as_it_is_held(scheme: str) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed (it is for Linux)")
    if torch.cuda.is_available():
        pytest.skip("there is a card here, and tests/gpu")
    done = subprocess.run(
        [sys.executable, "-m", "tests.pretend_cuda", scheme],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    launches, products, begins = CASES[scheme]
    assert len(found["launches"]) == launches
    assert sum(one.startswith(begins) for one in found["launches"]) >= products
    assert found["launches"].count("torch.ops.gpu_cost_bench.attend") == 1
    # Nothing as large as a weight is made, so no weight is written out in floats and read again.
    assert found["largest_made"] < SMALLEST_MATRIX
    # cuBLAS' integer product stops at 16 rows or fewer.
    assert "extern_kernels._int_mm" not in found["launches"]
