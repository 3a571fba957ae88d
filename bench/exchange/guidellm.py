"""guidellm (vllm-project/guidellm): its JSON, YAML and CSV from 0.2 on; report versions 1 and 2.

A client: times include the queue and the network, and requests overlap. Its TPOT divides the whole
request, first token included, by n; its ITL is our TPOT, (last - first) / (n - 1). The throughputs
that it prints weigh each second alike; ours are all tokens over the measured time. Its list holds
the requests of warm-up and cool-down too, which lie outside of that time. The file names neither
card nor server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from bench.errors import InputError, UnsupportedError
from bench.exchange import guidellm_csv
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

TOOL: Final = "guidellm"
YAML: Final = re.compile(r"^benchmarks:[ \t]*$", re.MULTILINE)
"""A line that only its YAML has."""
NEWEST: Final = 2
LATE: Final = 0.01
"""Share of the measured time by which it may end after the last request, or begin before the first
one ends, and still be that of every request."""

CLOCK: Final = 0.01
"""Seconds by which a request may end outside and still count: two clocks are read."""

TIMES: Final[tuple[tuple[str, str, float, Callable[[int], bool]], ...]] = (
    ("ttft_s", "time_to_first_token_ms", 1e-3, lambda n: n > 0),
    ("tpot_s", "inter_token_latency_ms", 1e-3, lambda n: n > 1),
    ("e2e_s", "request_latency", 1.0, lambda n: n > 0),
)
"""Ours, its key, seconds of one unit, and which requests have it by their new tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """What one benchmark measured."""

    n_prompt: float
    n_gen: float
    varies: bool
    samples: dict[str, list[float]]
    absent: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many requests a benchmark made and measured, and in which time."""

    answered: int
    failed: int
    cut_off: int
    """By the end of the run: neither answered nor failed."""
    measured: int
    """Answered within the measured time."""
    seconds: float
    outside: bool
    """Whether requests were answered outside of it: warm-up and cool-down."""


def knows(source: SourceText) -> bool:
    """Whether a text looks like a report of this tool."""
    if guidellm_csv.runs(source) or YAML.search(source.text):
        return True
    value = source.first()
    if not isinstance(value, dict) or not isinstance(value.get("benchmarks"), list):
        return False
    each = value["benchmarks"]
    about = "guidellm_version" in (value.get("metadata") or {})
    return about or bool(each and isinstance(each[0], dict) and "run_stats" in each[0])


def read(source: SourceText) -> list[ForeignRun]:
    """Every benchmark of a report. InputError in one line."""
    if rows := guidellm_csv.runs(source):
        return answered(source, rows, lambda at, one: _found(at, one, {}))
    value = _yaml(source) if YAML.search(source.text) else source.values[0]
    report = expect(source, TOOL, value, ("benchmarks",))
    about = report.get("metadata") or {}
    if not about and not knows(source):
        raise InputError(f"{source}: is not a result of {TOOL} as known here: no 'metadata'")
    version = about.get("version", 1)
    if not isinstance(version, int) or version > NEWEST:
        raise InputError(
            f"{source}: report version {version} of {TOOL} is newer than {NEWEST}, the last known "
            "here"
        )
    if not report["benchmarks"]:
        raise InputError(f"{source}: holds no benchmark of {TOOL}")
    return answered(source, report["benchmarks"], lambda at, one: _found(at, one, about))


def _yaml(source: SourceText) -> Any:
    """The YAML report: what is last in it is there, so that it is whole."""
    if find_spec("yaml") is None:
        raise UnsupportedError(f"{source}: a report in YAML needs the package pyyaml")
    import yaml

    try:
        report = yaml.load(source.text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        at = getattr(error, "problem_mark", None)
        where = f" (line {at.line + 1})" if at else ""
        raise InputError(f"{source}: is not YAML{where}: cut off?") from None
    return expect(source, TOOL, report, ("benchmarks", "config", "metadata"))


def _found(source: SourceText, one: object, about: Json) -> ForeignRun:
    run = expect(source, TOOL, one, ("requests", "metrics"))
    config = run.get("config") or run.get("args") or {}
    strategy = config.get("strategy") or {}
    n_batch = _at_once(strategy)
    listed = run["requests"].get("successful") or []
    start, end = _window(source, run)
    counts = _counts(source, run, len(listed), end - start)
    if not counts.answered and not listed:
        raise NothingAnsweredError(f"{source}: a benchmark has no successful request")
    if len(listed) == counts.answered:
        figures = _of_list(source, listed, start, end, n_batch)
    else:
        figures = _of_metrics(source, run, counts, n_batch)
    absent = {**NOT_READ, **SERVED} | figures.absent
    if n_batch is None:
        absent["n_batch"] = f"strategy {strategy.get('type_')!r} does not fix how many run at once"
    if run.get("local_time"):
        absent["started_at"] = run["local_time"]
    failed, answered = counts.failed, counts.answered
    if failed:
        absent["requests"] = f"{failed} of {answered + failed} requests failed"
    return ForeignRun(
        model=_model(run, config),
        options=_rate(strategy),
        n_prompt=round(figures.n_prompt),
        n_gen=max(round(figures.n_gen), 1),
        n_batch=n_batch,
        mean_lengths=figures.varies,
        started_at=parse_time(source, "start_time", start),
        samples=figures.samples,
        absent=absent,
        reasons=("REQUESTS_FAILED",) if failed else (),
        twice=tuple(_twice(source, run, figures, counts)),
        identity={"guidellm": about.get("guidellm_version")},
        state={"requests": answered, "failed": failed, "duration_s": end - start},
    )


def _requests_made(run: Json) -> Json:
    for name in ("scheduler_metrics", "run_stats"):
        if found := (run.get(name) or {}).get("requests_made"):
            counts: Json = found
            # 0.2 counted what it kept and not what it made.
            kept = run.get("request_totals") or {}
            more = (kept.get("successful") or 0) > (counts.get("successful") or 0)
            return kept if more else counts
    return {}


def _counts(source: SourceText, run: Json, listed: int, seconds: float) -> Counts:
    totals = run["metrics"].get("request_totals") or run.get("request_totals") or {}
    made = _requests_made(run) or totals
    answered, failed, cut_off = (
        count(source, name, made.get(name) or 0) for name in ("successful", "errored", "incomplete")
    )
    measured = count(source, "successful", totals.get("successful") or answered)
    apart = (run.get(name) or 0.0 for name in ("warmup_duration", "cooldown_duration"))
    return Counts(
        answered=answered if made else listed,
        failed=failed,
        cut_off=cut_off,
        measured=measured,
        seconds=number(source, "duration", run.get("duration") or seconds),
        outside=measured < answered or any(abs(one) > LATE * seconds for one in apart),
    )


def _window(source: SourceText, run: Json) -> tuple[float, float]:
    """Begin and end of the measured time, seconds since 1970."""
    timing = run.get("scheduler_metrics") or {}
    start = timing.get("measure_start_time") or run.get("start_time")
    end = timing.get("measure_end_time") or run.get("end_time")
    start, end = number(source, "start_time", start), number(source, "end_time", end)
    number(source, "measured seconds", end - start)
    return start, end


def _of_list(
    source: SourceText, listed: Sequence[Json], start: float, end: float, n_batch: int | None
) -> RunFigures:
    """Figures of the requests that ended in the measured time, all of which are listed."""
    spans = [_span(source, one) for one in listed]
    known = all(spans)
    kept = list(listed)
    if known:
        room = CLOCK + (end - start) * 1e-4
        ended = [
            one
            for one, at in zip(listed, spans, strict=True)
            if at and start - room <= at[1] <= end + room
        ]
        kept = ended or kept
    prompts = [count(source, "prompt_tokens", one.get("prompt_tokens")) for one in kept]
    made = [count(source, "output_tokens", one.get("output_tokens")) for one in kept]
    samples: dict[str, list[float]] = {}
    absent: dict[str, str] = {}
    for name, key, scale, has in TIMES:
        values = [
            number(source, key, one[key]) * scale
            for one, n in zip(kept, made, strict=True)
            if has(n) and one.get(key) is not None
        ]
        if values:
            samples[name] = values
        else:
            absent[name] = f"no request has {key}: was the answer streamed?"
    whole = _all_measured(spans, start, end) if known else True
    if whole:
        per_s = sum(made) / (end - start)
    elif n_batch == 1:
        ends = [at for one in kept if (at := _span(source, one))]
        per_s = sum(made) / (max(at[1] for at in ends) - min(at[0] for at in ends))
    else:
        per_s = _overlapping(source, listed, start, end)
    if len(kept) < len(listed):
        absent["warm_up"] = f"{len(listed) - len(kept)} requests ended outside the measured time"
    if sum(made):
        samples["output_tok_s"] = [number(source, "output_tok_s", per_s)]
        samples["total_tok_s"] = [per_s * (sum(prompts) + sum(made)) / sum(made)]
    return RunFigures(
        n_prompt=sum(prompts) / len(prompts),
        n_gen=sum(made) / len(made),
        varies=len(set(prompts)) > 1 or len(set(made)) > 1,
        samples=samples,
        absent=absent,
    )


def _span(source: SourceText, one: Json) -> tuple[float, float] | None:
    """When a request began and ended, seconds since 1970; None if the file does not say."""
    begin = one.get("request_start_time") or one.get("start_time")
    end = one.get("request_end_time") or one.get("end_time")
    if begin is None or end is None:
        return None
    begin, end = (
        number(source, "request_start_time", begin),
        number(source, "request_end_time", end),
    )
    number(source, "seconds of a request", end - begin)
    return begin, end


def _all_measured(spans: Sequence[tuple[float, float] | None], start: float, end: float) -> bool:
    """Whether the measured time is that of every listed request."""
    each = [at for at in spans if at]
    room = LATE * (end - start)
    first, last = min(at[0] for at in each), max(at[1] for at in each)
    return first >= start - room and last <= end + room and end - last <= room


def _overlapping(source: SourceText, listed: Sequence[Json], start: float, end: float) -> float:
    """New tokens a second within the measured time, as far as there are requests: a request that
    is partly in it counts by the share of its decoding that is."""
    spans = [(one, at) for one in listed if (at := _span(source, one))]
    until = min(end, max(at[1] for _, at in spans))
    tokens = 0.0
    for one, (begin, last) in spans:
        ttft = (maybe(source, one, "time_to_first_token_ms") or 0.0) / 1000
        first = min(begin + ttft, last - 1e-9)
        inside = max(0.0, min(last, until) - max(first, start))
        tokens += count(source, "output_tokens", one.get("output_tokens")) * inside / (last - first)
    return tokens / number(source, "measured seconds", until - start)


def _of_metrics(source: SourceText, run: Json, counts: Counts, n_batch: int | None) -> RunFigures:
    """Figures of the report's own statistics, where it keeps a sample of the requests or none."""

    def block(name: str) -> Json:
        return (run["metrics"].get(name) or {}).get("successful") or {}

    prompts = block("prompt_token_count") or _mean_of_list(run, "prompt_tokens")
    news = block("output_token_count") or _mean_of_list(run, "output_tokens")
    n_in = maybe(source, prompts, "mean") or 0.0
    n_out = number(source, "output_token_count.mean", news.get("mean"))
    absent = {"samples": "the file keeps a sample of the requests, or none: its own medians"}
    samples: dict[str, list[float]] = {}
    for name, key, scale, _ in TIMES:
        if value := maybe(source, block(key), "median", scale):
            samples[name] = [value]
        else:
            absent[name] = f"no {key} in the file: was the answer streamed?"
    # Which requests the measured time holds is not in the file; its own mean knows. One that the
    # end cut off took the time of a stream, and its tokens are not counted.
    cut_off = n_batch is not None and counts.cut_off > 0
    if counts.outside or cut_off or not block("output_token_count"):
        per_s = number(source, "mean rate", block("output_tokens_per_second").get("mean"))
        absent["output_rate"] = "the list of requests is not whole: the file's own mean rate"
    else:
        per_s = counts.measured * n_out / counts.seconds
    samples["output_tok_s"] = [number(source, "output_tok_s", per_s)]
    samples["total_tok_s"] = [per_s * (n_in + n_out) / n_out]
    return RunFigures(
        n_prompt=n_in,
        n_gen=n_out,
        varies=any(one.get("mean") != one.get("median") for one in (prompts, news)),
        samples=samples,
        absent=absent,
    )


def _mean_of_list(run: Json, key: str) -> Json:
    """The mean of the requests that are listed, where the statistics lack it."""
    values = [one.get(key) for one in run["requests"].get("successful") or []]
    known = [value for value in values if isinstance(value, int | float)]
    return {"mean": sum(known) / len(known)} if known else {}


def _twice(source: SourceText, run: Json, figures: RunFigures, counts: Counts) -> list[Twice]:
    """The report's own mean rate and medians beside ours, and its counts."""
    found: list[Twice] = []
    metrics = run["metrics"]
    own = (metrics.get("output_tokens_per_second") or {}).get("successful") or {}
    rate = figures.samples.get("output_tok_s", [0.0])[0]
    if not counts.outside and "output_rate" in figures.absent:
        rate = counts.measured * figures.n_gen / counts.seconds
    if (stated := maybe(source, own, "mean")) and rate:
        # It weighs each second alike, and begins and ends elsewhere.
        found.append(
            Twice(
                what="mean output_tokens_per_second",
                stated=stated,
                made=rate,
                of="tokens over the measured time",
                within=0.25,
            )
        )
    for _, key, _, _ in TIMES:
        block = (metrics.get(key) or {}).get("successful") or {}
        middle, mean, std, low, high = (
            maybe(source, block, name) for name in ("median", "mean", "std_dev", "min", "max")
        )
        found += out_of_place(f"{key} median", middle, mean=mean, std=std, low=low, high=high)
    made = _requests_made(run)
    parts = [made.get(name) for name in ("successful", "errored", "incomplete")]
    if (whole := made.get("total")) and None not in parts:
        of = "successful + errored + incomplete"
        counted = float(sum(part for part in parts if part))
        found.append(Twice(what="total requests", stated=whole, made=counted, of=of))
    return found


def _model(run: Json, config: Mapping[str, Any]) -> str | None:
    """The model that was asked for; its place differs between versions."""
    worker, backend = run.get("worker") or {}, config.get("backend") or {}
    model = backend.get("model") or worker.get("backend_model")
    return str(model) if model else None


def _at_once(strategy: Mapping[str, Any]) -> int | None:
    """How many requests the strategy keeps running."""
    if strategy.get("type_") == "synchronous":
        return 1
    streams = strategy.get("streams")
    fixed = isinstance(streams, int) and streams > 0 and strategy.get("type_") == "concurrent"
    return streams if fixed else None


def _rate(strategy: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """What tells one strategy without a fixed number of requests from another."""
    kind = strategy.get("type_")
    if kind in ("synchronous", "concurrent", None):
        return {}
    found: dict[str, str | int | float | bool] = {"strategy": str(kind)}
    rate = strategy.get("rate")
    if isinstance(rate, int | float):
        found["rate"] = rate
    return found
