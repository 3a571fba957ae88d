"""What is supported on a kind of device, and whether anyone has seen it running there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bench.doctor import Check, State

SUPPORT: Final[Mapping[str, tuple[State, str, str]]] = {
    "cpu": ("ok", "measured: results/", ""),
    "nvidia": (
        "warn",
        "supported, never seen on a card",
        "tested with fakes of NVML, allocator and graphs, and on the code generated for sm_89 "
        "and sm_90: read the first figures with care",
    ),
    "amd": (
        "warn",
        "supported, never seen on a card",
        "tested on stand-ins of amdsmi and allocator, and on the code generated for gfx90a to "
        "gfx1201 (ROCm): read the first figures with care",
    ),
    "xpu": (
        "warn",
        "speed and memory only, never seen on a card",
        "tested on stand-ins; no counters are read: energy, temperature and clocks are null, other "
        "processes unseen",
    ),
    "mps": (
        "warn",
        "speed and memory only, never seen on a Mac",
        "tested on stand-ins; no counters are read: energy, temperature, clocks and the peak of "
        "memory are null, other processes unseen",
    ),
}
"""What is supported (the records in results/ say what was seen) -> state, words, meaning."""

SEND: Final = "please send the records: bench export RESULTS --share FILE"


def support_check(kind: str, vendor: str = "") -> Check:
    """`kind` as torch names it; `vendor` of a card that torch calls `cuda`."""
    state, found, meaning = SUPPORT.get(
        "amd" if vendor == "amd" else "nvidia" if kind == "cuda" else kind,
        ("bad", "not supported", f"engines here run on {', '.join(sorted({*SUPPORT}))}"),
    )
    advice = SEND if state == "warn" else ""
    return Check(check="support", state=state, found=found, meaning=meaning, advice=advice)
