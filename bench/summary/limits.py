"""How near a measured row is to the physical limit of its device, and what holds it back.

Needs a model card, and the device's data sheet (`bench gpus`) or the rates that were measured on
that very device; where these are missing the figures are None with the reason. Formulas:
`bench.roofline`, docs/predict.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import BenchError
from bench.experiment.devices import count, is_remote, members, on_cpu
from bench.experiment.modes import PARALLEL
from bench.models import ModelCard, resolve_model
from bench.models.shapes import shape
from bench.records import OWN, Record
from bench.records.file import Results
from bench.roofline import Bound, Measured, above_bound, bound, mbu, mfu, peak_flops
from bench.roofline.diagnosis import Evidence, diagnose
from bench.roofline.gpus import Gpu, match
from bench.schemes.bytes import ON_MODULES, layout

Row = dict[str, Any]
FIGURES = ("bound_decode_tok_s", "bound_prefill_tok_s", "limited_by", "mbu", "mfu", "diagnosis")
"""Against the data sheet."""

MEASURED = ("mbu_measured", "mfu_measured")
"""Against the copy and matmul rates measured on that very device."""

NOT_RECORDED = "no environment was recorded"
DEEP = "the context was filled before the measurement (n_depth)"


@dataclass(frozen=True, slots=True)
class Device:
    """What an arm was measured on."""

    gpu: Gpu | str
    """Its data sheet, or why there is none."""
    rates: Measured | str
    """What was measured on it, or why not."""
    cards: int = 1
    """That hold the model together."""
    at_once: int = 1
    """Of them work at the same time: all, or one after the other."""


def with_limits(rows: Sequence[Row], results: Results) -> list[Row]:
    """The rows with `FIGURES` and `MEASURED`; a rate above the bound gets ABOVE_BOUND."""
    devices = {r.variant["name"]: _device(results, r) for r in results.records}
    unknown = Device(NOT_RECORDED, NOT_RECORDED)
    return [_limited(row, rows, devices.get(row["variant"], unknown)) for row in rows]


def _device(results: Results, record: Record) -> Device:
    cards = count(record.variant["device"])
    return Device(_gpu(results, record), _rates(results, record), cards, at_once(record.variant))


def at_once(variant: Mapping[str, Any]) -> int:
    """Devices that read their weights at the same time.

    With layers on several, one waits for the other: so much memory, and no more bandwidth.
    """
    split = (variant.get("options") or {}).get("split")
    together = split in ("tensor", "row") or variant["engine"] in PARALLEL
    return count(variant["device"]) if together else 1


def _gpu(results: Results, record: Record) -> Gpu | str:
    """The catalogued card that a record was measured on, or why there is none."""
    if is_remote(record.variant["device"]):
        return "the server's device is not known here"
    found = results.environments.get(record.environment)
    name = found.identity.get("gpu") if found else None
    if record.variant.get("options", {}).get("n_depth"):
        return DEEP
    if name is None and record.origin not in OWN and not on_cpu(record.variant["device"]):
        return f"{record.origin} does not say on which card"
    if name is None:
        return "a CPU has no data sheet here; `mbu_measured` is against its measured rates"
    return match(str(name)) or f"{name} is not in the catalog (`bench gpus`)"


def _rates(results: Results, record: Record) -> Measured | str:
    """The rates measured on the device of a record, or why there are none."""
    found, variant = results.environments.get(record.environment), record.variant
    if is_remote(variant["device"]):
        return "the server's device is not known here"
    if variant.get("options", {}).get("n_depth"):
        return DEEP
    if found is None:
        return NOT_RECORDED
    peaks: Mapping[str, Any] | None = found.state.get("peaks")
    if peaks is None or peaks["device"] != members(variant["device"])[0]:
        why = found.state.get("absent", {}).get(
            "peaks", "`bench doctor --peaks` does, for new runs"
        )
        return f"the rates of {variant['device']} were not measured: {why}"
    threads = variant.get("threads")
    if on_cpu(variant["device"]) and threads not in (None, peaks["threads"]):
        return f"rates were measured with {peaks['threads']} threads, this arm has {threads}"
    memory = found.identity.get("gpu_memory_bytes") or found.identity.get("memory_bytes")
    return Measured(
        name=variant["device"],
        bandwidth=peaks["copy_bytes_s"],
        vram_bytes=memory or 0,  # no figure here asks whether it fits
        rates=peaks["matmul_flop_s"],
    )


def _limited(row: Row, rows: Sequence[Row], device: Device) -> Row:
    gpu, rates = device.gpu, device.rates
    if isinstance(gpu, str) and isinstance(rates, str):
        return _without(_without(row, FIGURES, gpu), MEASURED, rates)
    if row["n_batch"] is None:
        why = row["absent"].get("n_batch", "the batch is not known")
        return _without(row, (*FIGURES, *MEASURED), why)
    try:
        card = resolve_model(row["model"]).card
        most = None if isinstance(gpu, str) else _bound(row, card, gpu, device.at_once)
        reached = None if isinstance(rates, str) else _bound(row, card, rates, device.at_once)
    except BenchError as error:
        return _without(row, (*FIGURES, *MEASURED), str(error))
    if reached is None or isinstance(rates, str):
        row = _without(row, MEASURED, str(rates))
    else:
        row = _measured(row, rates, reached, device.at_once)
    if most is None or isinstance(gpu, str):
        return _without(row, FIGURES, str(gpu))
    figures = _figures(row, rows, card, gpu, most, device)
    if _impossible(row, most, reached):
        figures |= {"valid": False, "reasons": sorted({*row["reasons"], "ABOVE_BOUND"})}
    if _overlaps(row):
        figures["absent"] = row["absent"] | {"diagnosis": "requests overlap: a step is not alone"}
    return row | figures


def _bound(row: Row, card: ModelCard, device: Gpu | Measured, n_devices: int) -> Bound:
    return bound(
        card,
        device,
        row["quant"],
        row["n_prompt"],
        row["n_gen"],
        row["n_batch"],
        dtype=row["dtype"],
        engine=row["engine"],
        n_devices=n_devices,
    )


def _impossible(row: Row, most: Bound, reached: Bound | None) -> bool:
    """Whether a rate is beyond the data sheet, and beyond what was measured on the device.

    A measured rate alone bounds nothing: it was reached, which does not say that no more can be.
    But a device that was measured above its data sheet shows that the sheet is no bound there.
    """
    limits = [most]
    # Without a matmul rate the measured side is bounded by memory alone: too much.
    if reached is not None and reached.prefill_tok_s is not None:
        limits.append(reached)
    decode = max(limit.decode_tok_s for limit in limits)
    prefill = max((limit.prefill_tok_s or 0.0 for limit in limits), default=0.0)
    return (
        above_bound(row["decode_tok_s"], decode)
        or above_bound(row["output_tok_s"], decode)
        or (
            row["n_prompt"] > 0
            and most.prefill_tok_s is not None
            and above_bound(row["prefill_tok_s"], prefill)
        )
    )


def _measured(row: Row, rates: Measured, reached: Bound, n_devices: int) -> Row:
    """MBU and MFU against rates that were measured."""
    step_s, ttft_s = _times(row)
    compute = layout(row["quant"], row["engine"]).compute
    peak = peak_flops(rates, compute, row["dtype"])
    figures = {
        "mbu_measured": None
        if step_s is None
        else mbu(reached.decode_bytes, step_s, rates.bandwidth * n_devices),
        "mfu_measured": None
        if ttft_s is None or peak is None
        else mfu(reached.prefill_flops, ttft_s, peak * n_devices),
    }
    absent = dict(row["absent"])
    if peak is None:
        what = row["dtype"] if compute == "float" else compute
        absent["mfu_measured"] = f"the matmul rate of {what} was not measured on {rates.name}"
    return row | figures | {"absent": absent}


def _without(row: Row, names: Iterable[str], why: str) -> Row:
    names = tuple(names)
    return row | dict.fromkeys(names) | {"absent": row["absent"] | dict.fromkeys(names, why)}


def _figures(
    row: Row, rows: Sequence[Row], card: ModelCard, gpu: Gpu, most: Bound, device: Device
) -> Row:
    step_s, ttft_s = _times(row)
    peak = peak_flops(gpu, layout(row["quant"], row["engine"]).compute, row["dtype"])
    return {
        "bound_decode_tok_s": most.decode_tok_s if row["n_gen"] else None,
        "bound_prefill_tok_s": most.prefill_tok_s if row["n_prompt"] else None,
        "limited_by": most.limited_by,
        "mbu": None
        if step_s is None
        else mbu(most.decode_bytes, step_s, gpu.bandwidth * device.at_once),
        "mfu": None
        if ttft_s is None or peak is None
        else mfu(most.prefill_flops, ttft_s, peak * device.at_once),
        "diagnosis": None
        if step_s is None or _overlaps(row)
        else diagnose(_evidence(row, rows, card, gpu.vram_bytes * device.cards, most)).line,
    }


def _times(row: Row) -> tuple[float | None, float | None]:
    """Seconds of a step and of a prefill, where they were measured alone."""
    return row["tpot_s"], row["ttft_s"] if row["prefill_tok_s"] else None


def _overlaps(row: Row) -> bool:
    """Whether requests overlapped: a step then waits for other requests' prompts as well."""
    return row["ttft_s"] is not None and row["prefill_tok_s"] is None


def _evidence(
    row: Row, rows: Sequence[Row], card: ModelCard, memory_bytes: int, most: Bound
) -> Evidence:
    def other(**changed: str) -> float | None:
        """The rate of the same row but for what is changed; a mode may be another engine's."""
        fixed = ("model", "quant", "mode", "dtype", "n_prompt", "n_gen", "n_batch")
        wanted = {name: row[name] for name in fixed} | changed
        engines = {row["engine"]}
        if "mode" in changed and row["engine"] in ON_MODULES:
            engines |= set(ON_MODULES)  # the same modules, stepped in another way
        rates = [
            r["decode_tok_s"]
            for r in rows
            if r["engine"] in engines and all(r[k] == v for k, v in wanted.items())
        ]
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
        memory_bytes=memory_bytes,
        kernel=row["kernel"],
        layers=sum(attention.layers for attention in shape(card).attention),
        n_batch=row["n_batch"],
    )
