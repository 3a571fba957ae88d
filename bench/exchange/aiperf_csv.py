"""aiperf's and GenAI-Perf's CSV, as the JSON that the same run writes beside it.

    Metric,avg,min,max,p99,p95,p90,p75,p50,p25
    Time To First Token (ms),"1,146.31",249.48,...

    Metric,Value
    Output Token Throughput (per sec),261.25

It names neither the model nor the number of requests at once. Figures have two decimals: counters
of energy in MJ, and rates below 1, are too coarse and not taken.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import Final

from bench.exchange.reading import SourceText
from bench.exchange.values import Json, read_number

NAME: Final = re.compile(r"\s*(.*?)\s*(?:\(([^()]*)\))?\s*")
"""`Time To First Token (ms)`: name and unit."""
KEYS: Final = {
    "request latency": "request_latency",
    "time to first token": "time_to_first_token",
    "inter token latency": "inter_token_latency",
    "output sequence length": "output_sequence_length",
    "num output token": "output_sequence_length",
    "input sequence length": "input_sequence_length",
    "num input token": "input_sequence_length",
    "output token throughput": "output_token_throughput",
    "total token throughput": "total_token_throughput",
    "request throughput": "request_throughput",
    "request count": "request_count",
    "error request count": "error_request_count",
    "benchmark duration": "benchmark_duration",
    "total output sequence length": "total_osl",
    "total input sequence length": "total_isl",
}
"""Names in the table -> keys of the JSON."""
HEADING: Final = re.compile(r"^Metric,avg,min,max", re.MULTILINE)
CARD: Final = {"gpu power usage": "gpu_power_usage", "gpu utilization": "gpu_utilization"}
COARSE: Final = 1.0
"""Requests a second below which two decimals are less than what the checks need."""


def run(source: SourceText) -> Json | None:
    """The figures under the keys of the JSON; None where the text is no such table."""
    found: Json = {}
    cards: dict[str, Json] = {}
    if not HEADING.search(source.text):
        return None
    for row in _rows(source.text):
        name, unit = _split(row.get("Metric", ""))
        if key := KEYS.get(name):
            if "GPU_Index" not in row:
                found.setdefault(key, _block(row, unit))
        elif key := CARD.get(name.removeprefix("nvidia ").removeprefix("amd ")):
            at = f"{row.get('Endpoint')} {row.get('GPU_Index')}"
            card = cards.setdefault(at, {"gpu_name": row.get("GPU_Name"), "metrics": {}})
            card["metrics"].setdefault(key, _block(row, unit))
    if "p50" not in found.get("request_latency", {}):
        return None
    if (rate := found.get("request_throughput", {}).get("avg")) is not None and rate < COARSE:
        del found["request_throughput"]
    telemetry = {"endpoints": {"csv": {"gpus": cards}}} if cards else {}
    return found | {"input_config": {}, "telemetry_data": telemetry}


def _rows(text: str) -> Iterator[dict[str, str]]:
    """The rows of every table: one begins at a heading with `Metric`, and ends at an empty line."""
    heading: Sequence[str] = ()
    for cells in csv.reader(text.splitlines()):
        if not any(cells):
            heading = ()
        elif "Metric" in cells[:6] and ("avg" in cells or "Value" in cells):
            heading = cells
        elif heading and len(cells) == len(heading):
            yield dict(zip(heading, cells, strict=True))


def _split(text: str) -> tuple[str, str]:
    match = NAME.fullmatch(text)
    return (match[1].lower(), match[2] or "") if match else ("", "")


def _block(row: dict[str, str], unit: str) -> Json:
    """The statistics of a row, numbers with commas among them; a row of one value is its mean."""
    values = {name: read_number(text) for name, text in row.items() if name != "Metric"}
    found: Json = {name: value for name, value in values.items() if value is not None}
    if "Value" in found:
        found["avg"] = found.pop("Value")
    return found | {"unit": unit}
