"""What the vLLM engine does with the real vLLM, told as JSON: run in its own environment.

    PYTHON -I -c "import sys; sys.path.insert(0, ROOT); from tests.vllm_probe import main; main()"

stdin: folder, quant, dtype, text, tokens, base, keep, batches. No test by itself;
tests/engines/test_vllm_cpu.py compares.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

N_PROMPT, N_GEN = 64, 24


def job(asked: Mapping[str, Any]) -> Any:
    from bench.engines.messages import Job

    folder = Path(asked["folder"])
    return Job(
        architecture=json.loads((folder / "config.json").read_text()),
        folder=folder,
        random_seed=0,
        initializer_range=0.02,
        quant=asked["quant"],
        mode="eager",
        dtype=asked["dtype"],
        device="cpu",
        threads=1,
        seed=0,
        replicate=0,
        options={"max_num_seqs": 8, "max_model_len": 512},
    )


def timed(runs: Any, n_batch: int) -> dict[str, Any]:
    """Requests by the worker's own loop, and what vLLM says of the same ones."""
    from bench.devices.clock import HostClock
    from bench.experiment import Workload
    from bench.worker.requests import check_tokens, request

    metrics: dict[str, Any] = {}
    step = runs._engine.step

    def watched() -> Any:
        outputs = step()
        metrics.update({one.request_id: one.metrics for one in outputs if one.finished})
        return outputs

    runs._engine.step = watched
    runs.start(N_PROMPT, N_GEN, n_batch)
    ours, theirs = [], []
    for _ in range(5):
        metrics.clear()
        one = request(runs, HostClock(), N_GEN)
        check_tokens(runs, Workload(n_prompt=N_PROMPT, n_gen=N_GEN, n_batch=n_batch))
        told = list(metrics.values())
        first = max(m.first_token_ts for m in told)
        ours.append([one.prefill_s, sum(one.itl_s)])
        theirs.append(
            [
                first - min(m.queued_ts for m in told),
                max(m.last_token_ts for m in told) - first,
            ]
        )
    runs._engine.step = step
    return {"n": len(told), "ours": ours[1:], "theirs": theirs[1:], "tokens": runs.tokens()}


def main() -> None:
    asked = json.loads(sys.stdin.read())
    told = os.dup(1)
    os.dup2(2, 1)
    from bench.engines import vllm
    from bench.quality import evaluate

    usual = vllm.asked

    def with_statistics(*given: Any) -> dict[str, Any]:
        return {**usual(*given), "disable_log_stats": False}

    vllm.asked = with_statistics
    runs = vllm.VllmEngine()
    answer: dict[str, Any] = {"loaded": asdict(runs.load(job(asked)))}
    for n_batch in asked["batches"]:
        answer[f"timed_{n_batch}"] = timed(runs, n_batch)
    answer["quality"] = evaluate(
        runs,
        asked["text"],
        max_tokens=asked["tokens"],
        window=128,
        base=asked.get("base"),
        keep=asked.get("keep"),
    )
    os.write(told, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
