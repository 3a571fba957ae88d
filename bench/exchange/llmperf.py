"""llmperf (ray-project/llmperf): `NAME_summary.json`, version 2023-08-31.

A client with a fixed number of requests at once. Its inter-token latency is the whole request,
first token included, over the tokens: ours is (e2e - ttft) / (n - 1), made of its medians.
"""

from __future__ import annotations

from typing import Final

from bench.exchange.foreign import (
    NOT_READ,
    SERVED,
    ForeignRun,
    NothingAnsweredError,
    Twice,
    answered,
    out_of_place,
)
from bench.exchange.reading import SourceText
from bench.exchange.values import Json, count, expect, maybe, number, parse_time

TOOL: Final = "llmperf"
KEYS: Final = (
    "model",
    "num_concurrent_requests",
    "results_number_output_tokens_mean",
    "results_mean_output_throughput_token_per_s",
)


def knows(source: SourceText) -> bool:
    """Whether a text looks like a summary of this tool."""
    value = source.first()
    return (
        isinstance(value, dict)
        and "num_concurrent_requests" in value
        and any(str(key).startswith("results_") for key in value)
    )


def read(source: SourceText) -> list[ForeignRun]:
    """Every summary of a file. InputError in one line."""
    runs = [expect(source, TOOL, one, KEYS) for one in source.entries()]
    return answered(source, runs, _found)


def _found(source: SourceText, run: Json) -> ForeignRun:
    done = count(source, "completed", run.get("results_num_completed_requests") or 0)
    failed = count(source, "errors", run.get("results_number_errors") or 0)
    if not done and "results_num_completed_requests" in run:
        raise NothingAnsweredError(f"{source}: no request was completed: 0 of {failed}")
    n_out = number(source, "number_output_tokens", run["results_number_output_tokens_mean"])
    n_in = maybe(source, run, "results_number_input_tokens_mean") or maybe(
        source, run, "mean_input_tokens"
    )
    n_batch = count(source, "num_concurrent_requests", run["num_concurrent_requests"])
    rate = number(source, "throughput", run["results_mean_output_throughput_token_per_s"])
    samples, absent = _samples(source, run)
    samples["output_tok_s"] = [rate]
    if n_in:
        samples["total_tok_s"] = [rate * (n_in + n_out) / n_out]
    if failed:
        absent["requests"] = (
            f"{failed} of {done + failed} requests failed: figures are of the others"
        )
    moment = run.get("timestamp")
    return ForeignRun(
        model=str(run["model"]),
        n_prompt=round(n_in) if n_in else None,
        n_gen=max(round(n_out), 1),
        n_batch=n_batch or None,
        mean_lengths=_varies(run),
        started_at=parse_time(source, "timestamp", moment) if moment else source.date,
        dated=bool(moment),
        samples=samples,
        absent=absent,
        reasons=("REQUESTS_FAILED",) if failed else (),
        twice=tuple(_twice(source, run, n_out, n_batch, rate, done, failed)),
        state={"requests": done, "failed": failed},
    )


def _samples(source: SourceText, run: Json) -> tuple[dict[str, list[float]], dict[str, str]]:
    samples: dict[str, list[float]] = {}
    absent = {**NOT_READ, **SERVED} | {
        "samples": "the summary holds no single requests: its medians"
    }
    middle = {
        name: maybe(source, run, f"results_{key}_quantiles_p50")
        for name, key in (
            ("ttft_s", "ttft_s"),
            ("e2e_s", "end_to_end_latency_s"),
            ("n", "number_output_tokens"),
        )
    }
    ttft, whole, n = middle.values()
    for name in ("ttft_s", "e2e_s"):
        if value := middle[name]:
            samples[name] = [value]
        else:
            absent[name] = "no median of it in the summary"
    if ttft and whole and n and n > 1 and whole > ttft:
        samples["tpot_s"] = [(whole - ttft) / (n - 1)]
    else:
        absent["tpot_s"] = absent["decode_tok_s"] = "its inter-token latency holds the first token"
    return samples, absent


def _varies(run: Json) -> bool:
    keys = ("results_number_input_tokens", "results_number_output_tokens")
    return any(run.get(f"{key}_quantiles_p50") != run.get(f"{key}_mean") for key in keys)


def _twice(
    source: SourceText, run: Json, n_out: float, n_batch: int, rate: float, done: int, failed: int
) -> list[Twice]:
    found: list[Twice] = []
    whole = maybe(source, run, "results_end_to_end_latency_s_mean")
    gap = maybe(source, run, "results_inter_token_latency_s_mean")
    if whole and gap:
        of = "inter_token_latency x tokens"
        made = gap * n_out
        found.append(
            Twice(what="mean end_to_end_latency", stated=whole, made=made, of=of, within=0.2)
        )
    if whole and n_batch and rate / n_out * whole > n_batch:
        of = "requests a second x mean latency"
        made = rate / n_out * whole
        found.append(
            Twice(what="num_concurrent_requests", stated=n_batch, made=made, of=of, within=0.25)
        )
    for key in ("ttft_s", "end_to_end_latency_s", "number_output_tokens"):
        middle, high = (
            maybe(source, run, f"results_{key}_quantiles_{name}") for name in ("p50", "p99")
        )
        mean = maybe(source, run, f"results_{key}_mean")
        found += out_of_place(f"{key} p50", middle, mean=mean, high=high)
    started = maybe(source, run, "results_num_requests_started")
    if started and done:
        of = "completed + errors"
        found.append(
            Twice(
                what="num_requests_started", stated=started, made=done + failed, of=of, within=0.1
            )
        )
    return found
