"""How near a measured row is to the physical limit of its device, and what holds it back.

Needs a model card and the device's data sheet (`bench gpus`); where either is missing the figures
are None with the reason. Formulas: `bench.roofline`, docs/predict.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.catalog import ModelCard, resolve_model
from bench.diagnosis import Evidence, diagnose
from bench.errors import BenchError
from bench.gpus import Gpu, match
from bench.layout import layout
from bench.records import OWN, Record, Results
from bench.roofline import Bound, above_bound, bound, mbu, mfu, peak_flops
from bench.shape import shape

Row = dict[str, Any]
FIGURES = ("bound_decode_tok_s", "bound_prefill_tok_s", "limited_by", "mbu", "mfu", "diagnosis")


def with_limits(rows: Sequence[Row], results: Results) -> list[Row]:
    """The rows with `FIGURES`; a rate above the bound gets the reason ABOVE_BOUND."""
    devices = {r.variant["name"]: _gpu(results, r) for r in results.records}
    return [_limited(row, rows, devices.get(row["variant"])) for row in rows]


def _gpu(results: Results, record: Record) -> Gpu | str:
    """The catalogued card that a record was measured on, or why there is none."""
    if record.variant["device"].startswith("remote"):
        return "the server's device is not known here"
    found = results.environments.get(record.environment)
    name = found.identity.get("gpu") if found else None
    if record.variant.get("options", {}).get("n_depth"):
        return "the context was filled before the measurement (n_depth)"
    if name is None and record.origin not in OWN and record.variant["device"] != "cpu":
        return f"{record.origin} does not say on which card"
    if name is None:
        return "no bandwidth is known for this CPU; `bench doctor --peaks` measures it"
    return match(str(name)) or f"{name} is not in the catalog (`bench gpus`)"


def _limited(row: Row, rows: Sequence[Row], gpu: Gpu | str | None) -> Row:
    if not isinstance(gpu, Gpu):
        return _without(row, gpu or "no environment was recorded")
    if row["n_batch"] is None:
        return _without(row, row["absent"].get("n_batch", "the batch is not known"))
    try:
        card = resolve_model(row["model"]).card
        most = bound(card, gpu, row["quant"], row["n_prompt"], row["n_gen"], row["n_batch"],
                     dtype=row["dtype"], engine=row["engine"])  # fmt: skip
    except BenchError as error:
        return _without(row, str(error))
    figures = _figures(row, rows, card, gpu, most)
    impossible = (
        above_bound(row["decode_tok_s"], most.decode_tok_s)
        or above_bound(row["prefill_tok_s"], figures["bound_prefill_tok_s"])
        or above_bound(row["output_tok_s"], most.decode_tok_s)
    )
    if impossible:
        figures |= {"valid": False, "reasons": sorted({*row["reasons"], "ABOVE_BOUND"})}
    if _overlaps(row):
        figures["absent"] = row["absent"] | {"diagnosis": "requests overlap: a step is not alone"}
    return row | figures


def _without(row: Row, why: str) -> Row:
    absent = row["absent"] | dict.fromkeys(FIGURES, why)
    return row | dict.fromkeys(FIGURES) | {"absent": absent}


def _figures(row: Row, rows: Sequence[Row], card: ModelCard, gpu: Gpu, most: Bound) -> Row:
    step_s, ttft_s = row["tpot_s"], row["ttft_s"] if row["prefill_tok_s"] else None
    peak = peak_flops(gpu, layout(row["quant"], row["engine"]).compute, row["dtype"])
    return {
        "bound_decode_tok_s": most.decode_tok_s if row["n_gen"] else None,
        "bound_prefill_tok_s": most.prefill_tok_s if row["n_prompt"] else None,
        "limited_by": most.limited_by,
        "mbu": None if step_s is None else mbu(most.decode_bytes, step_s, gpu.bandwidth),
        "mfu": None if ttft_s is None else mfu(most.prefill_flops, ttft_s, peak),
        "diagnosis": None
        if step_s is None or _overlaps(row)
        else diagnose(_evidence(row, rows, card, gpu, most)).line,
    }


def _overlaps(row: Row) -> bool:
    """Whether requests overlapped: a step then waits for other requests' prompts as well."""
    return row["ttft_s"] is not None and row["prefill_tok_s"] is None


def _evidence(row: Row, rows: Sequence[Row], card: ModelCard, gpu: Gpu, most: Bound) -> Evidence:
    def other(**changed: str) -> float | None:
        """The rate of the same row but for what is changed."""
        fixed = ("model", "engine", "quant", "mode", "dtype", "n_prompt", "n_gen", "n_batch")
        wanted = {name: row[name] for name in fixed} | changed
        rates = [r["decode_tok_s"] for r in rows if all(r[k] == v for k, v in wanted.items())]
        return next((rate for rate in rates if rate is not None), None)

    return Evidence(
        decode_tok_s=row["decode_tok_s"],
        bound_decode_tok_s=most.decode_tok_s,
        limited_by=most.limited_by,
        mode=row["mode"],
        eager_tok_s=other(mode="eager") if row["mode"] != "eager" else None,
        graph_tok_s=other(mode="cuda-graph") if row["mode"] == "eager" else None,
        quantized=row["quant"] != "none",
        unquantized_tok_s=other(quant="none") if row["quant"] != "none" else None,
        needed_bytes=most.memory_bytes,
        memory_bytes=gpu.vram_bytes,
        kernel=row["kernel"],
        layers=sum(attention.layers for attention in shape(card).attention),
        n_batch=row["n_batch"],
    )
