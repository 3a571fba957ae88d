"""InferenceX's aggregate of a run: one a variant and workload, rates of one card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bench.errors import InputError
from bench.exchange.exporting import Exported, by_machine, failures
from bench.exchange.foreign import UNKNOWN
from bench.exchange.inferencex import TIMES
from bench.exchange.values import Json
from bench.experiment import CostAssumption
from bench.records.file import Results
from bench.summary import summarise


def write(results: Results, _: CostAssumption | None) -> Exported:
    """One aggregate a variant and workload; what has no batch, or neither rate, is left out."""
    made, left = [], 0
    for one in by_machine(results):
        gpu = next((e.identity.get("gpu") for e in one.environments.values()), None)
        for row in summarise(one):
            entry = _entry(row, gpu)
            left += entry is None
            made += [entry] if entry else []
    if not made:
        raise InputError("no record has a batch and a rate of prompt and new tokens to export")
    text = json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    dropped = ["single requests, percentiles, engine settings, reasons and intervals"]
    if left:
        dropped.append(f"{left} rows without n_batch, or of prompts or new tokens alone")
    return Exported(data=text.encode(), dropped=(*dropped, *failures(results)))


def _entry(row: Mapping[str, Any], gpu: str | None) -> Json | None:
    """A row of ours under their names, rates for one card."""
    output, total, cards = row["output_tok_s"], row["total_tok_s"], row["cards"]
    if row["n_batch"] is None or not output or not total or not row["n_prompt"]:
        return None
    times = {f"median_{key}": row[name] for name, key in TIMES if row[name] is not None}
    if row["tpot_s"]:
        times["median_intvty"] = 1 / row["tpot_s"]
    entry: Json = {
        "hw": _hw(gpu) if gpu else row["device"].partition(":")[0],
        "conc": row["n_batch"],
        "model": row["model"],
        "framework": row["engine"],
        "precision": "bf16" if row["quant"] == "none" else row["quant"],
        "isl": row["n_prompt"],
        "osl": row["n_gen"],
        "tp": cards,
        "ep": 1,
        "dp_attention": "false",
        "disagg": False,
        "tput_per_gpu": total / cards,
        "output_tput_per_gpu": output / cards,
        "input_tput_per_gpu": (total - output) / cards,
        **times,
    }
    return {key: value for key, value in entry.items() if value != UNKNOWN or key == "hw"}


def _hw(gpu: str) -> str:
    """`NVIDIA H100 80GB HBM3` as h100-sxm, the way that the catalog names it."""
    from bench.roofline.gpus import match

    card = match(gpu)
    return card.name if card else gpu
