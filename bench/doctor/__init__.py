"""Can this machine measure honestly? What was found, what it means for the figures, what to do.

Reads, never sets: what needs the administrator is said, not done. Imports neither torch nor what
is measured; only the peaks, when asked for, are measured in a process that does.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bench.errors import InputError, UnsupportedError
from bench.experiment.devices import kind_of, members

State = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One answer."""

    check: str
    state: State
    found: str
    meaning: str = ""
    """What it means for the figures."""
    advice: str = ""
    """What to do; empty if there is nothing to do."""
    value: float | None = None
    """What was measured, where it is a number."""
    unit: str = ""


def examine(device: str | None = None, *, with_peaks: bool = False) -> list[Check]:
    """Every check for a device (`cpu`, `cuda:0`, ...; None takes the first card, else the CPU).

    Raises UnsupportedError if that device is not there.
    """
    from bench.devices.gpu.card import built_for
    from bench.doctor.gpu import gpu_checks, unread_check
    from bench.doctor.host import (
        CARD_PACKAGES,
        compiler_check,
        host_checks,
        package_check,
        software_checks,
    )
    from bench.doctor.peaks import peak_checks
    from bench.doctor.support import support_check

    chosen, card = find_device(device)
    checks = [Check(check="device", state="ok", found=chosen)]
    kind, build = kind_of(chosen), built_for()
    amd = build == "hip" if card is None else card.vendor == "amd"
    checks.append(support_check(kind, "amd" if amd and kind == "cuda" else ""))
    checks += software_checks(build)
    if kind == "cuda":
        checks += [package_check(*one) for one in CARD_PACKAGES]
    if kind in ("cuda", "xpu"):
        checks.append(compiler_check(chosen))
    checks += host_checks(computes=chosen == "cpu")
    if card is not None:
        checks += gpu_checks(card)
    elif kind != "cpu":
        checks.append(unread_check(chosen))
    if with_peaks:
        checks += peak_checks(chosen)
    return checks


def find_device(device: str | None) -> tuple[str, Any]:
    """The device to examine, and its card where a vendor's library shows one."""
    from bench.devices.figures import Unreadable
    from bench.devices.gpu.card import built_for, open_card

    if device in (None, "auto"):
        try:
            return "cuda:0", open_card("cuda:0")
        except Unreadable:
            return without_counters(), None
    assert device is not None
    if len(members(device)) > 1:
        raise InputError(f"device '{device}': the doctor examines one at a time")
    kind = kind_of(device)
    if kind == "cpu":
        return device, None
    if kind == "cuda":
        try:
            return device, open_card(device)
        except Unreadable as reason:
            if built_for() != "hip":  # amdsmi comes with ROCm and not with torch
                raise UnsupportedError(f"device '{device}': {reason}; try -d cpu") from None
    ask_torch(device)
    return device, None


def without_counters() -> str:
    """What `bench run` takes where no vendor's library shows a card."""
    from bench.devices.gpu.card import by_build

    first = by_build()
    if first is not None:
        with contextlib.suppress(UnsupportedError):
            ask_torch(first)
            return first
    return "cpu"


def ask_torch(device: str) -> None:
    """Ask torch, in a process of its own, whether a device is there."""
    code = "import sys, torch; torch.empty(1, device=sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, device], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["torch cannot use it"])[-1]
        if "device type at start of device string" in said:
            raise UnsupportedError(f"no device '{device}': torch knows no such kind; try -d cpu")
        raise UnsupportedError(f"device '{device}': {said[:200]}; try -d cpu")


def rows(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """The checks as rows of a table."""
    return [asdict(check) for check in checks]
