"""aiperf (ai-dynamo/aiperf): `profile_export_aiperf.json`, schema 1.x, and 0.1 to 0.2 without one.

Its forerunner GenAI-Perf wrote the same blocks; `aiperf_csv` reads the CSV of both. A client: times
include the network, and requests overlap. Its inter_token_latency is our TPOT, (last - first) /
(n - 1) of each request. The file holds the distribution over requests: the median is taken, which
is what our figure of a replicate is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from bench.errors import InputError
from bench.exchange import aiperf_csv
from bench.exchange.foreign import NOT_READ, SERVED, ForeignRun, Twice, out_of_place
from bench.exchange.reading import SourceText
from bench.exchange.values import Json, expect, maybe, number, parse_time

TOOL: Final = "aiperf"
MAJOR: Final = 1
UNITS: Final = {"ms": 1e-3, "sec": 1.0, "s": 1.0, "us": 1e-6, "ns": 1e-9}
JOULES: Final = {"J": 1.0, "kJ": 1e3, "MJ": 1e6, "mJ": 1e-3, "Wh": 3600.0, "kWh": 3.6e6}
RATED = "the load was not set by concurrency, so the number of requests at once is unknown"
UNSAID = "the CSV does not say how many requests ran at once; --n-batch does"
MEDIANS = "aiperf's summary holds medians, no single requests"
TIMES: Final = (
    ("ttft_s", "time_to_first_token", "ttft"),
    ("tpot_s", "inter_token_latency", "inter_token_latency"),
    ("e2e_s", "request_latency", "request_latency"),
)
"""Ours, its name, and that of 0.1."""
DISAGREES: Final = 0.05


def knows(source: SourceText) -> bool:
    """Whether a text looks like a summary of this tool."""
    value = source.first()
    if not isinstance(value, dict):
        return aiperf_csv.run(source) is not None
    run = _blocks(value)
    return isinstance(run.get("request_latency"), dict) and "input_config" in value


def read(source: SourceText) -> list[ForeignRun]:
    """The one run of a file. InputError in one line."""
    if table := aiperf_csv.run(source):
        expect(source, TOOL, table, ("output_sequence_length",))
        return [_found(source, table)]
    value = expect(source, TOOL, source.values[0], ("input_config",))
    run = expect(source, TOOL, _blocks(value), ("request_latency", "output_sequence_length"))
    major = str(value.get("schema_version", "1.0")).partition(".")[0]
    if not major.isdigit() or int(major) > MAJOR:
        raise InputError(
            f"{source}: schema {value['schema_version']} of {TOOL} is newer than {MAJOR}.x, the "
            "last known here"
        )
    return [_found(source, run)]


def _blocks(value: Json) -> Json:
    """The file with the figures on its first level, where 0.1 has them under `records`."""
    records = value.get("records")
    return value | records if isinstance(records, dict) else value


def _found(source: SourceText, run: Json) -> ForeignRun:
    prompts = expect(source, TOOL, run.get("input_sequence_length"), ("avg",))
    made = expect(source, TOOL, run["output_sequence_length"], ("avg",))
    samples, absent = _samples(source, run)
    config = run["input_config"]
    n_batch = _concurrency(config)
    made_all = (_average(run, "request_count") or 0) + (_average(run, "error_request_count") or 0)
    if n_batch and made_all:
        n_batch = min(n_batch, round(number(source, "request_count", made_all)))
    if n_batch is None:
        absent["n_batch"] = RATED if config else UNSAID
    failed = _average(run, "error_request_count") or _average(run, "request_error_rate")
    good = _average(run, "request_count")
    if failed:
        absent["requests"] = f"requests failed ({failed:g}): figures are of the other {good or ''}"
    seconds = _seconds(source, run)
    cards = list(_cards(run))
    energy, reasons = _energy(source, run, cards, seconds)
    if energy:
        absent.pop("energy_j")
    started = run.get("start_time")
    return ForeignRun(
        model=_model(source, config),
        gpu=" + ".join(dict.fromkeys(str(card.get("gpu_name")) for card in cards)) or None,
        n_gpus=_used(cards),
        n_prompt=round(number(source, "input_sequence_length.avg", prompts["avg"])),
        n_gen=max(1, round(number(source, "output_sequence_length.avg", made["avg"]))),
        n_batch=n_batch,
        mean_lengths=any(one.get("min") != one.get("max") for one in (prompts, made)),
        started_at=parse_time(source, "start_time", started) if started else source.date,
        dated=bool(started),
        samples=samples,
        absent=absent | _unused(cards),
        reasons=(*(("REQUESTS_FAILED",) if failed or run.get("was_cancelled") else ()), *reasons),
        twice=tuple(_twice(source, run, samples, n_batch)),
        energy=energy,
        identity={"aiperf": run.get("aiperf_version")},
        state={"requests": good, "duration_s": _average(run, "benchmark_duration")},
    )


def _samples(source: SourceText, run: Json) -> tuple[dict[str, list[float]], dict[str, str]]:
    samples: dict[str, list[float]] = {}
    absent = {**NOT_READ, **SERVED} | {"samples": MEDIANS}
    for name, key, before in TIMES:
        block = run.get(key) or run.get(before)
        if not isinstance(block, dict) or "p50" not in block:
            absent[name] = f"no {key} in the file: was the answer streamed?"
            continue
        samples[name] = [number(source, f"{key}.p50", block["p50"]) * _unit(source, key, block)]
    for name in ("output_tok_s", "total_tok_s"):
        key = f"{name.removesuffix('_tok_s')}_token_throughput"
        rate = _average(run, key) or _made(source, run, name)
        if rate is None:
            absent[name] = f"no {key} in the file"
        else:
            samples[name] = [number(source, f"{key}.avg", rate)]
    return samples, absent


def _unit(source: SourceText, key: str, block: Json) -> float:
    if block.get("unit") not in UNITS:
        raise InputError(f"{source}: {key}: unit {block.get('unit')!r} is not known here")
    return UNITS[block["unit"]]


def _made(source: SourceText, run: Json, name: str) -> float | None:
    """A rate from totals, where the file does not state it."""
    parts = [_average(run, "total_osl"), *([_average(run, "total_isl")] * (name == "total_tok_s"))]
    seconds = _seconds(source, run)
    if seconds is None or None in parts:
        return None
    return sum(number(source, "total tokens", part) for part in parts) / seconds


def _seconds(source: SourceText, run: Json) -> float | None:
    block = run.get("benchmark_duration")
    if not isinstance(block, dict):
        return None
    return number(source, "benchmark_duration", block.get("avg")) * _unit(source, "duration", block)


def _average(run: Json, key: str) -> Any:
    block = run.get(key)
    return block.get("avg") if isinstance(block, dict) else None


def _twice(
    source: SourceText, run: Json, samples: dict[str, list[float]], n_batch: int | None
) -> Iterator[Twice]:
    """Rates beside the totals that they are made of, and means that must add up."""
    seconds, good = _seconds(source, run), _average(run, "request_count")
    for name, of in (
        ("output_tok_s", "total_osl / duration"),
        ("total_tok_s", "tokens / duration"),
    ):
        if name in samples and (made := _made(source, run, name)):
            yield Twice(what=name, stated=samples[name][0], made=made, of=of)
    rate = _average(run, "request_throughput")
    if rate and good and seconds:
        made = number(source, "request_count", good) / seconds
        of = "request_count / duration"
        yield Twice(what="request_throughput", stated=rate, made=made, of=of)
    news, total = _average(run, "output_sequence_length"), _average(run, "total_osl")
    if news and total and good:
        of = "request_count x output_sequence_length"
        yield Twice(what="total_osl", stated=total, made=good * news, of=of)
    blocks = [run.get(key) or run.get(before) for _, key, before in TIMES]
    means = [
        None
        if not isinstance(block, dict) or not maybe(source, block, "avg")
        else number(source, "avg", block["avg"]) * _unit(source, "mean", block)
        for block in blocks
    ]
    ttft, tpot, whole = means
    if ttft and tpot and whole and news:
        of = "mean ttft + mean itl x (n - 1)"
        made = ttft + tpot * (news - 1)
        within = 0.3 + _apart(source, run) / max(whole, made)
        yield Twice(what="mean request_latency, s", stated=whole, made=made, of=of, within=within)
    for (_, key, _), block in zip(TIMES, blocks, strict=True):
        if isinstance(block, dict):
            middle, mean, std, low, high = (
                maybe(source, block, name) for name in ("p50", "avg", "std", "min", "max")
            )
            yield from out_of_place(f"{key} p50", middle, mean=mean, std=std, low=low, high=high)
    if n_batch and whole and rate and rate * whole > n_batch:
        of = "requests a second x mean latency"
        yield Twice(what="concurrency", stated=n_batch, made=rate * whole, of=of, within=0.25)


def _apart(source: SourceText, run: Json) -> float:
    """Seconds by which a mean of products may differ from the product of the means: where short
    answers come at another pace than long ones."""
    pace, news = run.get("inter_token_latency"), run["output_sequence_length"]
    if not isinstance(pace, dict):
        return 0.0
    spread = (maybe(source, pace, "std") or 0.0) * (maybe(source, news, "std") or 0.0)
    return spread * _unit(source, "inter_token_latency", pace)


def _model(source: SourceText, config: Json) -> str | None:
    """The one model of the run; its place differs between versions of the tool."""
    items = (config.get("models") or {}).get("items") or []
    names = [item.get("name") for item in items]
    names += (config.get("endpoint") or {}).get("model_names") or []
    more = config.get("model_names") or config.get("model") or []
    names += [more] if isinstance(more, str) else more
    if len(names) > 1:
        raise InputError(f"{source}: the file names several models: {', '.join(map(str, names))}")
    return str(names[0]) if names and names[0] else None


def _concurrency(config: Json) -> int | None:
    """Requests at once in the phase that counts; its `kind` is missing in schema 1.3."""
    phases = [
        p for p in config.get("phases") or [] if "profiling" in (p.get("kind"), p.get("name"))
    ]
    found = [phase.get("concurrency") for phase in phases if phase.get("type") == "concurrency"]
    load = config.get("loadgen") or {}
    mode = load.get("request_rate_mode")
    if load.get("request_rate") is None and mode in (None, "concurrency_burst"):
        found.append(load.get("concurrency"))
    stimulus = (config.get("perf_analyzer") or {}).get("stimulus") or {}
    found += [stimulus.get("concurrency"), config.get("concurrency")]
    return next((n for n in found if isinstance(n, int) and n > 0), None)


def _cards(run: Json) -> Iterator[Json]:
    """Every card of the telemetry."""
    endpoints = ((run.get("telemetry_data") or {}).get("endpoints") or {}).values()
    for one in endpoints:
        gpus = one.get("gpus") or {}
        yield from gpus.values() if isinstance(gpus, dict) else gpus


def _busy(card: Json) -> float | None:
    """Mean utilization, %."""
    value = ((card.get("metrics") or {}).get("gpu_utilization") or {}).get("avg")
    return value if isinstance(value, int | float) else None


def _used(cards: list[Json]) -> int | None:
    """How many cards served: the one that there is, or those that were busy."""
    if len(cards) == 1:
        return 1
    shares = [_busy(card) for card in cards]
    if not cards or None in shares:
        return None
    return sum((share or 0.0) > 5 for share in shares) or None


def _unused(cards: list[Json]) -> dict[str, str]:
    if len(cards) > 1 and _used(cards) is None:
        why = f"the telemetry saw {len(cards)} cards, and does not say how many of them served"
        return {"n_devices": f"{why}: one is assumed; --n-gpus N sets it"}
    return {}


def _energy(
    source: SourceText, run: Json, cards: list[Json], seconds: float | None
) -> tuple[Json, tuple[str, ...]]:
    """Joules of the whole run by the cards' counters, else by their mean power; and a reason where
    the two disagree."""
    each = [_joules(source, card, seconds) for card in cards]
    tokens = [_average(run, key) for key in ("total_isl", "total_osl")]
    if not each or not seconds or None in tokens or any(a is b is None for a, b in each):
        return {}, ()
    counted = [counter for counter, _ in each if counter is not None]
    powered = [watts for _, watts in each if watts is not None]
    whole = sum(counted) if len(counted) == len(each) else sum(powered)
    if len(counted) < len(each) and len(powered) < len(each):
        return {}, ()
    differ = len(counted) == len(powered) == len(each) and (
        abs(sum(counted) / sum(powered) - 1) > DISAGREES
    )
    energy = {
        "energy_j": whole,
        "window_s": seconds,
        "tokens": round(sum(number(source, "tokens", n) for n in tokens)),
        "scope": "device",
        "source": "counter" if len(counted) == len(each) else "mean power",
    }
    return energy, ("ENERGY_DISAGREES",) if differ else ()


def _joules(
    source: SourceText, card: Json, seconds: float | None
) -> tuple[float | None, float | None]:
    """Joules of a card: by its counter's two ends, and by its mean power over the run."""
    metrics = card.get("metrics") or {}
    counter, power = metrics.get("energy_consumption") or {}, metrics.get("gpu_power_usage") or {}
    joules = None
    if counter.get("unit") in JOULES:
        low, high = maybe(source, counter, "min"), maybe(source, counter, "max")
        if low and high and high > low:
            joules = (high - low) * JOULES[counter["unit"]]
        elif not low and not high and (delta := maybe(source, counter, "avg")):
            joules = delta * JOULES[counter["unit"]]  # later versions state the difference
    watts = maybe(source, power, "avg") if power.get("unit") == "W" else None
    return joules, watts * seconds if watts and seconds else None
