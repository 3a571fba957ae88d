"""guidellm's CSV: `benchmarks.csv`, a row a benchmark, as the report that its JSON would be.

From 0.4 on a column has three names, one below the other; before, one long name:

    Benchmark,Request Latency,Request Latency          Name,Successful Request latency median
    Strategy,Successful Sec,Successful Sec
    ,Mean,Median

Single requests are not in it: its own means and medians are read. Times are the client's, to one
second, and taken as UTC.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from bench.errors import InputError
from bench.exchange.reading import SourceText
from bench.exchange.values import Json, number, parse_time, typed

LOCAL: Final = "the CSV has the client's local time, taken as UTC"
GROUPS: Final = frozenset({"Run Info", "Benchmark", "Timings", "Request Counts"})
"""Some of the first names of a column from 0.4 on."""
OLD: Final = ("Run Id", "Name", "Duration", "Successful Requests")
METRICS: Final[Mapping[str, tuple[str, str]]] = {
    "request_latency": ("Request Latency", "Sec"),
    "time_to_first_token_ms": ("Time to First Token", "ms"),
    "inter_token_latency_ms": ("Inter Token Latency", "ms"),
    "prompt_token_count": ("Token Metrics", "Input Tokens"),
    "output_token_count": ("Token Metrics", "Output Tokens"),
    "output_tokens_per_second": ("Token Throughput", "Output Tokens/Sec"),
}
"""Keys of the report -> names of columns, without `Successful`."""
STATUSES: Final = ("successful", "errored", "incomplete", "total")
STRATEGY: Final = re.compile(r"([a-z_]+)(?:@([\d.]+))?")
"""`concurrent@4`, `constant@2.50`, `synchronous`: how old versions name a strategy."""

Cell = Callable[..., Any]


def runs(source: SourceText) -> list[Json]:
    """Each row as a benchmark of the JSON report; [] where the text is no such CSV."""
    if table := _three_names(source):
        return [_new(source, row) for row in table]
    return [_old(source, row) for row in source.columns(OLD)]


def _three_names(source: SourceText) -> list[dict[tuple[str, str, str], str]]:
    """The rows below a heading of three lines."""
    if not all(name in source.text for name in GROUPS):
        return []
    try:
        lines = list(csv.reader(source.text.splitlines(keepends=True)))
    except csv.Error as error:
        raise InputError(f"{source}: is not CSV: {error}") from None
    for at, first in enumerate(lines):
        if set(first) >= GROUPS and at + 2 < len(lines):
            break
    else:
        return []
    names = list(zip(first, lines[at + 1], lines[at + 2], strict=False))
    found: list[dict[tuple[str, str, str], str]] = []
    for values in filter(None, lines[at + 3 :]):
        if len(values) != len(first) or len(names) != len(first):
            raise InputError(
                f"{source}: row {len(found) + 1} is cut off or has too many columns: "
                f"{len(values)} values under {len(first)} names"
            )
        found.append(dict(zip(names, values, strict=True)))
    return found


def _new(source: SourceText, row: Mapping[tuple[str, str, str], str]) -> Json:
    def cell(group: str, name: str, unit: str = "") -> Any:
        return typed(row.get((group, name, unit), ""))

    def stats(key: str) -> Json:
        group, name = METRICS[key]
        each = {"mean": "Mean", "median": "Median", "std_dev": "Std Dev"}
        return {
            ours: cell(group, f"Successful {name}", theirs) for ours, theirs in each.items()
        } | _ends(row.get((group, f"Successful {name}", "Percentiles"), ""))

    profile = _json(row.get(("Run Info", "Profile", ""), ""))
    kind = cell("Benchmark", "Strategy")
    index = cell("Run Info", "Run Index")
    strategy: Json = {"type_": kind}
    for theirs, ours in (("streams", "streams"), ("rate", "rate")):
        strategy[ours] = _of_run(profile.get(theirs), index)
    made = {one: cell("Scheduler Metrics", f"Requests Made {one.capitalize()}") for one in STATUSES}
    totals = {one: cell("Request Counts", one.capitalize()) for one in STATUSES}
    return _report(
        source,
        strategy,
        _json(row.get(("Run Info", "Backend", ""), "")),
        made if any(made.values()) else totals,
        {key: stats(key) for key in METRICS} | {"request_totals": totals},
        cell("Timings", "Measure Start Time") or cell("Timings", "Start Time"),
        {name: cell("Timings", name.capitalize(), "Sec") for name in SPANS},
    )


def _old(source: SourceText, row: Mapping[str, str]) -> Json:
    def stats(key: str) -> Json:
        name = f"Successful {key.replace('_', ' ').capitalize()}"
        each = {"mean": "mean", "median": "median", "std_dev": "std dev"}
        return {ours: typed(row.get(f"{name} {theirs}", "")) for ours, theirs in each.items()}

    said = STRATEGY.fullmatch(row["Name"].strip())
    strategy: Json = {"type_": said[1] if said else row["Name"]}
    if said and said[2]:
        strategy["streams" if said[1] == "concurrent" else "rate"] = typed(said[2])
    totals = {one: typed(row.get(f"{one.capitalize()} Requests", "")) for one in STATUSES}
    return _report(
        source,
        strategy,
        _json(row.get("Backend", "")),
        totals,
        {key: stats(key) for key in METRICS} | {"request_totals": totals},
        row.get("Start Time"),
        {"duration": typed(row["Duration"])},
    )


SPANS: Final = ("duration", "warmup", "cooldown")


def _report(
    source: SourceText,
    strategy: Json,
    backend: Json,
    made: Json,
    metrics: Json,
    start: object,
    spans: Json,
) -> Json:
    """One benchmark with the keys of the JSON report."""
    from datetime import datetime

    seconds = number(source, "Duration", spans.get("duration"))
    moment = parse_time(source, "Start Time", start, "%Y-%m-%d %H:%M:%S")
    begin = datetime.fromisoformat(moment).timestamp()
    return {
        "config": {"strategy": strategy, "backend": backend},
        "scheduler_metrics": {
            "measure_start_time": begin,
            "measure_end_time": begin + seconds,
            "requests_made": made,
        },
        "duration": seconds,
        "warmup_duration": spans.get("warmup") or 0.0,
        "cooldown_duration": spans.get("cooldown") or 0.0,
        "requests": {},
        "metrics": {
            key: value if key == "request_totals" else {"successful": value}
            for key, value in metrics.items()
        },
        "local_time": LOCAL,
    }


def _json(text: str) -> Json:
    """The table in a cell; {} where there is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _of_run(values: Any, index: Any) -> Any:
    """What a profile states for one of its benchmarks: a list has a value for each."""
    if not isinstance(values, list):
        return values
    if len(values) == 1:
        return values[0]
    return values[index] if isinstance(index, int) and 0 <= index < len(values) else None


def _ends(text: str) -> Json:
    """The least and the most of `[min, p0.1, ..., p99, max]`."""
    values = list(_numbers(text))
    return {"min": values[0], "max": values[-1]} if len(values) > 2 else {}


def _numbers(text: str) -> Iterator[float]:
    for part in text.strip("[] ").split(","):
        value = typed(part)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield float(value)
