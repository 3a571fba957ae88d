"""PyTorch's benchmark dashboard (HUD): the list of metrics that its v3 database takes.

Schema: pytorch/test-infra, clickhouse_db_schema/oss_ci_benchmark_v3/schema.sql, and the wiki page
"PyTorch OSS benchmark infra" of pytorch/pytorch. Maps hold text alone. Repository, commit, job and
time are added by the workflow that uploads the file, and are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bench.errors import InputError
from bench.exchange.exporting import Exported, failures
from bench.exchange.values import Json
from bench.experiment import CostAssumption
from bench.experiment.devices import on_cpu
from bench.records.file import Results
from bench.report.tables.row import Shown, shown, table
from bench.summary import SPEEDS, Host, Summary, summarise

ONE_VALUE: Final = (
    "peak_memory_bytes",
    "weights_bytes",
    "energy_per_output_token_j",
    "energy_per_prompt_token_j",
    "ppl",
    "mean_kld",
    "same_top1",
    "usd_per_mtok",
)
"""Figures of an arm; the speeds have a value for each replicate."""

PACKAGES: Final = ("torch", "transformers", "torchao")
LOST: Final = "single requests and gaps, intervals, warm-up and device readings"


def write(results: Results | Summary, price: CostAssumption | None) -> Exported:
    """One entry a metric, variant, workload and machine."""
    rows = shown(summarise(results), price)
    entries = [entry for one in rows if one.row.good for entry in _entries(one)]
    if not entries:
        raise InputError("there are no finished records to export")
    text = json.dumps(entries, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    dropped = (LOST, *failures(one.row for one in rows))
    return Exported(data=text.encode(), dropped=dropped)


def _entries(one: Shown) -> Iterator[Json]:
    head = _head(one)
    for name, values in _metrics(one):
        metric = {"name": name, "benchmark_values": values}
        yield head | {"metric": metric | {"extra_info": _text({"origin": one.row.origin})}}


def _metrics(one: Shown) -> Iterator[tuple[str, list[float]]]:
    for name in SPEEDS:
        if values := one.row.each(name):
            yield name, values
    figures = table(one)
    for name in ONE_VALUE:
        if figures[name] is not None:
            yield name, [figures[name]]


def _head(one: Shown) -> Json:
    row, arm, identity = one.row, one.row.arm, one.row.host.identity
    return {
        "benchmark": {
            "name": "gpu-cost-bench",
            "mode": "inference",
            "dtype": arm.quant if arm.quant != "none" else arm.dtype,
            "extra_info": _text(
                {
                    "experiment": row.good[0].experiment,
                    "variant": arm.name,
                    **row.sizes._asdict(),
                    **arm.options,
                    "valid": row.valid,
                    "reasons": " ".join(row.reasons),
                }
            ),
        },
        "model": {"name": arm.model, "type": "LLM", "backend": arm.engine},
        "runners": [_runner(row.host, arm.device)],
        "dependencies": {
            name: {"version": str(identity[name])} for name in PACKAGES if identity.get(name)
        },
    }


def _runner(host: Host, device: str) -> Json:
    identity = host.identity
    on_card = host.gpu is not None and not on_cpu(device)
    found = {
        "name": identity.get("host"),
        "type": device,
        "cpu_info": host.cpu,
        "cpu_count": host.cpu_cores,
        "gpu_info": host.gpu,
        "gpu_count": host.gpus if on_card else None,
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
