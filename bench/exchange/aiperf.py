"""aiperf (ai-dynamo/aiperf): `profile_export_aiperf.json`, schema 1.x.

A client: times include the network, and requests overlap. Its inter_token_latency is our TPOT,
(last - first) / (n - 1) of each request. The file holds the distribution over requests: the median
is taken, which is what our figure of a replicate is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from bench.errors import InputError
from bench.exchange.foreign import (
    SERVED,
    UNKNOWN,
    Found,
    Given,
    Json,
    expect,
    number,
    parse_json,
    parse_time,
    read_text,
    unsaid,
)

TOOL: Final = "aiperf"
MAJOR: Final = 1
UNITS: Final = {"ms": 1e-3, "sec": 1.0, "s": 1.0, "us": 1e-6, "ns": 1e-9}
MEDIANS = "aiperf's summary holds no single requests: medians of them"


def knows(value: object) -> bool:
    """Whether a JSON value looks like a summary of this tool."""
    return isinstance(value, dict) and {"aiperf_version", "request_latency"} <= value.keys()


def read(path: Path, given: Given) -> list[Found]:
    """The one run of a file. InputError in one line."""
    run = expect(
        path,
        TOOL,
        parse_json(path, read_text(path))[0],
        ("schema_version", "request_latency", "output_sequence_length", "input_config"),
    )
    major = str(run["schema_version"]).partition(".")[0]
    if not major.isdigit() or int(major) > MAJOR:
        raise InputError(
            f"{path}: schema {run['schema_version']} of {TOOL} is newer than {MAJOR}.x, the last "
            "known here"
        )
    return [_found(path, run, given)]


def _found(path: Path, run: Json, given: Given) -> Found:
    prompts = expect(path, TOOL, run.get("input_sequence_length"), ("avg",))
    made = expect(path, TOOL, run["output_sequence_length"], ("avg",))
    samples, absent = _samples(path, run)
    config = run["input_config"]
    n_batch = given.n_batch or _concurrency(config)
    if n_batch is None:
        absent["n_batch"] = "the load was not set by concurrency: how many ran at once is open"
    failed = _average(run, "request_error_rate") or _average(run, "error_request_count")
    return Found(
        model=given.model or _model(path, config),
        engine=given.engine or UNKNOWN,
        quant=given.quant or UNKNOWN,
        device="gpu" if given.gpu or _card(run) else UNKNOWN,
        n_prompt=round(number(path, "input_sequence_length.avg", prompts["avg"])),
        n_gen=round(number(path, "output_sequence_length.avg", made["avg"])),
        n_batch=n_batch,
        mean_lengths=any(one.get("min") != one.get("max") for one in (prompts, made)),
        started_at=parse_time(path, "start_time", run.get("start_time")),
        samples=samples,
        absent=absent | unsaid(TOOL, given, _card(run)),
        reasons=("REQUESTS_FAILED",) if failed or run.get("was_cancelled") else (),
        identity={"gpu": given.gpu or _card(run), "cpu": None, "aiperf": run.get("aiperf_version")},
        state={
            "requests": _average(run, "request_count"),
            "duration_s": _average(run, "benchmark_duration"),
        },
    )


def _samples(path: Path, run: Json) -> tuple[dict[str, list[float]], dict[str, str]]:
    samples: dict[str, list[float]] = {}
    absent = {**SERVED, "samples": MEDIANS}
    times = (
        ("ttft_s", "time_to_first_token"),
        ("tpot_s", "inter_token_latency"),
        ("e2e_s", "request_latency"),
    )
    for name, key in times:
        block = run.get(key)
        if not isinstance(block, dict) or "p50" not in block:
            absent[name] = f"no {key} in the file: was the answer streamed?"
            continue
        if block.get("unit") not in UNITS:
            raise InputError(f"{path}: {key}: unit {block.get('unit')!r} is not known here")
        samples[name] = [number(path, f"{key}.p50", block["p50"]) * UNITS[block["unit"]]]
    for name in ("output_tok_s", "total_tok_s"):
        key = f"{name.removesuffix('_tok_s')}_token_throughput"
        rate = _average(run, key)
        if rate is None:
            absent[name] = f"no {key} in the file"
        else:
            samples[name] = [number(path, f"{key}.avg", rate)]
    return samples, absent


def _average(run: Json, key: str) -> Any:
    block = run.get(key)
    return block.get("avg") if isinstance(block, dict) else None


def _model(path: Path, config: Json) -> str:
    """The one model of the run; its place differs between versions of the tool."""
    items = (config.get("models") or {}).get("items") or []
    names = [item.get("name") for item in items]
    names += (config.get("endpoint") or {}).get("model_names") or []
    if len(names) != 1 or not names[0]:
        raise InputError(f"{path}: the file names no model, or several; give --model NAME")
    return str(names[0])


def _concurrency(config: Json) -> int | None:
    phases = [p for p in config.get("phases") or [] if p.get("kind") == "profiling"]
    found = [phase.get("concurrency") for phase in phases if phase.get("type") == "concurrency"]
    found += [(config.get("loadgen") or {}).get("concurrency")]
    return next((n for n in found if isinstance(n, int) and n > 0), None)


def _card(run: Json) -> str | None:
    """The card of the telemetry, where it saw one alone."""
    endpoints = ((run.get("telemetry_data") or {}).get("endpoints") or {}).values()
    names = [gpu.get("gpu_name") for one in endpoints for gpu in (one.get("gpus") or {}).values()]
    return names[0] if len(names) == 1 else None
