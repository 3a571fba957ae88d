"""pytest-benchmark's JSON: `pytest-benchmark list` and `compare` read it.

One benchmark a variant and workload of one machine: the seconds of a request, one for each
replicate (a fresh process, the median of its requests). `extra_info` holds tokens a second, joules,
dollars, interval and validity, and under `NAME` what makes records of it again.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.cost.hour import per_mtok
from bench.cost.throughput import Throughput, throughputs
from bench.errors import InputError
from bench.exchange.exporting import Exported, by_machine, failures
from bench.exchange.foreign import (
    Found,
    Given,
    Json,
    expect,
    numbers,
    parse_json,
    parse_time,
    read_text,
)
from bench.experiment import CostAssumption
from bench.records import Environment, Record
from bench.records.file import Results
from bench.summary import SPEEDS, replicate_figures, summarise

TOOL: Final = "pytest-benchmark"
NAME: Final = "gpu_cost_bench"
SCHEMA: Final = 1
FORMAT: Final = "5.2.3"
"""pytest-benchmark whose shape of a file this is."""

SHOWN: Final = (
    *SPEEDS,
    "energy_per_output_token_j",
    "energy_scope",
    "peak_memory_bytes",
    "weights_bytes",
    "ppl",
    "mean_kld",
    "valid",
    "reasons",
)
LOST: Final = "single requests and gaps, warm-up, device readings and the quality of single tokens"
ORDER: Final = ("variant", "n_prompt", "n_gen", "n_batch")


def write(results: Results, price: CostAssumption | None) -> Exported:
    """One file is of one machine: that of the newest record, the others are dropped."""
    machines = list(by_machine(results))
    if not machines:
        raise InputError("there are no records to export")
    newest = max(machines, key=lambda one: max(r.started_at for r in one.records))
    entries, dropped = _entries(newest, price), failures(newest)
    others = sum(len(one.records) for one in machines if one is not newest)
    if others:
        dropped.append(f"{others} records of other machines or versions: one file is of one")
    environment = next(iter(newest.environments.values()), None)
    table = {
        "machine_info": _machine(environment),
        "commit_info": _commit(environment),
        "benchmarks": entries,
        "datetime": max(record.started_at for record in newest.records),
        "version": FORMAT,
    }
    text = json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return Exported(data=text.encode(), dropped=(LOST, *dropped))


def _entries(results: Results, price: CostAssumption | None) -> list[Json]:
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in results.records:
        if record.status == "ok" and replicate_figures(record)["e2e_s"] is not None:
            work = record.workload
            key = (record.variant["name"], work["n_prompt"], work["n_gen"], work["n_batch"])
            groups.setdefault(key, []).append(record)
    rows = {tuple(row[name] for name in ORDER): row for row in summarise(results)}
    rates = {(t.variant, t.n_prompt, t.n_gen, t.n_batch): t for t in throughputs(results)}
    return [_entry(group, rows[key], rates.get(key), price) for key, group in groups.items()]


def _entry(
    group: Sequence[Record],
    row: Mapping[str, Any],
    rate: Throughput | None,
    price: CostAssumption | None,
) -> Json:
    variant, work = group[0].variant, group[0].workload
    at = f"{work['n_prompt']}+{work['n_gen']}x{work['n_batch']}"
    seconds = [float(replicate_figures(record)["e2e_s"] or 0) for record in group]
    info = extra_info(group, row, rate, price)
    return {
        "group": f"{variant['model']} {at}",
        "name": f"{variant['name']}[{at}]",
        "fullname": f"{group[0].experiment}::{variant['name']}[{at}]",
        "params": {name: work[name] for name in ("n_prompt", "n_gen", "n_batch")},
        "param": at,
        "extra_info": info,
        "options": {},
        "stats": stats(seconds),
    }


def extra_info(
    group: Sequence[Record],
    row: Mapping[str, Any],
    rate: Throughput | None,
    price: CostAssumption | None,
) -> Json:
    """Everything that pytest-benchmark has no field for, of the replicates of one variant."""
    low, high = (rate.low, rate.high) if rate else (None, None)
    info: Json = {name: row[name] for name in SHOWN}
    return info | {
        "origin": group[0].origin,
        "total_tok_s_low": low,
        "total_tok_s_high": high,
        "usd_per_mtok": per_mtok(price, rate.total_tok_s if rate else None, row["cards"]),
        "usd_per_mtok_low": per_mtok(price, high, row["cards"]),
        "usd_per_mtok_high": per_mtok(price, low, row["cards"]),
        NAME: {
            "schema": SCHEMA,
            "variant": group[0].variant,
            "workload": group[0].workload,
            "model": {key: v for key, v in group[0].model.items() if key != "details"},
            "replicates": [_replicate(record) for record in group],
        },
    }


KEPT: Final = (
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "output_tok_s",
    "total_tok_s",
    "decode_tok_s",
    "prefill_tok_s",
)


def _replicate(record: Record) -> Json:
    """What one number of `data` is made of: the medians of that fresh process."""
    figures = replicate_figures(record)
    return {
        "key": record.key,
        "replicate": record.replicate,
        "started_at": record.started_at,
        "reasons": list(record.reasons),
        "memory": record.memory,
        "energy": record.energy,
        "figures": {name: figures[name] for name in KEPT if figures[name] is not None},
        "absent": record.absent,
    }


def stats(data: Sequence[float]) -> Json:
    """The keys that pytest-benchmark computes of its rounds."""
    middle, mean = statistics.median(data), statistics.fmean(data)
    spread = statistics.stdev(data) if len(data) > 1 else 0.0
    quartiles = statistics.quantiles(data, method="inclusive") if len(data) > 1 else [*data] * 3
    q1, _, q3 = quartiles
    iqr = q3 - q1
    low, high = q1 - 1.5 * iqr, q3 + 1.5 * iqr
    inside = [value for value in data if low <= value <= high]
    far = sum(abs(value - mean) > spread for value in data)
    return {
        "min": min(data),
        "max": max(data),
        "mean": mean,
        "stddev": spread,
        "rounds": len(data),
        "median": middle,
        "iqr": iqr,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": len(data) - len(inside),
        "stddev_outliers": far,
        "outliers": f"{far};{len(data) - len(inside)}",
        "ld15iqr": min(inside),
        "hd15iqr": max(inside),
        "ops": 1 / mean,
        "total": sum(data),
        "data": list(data),
        "iterations": 1,
    }


def _machine(environment: Environment | None) -> Json:
    """pytest-benchmark's names, and all that we know of the machine under `NAME`."""
    identity = dict(environment.identity) if environment else {}
    system = str(identity.get("os") or "").partition(" ")
    return {
        "node": identity.get("host"),
        "processor": identity.get("cpu"),
        "machine": identity.get("architecture"),
        "python_version": identity.get("python"),
        "system": system[0] or None,
        "release": system[2] or None,
        "cpu": {"brand_raw": identity.get("cpu"), "count": identity.get("cpu_cores")},
        "gpu": identity.get("gpu"),
        "gpu_driver": identity.get("gpu_driver"),
        NAME: identity,
    }


def _commit(environment: Environment | None) -> Json:
    state = environment.state if environment else {}
    return {"id": state.get("commit"), "time": state.get("time"), "dirty": state.get("dirty")}


def knows(value: object) -> bool:
    """Whether a JSON value looks like a file of this tool."""
    return isinstance(value, dict) and {"machine_info", "benchmarks"} <= value.keys()


def read(path: Path, given: Given) -> list[Found]:
    """The benchmarks of a file that `bench export` wrote. InputError in one line."""
    table = expect(path, TOOL, parse_json(path, read_text(path))[0], ("machine_info", "benchmarks"))
    if given != Given():
        raise InputError(f"{path}: says all of it; no flag goes with {TOOL}")
    machine = table["machine_info"].get(NAME) or {}
    found = [one for entry in table["benchmarks"] for one in _found(path, entry, machine)]
    if not found:
        raise InputError(f"{path}: holds no benchmark")
    return found


def _found(path: Path, entry: Json, machine: Json) -> list[Found]:
    ours = (entry.get("extra_info") or {}).get(NAME)
    if ours is None:
        raise InputError(
            f"{path}: benchmark {entry.get('name')!r} says nothing of tokens (no extra_info."
            f"{NAME}): only files of `bench export` can be imported"
        )
    if ours.get("schema", 0) > SCHEMA:
        raise InputError(f"{path}: schema {ours['schema']} is newer than {SCHEMA}; update this")
    table = expect(path, TOOL, ours, ("variant", "workload", "replicates", "model"))
    seconds = numbers(path, "stats.data", (entry.get("stats") or {}).get("data"))
    if len(seconds) != len(table["replicates"]):
        raise InputError(f"{path}: {entry.get('name')}: stats.data and the replicates differ")
    return [
        _one(path, table, machine, replicate, second)
        for replicate, second in zip(table["replicates"], seconds, strict=True)
    ]


def _one(path: Path, table: Json, machine: Json, replicate: Json, second: float) -> Found:
    variant, work = table["variant"], table["workload"]
    figures = dict(replicate["figures"]) | {"e2e_s": second}
    if figures.pop("prefill_tok_s", None) is not None:  # the prompt was timed alone
        figures["prefill_s"] = figures.pop("ttft_s")
    return Found(
        model=variant["model"],
        engine=variant["engine"],
        quant=variant["quant"],
        mode=variant.get("mode", "eager"),
        dtype=variant["dtype"],
        device=variant["device"],
        threads=variant.get("threads"),
        options=variant.get("options") or {},
        name=variant["name"],
        n_prompt=work["n_prompt"],
        n_gen=work["n_gen"],
        n_batch=work["n_batch"],
        replicate=replicate["replicate"],
        key=replicate["key"],
        started_at=parse_time(path, "started_at", replicate["started_at"]),
        samples={name: numbers(path, name, [value]) for name, value in figures.items()},
        absent=replicate["absent"],
        reasons=tuple(replicate["reasons"]),
        loaded=table["model"],
        memory=replicate["memory"],
        energy=replicate["energy"],
        identity=machine,
    )
