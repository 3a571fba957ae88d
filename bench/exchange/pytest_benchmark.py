"""pytest-benchmark's JSON: `pytest-benchmark list` and `compare` read it.

One benchmark a variant and workload of one machine: the seconds of a request, one for each
replicate (a fresh process, the median of its requests). `extra_info` holds tokens a second, joules,
dollars, interval and validity, and under `NAME` what makes records of it again.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Final

from bench.cost.hour import per_mtok
from bench.errors import InputError
from bench.exchange.exporting import Exported, failures
from bench.exchange.foreign import ForeignRun
from bench.exchange.reading import SourceText
from bench.exchange.values import Json, expect, numbers, parse_time
from bench.experiment import CostAssumption
from bench.records.file import Results
from bench.report.tables.row import shown, table
from bench.statistics import log_interval
from bench.summary import SPEEDS, Host, Replicate, Row, Summary, summarise

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


def write(results: Results | Summary, price: CostAssumption | None) -> Exported:
    """One file is of one machine: that of the newest record, the others are dropped."""
    rows = list(summarise(results))
    if not rows:
        raise InputError("there are no records to export")
    newest = max((one for row in rows for one in row.replicates), key=lambda one: one.started_at)
    mine = [row for row in rows if row.host.id == newest.environment]
    dropped = failures(mine)
    others = sum(len(row.replicates) for row in rows if row.host.id != newest.environment)
    if others:
        dropped.append(
            f"{others} records of other machines or versions: a file holds one machine's"
        )
    host = mine[0].host
    made = {
        "machine_info": _machine(host),
        "commit_info": _commit(host),
        "benchmarks": [_entry(row, price) for row in mine if row.each("e2e_s")],
        "datetime": newest.started_at,
        "version": FORMAT,
    }
    text = json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return Exported(data=text.encode(), dropped=(LOST, *dropped))


def _entry(row: Row, price: CostAssumption | None) -> Json:
    sizes, name = row.sizes, row.arm.name
    timed = [one for one in row.good if one.figures["e2e_s"] is not None]
    at = f"{sizes.n_prompt}+{sizes.n_gen}x{sizes.n_batch}"
    return {
        "group": f"{row.arm.model} {at}",
        "name": f"{name}[{at}]",
        "fullname": f"{timed[0].experiment}::{name}[{at}]",
        "params": row.sizes._asdict(),
        "param": at,
        "extra_info": extra_info(row, price, timed),
        "options": {},
        "stats": stats(row.each("e2e_s")),
    }


def extra_info(row: Row, price: CostAssumption | None, group: Sequence[Replicate]) -> Json:
    """Everything that pytest-benchmark has no field for, of the replicates of one variant."""
    rates, cards, first = row.each("total_tok_s"), row.arm.cards, group[0].record
    rate = log_interval(rates) if rates else None
    low, high = (rate.low, rate.high) if rate else (None, None)
    (one,) = shown([row])
    figures = table(one)
    return {name: figures[name] for name in SHOWN} | {
        "origin": row.origin,
        "total_tok_s_low": low,
        "total_tok_s_high": high,
        "usd_per_mtok": per_mtok(price, rate.value if rate else None, cards),
        "usd_per_mtok_low": per_mtok(price, high, cards),
        "usd_per_mtok_high": per_mtok(price, low, cards),
        NAME: {
            "schema": SCHEMA,
            "variant": first.variant,
            "workload": first.workload,
            "model": {key: v for key, v in first.model.items() if key != "details"},
            "replicates": [_replicate(one) for one in group],
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


def _replicate(one: Replicate) -> Json:
    """What one number of `data` is made of: the medians of that fresh process."""
    record = one.record
    return {
        "key": record.key,
        "replicate": record.replicate,
        "started_at": record.started_at,
        "reasons": list(record.reasons),
        "memory": record.memory,
        "energy": record.energy,
        "figures": {name: one.figures[name] for name in KEPT if one.figures[name] is not None},
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


def _machine(host: Host) -> Json:
    """pytest-benchmark's names, and all that we know of the machine under `NAME`."""
    identity = host.identity
    system = str(identity.get("os") or "").partition(" ")
    return {
        "node": identity.get("host"),
        "processor": host.cpu,
        "machine": identity.get("architecture"),
        "python_version": identity.get("python"),
        "system": system[0] or None,
        "release": system[2] or None,
        "cpu": {"brand_raw": host.cpu, "count": host.cpu_cores},
        "gpu": host.gpu,
        "gpu_driver": identity.get("gpu_driver"),
        NAME: dict(identity),
    }


def _commit(host: Host) -> Json:
    return {name: host.state.get(key) for name, key in COMMIT.items()}


COMMIT: Final = {"id": "commit", "time": "time", "dirty": "dirty"}


def knows(source: SourceText) -> bool:
    """Whether a text looks like a file of this tool."""
    value = source.first()
    return isinstance(value, dict) and {"machine_info", "benchmarks"} <= value.keys()


def read(path: SourceText) -> list[ForeignRun]:
    """The benchmarks of a file that `bench export` wrote. InputError in one line."""
    table = expect(path, TOOL, path.values[0], ("machine_info", "benchmarks"))
    machine = table["machine_info"].get(NAME) or {}
    found = [one for entry in table["benchmarks"] for one in _found(path, entry, machine)]
    if not found:
        raise InputError(f"{path}: holds no benchmark")
    return found


def _found(path: SourceText, entry: Json, machine: Json) -> list[ForeignRun]:
    ours = (entry.get("extra_info") or {}).get(NAME)
    if ours is None:
        raise InputError(
            f"{path}: benchmark {entry.get('name')!r} holds no tokens (no extra_info."
            f"{NAME}): only files of `bench export` can be imported"
        )
    if ours.get("schema", 0) > SCHEMA:
        raise InputError(
            f"{path}: schema {ours['schema']} is newer than {SCHEMA}; update gpu-cost-bench"
        )
    table = expect(path, TOOL, ours, ("variant", "workload", "replicates", "model"))
    seconds = numbers(path, "stats.data", (entry.get("stats") or {}).get("data"))
    if len(seconds) != len(table["replicates"]):
        raise InputError(f"{path}: {entry.get('name')}: stats.data and the replicates differ")
    return [
        _one(path, table, machine, replicate, second)
        for replicate, second in zip(table["replicates"], seconds, strict=True)
    ]


def _one(
    path: SourceText, table: Json, machine: Json, replicate: Json, second: float
) -> ForeignRun:
    variant, work = table["variant"], table["workload"]
    figures = dict(replicate["figures"]) | {"e2e_s": second}
    if figures.pop("prefill_tok_s", None) is not None:  # the prompt was timed alone
        figures["prefill_s"] = figures.pop("ttft_s")
    return ForeignRun(
        whole=True,
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
