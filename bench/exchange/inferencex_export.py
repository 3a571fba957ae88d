"""InferenceX's aggregate of a run: one a variant, workload and machine, rates of one card."""

from __future__ import annotations

import json

from bench.errors import InputError
from bench.exchange.exporting import Exported, failures
from bench.exchange.foreign import UNKNOWN
from bench.exchange.inferencex import TIMES
from bench.exchange.values import Json
from bench.experiment import CostAssumption
from bench.experiment.devices import kind_of
from bench.records.file import Results
from bench.summary import Row, Summary, summarise

LOST = "single requests, percentiles, engine settings, reasons and intervals"


def write(results: Results | Summary, _: CostAssumption | None) -> Exported:
    """An aggregate a row; what has no batch, or is of prompts or new tokens alone, is left out."""
    rows = list(summarise(results))
    made = [entry for row in rows if (entry := _entry(row))]
    if not made:
        raise InputError("no record has a batch and a rate of prompt and new tokens to export")
    text = json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    left = len(rows) - len(made)
    few = [f"{left} rows without n_batch, or of prompts or new tokens alone"] if left else []
    return Exported(data=text.encode(), dropped=(LOST, *few, *failures(rows)))


def _entry(row: Row) -> Json | None:
    """A row of ours under their names, rates for one card."""
    arm, sizes, cards = row.arm, row.sizes, row.arm.cards
    output, total = row.value("output_tok_s"), row.value("total_tok_s")
    if sizes.n_batch is None or not output or not total or not sizes.n_prompt:
        return None
    times = {f"median_{key}": value for name, key in TIMES if (value := row.value(name))}
    if step := row.value("tpot_s"):
        times["median_intvty"] = 1 / step
    gpu = row.host.gpu
    entry: Json = {
        "hw": _hw(gpu) if gpu else kind_of(arm.device),
        "conc": sizes.n_batch,
        "model": arm.model,
        "framework": arm.engine,
        "precision": "bf16" if arm.quant == "none" else arm.quant,
        "isl": sizes.n_prompt,
        "osl": sizes.n_gen,
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
