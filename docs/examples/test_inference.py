"""Inference benchmarks in a project's own test suite. docs/pytest.md.

pip install "gpu-cost-bench[pytest]"
pytest test_inference.py --benchmark-autosave
"""

import pytest


@pytest.mark.benchmark(group="smollm2")
@pytest.mark.inference(n_prompt=64, n_gen=16, usd_per_hour=0.10)
@pytest.mark.parametrize("quant", ["none", "torch-dynamic-int8"])
def test_speed(inference_benchmark, quant):
    """Measured as the other benchmarks are, saved and compared with them."""
    found = inference_benchmark(quant=quant)
    assert found["peak_memory_bytes"] < 2e9


@pytest.mark.inference(n_prompt=64, n_gen=16)
def test_int8_is_no_slower(inference_benchmark):
    """A gate: both arms in fresh processes and in turns; it fails by the interval."""
    inference_benchmark(quant="torch-dynamic-int8", baseline="none", fail_below=0.97)
