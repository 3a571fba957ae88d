"""Ollama: what `ollama run --verbose` prints after an answer, and the last object of its API.

    prompt eval count:    16384 token(s)
    prompt eval duration: 1m13.810328292s
    eval count:           1399 token(s)
    eval duration:        1m25.055810902s

One request at a time. Its rates are tokens over those durations, and loading is apart. Of a prompt
that begins like the one before it counts what it read anew.
"""

from __future__ import annotations

import re
from typing import Final

from bench.errors import InputError
from bench.exchange.foreign import NOT_READ, ForeignRun, Twice
from bench.exchange.reading import SourceText
from bench.exchange.values import Json, count, number, parse_time, read_number

TOOL: Final = "ollama"
KEYS: Final = ("prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration")
LINE: Final = re.compile(
    r"^\s*((?:total|load|prompt eval|eval) (?:duration|count|rate)):\s+(\S.*?)\s*$"
)
PART: Final = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|μs|ns|m|s)")
SECONDS: Final = {
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ns": 1e-9,
}


def knows(source: SourceText) -> bool:
    """Whether a text holds an answer's times."""
    if isinstance(source.first(), dict):
        return any(map(_answer, source.entries()))  # of a stream, the last object has them
    return bool(_blocks(source))


def _answer(value: object) -> bool:
    """Whether a JSON value is the API's last object of an answer."""
    return isinstance(value, dict) and {"eval_count", "eval_duration"} <= value.keys()


def read(source: SourceText) -> list[ForeignRun]:
    """Every answer of a text. InputError in one line."""
    runs = _blocks(source)
    if not runs and source.text.lstrip()[0] in "[{":
        runs = list(filter(_answer, source.entries()))
    if not runs:
        raise InputError(f"{source}: is not a result of {TOOL}: no 'eval duration'")
    return [_found(source, run) for run in runs]


def _blocks(source: SourceText) -> list[Json]:
    """The printed times of each answer, as the API has them: nanoseconds and counts."""
    found: list[Json] = []
    for line in source.text.splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        key = match[1].replace(" ", "_")
        if not found or key in found[-1]:
            found.append({})
        if key.endswith("_duration"):
            found[-1][key] = _duration(source, match[1], match[2]) * 1e9
        else:
            value = read_number(match[2])
            found[-1][key] = int(value) if key.endswith("_count") and value else value
    whole = [run for run in found if {"eval_count", "eval_duration"} <= run.keys()]
    if len(whole) < len(found):
        note = f"{source}: {len(found) - len(whole)} answers without an eval duration: cut off?"
        source.notes += [] if note in source.notes else [note]
    return whole


def _duration(source: SourceText, name: str, text: str) -> float:
    """Seconds of `1m13.810328292s`."""
    parts = PART.findall(text)
    if not parts or PART.sub("", text).strip():
        raise InputError(f"{source}: {name}: {text!r} is not a duration")
    return sum(float(value) * SECONDS[unit] for value, unit in parts)


def _found(source: SourceText, run: Json) -> ForeignRun:
    n_gen = count(source, "eval count", run["eval_count"])
    decode = number(source, "eval duration", run["eval_duration"]) * 1e-9
    if not n_gen:
        raise InputError(f"{source}: eval count: no new token was made")
    absent = dict(NOT_READ)
    samples: dict[str, list[float]] = {"tpot_s": [decode / n_gen]}
    n_prompt = run.get("prompt_eval_count") or None
    prefill = run.get("prompt_eval_duration") or None
    if n_prompt and prefill:
        n_prompt = count(source, "prompt eval count", n_prompt)
        seconds = number(source, "prompt eval duration", prefill) * 1e-9
        samples |= {"prefill_s": [seconds], "e2e_s": [seconds + decode]}
    else:
        why = "no prompt was read: it was in the cache"
        absent |= dict.fromkeys(("ttft_s", "prefill_tok_s", "e2e_s"), why)
        n_prompt = None
    moment = run.get("created_at")
    return ForeignRun(
        model=str(run["model"]) if run.get("model") else None,
        engine="ollama",
        layered=True,
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_batch=1,
        started_at=_moment(source, moment) if moment else source.date,
        dated=bool(moment),
        samples=samples,
        absent=absent,
        twice=tuple(_twice(source, run)),
    )


def _moment(source: SourceText, text: object) -> str:
    """A time of the API, whose seconds have nine digits."""
    return parse_time(source, "created_at", re.sub(r"(\.\d{6})\d+", r"\1", str(text)))


def _twice(source: SourceText, run: Json) -> list[Twice]:
    found: list[Twice] = []
    for name in ("prompt_eval", "eval"):
        rate, n, spent = (run.get(f"{name}_{key}") for key in ("rate", "count", "duration"))
        if rate and n and spent:
            made = n / (number(source, name, spent) * 1e-9)
            of = f"{name} count / duration"
            found.append(Twice(what=f"{name} rate", stated=rate, made=made, of=of))
    parts = [run.get(f"{name}_duration") or 0 for name in ("load", "prompt_eval", "eval")]
    whole = run.get("total_duration")
    if whole and sum(parts) > whole * 1.01:
        of = "load + prompt eval + eval"
        found.append(
            Twice(what="total duration, ns", stated=whole, made=sum(parts), of=of, within=0.01)
        )
    return found
