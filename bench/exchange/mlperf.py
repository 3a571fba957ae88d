"""MLPerf Inference (mlcommons/inference): `mlperf_log_summary.txt` of a language model.

`Tokens per second` counts new tokens; `(inferred)` where they were counted after the run. The log
names neither model, card nor the length of prompts. All queries of the offline scenario are there
at once, so that its latencies are waiting.
"""

from __future__ import annotations

import itertools
import re
from typing import Final

from bench.errors import InputError
from bench.exchange.foreign import NOT_READ, SERVED, ForeignRun, Twice
from bench.exchange.reading import SourceText
from bench.exchange.values import number, read_number

TOOL: Final = "mlperf"
TITLE: Final = "MLPerf Results Summary"
LINE: Final = re.compile(r"^\s*([^:\n]+?)\s*:\s*(.+?)\s*$")
RATES: Final = (
    "completed tokens per second",
    "tokens per second",
    "completed tokens per second (inferred)",
    "tokens per second (inferred)",
)
SAMPLES: Final = ("completed samples per second", "samples per second")
TTFT: Final = "50.00 percentile first token latency (ns)"
TPOT: Final = "50.00 percentile time to output token (ns)"
E2E: Final = "50.00 percentile latency (ns)"
WAITS: Final = "all queries wait from the start: no time of a request"


def knows(source: SourceText) -> bool:
    """Whether a text looks like a summary of this tool."""
    return TITLE in source.text


def read(source: SourceText) -> list[ForeignRun]:
    """Every summary of a text. InputError in one line."""
    parts = source.text.split(TITLE)[1:]
    if not parts:
        raise InputError(f"{source}: is not a result of {TOOL}: no '{TITLE}'")
    return [_found(source, part) for part in parts]


def _found(source: SourceText, text: str) -> ForeignRun:
    said = {found[1].lower(): found[2] for line in text.splitlines() if (found := LINE.match(line))}
    if said.get("mode", "PerformanceOnly") == "AccuracyOnly":
        raise InputError(f"{source}: is a run for accuracy: it measured no speed")
    rate, each = _first(source, said, RATES), _first(source, said, SAMPLES)
    if rate is None:
        raise InputError(f"{source}: no tokens a second: is it of a language model?")
    n_gen = max(round(rate / each), 1) if each else None
    scenario = said.get("scenario", "")
    absent = {**NOT_READ, **SERVED} | {"samples": "the summary holds no single requests"}
    offline = scenario.lower() == "offline"
    samples: dict[str, list[float]] = {"output_tok_s": [rate]}
    for name, key in (("ttft_s", TTFT), ("tpot_s", TPOT), ("e2e_s", E2E)):
        value = None if offline else _first(source, said, (key,))
        if value:
            samples[name] = [value * 1e-9]
        else:
            absent[name] = WAITS if offline else f"the summary has no {key!r}"
    absent["n_batch"] = "how many requests ran at once is not in the file"
    reasons: tuple[str, ...] = ()
    if not said.get("result is", "VALID").startswith("VALID"):
        reasons = ("INVALID_RUN",)
        absent["requests"] = "MLPerf's own rules call the run INVALID"
    return ForeignRun(
        options={"scenario": scenario} if scenario else {},
        n_gen=n_gen,
        mean_lengths=True,
        started_at=source.date,
        dated=False,
        samples=samples,
        absent=absent,
        reasons=reasons,
        twice=tuple(_ordered(said)),
        identity={"sut": said.get("sut name")},
    )


def _first(source: SourceText, said: dict[str, str], names: tuple[str, ...]) -> float | None:
    """The first of these lines that is there, as a number above 0."""
    for name in names:
        if name in said:
            value = read_number(said[name])
            return number(source, name, said[name] if value is None else value)
    return None


def _ordered(said: dict[str, str]) -> list[Twice]:
    """Percentiles of the latency that are not in order."""
    names = [name for name in said if name.endswith("percentile latency (ns)")]
    ends = ["min latency (ns)", *names, "max latency (ns)"]
    each = [(name, value) for name in ends if name in said and (value := read_number(said[name]))]
    return [
        Twice(what=low, stated=one, made=two, of=high, within=0.0)
        for (low, one), (high, two) in itertools.pairwise(each)
        if one > two
    ]
