"""vLLM's `vllm bench`: `serve --save-result [--save-detailed]`, `sweep`, `throughput`, `latency`.

`serve` is a client (`bench.exchange.serving`); a sweep's summary is a list of its runs, or a CSV of
them. None of the files names the card.
"""

from __future__ import annotations

import re
from statistics import fmean, median
from typing import Any, Final

from bench.errors import InputError
from bench.exchange.foreign import NOT_READ, ForeignRun, Twice, answered
from bench.exchange.reading import SourceText
from bench.exchange.serving import KEYS, blocks, served
from bench.exchange.values import Json, count, expect, maybe, number, numbers, typed

TOOL: Final = "vllm"
SERVE: Final = ("model_id", *KEYS)
THROUGHPUT: Final = ("elapsed_time", "num_requests", "total_num_tokens")
LATENCY: Final = ("avg_latency", "latencies")
PRINTED: Final = re.compile(
    r"Throughput: ([\d.]+) requests/s, ([\d.]+) (?:total )?tokens/s(?:, ([\d.]+) output tokens/s)?"
)
"""The line that `throughput` prints; before 0.6.4 without the output."""
SERVERS: Final = frozenset(
    {"vllm", "sglang", "tgi", "tensorrt-llm", "lmdeploy", "deepspeed-mii", "llama.cpp"}
)
"""`--backend` names that say which server it was; the others are protocols."""


def knows(source: SourceText) -> bool:
    """Whether a text looks like one of the files, or like what `serve` prints."""
    value = source.first()
    if isinstance(value, dict):
        return any(set(keys) <= value.keys() for keys in (SERVE, THROUGHPUT, LATENCY))
    if source.columns(SERVE) or PRINTED.search(source.text):
        return True
    return any("total_output_tokens_retokenized" not in one for one in blocks(source))


def read(source: SourceText) -> list[ForeignRun]:
    """Every run of a file: one, or several that were appended or swept. InputError in one line."""
    if printed := blocks(source):
        return answered(source, printed, _serve)
    if rates := PRINTED.findall(source.text):
        return [_printed(source, *one) for one in rates]
    if rows := source.columns(SERVE):
        each = [{key: typed(value) for key, value in row.items()} for row in rows]
        return answered(source, each, _serve)
    return answered(source, source.entries(), _read)


def _read(source: SourceText, value: Any) -> ForeignRun:
    if isinstance(value, dict) and "latencies" in value and "avg_latency" in value:
        return _latency(source, expect(source, TOOL, value, LATENCY))
    if isinstance(value, dict) and "elapsed_time" in value:
        return _throughput(source, expect(source, TOOL, value, THROUGHPUT))
    return _serve(source, expect(source, TOOL, value, SERVE))


def _serve(source: SourceText, run: Json) -> ForeignRun:
    backend = str(run.get("backend") or run.get("endpoint_type") or "")
    return served(source, run, backend if backend in SERVERS else None)


def _throughput(source: SourceText, run: Json) -> ForeignRun:
    requests = count(source, "num_requests", run["num_requests"])
    tokens = number(source, "total_num_tokens", run["total_num_tokens"])
    seconds = number(source, "elapsed_time", run["elapsed_time"])
    if not requests:
        raise InputError(f"{source}: no request was completed")
    whole = "only the whole run was timed"
    names = ("ttft_s", "tpot_s", "e2e_s", "prefill_tok_s", "decode_tok_s")
    twice = []
    for key, made, of in (
        ("tokens_per_second", tokens / seconds, "total_num_tokens / elapsed_time"),
        ("requests_per_second", requests / seconds, "num_requests / elapsed_time"),
    ):
        if (stated := maybe(source, run, key)) is not None:
            twice.append(Twice(what=key, stated=stated, made=made, of=of))
    scheduled = "vllm's scheduler chose how many requests ran at once"
    return ForeignRun(
        engine="vllm",
        tokens_each=tokens / requests,
        started_at=source.date,
        dated=False,
        samples={"total_tok_s": [tokens / seconds]},
        absent={**NOT_READ, **dict.fromkeys(names, whole), "n_batch": scheduled},
        twice=tuple(twice),
        state={"requests": requests, "duration_s": seconds},
    )


def _printed(source: SourceText, requests: str, total: str, output: str) -> ForeignRun:
    """What `throughput` prints: its three rates give the lengths, two their sum."""
    a_second = number(source, "requests/s", float(requests))
    rates = {"total_tok_s": [number(source, "total tokens/s", float(total))]}
    each = rates["total_tok_s"][0] / a_second
    new = number(source, "output tokens/s", float(output)) / a_second if output else None
    if new is not None:
        rates["output_tok_s"] = [float(output)]
    whole = "only the whole run was timed"
    names = ("ttft_s", "tpot_s", "e2e_s", "prefill_tok_s", "decode_tok_s")
    scheduled = "vllm's scheduler chose how many requests ran at once"
    return ForeignRun(
        engine="vllm",
        n_prompt=None if new is None else round(max(each - new, 0)),
        n_gen=None if new is None else max(round(new), 1),
        tokens_each=each if new is None else None,
        mean_lengths=True,
        started_at=source.date,
        dated=False,
        samples=rates,
        absent={**NOT_READ, **dict.fromkeys(names, whole), "n_batch": scheduled},
    )


def _latency(source: SourceText, run: Json) -> ForeignRun:
    seconds = numbers(source, "latencies", run["latencies"])
    if not seconds:
        raise InputError(f"{source}: latencies: is empty")
    whole = "one time for the prompt and all new tokens together"
    names = ("ttft_s", "prefill_tok_s", "tpot_s", "decode_tok_s")
    twice = [
        Twice(
            what="avg_latency",
            stated=number(source, "avg_latency", run["avg_latency"]),
            made=fmean(seconds),
            of="the mean of latencies",
        )
    ]
    middle = run.get("percentiles")
    if isinstance(middle, dict) and (half := maybe(source, middle, "50")):
        of = "the median of latencies"
        twice.append(Twice(what="percentiles.50", stated=half, made=median(seconds), of=of))
    return ForeignRun(
        engine="vllm",
        needs_batch=True,
        started_at=source.date,
        dated=False,
        samples={"e2e_s": seconds},
        absent={**NOT_READ, **dict.fromkeys(names, whole)},
        twice=tuple(twice),
        state={"mean_s": fmean(seconds)},
    )
