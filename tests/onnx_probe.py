"""What the ONNX Runtime engine does, told as JSON: run in the engine's own environment.

    PYTHON -I -c "import sys; sys.path.insert(0, ROOT); from tests.onnx_probe import main; main()"

stdin: folder, made, quant. No test by itself; tests/engines/test_onnxruntime_engine.py compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.engines.messages import Job
from bench.engines.onnxruntime import OnnxRuntimeEngine
from bench.errors import UnsupportedError


def generate(runs: OnnxRuntimeEngine, n_gen: int) -> list[list[int]]:
    runs.reset()
    runs.prefill()
    for _ in range(n_gen - 1):
        runs.step()
    return runs.tokens()


def refused(runs: OnnxRuntimeEngine) -> str:
    try:
        runs.start(n_prompt=510, n_gen=3, n_batch=1)
    except UnsupportedError as error:
        return str(error)
    return "it was not"


def steps(runs: OnnxRuntimeEngine) -> dict[str, Any]:
    """Two sequences, made twice, and once more from the end of the prompt."""
    runs.start(n_prompt=12, n_gen=8, n_batch=2)
    told: dict[str, Any] = {"before": runs.tokens(), "first": generate(runs, 8)}
    told["again"] = generate(runs, 8)
    runs.rewind()
    told["rewound"] = runs.tokens()
    for _ in range(7):
        runs.step()
    told["after_rewind"] = runs.tokens()
    return told


def main() -> None:
    asked = json.loads(sys.stdin.read())
    runs = OnnxRuntimeEngine()
    job = Job(
        architecture={},
        folder=Path(asked["folder"]),
        made=Path(asked["made"]),
        random_seed=0,
        initializer_range=0.02,
        quant=asked["quant"],
        mode="eager",
        dtype="auto",
        device="cpu",
        threads=1,
        seed=7,
        replicate=0,
    )
    loaded = runs.load(job)
    window = [(7 * i) % 256 for i in range(300)]  # longer than what a freed block may still hold
    told = steps(runs) | {
        "loaded": {
            "weights_bytes": loaded.weights_bytes,
            "n_params": loaded.n_params,
            "quantized_fraction": loaded.quantized_fraction,
            "kernel": loaded.kernel,
            "dynamic": loaded.dynamic,
            "details": loaded.details,
        },
        "log_probs": runs.log_probs(window).tolist(),
        "text": runs.detokenize(runs.tokenize("Grüße, 東京")),
        "refused": refused(runs),
        "torch": "torch" in sys.modules,
    }
    runs.set_prompt([1, 2, 3])
    told["continued"] = generate(runs, 4)
    sys.stdout.write(json.dumps(told))
