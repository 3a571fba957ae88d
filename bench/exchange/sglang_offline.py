"""SGLang without a client: `bench_one_batch`, `bench_one_batch_server`, `bench_offline_throughput`.

    {"run_name": "default", "batch_size": 8, "input_len": 1024, "output_len": 128,
     "prefill_latency": 0.31, "median_decode_latency": 0.011, "total_latency": 1.72, ...}

One batch of equal prompts. `bench_one_batch` times the prompt apart, and each step of all sequences
after it. The server's variant knows when the last sequence had its first token; its
`output_throughput` is without the time before that, and is not taken. The throughput bench knows
totals alone, as JSON or as the block that it prints. No file names the model or the card.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from bench.exchange.foreign import NOT_READ, SERVED, ForeignRun, Twice
from bench.exchange.reading import SourceText
from bench.exchange.values import Json, count, maybe, number, typed

SIZES: Final = ("batch_size", "input_len", "output_len")
BATCH: Final = (*SIZES, "prefill_latency", "total_latency")
SERVER: Final = (*SIZES, "latency", "overall_throughput")
TOTALS: Final = (
    "successful_requests",
    "total_latency",
    "total_input_tokens",
    "total_output_tokens",
)
TITLE: Final = "Offline Throughput Benchmark Result"
LABELS: Final = {
    "backend": "backend",
    "successful requests": "successful_requests",
    "benchmark duration (s)": "total_latency",
    "total input tokens": "total_input_tokens",
    "total generated tokens": "total_output_tokens",
    "request throughput (req/s)": "request_throughput",
    "input token throughput (tok/s)": "input_throughput",
    "output token throughput (tok/s)": "output_throughput",
    "total token throughput (tok/s)": "total_throughput",
}
"""Labels of the printed block -> keys of its JSON."""
LINE: Final = re.compile(r"^\s*([A-Z][^:]*?)\s*:\s+(\S+)\s*$")
USUAL: Final = "default"
"""`--run-name` where none was given."""
ONLY_TOTALS: Final = "only the whole run was timed"


def knows(value: Any) -> bool:
    """Whether a JSON value is a line of one of the three."""
    keys = value.keys() if isinstance(value, dict) else set()
    return any(set(one) <= keys for one in (BATCH, SERVER, TOTALS))


def printed(source: SourceText) -> list[Json]:
    """The blocks of the throughput bench in a text, with the keys of its JSON."""
    found: list[Json] = []
    for line in source.text.splitlines():
        if TITLE in line:
            found.append({})
        match = LINE.match(line)
        if found and match and (key := LABELS.get(match[1].lower())):
            found[-1].setdefault(key, typed(match[2].replace(",", "")))
    return [run for run in found if set(TOTALS) <= run.keys()]


def found(source: SourceText, run: Json) -> ForeignRun:
    """One line of one of the three. InputError in one line."""
    if set(BATCH) <= run.keys():
        return _batch(source, run)
    return _served(source, run) if set(SERVER) <= run.keys() else _throughput(source, run)


def _sizes(source: SourceText, run: Json) -> tuple[int, int, int]:
    n_batch, n_prompt, n_gen = (count(source, name, run[name]) for name in SIZES)
    for name, value in zip(SIZES, (n_batch, n_prompt, n_gen), strict=True):
        number(source, name, value)
    return n_batch, n_prompt, n_gen


def _options(run: Json) -> dict[str, str]:
    name = str(run.get("run_name") or USUAL)
    return {} if name == USUAL else {"run_name": name}


def _checked(source: SourceText, run: Json, made: Sequence[tuple[str, float, str]]) -> list[Twice]:
    return [
        Twice(what=key, stated=stated, made=value, of=of)
        for key, value, of in made
        if (stated := maybe(source, run, key)) is not None
    ]


def _batch(source: SourceText, run: Json) -> ForeignRun:
    n_batch, n_prompt, n_gen = _sizes(source, run)
    prefill = number(source, "prefill_latency", run["prefill_latency"])
    whole = number(source, "total_latency", run["total_latency"])
    step = maybe(source, run, "median_decode_latency")
    samples = {"prefill_s": [prefill], "e2e_s": [whole]}
    absent = {**NOT_READ, "samples": "the file holds one time of the prompt and medians of steps"}
    twice = _checked(
        source,
        run,
        [
            ("prefill_throughput", n_batch * n_prompt / prefill, "prompts / prefill_latency"),
            ("overall_throughput", n_batch * (n_prompt + n_gen) / whole, "tokens / total_latency"),
        ],
    )
    if step:
        samples["tpot_s"] = [step]
        of = "batch_size / median_decode_latency"
        twice += _checked(source, run, [("median_decode_throughput", n_batch / step, of)])
        made = prefill + (n_gen - 1) * step
        of = "prefill_latency + (n - 1) x median_decode_latency"
        twice.append(Twice(what="total_latency", stated=whole, made=made, of=of, within=0.35))
    else:
        absent |= dict.fromkeys(("tpot_s", "decode_tok_s"), "no median_decode_latency in the file")
    return _of_one_batch(source, run, samples, absent, twice)


def _served(source: SourceText, run: Json) -> ForeignRun:
    n_batch, n_prompt, n_gen = _sizes(source, run)
    whole = number(source, "latency", run["latency"])
    last = maybe(source, run, "last_ttft")
    samples: dict[str, list[float]] = {"e2e_s": [whole]}
    why = "last_ttft is that of the sequence which was served last"
    absent = {**NOT_READ, **SERVED} | dict.fromkeys(("ttft_s", "tpot_s", "decode_tok_s"), why)
    if last and n_batch == 1:
        samples["ttft_s"] = [last]
        absent.pop("ttft_s")
        if n_gen > 1 and whole > last:
            samples["tpot_s"] = [(whole - last) / (n_gen - 1)]
            absent.pop("tpot_s")
            absent.pop("decode_tok_s")
    rate = n_batch * (n_prompt + n_gen) / whole
    twice = _checked(source, run, [("overall_throughput", rate, "tokens / latency")])
    if last:
        part = Twice(what="last_ttft", stated=last, made=min(last, whole), of="latency", within=0.0)
        twice.append(part)
    samples["output_tok_s"] = [n_batch * n_gen / whole]
    samples["total_tok_s"] = [rate]
    return _of_one_batch(source, run, samples, absent, twice)


def _of_one_batch(
    source: SourceText,
    run: Json,
    samples: dict[str, list[float]],
    absent: dict[str, str],
    twice: Sequence[Twice],
) -> ForeignRun:
    n_batch, n_prompt, n_gen = _sizes(source, run)
    return ForeignRun(
        engine="sglang",
        options=_options(run),
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_batch=n_batch,
        started_at=source.date,
        dated=False,
        samples=samples,
        absent=absent,
        twice=tuple(twice),
    )


def _throughput(source: SourceText, run: Json) -> ForeignRun:
    requests = number(source, "successful_requests", run["successful_requests"])
    seconds = number(source, "total_latency", run["total_latency"])
    n_in, n_out = (
        number(source, name, run[name]) for name in ("total_input_tokens", "total_output_tokens")
    )
    names = ("ttft_s", "tpot_s", "e2e_s", "prefill_tok_s", "decode_tok_s")
    return ForeignRun(
        engine="sglang" if run.get("backend") in ("engine", "runtime", None) else None,
        n_prompt=round(n_in / requests),
        n_gen=max(round(n_out / requests), 1),
        mean_lengths=not ((n_in / requests).is_integer() and (n_out / requests).is_integer()),
        started_at=source.date,
        dated=False,
        samples={"output_tok_s": [n_out / seconds], "total_tok_s": [(n_in + n_out) / seconds]},
        absent={
            **NOT_READ,
            **dict.fromkeys(names, ONLY_TOTALS),
            "n_batch": "sglang's scheduler chose how many requests ran at once",
        },
        twice=tuple(_totals(source, run, n_in, n_out, requests, seconds)),
        state={"requests": int(requests), "duration_s": seconds},
    )


def _totals(
    source: SourceText, run: Json, n_in: float, n_out: float, requests: float, seconds: float
) -> Iterator[Twice]:
    yield from _checked(
        source,
        run,
        [
            ("request_throughput", requests / seconds, "successful_requests / total_latency"),
            ("input_throughput", n_in / seconds, "total_input_tokens / total_latency"),
            ("output_throughput", n_out / seconds, "total_output_tokens / total_latency"),
            ("total_throughput", (n_in + n_out) / seconds, "all tokens / total_latency"),
        ],
    )
