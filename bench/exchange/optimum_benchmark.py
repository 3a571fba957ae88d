"""optimum-benchmark (huggingface/optimum-benchmark): `benchmark.json` of the inference scenario.

Repeats inside one process. What it times is kept (`prefill`, `decode` and `generate` latencies, in
seconds for the whole batch) and every rate is made anew: its prefill rate counts samples, its
generate rate multiplies them by the new tokens, and its per-token list has held each iteration's
gaps several times over since 0.5.0, so no single gap is taken from it. docs/exchange.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench.errors import InputError
from bench.exchange.foreign import (
    Found,
    Given,
    Json,
    count,
    expect,
    file_date,
    numbers,
    parse_json,
    read_text,
)

TOOL: Final = "optimum-benchmark"
ENGINES: Final[Mapping[str, str]] = {"pytorch": "transformers"}
SETTINGS: Final = (
    "attn_implementation",
    "cache_implementation",
    "torch_compile",
    "autocast_enabled",
    "tp_plan",
    "deepspeed_inference",
    "peft_type",
)
"""Backend settings that make another arm where they are set."""

PER_TOKEN = "its per-token list holds each iteration's gaps several times (0.5.0 and newer)"
ENERGY = "its energy is codecarbon's, with modelled memory and CPU: not a counter's"
MB: Final = 1e6


def knows(value: object) -> bool:
    """Whether a JSON value looks like a file of this tool."""
    return isinstance(value, dict) and {"config", "report"} <= value.keys()


def read(path: Path, given: Given) -> list[Found]:
    """The one benchmark of a file. InputError in one line."""
    value = parse_json(path, read_text(path))[0]
    if (
        isinstance(value, dict)
        and "report" not in value
        and {"prefill", "load_model"} & value.keys()
    ):
        raise InputError(f"{path}: is the report alone; benchmark.json beside it says what was run")
    table = expect(path, TOOL, value, ("config", "report"))
    config = expect(path, TOOL, table["config"], ("backend", "scenario", "environment"))
    return [_found(path, config, expect(path, TOOL, table["report"], ()), given)]


def _found(path: Path, config: Json, report: Json, given: Given) -> Found:
    backend, scenario = config["backend"], config["scenario"]
    if scenario.get("name") != "inference" or not report.get("generate"):
        raise InputError(f"{path}: is no text generation: nothing to take a token's time from")
    shapes, asked = scenario.get("input_shapes") or {}, scenario.get("generate_kwargs") or {}
    n_gen = count(path, "max_new_tokens", asked.get("max_new_tokens"))
    samples, absent = _samples(path, report, n_gen)
    memory = _memory(report)
    if not memory:
        absent["peak_memory_bytes"] = "memory was not tracked"
    gpus = config["environment"].get("gpu") or []
    card = gpus[0] if len(gpus) == 1 else None
    if given.gpu and gpus:
        raise InputError(f"{path}: --gpu: the file itself names {', '.join(gpus)}")
    engine = str(backend.get("name"))
    return Found(
        model=given.model or str(backend.get("model")).rstrip("/").rsplit("/", 1)[-1],
        engine=given.engine or ENGINES.get(engine, engine),
        quant=given.quant or str(backend.get("quantization_scheme") or "none"),
        dtype=str(backend.get("torch_dtype") or "auto"),
        device=str(backend.get("device")),
        options={name: backend[name] for name in SETTINGS if backend.get(name)},
        n_prompt=count(path, "sequence_length", shapes.get("sequence_length")),
        n_gen=n_gen,
        n_batch=count(path, "batch_size", shapes.get("batch_size")),
        started_at=file_date(path),
        dated=False,
        samples=samples,
        absent=absent | {"energy_j": ENERGY},
        loaded={"details": {"random_weights": bool(backend.get("no_weights"))}},
        memory=memory,
        identity={"gpu": given.gpu or card, **_machine(config["environment"], backend)},
    )


def _samples(path: Path, report: Json, n_gen: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of each iteration, and why some are missing."""
    absent = {"itl_s": PER_TOKEN}
    steps = n_gen - 1
    samples = {
        "prefill_s": _latencies(path, report, "prefill"),
        "e2e_s": _latencies(path, report, "generate"),
    }
    decode = _latencies(path, report, "decode")
    if steps and decode:
        samples["tpot_s"] = [seconds / steps for seconds in decode]
    samples = {name: values for name, values in samples.items() if values}
    if "e2e_s" not in samples:
        raise InputError(f"{path}: report.generate.latency: is empty; was latency tracked?")
    if "prefill_s" not in samples:
        absent["ttft_s"] = absent["prefill_tok_s"] = "no prefill latency in the report"
    if "tpot_s" not in samples:
        absent["tpot_s"] = absent["decode_tok_s"] = "no decode latency in the report"
    return samples, absent


def _latencies(path: Path, report: Json, phase: str) -> list[float]:
    latency = (report.get(phase) or {}).get("latency") or {}
    if latency and latency.get("unit") != "s":
        raise InputError(f"{path}: report.{phase}.latency.unit: {latency.get('unit')!r} is not 's'")
    return numbers(path, f"report.{phase}.latency.values", latency.get("values", []))


def _memory(report: Json) -> Json:
    """Peaks over prefill and decode, bytes."""
    found: Json = {}
    for name, key in (("peak_host_bytes", "max_ram"), ("peak_device_bytes", "max_allocated")):
        peaks = [
            value
            for phase in ("prefill", "decode")
            if (value := ((report.get(phase) or {}).get("memory") or {}).get(key))
        ]
        if peaks:
            found[name] = int(max(peaks) * MB)
    return found


def _machine(environment: Json, backend: Json) -> dict[str, Any]:
    """What must be alike for two files to be of one machine, as far as the tool knows."""
    names = ("cpu_count", "system", "machine")
    versions = ("optimum_benchmark_version", "transformers_version", "python_version")
    return {
        "cpu": str(environment.get("cpu") or "").strip() or None,
        **{name: environment.get(name) for name in names},
        **{name.removesuffix("_version"): environment.get(name) for name in versions},
        "backend": f"{backend.get('name')} {backend.get('version')}",
    }
