"""Results folders for the tests of the report: a card with batches, energy and quality."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bench.records import Environment, QualityRecord, Record, to_json

EXPERIMENT = """\
name = "demo"
question = "Does 8-bit make an 8B model faster and cheaper on this card, at equal quality?"
level = "standard"
baseline = "none"

[grid]
model = ["llama-3.1-8b"]
quant = ["none", "int8-weight-only", "fp8-dynamic"]
n_prompt = [512]
n_gen = [64]
n_batch = [1, 4, 16, 64]

[cost]
usd_per_hour = 2.0
utilization = 0.5
source = "assumption: an hour of this card at $2, half of it busy"
"""

ARMS = {
    "none": (1.0, 16.06e9, 0.0),
    "int8-weight-only": (1.55, 9.1e9, 0.004),
    "fp8-dynamic": (1.38, 9.0e9, 0.03),
}
"""Scheme -> speed over the baseline, bytes, loss in nats a token."""


def environment(gpu: str = "NVIDIA H200", id_: str = "e-h200") -> Environment:
    identity = {
        "gpu": gpu,
        "gpu_power_limit_w": 700.0,
        "driver": "580.1",
        "torch": "2.13.0",
        "cpu": "Xeon",
        "cpu_cores": 16,
        "host": "node1",
    }
    return Environment(id=id_, identity=identity, state={"commit": "abc", "time": "2026-11-23"})


def variant(quant: str) -> dict[str, Any]:
    return {
        "name": f"llama-3.1-8b/transformers/{quant}",
        "model": "llama-3.1-8b",
        "engine": "transformers",
        "quant": quant,
        "mode": "eager",
        "dtype": "bfloat16",
        "device": "cuda:0",
        "weights": "w",
    }


def record(quant: str, n_batch: int, replicate: int, **changes: Any) -> Record:
    speed, held, _ = ARMS[quant]
    wobble = 1 + 0.004 * math.sin(7 * replicate + 3 * n_batch + len(quant))
    step = 0.009 * wobble / speed * (1 + n_batch / 90 * speed**1.6)
    prefill = 0.02 * n_batch * wobble
    decode_s = step * 63
    tokens = 63 * n_batch * 10
    watts = 330 + 90 * math.log2(n_batch) / 3
    energy = {
        phase: {
            "energy_j": watts * seconds * 10,
            "window_s": seconds * 10,
            "tokens": count,
            "scope": "GPU board",
            "systematic_error": 0.05,
        }
        for phase, seconds, count in (
            ("decode", decode_s, tokens),
            ("prefill", prefill, 512 * n_batch * 10),
        )
    }
    table: dict[str, Any] = {
        "key": f"{quant}-{n_batch}-{replicate}",
        "environment": "e-h200",
        "experiment": "demo",
        "variant": variant(quant),
        "workload": {"n_prompt": 512, "n_gen": 64, "n_batch": n_batch},
        "replicate": replicate,
        "position": replicate,
        "started_at": f"2026-11-23T00:{replicate:02}:00+00:00",
        "status": "ok",
        "samples": {
            "prefill_s": [prefill] * 3,
            "itl_s": [[step] * 63] * 3,
            "e2e_s": [prefill + decode_s] * 3,
        },
        "model": {
            "weights_bytes": int(held),
            "quantized_fraction": float(quant != "none"),
            "kernel": "int8" if quant != "none" else "float",
        },
        "memory": {"peak_device_bytes": int(held + 2e8 * n_batch)},
        "energy": energy,
        "origin": "synthetic",
    }
    return Record(**(table | changes))


def quality(quant: str, **changes: Any) -> QualityRecord:
    loss = ARMS[quant][2]
    nll = tuple(2.0 + 0.6 * math.sin(i) + loss * (1 + 0.4 * math.cos(3 * i)) for i in range(200))
    base = variant("none")["name"]
    table: dict[str, Any] = {
        "key": f"q-{quant}",
        "environment": "e-h200",
        "experiment": "demo",
        "variant": variant(quant),
        "started_at": "2026-11-23T00:00:00+00:00",
        "status": "ok",
        "text": {"name": "english", "sha256": "s", "max_tokens": 200, "window": 100},
        "nll": nll,
        "baseline": base,
        "origin": "synthetic",
        "kld": () if quant == "none" else tuple(loss * (1 + math.sin(i)) for i in range(200)),
        "same_top1": () if quant == "none" else tuple(int(i % 25 > 0) for i in range(200)),
    }
    return QualityRecord(**(table | changes))


def write(folder: Path, lines: list[Any], experiment: str | None = EXPERIMENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(to_json(line) + "\n" for line in lines)
    (folder / "records.jsonl").write_text(text, encoding="utf-8")
    if experiment:
        (folder / "experiment.toml").write_text(experiment, encoding="utf-8")
    return folder


def write_card(
    folder: Path, pairs: int = 8, *, gpu: str = "NVIDIA H200", id_: str = "e-h200"
) -> Path:
    """Three arms at four batches on a card, with energy and quality."""
    lines: list[Any] = [environment(gpu, id_)]
    lines += [
        record(quant, n_batch, replicate, environment=id_)
        for replicate in range(pairs)
        for quant in ARMS
        for n_batch in (1, 4, 16, 64)
    ]
    lines += [quality(quant, environment=id_) for quant in ARMS]
    return write(folder, lines)
