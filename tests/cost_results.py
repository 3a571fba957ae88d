"""A results folder that costs can be computed from, for the tests of cost and of its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.records import Environment, Record, to_json


def write_results(folder: Path, model: str = "m") -> None:
    """Two variants on an RTX 4080 at two batches, three replicates each; no energy."""
    identity = {"gpu": "NVIDIA GeForce RTX 4080", "gpu_power_limit_w": 320.0}
    lines: list[Any] = [Environment(id="e", identity=identity, state={})]
    for name, speed in (("m/t/none", 1.0), ("m/t/int8", 2.0)):
        for n_batch in (1, 4):
            for replicate in range(3):
                prefill = 0.1 * n_batch**0.5 / speed * (1 + 0.01 * replicate)
                decode = 0.9 * n_batch**0.5 / speed
                lines.append(
                    Record(
                        key=f"{name}{n_batch}{replicate}",
                        environment="e",
                        experiment="x",
                        variant={
                            "name": name,
                            "model": model,
                            "engine": "t",
                            "quant": name.rpartition("/")[2],
                            "device": "cuda:0",
                            "dtype": "bfloat16",
                        },
                        workload={"n_prompt": 300, "n_gen": 100, "n_batch": n_batch},
                        replicate=replicate,
                        position=replicate,
                        started_at="2026-11-23T00:00:00+00:00",
                        status="ok",
                        samples={
                            "prefill_s": [prefill],
                            "e2e_s": [prefill + decode],
                            "itl_s": [[decode / 99] * 99],
                        },
                    )
                )
    (folder / "records.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))
