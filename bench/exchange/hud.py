"""PyTorch's benchmark dashboard (HUD): the list of metrics that its v3 database takes.

Schema: pytorch/test-infra, clickhouse_db_schema/oss_ci_benchmark_v3/schema.sql, and the wiki page
"PyTorch OSS benchmark infra" of pytorch/pytorch. Maps hold text alone. Repository, commit, job and
time are added by the workflow that uploads the file, and are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bench.cost.hour import per_mtok
from bench.errors import InputError
from bench.exchange.exporting import Exported, by_machine, failures
from bench.exchange.foreign import Json
from bench.experiment import CostAssumption
from bench.experiment.devices import on_cpu
from bench.records import Record
from bench.records.file import Results
from bench.summary import SPEEDS, replicate_figures, summarise

ONE_VALUE: Final = (
    "peak_memory_bytes",
    "weights_bytes",
    "energy_per_output_token_j",
    "energy_per_prompt_token_j",
    "ppl",
    "mean_kld",
    "same_top1",
)
"""Figures of an arm; the speeds have a value for each replicate."""

PACKAGES: Final = ("torch", "transformers", "torchao")
LOST: Final = "single requests and gaps, intervals, warm-up and device readings"


def write(results: Results, price: CostAssumption | None) -> Exported:
    """One entry a metric, variant, workload and machine."""
    entries = [entry for one in by_machine(results) for entry in _of_machine(one, price)]
    if not entries:
        raise InputError("there are no finished records to export")
    text = json.dumps(entries, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return Exported(data=text.encode(), dropped=(LOST, *failures(results)))


def _of_machine(results: Results, price: CostAssumption | None) -> Iterator[Json]:
    environment = next(iter(results.environments.values()), None)
    identity = environment.identity if environment else {}
    for row in summarise(results):
        group = [
            record
            for record in results.records
            if record.status == "ok"
            and record.variant["name"] == row["variant"]
            and all(record.workload[key] == row[key] for key in ("n_prompt", "n_gen", "n_batch"))
        ]
        if group:
            head = _head(row, group[0], identity)
            for name, values in _metrics(row, group, price):
                metric = {"name": name, "benchmark_values": values}
                yield head | {"metric": metric | {"extra_info": _text({"origin": row["origin"]})}}


def _metrics(
    row: Mapping[str, Any], group: list[Record], price: CostAssumption | None
) -> Iterator[tuple[str, list[float]]]:
    figures = [replicate_figures(record) for record in group]
    for name in SPEEDS:
        values = [value for one in figures if (value := one[name]) is not None]
        if values:
            yield name, values
    for name in ONE_VALUE:
        if row[name] is not None:
            yield name, [row[name]]
    usd = per_mtok(price, row["total_tok_s"], row["cards"])
    if usd is not None:
        yield "usd_per_mtok", [usd]


def _head(row: Mapping[str, Any], first: Record, identity: Mapping[str, Any]) -> Json:
    work = {key: row[key] for key in ("n_prompt", "n_gen", "n_batch")}
    options = first.variant.get("options") or {}
    return {
        "benchmark": {
            "name": "gpu-cost-bench",
            "mode": "inference",
            "dtype": row["quant"] if row["quant"] != "none" else row["dtype"],
            "extra_info": _text(
                {
                    "experiment": first.experiment,
                    "variant": row["variant"],
                    **work,
                    **options,
                    "valid": row["valid"],
                    "reasons": " ".join(row["reasons"]),
                }
            ),
        },
        "model": {"name": row["model"], "type": "LLM", "backend": row["engine"]},
        "runners": [_runner(identity, row["device"])],
        "dependencies": {
            name: {"version": str(identity[name])} for name in PACKAGES if identity.get(name)
        },
    }


def _runner(identity: Mapping[str, Any], device: str) -> Json:
    found = {
        "name": identity.get("host"),
        "type": device,
        "cpu_info": identity.get("cpu"),
        "cpu_count": identity.get("cpu_cores"),
        "gpu_info": identity.get("gpu"),
        "gpu_count": identity.get("gpus", 1)
        if identity.get("gpu") and not on_cpu(device)
        else None,
        "extra_info": _text(
            {key: identity.get(key) for key in ("gpu_driver", "gpu_power_limit_w", "os")}
        ),
    }
    return {key: value for key, value in found.items() if value is not None}


def _text(table: Mapping[str, Any]) -> dict[str, str]:
    """A map of text, as the database has them; what is not known is left out."""
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in table.items()
        if value not in (None, "")
    }
