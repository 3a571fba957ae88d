"""What a real worker process says of a job; needs no more than the worker itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from bench.engines.messages import Job
from bench.experiment.modes import engine_and_mode
from bench.runner.process import converse

WORKLOADS = [{"n_prompt": 12, "n_gen": 6, "n_batch": batch} for batch in (1, 2)]


def conversation(job: Job, **more: Any) -> list[dict[str, Any]]:
    load = json.loads(json.dumps(asdict(job), default=str))
    rules = {
        "pairs": 1,
        "iterations": 2,
        "window_s": 0.0,
        "warmup_max_s": 0.0,
        "warmup_window": 2,
        "idle_s": 0.0,
        "time_limit_s": 100.0,
    }
    told = {
        "engine": engine_and_mode("transformers", job.mode)[0],
        "load": load,
        "task": "measure",
        "workloads": WORKLOADS,
        "measure": rules,
    } | more
    return list(converse(told, limit_s=120.0))
