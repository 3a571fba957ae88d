"""What vLLM's and SGLang's serving clients share: their keys, and the block that both print.

    ============ Serving Benchmark Result ============
    Successful requests:                     1000
    Median TTFT (ms):                        76.42

A client: times include the queue and the network, and requests overlap. TPOT is ours,
(e2e - ttft) / (n - 1); ITL pools the gaps between chunks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from bench.errors import InputError
from bench.exchange import naming
from bench.exchange.foreign import (
    NOT_READ,
    SERVED,
    ForeignRun,
    NothingAnsweredError,
    Twice,
    out_of_place,
)
from bench.exchange.reading import SourceText
from bench.exchange.values import Json, count, maybe, number, numbers, parse_time, typed

KEYS: Final = ("duration", "completed", "total_input_tokens", "total_output_tokens")
TITLE: Final = "Serving Benchmark Result"

LABELS: Final[Mapping[str, str]] = {
    "backend": "backend",
    "model": "model_id",
    "successful requests": "completed",
    "failed requests": "failed",
    "maximum request concurrency": "max_concurrency",
    "max request concurrency": "max_concurrency",
    "max reqeuest concurrency": "max_concurrency",
    "traffic request rate": "request_rate",
    "request rate configured (rps)": "request_rate",
    "benchmark duration (s)": "duration",
    "total input tokens": "total_input_tokens",
    "total generated tokens": "total_output_tokens",
    "total generated tokens (retokenized)": "total_output_tokens_retokenized",
    "request throughput (req/s)": "request_throughput",
    "input token throughput (tok/s)": "input_throughput",
    "output token throughput (tok/s)": "output_throughput",
    "total token throughput (tok/s)": "total_token_throughput",
}
"""Labels of the printed block -> keys of the files; times are made of their names."""

TIME: Final = re.compile(r"(mean|median|p\d+) (ttft|tpot|itl|e2el|e2e latency) \(ms\)")
END: Final = re.compile(r"\s*={10,}\s*")
"""The last line of a block."""
AHEAD: Final = frozenset({"max_concurrency", "request_rate"})
"""What vLLM's client prints before its run, and in older versions nowhere else."""
UNSET: Final = frozenset({"none", "not set"})
PRINTED: Final = 0.005
"""What two decimals may hide."""

MODEL: Final = re.compile(r"Namespace\(.*\bmodel='([^']+)'")
"""What both clients print of their arguments before they begin."""

PARALLEL: Final = re.compile(
    r"^(?:.*[._])?(?:(?:tensor|pipeline|data)_parallel(?:ism|_size)?|[tpd]p_size|[tpd]p)$"
)
"""Sizes whose product is the number of cards."""

MEASURED: Final = re.compile(
    r"^(mean|median|std|p\d|min|max_output|max_concurrent|peak|total|num_|spec_|accept)"
    r"|_(ms|s|lens|throughput|times)$|throughput|goodput|rtfx|latenc|errors|texts|ttfts|itls|rate"
)
"""Keys that are measured, or say how much was; other plain keys are settings of a sweep."""

ROUTED: Final = "a router names one server of each kind, however many there are: --n-gpus N"
NOT_AMONG: Final = "not among the run's figures ({})"
FULL: Final = 4
"""Requests for each stream, from which on the streams are seldom idle."""

ABOUT: Final = frozenset(
    {
        *KEYS,
        "date",
        "backend",
        "endpoint_type",
        "model_id",
        "tokenizer_id",
        "failed",
        "max_concurrency",
        "burstiness",
        "best_of",
        "use_beam_search",
        "run_number",
        "concurrency",
        "server_info",
        "dataset_name",
        "input_lens",
        "output_lens",
        "sharegpt_output_len",
        "tag",
        "Unnamed: 0",
        "",
    }
)


def blocks(source: SourceText) -> list[Json]:
    """The printed results in a text, as tables with the keys of the files."""
    found: list[Json] = []
    ahead: Json = {}
    inside = False
    for line in source.text.splitlines():
        if named := MODEL.search(line):
            ahead["model_id"] = named[1]
        if TITLE in line:
            found.append(dict(ahead))
            ahead = {key: value for key, value in ahead.items() if key == "model_id"}
        inside = TITLE in line or (inside and not END.fullmatch(line))
        key, value = _labelled(line)
        if key and inside:
            found[-1].setdefault(key, value)
        elif key in AHEAD:
            ahead[str(key)] = value
    return [block for block in found if {"completed", "duration"} <= block.keys()]


def _labelled(line: str) -> tuple[str | None, Any]:
    """The key of a printed line and its value; None where there is none."""
    label, _, text = line.partition(":")
    name = " ".join(label.lower().split())
    key = LABELS.get(name)
    if time := TIME.fullmatch(name):
        key = f"{time[1]}_{time[2].replace(' ', '_')}_ms"
    known = text.strip() and text.strip().lower() not in UNSET
    return (key, typed(text.replace(",", ""))) if known else (None, None)


def served(source: SourceText, run: Json, engine: str | None) -> ForeignRun:
    """One run of a client, as its file says. InputError if nothing was answered."""
    completed = count(source, "completed", run["completed"])
    asked = run.get("num_prompts") or 0
    failed = count(source, "failed", run.get("failed") or max(0, asked - completed))
    if not completed:
        raise NothingAnsweredError(f"{source}: no request was completed: 0 of {failed or asked}")
    n_in = number(source, "total_input_tokens", run["total_input_tokens"]) / completed
    n_out = number(source, "total_output_tokens", run["total_output_tokens"]) / completed
    duration = number(source, "duration", run["duration"])
    samples, absent, varies = requests(source, run)
    samples |= {
        "output_tok_s": [n_out * completed / duration],
        "total_tok_s": [(n_in + n_out) * completed / duration],
    }
    absent = {**NOT_READ, **SERVED} | absent
    n_batch, why = at_once(source, run)
    if why:
        absent["n_batch"] = why
    empty = sum(n == 0 for n in run.get("output_lens") or []) if "ttfts" in run else 0
    if said := _said(completed, failed, empty):
        absent["requests"] = said
    dated = run.get("date") is not None
    if dated:
        absent["started_at"] = "local time of the client, taken as UTC"
    info, routed = _server(run)
    if routed:
        absent["n_devices"] = ROUTED
    rate = _rate(run)
    options: dict[str, Any] = {} if rate is None else {"rate": rate}
    if routed:
        options["disagg"] = True
    return ForeignRun(
        model=run.get("model_id") or info.get("model_path") or None,
        engine=engine,
        usual_quant=naming.scheme_in_hub_name(str(info.get("quantization")).replace("_", "-")),
        n_gpus=None if routed else cards(source, run | info),
        options=options | settings(run),
        n_prompt=round(n_in),
        n_gen=max(round(n_out), 1),
        n_batch=n_batch,
        mean_lengths=varies or not (n_in.is_integer() and n_out.is_integer()),
        replicate=count(source, "run_number", run.get("run_number") or 0),
        started_at=parse_time(source, "date", run["date"], "%Y%m%d-%H%M%S")
        if dated
        else source.date,
        dated=dated,
        samples=samples,
        absent=absent,
        reasons=("REQUESTS_FAILED",) if failed or empty else (),
        twice=tuple(_twice(source, run, completed, duration, n_batch)),
        identity={
            "protocol": str(run.get("backend") or run.get("endpoint_type") or ""),
            **{key: value for key, value in run.items() if key.startswith("metadata.")},
        },
        state={"requests": completed, "failed": failed, "duration_s": duration},
    )


def _server(run: Json) -> tuple[Json, bool]:
    """What the server says of itself, and whether a router says it of servers that prefill and
    decode apart."""
    info = run.get("server_info")
    if not isinstance(info, dict):
        return {}, False
    names = ("decode", "prefill", "internal_states")
    each = {name: info[name] for name in names if isinstance(info.get(name), list)}
    first = next((one for many in each.values() for one in many if isinstance(one, dict)), {})
    routed = bool(each.get("decode") and each.get("prefill"))
    return (info if "model_path" in info else first), routed


def _said(completed: int, failed: int, empty: int) -> str | None:
    """What the user should know of requests without an answer."""
    said = []
    if failed:
        said.append(f"{failed} of {completed + failed} requests failed: figures are of the others")
    if empty:
        said.append(
            f"{empty} of {completed} requests gave no token: times are of those that gave one, "
            "where the file's own count them as 0"
        )
    return "; ".join(said) or None


def _rate(run: Json) -> float | None:
    """Requests a second, where the load was set by a rate; text such as `inf` is none."""
    rate = run.get("request_rate")
    if isinstance(rate, str):
        rate = typed(rate)
    return rate if isinstance(rate, int | float) and math.isfinite(rate) and rate > 0 else None


def at_once(source: SourceText, run: Json) -> tuple[int | None, str | None]:
    """How many requests ran at once, or why that is open: under a rate, a cap is no number."""
    cap = run.get("max_concurrency")
    if cap is None:
        return (
            None,
            "--max-concurrency was not set, so the number of requests at once is unknown",
        )
    most = count(source, "max_concurrency", cap)
    rate = _rate(run)
    if rate is not None:
        return (
            None,
            f"under {rate:g} requests/s a concurrency of {most} is a cap: the number at once is "
            "unknown",
        )
    prompts = run.get("num_prompts") or run["completed"]
    return (min(most, prompts) or None), None


def requests(source: SourceText, run: Json) -> tuple[dict[str, list[Any]], dict[str, str], bool]:
    """Samples of each request, why some are missing, and whether requests differ in length."""
    if all(run.get(name) for name in ("ttfts", "itls", "output_lens")):
        return _detailed(source, run)
    samples: dict[str, list[Any]] = {}
    absent = {
        "samples": "the file holds no single requests (--save-detailed, --output-details): medians"
    }
    for name, keys in (
        ("ttft_s", ("ttft",)),
        ("tpot_s", ("tpot",)),
        ("e2e_s", ("e2el", "e2e_latency")),
    ):
        each = [maybe(source, run, f"median_{key}_ms", 1e-3) for key in keys]
        value = next((one for one in each if one), None)
        if value:
            samples[name] = [value]
        else:
            zero = any(run.get(f"median_{key}_ms") is not None for key in keys)
            absent[name] = f"the run's {keys[0]} is 0" if zero else NOT_AMONG.format(keys[0])
    return samples, absent, _lengths_vary(run)


def _lengths_vary(run: Json) -> bool:
    """Whether mean and median of a whole request differ as lengths that vary make them."""
    each = [
        run.get(f"{name}_{key}_ms")
        for key in ("e2el", "e2e_latency")
        for name in ("mean", "median")
    ]
    known = [one for one in each if isinstance(one, int | float) and one > 0]
    return len(known) == 2 and abs(known[0] / known[1] - 1) > 0.1


def _detailed(source: SourceText, run: Json) -> tuple[dict[str, list[Any]], dict[str, str], bool]:
    made = [count(source, f"output_lens[{i}]", n) for i, n in enumerate(run["output_lens"])]
    good = [i for i, n in enumerate(made) if n > 0]
    if not (len(run["ttfts"]) == len(run["itls"]) == len(made)) or not good:
        raise InputError(f"{source}: ttfts, itls and output_lens do not belong together")
    ttfts = numbers(source, "ttfts", [run["ttfts"][i] for i in good])
    # Chunks that arrive together have no gap.
    gaps = [numbers(source, f"itls[{i}]", [g for g in run["itls"][i] if g != 0]) for i in good]
    # A chunk may hold several tokens: the gaps between chunks are not those between tokens.
    pairs = zip(good, gaps, strict=True)
    tpots = [sum(one) / (made[i] - 1) for i, one in pairs if one and made[i] > 1]
    asked = [run["input_lens"][i] for i in good] if run.get("input_lens") else []
    e2es = [ttft + sum(one) for ttft, one in zip(ttfts, gaps, strict=True)]
    samples = {"ttft_s": ttfts, "tpot_s": tpots, "e2e_s": e2es}
    varies = len(set(asked)) > 1 or len(set(made)) > 1
    return {name: each for name, each in samples.items() if each}, {}, varies


def cards(source: SourceText, run: Mapping[str, Any]) -> int | None:
    """The product of the sizes of parallelism, where the file has one."""
    sizes: dict[str, int] = {}
    for key, value in run.items():
        if PARALLEL.match(key) and value not in (None, ""):
            size = typed(value) if isinstance(value, str) else value
            kind = key.rpartition(".")[2][0]  # tensor, pipeline or data
            sizes[kind] = max(count(source, key, size), sizes.get(kind, 1))
    return math.prod(sizes.values()) if sizes else None


def settings(run: Json) -> dict[str, str | int | bool]:
    """What tells one setting of a sweep from another: plain keys that no result has by itself."""
    found: dict[str, str | int | bool] = {}
    for key, value in run.items():
        plain = isinstance(value, str | int | bool) and value != ""
        own = key in ABOUT or MEASURED.search(key) or PARALLEL.match(key)
        if plain and not own and not key.startswith("metadata."):
            found[key] = value
    return found


def _twice(
    source: SourceText, run: Json, completed: int, duration: float, n_batch: int | None
) -> list[Twice]:
    """Rates and totals that the file gives beside what they are made of."""
    found: list[Twice] = []
    hidden = PRINTED if TITLE in source.text else 0.0

    def add(key: str, made: float, of: str) -> None:
        if (stated := maybe(source, run, key)) is not None:
            within = 0.02 + hidden / max(abs(stated), abs(made), PRINTED)
            found.append(Twice(what=key, stated=stated, made=made, of=of, within=within))

    n_in, n_out = float(run["total_input_tokens"]), float(run["total_output_tokens"])
    add("request_throughput", completed / duration, "completed / duration")
    add("output_throughput", n_out / duration, "total_output_tokens / duration")
    add("input_throughput", n_in / duration, "total_input_tokens / duration")
    for key in ("total_token_throughput", "total_throughput"):
        add(key, (n_in + n_out) / duration, "all tokens / duration")
    if lens := run.get("output_lens"):
        add("total_output_tokens", float(sum(lens)), "the sum of output_lens")
        add("completed", float(sum(1 for _ in lens)) - (run.get("failed") or 0), "the requests")
    if asked := run.get("num_prompts"):
        failed = run.get("failed")
        counted = float(completed + (failed if failed is not None else max(0, asked - completed)))
        add("num_prompts", counted, "completed + failed")
    means = {
        key: maybe(source, run, f"mean_{key}_ms") for key in ("ttft", "tpot", "e2el", "e2e_latency")
    }
    whole = means["e2el"] or means["e2e_latency"]
    made: float | None = None
    if means["ttft"] and means["tpot"]:
        made = means["ttft"] + means["tpot"] * (n_out / completed - 1)
    if whole and made:
        # Longer answers may come at another pace: means do not quite add up.
        of = "mean ttft + mean tpot x (n - 1)"
        apart = (maybe(source, run, "std_tpot_ms") or 0.0) if n_out % completed else 0.0
        within = 0.3 + apart * (n_out / completed - 1) / max(whole, made)
        found.append(Twice(what="mean e2e, ms", stated=whole, made=made, of=of, within=within))
    running = (whole or made or 0.0) / 1000 * completed / duration
    if n_batch and running > n_batch:
        of = "requests a second x mean e2e"
        what = "max_concurrency"
        found.append(Twice(what=what, stated=n_batch, made=running, of=of, within=0.25))
    elif n_batch and running and completed >= FULL * n_batch:
        of = "requests a second x mean e2e"
        what = "max_concurrency"
        found.append(Twice(what=what, stated=n_batch, made=running, of=of, within=0.6))
    # Of answers without a token the tool's own times are 0: they are in its mean and not in ours.
    for key in ("ttft", "tpot", "e2el", "e2e_latency"):
        middle, high, mean, std = (
            maybe(source, run, f"{name}_{key}_ms") for name in ("median", "p99", "mean", "std")
        )
        found += out_of_place(f"median_{key}_ms", middle, mean=mean, std=std, high=high)
    return found
