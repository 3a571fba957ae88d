"""What only the records of a server have: requests that overlap. Docs: serving.md.

Such a record holds `samples.wall_s`, the seconds of the window in which its requests were answered;
with others beside it, a request's own time does not say how many tokens a second were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import geometric_mean, median
from typing import Any

from bench.records import Record

TAIL = 0.99
TAIL_LEAST = 100
"""Requests (or gaps) below which there is no 99th percentile: it would be the largest."""

LIMITS = {"ttft_limit_s": "ttft", "tpot_limit_s": "tpot", "e2e_limit_s": "e2e"}


def overlaps(record: Record) -> bool:
    """Whether requests were in flight beside one another, each begun on its own."""
    work, options = record.workload, record.variant.get("options") or {}
    return "wall_s" in record.samples and (work["n_batch"] > 1 or "rate" in options)


def batch_s(record: Record) -> float:
    """Seconds in which `n_batch` requests are done: of a server, by its window's throughput."""
    samples = record.samples
    if "wall_s" in samples:
        wall_s: float = samples["wall_s"]
        return wall_s * int(record.workload["n_batch"]) / len(samples["e2e_s"])
    each: list[float] = samples["e2e_s"]
    return median(each)


def each_tpot_s(record: Record) -> list[float]:
    """(e2e - ttft) / (n_gen - 1) of each request; [] for one new token.

    Where each gap is one token that is their mean; a server's chunks need not be tokens. A tool
    that was imported may state it.
    """
    samples, n_gen = record.samples, int(record.workload["n_gen"])
    if "tpot_s" in samples:
        return list(samples["tpot_s"])
    if "wall_s" not in samples:
        return [sum(gaps) / len(gaps) for gaps in samples.get("itl_s", ()) if gaps]
    if n_gen == 1:
        return []
    pairs = zip(samples["e2e_s"], samples["prefill_s"], strict=True)
    return [(e2e - ttft) / (n_gen - 1) for e2e, ttft in pairs]


def goodput_req_s(record: Record, limits: Mapping[str, float]) -> float | None:
    """Requests a second that kept every limit (`ttft`, `tpot`, `e2e`, seconds); None without one.

    Failed requests kept none. Source of the word: DistServe (OSDI'24), as vLLM's benchmark has it.
    """
    if not limits or "wall_s" not in record.samples:
        return None
    samples = record.samples
    tpots = each_tpot_s(record) or [0.0] * len(samples["e2e_s"])
    known = {"ttft": samples["prefill_s"], "tpot": tpots, "e2e": samples["e2e_s"]}
    kept = sum(
        all(known[name][i] <= limit for name, limit in limits.items())
        for i in range(len(samples["e2e_s"]))
    )
    wall_s: float = samples["wall_s"]
    return kept / wall_s


def limits_of(record: Record) -> dict[str, float]:
    """The limits that the record's arm was given."""
    options = record.variant.get("options") or {}
    return {name: float(options[key]) for key, name in LIMITS.items() if key in options}


def percentile(values: Sequence[float], share: float) -> float | None:
    """By nearest rank; None where fewer than `TAIL_LEAST` values make a tail a guess."""
    if share >= TAIL and len(values) < TAIL_LEAST:
        return None
    ranked = sorted(values)
    return ranked[min(int(share * len(ranked)), len(ranked) - 1)] if ranked else None


def _energy_per_token_j(records: Sequence[Record]) -> float | None:
    """Mean power of the window over its tokens a second, prompt and new tokens alike."""
    each = []
    for record in records:
        if record.energy.get("tokens"):  # an imported tool counts them itself
            each.append(record.energy["energy_j"] / record.energy["tokens"])
            continue
        joules, seconds = (record.energy.get(name) for name in ("energy_j", "window_s"))
        if not joules or not seconds:
            return None
        work = record.workload
        each.append(
            joules
            / seconds
            * batch_s(record)
            / work["n_batch"]
            / (work["n_prompt"] + work["n_gen"])
        )
    return geometric_mean(each)


def counted_energy(record: Record) -> dict[str, float | None]:
    """Joules a token of an imported run whose tool counted joules and tokens of all of it."""
    counted = record.energy.get("tokens") and record.energy.get("energy_j")
    return {"energy_per_token_j": _energy_per_token_j([record]) if counted else None}


def serving(good: Sequence[Record], absent: dict[str, str]) -> dict[str, Any]:
    """Figures of a server's records; None for others. Percentiles pool a variant's requests."""
    records = [record for record in good if "wall_s" in record.samples]
    names = (
        "requests_s",
        "goodput_req_s",
        "energy_per_token_j",
        "device_output_tok_s",
        "ttft_p99_s",
        "tpot_p99_s",
        "itl_p99_s",
        "n_requests",
    )
    figures: dict[str, Any] = dict.fromkeys(names)
    if not records:
        return figures
    rates = [len(r.samples["e2e_s"]) / r.samples["wall_s"] for r in records]
    good_rates = [goodput_req_s(record, limits_of(record)) for record in records]
    known = [rate for rate in good_rates if rate is not None]
    pooled = {
        "ttft_p99_s": [s for r in records for s in r.samples["prefill_s"]],
        "tpot_p99_s": [s for r in records for s in each_tpot_s(r)],
        "itl_p99_s": [gap for r in records for one in r.samples["itl_s"] for gap in one],
    }
    figures |= {name: percentile(values, TAIL) for name, values in pooled.items()}
    for name, values in pooled.items():
        if figures[name] is None:
            absent[name] = f"{len(values)} values; a 99th percentile needs {TAIL_LEAST}"
    figures["requests_s"] = geometric_mean(rates)
    n_gen, devices = records[0].workload["n_gen"], (records[0].variant.get("options") or {})
    figures["device_output_tok_s"] = geometric_mean(rates) * n_gen / devices.get("n_devices", 1)
    figures["n_requests"] = len(pooled["ttft_p99_s"])
    figures["energy_per_token_j"] = _energy_per_token_j(records)
    if figures["energy_per_token_j"] is None:
        told = next((r.absent["energy_j"] for r in records if "energy_j" in r.absent), None)
        absent["energy_per_token_j"] = told or "no counter read"
    else:
        for name in ("energy_per_output_token_j", "energy_per_prompt_token_j"):
            absent[name] = "a server's prompts and new tokens overlap; see energy_per_token_j"
    if known:  # a rate of 0 has no logarithm, and is a figure all the same
        figures["goodput_req_s"] = sum(known) / len(known)
    else:
        absent["goodput_req_s"] = "no limit was given (ttft_limit_s, tpot_limit_s, e2e_limit_s)"
    return figures
