"""inference-perf (kubernetes-sigs/inference-perf): `stage_N_` and `summary_lifecycle_metrics.json`.

A client that sends at a rate, so that how many requests ran at once is open. The file names neither
model nor card. Its time_per_output_token is the mean gap between chunks, of which a token may be
several: it is taken only where it agrees with (e2e - ttft) / (n - 1).
"""

from __future__ import annotations

from typing import Any, Final

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
from bench.exchange.values import Json, count, expect, maybe, number, spread_of

TOOL: Final = "inference-perf"
TIMES: Final = (
    ("ttft_s", "time_to_first_token"),
    ("tpot_s", "time_per_output_token"),
    ("e2e_s", "request_latency"),
)
CHUNKS: Final = 0.3
"""Share by which its time per token may differ from that of whole requests."""


def knows(source: SourceText) -> bool:
    """Whether a text looks like a stage of this tool."""
    value = source.first()
    return isinstance(value, dict) and {"load_summary", "successes"} <= value.keys()


def read(source: SourceText) -> list[ForeignRun]:
    """Every stage of a file. InputError in one line."""
    runs = [expect(source, TOOL, one, ("load_summary", "successes")) for one in source.entries()]
    return answered(source, runs, _found)


def _found(source: SourceText, run: Json) -> ForeignRun:
    good = expect(source, TOOL, run["successes"], ("count",))
    n = count(source, "successes.count", good["count"])
    failed = count(source, "failures.count", (run.get("failures") or {}).get("count") or 0)
    if not n:
        raise NothingAnsweredError(f"{source}: no request was completed: 0 of {failed}")
    latency, rates = good.get("latency") or {}, good.get("throughput") or {}
    n_in, n_out = (
        number(source, f"{key}.mean", (good.get(key) or {}).get("mean"))
        for key in ("prompt_len", "output_len")
    )
    samples, absent = _samples(source, latency, n_out)
    for name, key in (("output_tok_s", "output"), ("total_tok_s", "total")):
        key = f"{key}_tokens_per_sec"
        if (rate := maybe(source, rates, key)) is not None:
            samples[name] = [rate]
        else:
            absent[name] = f"no {key} in the file"
    load = run["load_summary"] or {}
    at_once = load.get("concurrency")
    fixed = isinstance(at_once, int) and at_once > 0
    rate = maybe(source, load, "requested_rate")
    if not fixed:
        absent["n_batch"] = "a rate does not fix how many requests run at once"
    if failed:
        absent["requests"] = f"{failed} of {n + failed} requests failed: figures are of the others"
    return ForeignRun(
        options={"rate": rate} if rate and not fixed else {},
        n_prompt=round(n_in),
        n_gen=max(round(n_out), 1),
        n_batch=at_once if fixed else None,
        mean_lengths=_varies(good),
        started_at=source.date,
        dated=False,
        samples=samples,
        absent=absent,
        reasons=("REQUESTS_FAILED",) if failed else (),
        twice=tuple(_twice(source, run, n, failed, n_in, n_out)),
        state={"requests": n, "failed": failed},
    )


def _samples(
    source: SourceText, latency: Json, n_out: float
) -> tuple[dict[str, list[float]], dict[str, str]]:
    samples: dict[str, list[float]] = {}
    absent = {**NOT_READ, **SERVED} | {
        "samples": "the file holds no single requests: medians of them"
    }
    for name, key in TIMES:
        block = latency.get(key) or {}
        middle = block.get("median", block.get("p50"))
        if middle:
            samples[name] = [number(source, f"{key}.median", middle)]
        else:
            absent[name] = f"no {key} in the file: was the answer streamed?"
    means = [maybe(source, latency.get(key) or {}, "mean") for _, key in TIMES]
    ttft, tpot, whole = means
    if ttft and tpot and whole and n_out > 1:
        made = (whole - ttft) / (n_out - 1)
        if abs(tpot - made) > CHUNKS * max(tpot, made):
            samples.pop("tpot_s", None)
            absent["tpot_s"] = absent["decode_tok_s"] = (
                f"time_per_output_token is {spread_of(tpot, 5)} s, but (e2e - ttft)/(n - 1) is "
                f"{spread_of(made, 5)}: its chunks are not tokens"
            )
    return samples, absent


def _varies(good: Json) -> bool:
    blocks = [good.get(key) or {} for key in ("prompt_len", "output_len")]
    return any(block.get("min") != block.get("max") for block in blocks)


def _twice(
    source: SourceText, run: Json, n: int, failed: int, n_in: float, n_out: float
) -> list[Twice]:
    rates: Json = run["successes"].get("throughput") or {}
    found: list[Twice] = []
    per_s = maybe(source, rates, "requests_per_sec")
    parts: tuple[tuple[str, Any, str], ...] = (
        ("output_tokens_per_sec", n_out, "requests_per_sec x output_len"),
        ("input_tokens_per_sec", n_in, "requests_per_sec x prompt_len"),
        ("total_tokens_per_sec", n_in + n_out, "requests_per_sec x tokens"),
    )
    for key, tokens, of in parts:
        if per_s and (stated := maybe(source, rates, key)):
            found.append(Twice(what=key, stated=stated, made=per_s * tokens, of=of))
    for _, key in TIMES:
        block = (run["successes"].get("latency") or {}).get(key) or {}
        middle = maybe(source, block, "median") or maybe(source, block, "p50")
        mean, low, high = (maybe(source, block, name) for name in ("mean", "min", "max"))
        found += out_of_place(f"{key}.median", middle, mean=mean, low=low, high=high)
    if asked := maybe(source, run["load_summary"] or {}, "count"):
        of = "successes + failures"
        found.append(Twice(what="load_summary.count", stated=asked, made=n + failed, of=of))
    return found
