"""vLLM's `vllm bench`: `serve --save-result [--save-detailed]`, `throughput` and `latency`.

`serve` is a client: its times include the queue and the network, and requests overlap. Its TPOT is
ours, (e2e - ttft) / (n - 1); its ITL pools the gaps between chunks. None of the three files names
the card.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
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
    file_date,
    number,
    numbers,
    parse_json,
    parse_time,
    read_text,
    unsaid,
)

TOOL: Final = "vllm"
SERVE: Final = ("model_id", "duration", "completed", "total_input_tokens", "total_output_tokens")
THROUGHPUT: Final = ("elapsed_time", "num_requests", "total_num_tokens", "tokens_per_second")
LATENCY: Final = ("avg_latency", "latencies")
SERVERS: Final = frozenset(
    {"vllm", "sglang", "tgi", "tensorrt-llm", "lmdeploy", "deepspeed-mii", "llama.cpp"}
)
"""`--backend` names that say which server it was; the others are protocols."""


def knows(value: object) -> bool:
    """Whether a JSON value looks like one of the three files."""
    return isinstance(value, dict) and any(
        set(keys) <= value.keys() for keys in (SERVE, THROUGHPUT, LATENCY)
    )


def read(path: Path, given: Given) -> list[Found]:
    """Every run of a file: one, or several that were appended. InputError in one line."""
    values = parse_json(path, read_text(path))
    return [found for value in values for found in _read(path, value, given)]


def _read(path: Path, value: Any, given: Given) -> Iterator[Found]:
    if isinstance(value, dict) and "latencies" in value and "avg_latency" in value:
        yield _latency(path, expect(path, TOOL, value, LATENCY), given)
    elif isinstance(value, dict) and "elapsed_time" in value:
        yield _throughput(path, expect(path, TOOL, value, THROUGHPUT), given)
    else:
        yield _serve(path, expect(path, TOOL, value, SERVE), given)


def _serve(path: Path, run: Json, given: Given) -> Found:
    completed = count(path, "completed", run["completed"])
    if not completed:
        raise InputError(f"{path}: no request was completed")
    n_in = number(path, "total_input_tokens", run["total_input_tokens"]) / completed
    n_out = number(path, "total_output_tokens", run["total_output_tokens"]) / completed
    duration = number(path, "duration", run["duration"])
    samples, absent, varies = _requests(path, run)
    samples |= {
        "output_tok_s": [n_out * completed / duration],
        "total_tok_s": [(n_in + n_out) * completed / duration],
    }
    absent |= {**SERVED, "started_at": "local time of the client, taken as UTC"}
    n_batch = given.n_batch or (
        run.get("max_concurrency") and count(path, "max_concurrency", run["max_concurrency"])
    )
    if n_batch is None:
        absent["n_batch"] = "no --max-concurrency was set: how many requests ran at once is open"
    backend = str(run.get("backend") or run.get("endpoint_type") or "")
    failed = run.get("failed") or max(0, (run.get("num_prompts") or 0) - completed)
    return Found(
        model=given.model or str(run["model_id"]),
        engine=given.engine or (backend if backend in SERVERS else UNKNOWN),
        quant=given.quant or UNKNOWN,
        device="gpu" if given.gpu else UNKNOWN,
        options={} if run.get("request_rate") in (None, "inf") else {"rate": run["request_rate"]},
        n_prompt=round(n_in),
        n_gen=round(n_out),
        n_batch=n_batch,
        mean_lengths=varies or not (n_in.is_integer() and n_out.is_integer()),
        started_at=parse_time(path, "date", run.get("date"), "%Y%m%d-%H%M%S"),
        samples=samples,
        absent=absent | unsaid(TOOL, given),
        reasons=("REQUESTS_FAILED",) if failed else (),
        identity={"gpu": given.gpu, "cpu": None, "backend": backend},
        state={"requests": completed, "failed": failed, "duration_s": duration},
    )


def _requests(path: Path, run: Json) -> tuple[dict[str, list[Any]], dict[str, str], bool]:
    """Samples of each request, why some are missing, and whether requests differ in length."""
    if {"ttfts", "itls", "output_lens"} <= run.keys():
        return _detailed(path, run)
    samples: dict[str, list[Any]] = {}
    absent = {"samples": "vllm saved no single requests (--save-detailed does): medians of them"}
    for name, key in (("ttft_s", "ttft"), ("tpot_s", "tpot"), ("e2e_s", "e2el")):
        value = run.get(f"median_{key}_ms")
        if value:
            samples[name] = [number(path, f"median_{key}_ms", value) / 1000]
        else:
            absent[name] = f"not among the run's --percentile-metrics ({key})"
    return samples, absent, False


def _detailed(path: Path, run: Json) -> tuple[dict[str, list[Any]], dict[str, str], bool]:
    made = [count(path, f"output_lens[{i}]", n) for i, n in enumerate(run["output_lens"])]
    good = [i for i, n in enumerate(made) if n > 0]
    if not (len(run["ttfts"]) == len(run["itls"]) == len(made)) or not good:
        raise InputError(f"{path}: ttfts, itls and output_lens do not belong together")
    ttfts = numbers(path, "ttfts", [run["ttfts"][i] for i in good])
    # Chunks that arrive together have no gap.
    gaps = [numbers(path, f"itls[{i}]", [g for g in run["itls"][i] if g != 0]) for i in good]
    # A chunk may hold several tokens: the gaps between chunks are not those between tokens.
    tpots = [sum(one) / (made[i] - 1) for i, one in zip(good, gaps, strict=True) if one]
    asked = [run["input_lens"][i] for i in good] if "input_lens" in run else []
    e2es = [ttft + sum(one) for ttft, one in zip(ttfts, gaps, strict=True)]
    samples = {"ttft_s": ttfts, "tpot_s": tpots, "e2e_s": e2es}
    varies = len(set(asked)) > 1 or len({made[i] for i in good}) > 1
    return {name: each for name, each in samples.items() if each}, {}, varies


def _throughput(path: Path, run: Json, given: Given) -> Found:
    n_prompt, n_gen = _lengths(path, "throughput", given)
    requests = count(path, "num_requests", run["num_requests"])
    tokens = number(path, "total_num_tokens", run["total_num_tokens"])
    seconds = number(path, "elapsed_time", run["elapsed_time"])
    whole = "only the whole run was timed"
    names = ("ttft_s", "tpot_s", "e2e_s", "prefill_tok_s", "decode_tok_s")
    absent = dict.fromkeys(names, whole)
    if given.n_batch is None:
        absent["n_batch"] = "vllm's scheduler chose how many requests ran at once"
    total = tokens / seconds
    return Found(
        **_offline(path, given),
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_batch=given.n_batch,
        samples={"total_tok_s": [total], "output_tok_s": [total * n_gen / (n_prompt + n_gen)]},
        absent=absent | unsaid(TOOL, given),
        state={"requests": requests, "duration_s": seconds},
    )


def _latency(path: Path, run: Json, given: Given) -> Found:
    n_prompt, n_gen = _lengths(path, "latency", given)
    if given.n_batch is None:
        raise InputError(f"{path}: a file of `vllm bench latency` names no batch; give --n-batch N")
    whole = "one time for the prompt and all new tokens together"
    absent = dict.fromkeys(("ttft_s", "prefill_tok_s", "tpot_s", "decode_tok_s"), whole)
    seconds = numbers(path, "latencies", run["latencies"])
    if not seconds:
        raise InputError(f"{path}: latencies: is empty")
    return Found(
        **_offline(path, given),
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_batch=given.n_batch,
        samples={"e2e_s": seconds},
        absent=absent | unsaid(TOOL, given),
        state={"mean_s": fmean(seconds)},
    )


def _offline(path: Path, given: Given) -> dict[str, Any]:
    """What the two offline files share: they name neither model nor time."""
    if given.model is None:
        raise InputError(f"{path}: this file of vllm names no model; give --model NAME")
    return {
        "model": given.model,
        "engine": given.engine or "vllm",
        "quant": given.quant or UNKNOWN,
        "device": "gpu" if given.gpu else UNKNOWN,
        "started_at": file_date(path),
        "dated": False,
        "identity": {"gpu": given.gpu, "cpu": None},
    }


def _lengths(path: Path, kind: str, given: Given) -> tuple[int, int]:
    if given.n_prompt is None or given.n_gen is None:
        raise InputError(
            f"{path}: a file of `vllm bench {kind}` does not hold how long prompts and answers "
            "are; give --n-prompt N --n-gen N"
        )
    return given.n_prompt, given.n_gen
