"""The doctor's word on what a device reaches, measured now."""

from __future__ import annotations

from collections.abc import Iterator

from bench.devices import peaks
from bench.devices.environment import capture
from bench.devices.figures import Unreadable
from bench.doctor import Check
from bench.engines.registry import packages
from bench.models.weights import cache_folder


def peak_checks(device: str) -> Iterator[Check]:
    """Copy bandwidth and matmul rate of this very device, kept for the records of later runs."""
    try:
        figures = peaks.measure_and_keep(cache_folder(), device, capture(device, packages()).id)
    except Unreadable as reason:
        yield Check(check="peaks", state="warn", found="not measured", meaning=str(reason))
        return
    if why := figures["disturbed"]:
        yield Check(
            check="peaks",
            state="warn",
            found=why,
            meaning="other processes lowered these rates; not kept",
            advice="measure them again when the machine is at rest",
        )
    copy = figures["copy_bytes_s"]
    yield Check(
        check="copy bandwidth",
        state="ok",
        found=f"{copy / 1e9:.1f} GB/s",
        meaning="decode cannot read its weights faster than about this",
        value=copy,
        unit="B/s",
    )
    for dtype, rate in figures["matmul_flop_s"].items():
        yield Check(
            check=f"matmul {dtype}",
            state="ok",
            found=f"{rate / 1e12:.3g} TFLOP/s",
            meaning="prefill cannot compute faster than about this",
            value=rate,
            unit="FLOP/s",
        )
