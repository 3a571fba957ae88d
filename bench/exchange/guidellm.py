"""guidellm (vllm-project/guidellm): `--output kind=json`, report versions 1 and 2.

A client: times include the queue and the network, and requests overlap. Its TPOT divides the whole
request, first token included, by n; its ITL is our TPOT, (last - first) / (n - 1). The throughputs
that it prints weigh each second alike; ours are all tokens over the measured time. The file names
neither card nor server.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.errors import InputError
from bench.exchange.foreign import (
    SERVED,
    UNKNOWN,
    Found,
    Given,
    Json,
    count,
    expect,
    number,
    parse_json,
    read_text,
    unsaid,
    utc,
)

TOOL: Final = "guidellm"
NEWEST: Final = 2


def knows(value: object) -> bool:
    """Whether a JSON value looks like a report of this tool."""
    return (
        isinstance(value, dict)
        and "benchmarks" in value
        and "guidellm_version" in (value.get("metadata") or {})
    )


def read(path: Path, given: Given) -> list[Found]:
    """Every benchmark of a report. InputError in one line."""
    values = parse_json(path, read_text(path))
    report = expect(path, TOOL, values[0], ("metadata", "benchmarks"))
    about = expect(path, TOOL, report["metadata"], ("version", "guidellm_version"))
    if not isinstance(about["version"], int) or about["version"] > NEWEST:
        raise InputError(
            f"{path}: report version {about['version']} of {TOOL} is newer than {NEWEST}, the last "
            "known here"
        )
    if not report["benchmarks"]:
        raise InputError(f"{path}: holds no benchmark of {TOOL}")
    return [_found(path, one, about, given) for one in report["benchmarks"]]


def _found(path: Path, one: object, about: Json, given: Given) -> Found:
    run = expect(path, TOOL, one, ("config", "requests", "scheduler_metrics"))
    requests = run["requests"].get("successful") or []
    if not requests:
        raise InputError(f"{path}: a benchmark has no successful request")
    timing = expect(
        path, TOOL, run["scheduler_metrics"], ("measure_start_time", "measure_end_time")
    )
    seconds = number(
        path, "measured seconds", timing["measure_end_time"] - timing["measure_start_time"]
    )
    counts = timing.get("requests_made") or {}
    prompts = [count(path, "prompt_tokens", r.get("prompt_tokens")) for r in requests]
    made = [count(path, "output_tokens", r.get("output_tokens")) for r in requests]
    samples, absent = _samples(path, requests, made)
    if counts.get("successful") in (None, len(requests)):
        samples["output_tok_s"] = [sum(made) / seconds]
        samples["total_tok_s"] = [(sum(prompts) + sum(made)) / seconds]
    else:
        few = "the file keeps a sample of the requests, not all"
        absent |= dict.fromkeys(("output_tok_s", "total_tok_s"), few)
    strategy = run["config"].get("strategy") or {}
    n_batch = given.n_batch or _at_once(strategy)
    if n_batch is None:
        absent["n_batch"] = f"strategy {strategy.get('type_')!r} does not fix how many run at once"
    failed = counts.get("errored") or 0
    return Found(
        model=given.model or _model(path, run["config"]),
        engine=given.engine or UNKNOWN,
        quant=given.quant or UNKNOWN,
        device="gpu" if given.gpu else UNKNOWN,
        options=_rate(strategy),
        n_prompt=round(sum(prompts) / len(prompts)),
        n_gen=round(sum(made) / len(made)),
        n_batch=n_batch,
        mean_lengths=len(set(prompts)) > 1 or len(set(made)) > 1,
        started_at=utc(datetime.datetime.fromtimestamp(timing["measure_start_time"], datetime.UTC)),
        samples=samples,
        absent=absent | unsaid(TOOL, given),
        reasons=("REQUESTS_FAILED",) if failed else (),
        identity={"gpu": given.gpu, "cpu": None, "guidellm": about["guidellm_version"]},
        state={"requests": len(requests), "failed": failed, "duration_s": seconds},
    )


def _samples(
    path: Path, requests: Sequence[Mapping[str, Any]], made: Sequence[int]
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """One figure for each request, and why there are none."""
    absent = dict(SERVED)
    wanted: tuple[tuple[str, str, float, Callable[[int], bool]], ...] = (
        ("ttft_s", "time_to_first_token_ms", 1e-3, lambda n: n > 0),
        ("tpot_s", "inter_token_latency_ms", 1e-3, lambda n: n > 1),
        ("e2e_s", "request_latency", 1.0, lambda n: n > 0),
    )
    samples = {}
    for name, key, scale, has in wanted:
        values = [
            number(path, key, request[key]) * scale
            for request, n in zip(requests, made, strict=True)
            if has(n) and request.get(key) is not None
        ]
        if values:
            samples[name] = values
        else:
            absent[name] = f"no request has {key}: was the answer streamed?"
    return samples, absent


def _model(path: Path, config: Mapping[str, Any]) -> str:
    model = (config.get("backend") or {}).get("model")
    if not model:
        raise InputError(f"{path}: the report names no model; give --model NAME")
    return str(model)


def _at_once(strategy: Mapping[str, Any]) -> int | None:
    """How many requests the strategy keeps running."""
    if strategy.get("type_") == "synchronous":
        return 1
    streams = strategy.get("streams")
    return streams if isinstance(streams, int) and strategy.get("type_") == "concurrent" else None


def _rate(strategy: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """What tells one strategy without a fixed number of requests from another."""
    kind = strategy.get("type_")
    if kind in ("synchronous", "concurrent", None):
        return {}
    rate = strategy.get("rate")
    return {"strategy": str(kind)} | ({"rate": rate} if rate is not None else {})
