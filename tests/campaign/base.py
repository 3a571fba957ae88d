"""Results with everything in them that readers look at: a card with energy, a server, a tool's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.records import Environment, QualityRecord, Record, to_json
from tests.report_results import EXPERIMENT, environment, quality, record, variant

PEAKS = {
    "device": "cuda:0",
    "torch": "2.13.0",
    "threads": 8,
    "copy_bytes_s": 3.9e12,
    "copy_size_bytes": 1 << 30,
    "matmul_flop_s": {"bfloat16": 7.0e14, "float16": 7.1e14},
    "time": "2026-11-23T00:00:00+00:00",
    "disturbed": None,
}


def machine() -> Environment:
    """A card with its measured rates."""
    found = environment()
    return replace(
        found,
        identity=found.identity | {"gpu_memory_bytes": 141 << 30, "gpus": 1, "settings": {}},
        state=found.state | {"peaks": PEAKS, "load_average": 0.5, "absent": {"governor": "none"}},
    )


def full(quant: str, n_batch: int, replicate: int) -> Record:
    """A record of a card that has every table."""
    found = record(quant, n_batch, replicate)
    energy: dict[str, Any] = {
        name: window | {"idle_power_w": 90.0, "cross_check_ratio": 1.01, "cross_check_agrees": True}
        for name, window in found.energy.items()
    }
    return replace(
        found,
        origin="measured",
        warmup={"steady": True, "agreed": True, "prefill_s": [0.02], "decode_s": [0.6]},
        model=found.model
        | {
            "device": "cuda:0",
            "dtype": "bfloat16",
            "n_params": 8_030_000_000,
            "dynamic": None,
            "load_s": 3.5,
            "details": {
                "allocation": {"packed_bytes": 9_000_000_000, "bits": 4.5},
                "warning": None,
                "layers": {"quantized": 224, "skipped": []},
            },
            "notes": {
                "cache_bytes": 1 << 27,
                "tokens_checked": 64,
                "tokens_as_eager": 64,
                "step": {"copies_weights": False},
            },
            "first_tokens": [[1, 2, 3]],
        },
        energy=energy | {"energy_j": 900.0, "window_s": 2.0, "scope": "GPU board"},
        device={
            "clock": "cuda events",
            "temperature_start_c": 41.0,
            "temperature_end_c": 55.0,
            "sw_power_cap_share": 0.1,
            "gpu_clock_mhz": [1980, 1965],
        },
        absent={"governor": "no cpufreq"},
    )


def served(quant: str, replicate: int) -> Record:
    """A record of a server with four requests at once."""
    about = variant(quant) | {
        "name": f"llama-3.1-8b/endpoint/{quant}",
        "engine": "endpoint",
        "device": "remote",
        "options": {"url": "http://localhost:8000", "n_devices": 1, "ttft_limit_s": 0.5},
    }
    return replace(
        record(quant, 4, replicate),
        key=f"served-{quant}-{replicate}",
        variant=about,
        workload={"n_prompt": 128, "n_gen": 3, "n_batch": 4},
        samples={
            "prefill_s": [0.2] * 4,
            "itl_s": [[0.1, 0.1]] * 4,
            "e2e_s": [0.4] * 4,
            "wall_s": 0.8,
        },
        energy={"energy_j": 300.0, "window_s": 0.8, "scope": "GPU board"},
        device={"clock": "host", "requests": {"ok": 4}, "client": {"late_s": 0.0}},
        origin="measured",
    )


def imported(quant: str, replicate: int) -> Record:
    """A record of another tool, which states rates."""
    return replace(
        record(quant, 1, replicate),
        key=f"imported-{quant}-{replicate}",
        variant=variant(quant) | {"name": f"llama-bench/{quant}", "engine": "llama.cpp"},
        workload={"n_prompt": 512, "n_gen": 0, "n_batch": 1},
        samples={"prefill_s": [0.2], "output_tok_s": [55.0]},
        energy={},
        model={},
        memory={},
        absent={"energy_j": "not read"},
        origin="llama-bench",
    )


def texts(quant: str) -> QualityRecord:
    """Quality with continuations."""
    found = quality(quant, origin="measured")
    told = [{"agreed_tokens": 3, "new_tokens": 4, "prompt": "a", "text": "b", "baseline": "c"}]
    return replace(found, figures={"method": "exact", "continuations": told, "scored_tokens": 200})


def lines(kind: str = "card") -> list[str]:
    """The lines of one results file: of a `card`, of a `server`, or `imported`."""
    made: list[Any] = [machine()]
    for replicate in range(6):
        for quant in ("none", "int8-weight-only"):
            if kind == "card":
                made += [full(quant, 1, replicate), full(quant, 4, replicate)]
            else:
                made.append(
                    served(quant, replicate) if kind == "server" else imported(quant, replicate)
                )
    if kind != "card":
        return [to_json(line) for line in made]
    made.append(
        replace(
            full("fp8-dynamic", 1, 0),
            status="failed",
            reasons=("OOM",),
            message="out of memory",
            samples={},
        )
    )
    made += [texts("none"), texts("int8-weight-only")]
    return [to_json(line) for line in made]


def write(folder: Path, kind: str = "card") -> Path:
    """The file in a folder, with its experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "records.jsonl").write_text("\n".join(lines(kind)) + "\n", encoding="utf-8")
    (folder / "experiment.toml").write_text(EXPERIMENT, encoding="utf-8")
    return folder
