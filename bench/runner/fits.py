"""Does an arm fit on a device while it loads and while it runs? Asked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bench.engines.registry import spec
from bench.errors import UnsupportedError
from bench.experiment import Variant, Workload
from bench.experiment.devices import count
from bench.models import ModelCard
from bench.roofline import capacity
from bench.roofline.memory import (
    HOST,
    Fit,
    HostMemory,
    Memory,
    fit,
    loading_bytes,
    running,
    with_loading,
)
from bench.runner.here import Here
from bench.schemes.bytes import has_layout
from bench.schemes.cache import AUTO, asked

LIMIT = 1 << 16
"""No batch above it is looked at."""
LEAST = Workload(n_prompt=1, n_gen=1, n_batch=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What an arm needs for a workload on a device, and whether that is there."""

    memory: Memory
    fit: Fit | None
    """None where the device's memory is not known."""
    n_devices: int = 1

    @property
    def needed_bytes(self) -> int:
        """Of all devices together, the larger of loading and running."""
        return self.memory.needed_bytes(self.n_devices)


def needs(variant: Variant, workload: Workload, card: ModelCard, place: Here) -> Needs:
    """What an arm needs. Raises UnsupportedError where the bytes are not known beforehand."""
    if not has_layout(variant.quant):
        raise UnsupportedError(f"the bytes of scheme '{variant.quant}' are not known beforehand")
    dtype = place.dtype if variant.dtype == "auto" else variant.dtype
    n_devices, reserve = count(place.devices), place.reserve.total_bytes
    engine = variant.engine
    size: dict[str, Any] = {
        "n_prompt": workload.n_prompt,
        "n_gen": workload.n_gen,
        "n_batch": workload.n_batch,
    }
    kv_dtype = asked(engine, variant.options)
    kv_dtype = dtype if kv_dtype == AUTO else kv_dtype
    found = running(card, variant.quant, dtype=dtype, kv_dtype=kv_dtype, engine=engine, **size)
    found = replace(found, reserve_bytes=reserve)
    peak = loading_bytes(
        card,
        variant.quant,
        dtype=dtype,
        engine=engine,
        n_devices=n_devices,
        reserve_bytes=reserve,
    )
    if peak is not None:
        found = with_loading(found, peak)
    if place.memory_bytes is None:
        return Needs(memory=found, fit=None, n_devices=n_devices)
    each = place.memory_bytes // n_devices
    if place.gpu is not None:
        each = min(each, capacity(place.gpu)) if place.gpu.unified else each
    word = fit(found, each, n_devices=n_devices, engine=engine, host=_host(place))
    return Needs(memory=found, fit=word, n_devices=n_devices)


def _host(place: Here) -> HostMemory | None:
    """The memory beside the device's, into which an engine may leave layers."""
    if place.kind == "cpu" or (place.gpu is not None and place.gpu.unified):
        return None
    return HOST


def too_large(variant: Variant, card: ModelCard, place: Here) -> str | None:
    """Why the arm cannot even be loaded and make one token there; None if it may."""
    if spec(variant.engine).remote or spec(variant.engine).weights != "folder":
        return None
    if not card.architecture:
        return None
    try:
        found = needs(variant, LEAST, card, place)
    except UnsupportedError:
        return None  # no arithmetic for this model: it is tried
    if found.fit != "no" or place.memory_bytes is None:
        return None
    peak = found.memory.loading_bytes or 0
    when = "while it loads" if peak > found.memory.running_bytes else "while it runs"
    reserve = place.reserve.total_bytes * found.n_devices
    return (
        f"{variant.model} in scheme {variant.quant} needs {found.needed_bytes / 1e9:.1f} GB "
        f"{when}, {reserve / 1e9:.1f} of them for driver, display and libraries; {place.name} has "
        f"{place.memory_bytes / 1e9:.1f} GB"
    )


def most_that_fit(variant: Variant, workload: Workload, card: ModelCard, place: Here) -> int | None:
    """The largest batch that is not known to be too large; None where that cannot be said.

    The estimate is from below, so what is above it surely does not fit: a driver that spills into
    the host's memory instead of failing is not even tried there.
    """

    def may(n_batch: int) -> bool:
        return needs(variant, replace(workload, n_batch=n_batch), card, place).fit != "no"

    try:
        if place.memory_bytes is None or not may(1):
            return None
        good, bad = 1, 2
        while bad < LIMIT and may(bad):
            good, bad = bad, 2 * bad
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if may(middle) else (good, middle)
    except UnsupportedError:
        return None
    return good
