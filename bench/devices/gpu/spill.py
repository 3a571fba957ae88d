"""Whether the card's memory spilled into the host's, which WSL2 and Windows do instead of failing.

What runs on then is many times slower and looks like a measurement (microsoft/WSL#11050: 30 GiB
allocated on a card of 16). Two signs, looked at before loading and after each measured window:
what the allocator holds is more than the card had left, and Windows counts more shared memory of
its adapters than before.

A Mac does the same: torch lets MPS hold 1.7 times what Metal recommends (`MPSAllocator.h`), which
may be more than there is, and macOS swaps. There the sign is holding more than is recommended.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.devices.figures import Unreadable
from bench.devices.gpu import card, torch_memory
from bench.experiment.devices import kind_of, members

COUNTER: Final = r"\GPU Adapter Memory(*)\Shared Usage"
"""Windows' performance counter of host memory that its graphics adapters use."""
DXG: Final = Path("/dev/dxg")
"""The device of WSL2, by which its programs reach Windows' driver."""
GROWN: Final = 256 * 2**20
"""More shared memory than this is not the desktop's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What was there before the model was loaded; None where it could not be read."""

    device: str
    free_bytes: int | None = None
    shared_bytes: int | None = None

    def spilled(
        self, memory: Mapping[str, Any], shared: Callable[[], int | None] | None = None
    ) -> str | None:
        """Why it must have spilled, or None. `memory`: the figures of a measured window."""
        if kind_of(self.device) == "mps":
            return _over_recommended(self.device)
        held = memory.get("peak_device_reserved_bytes")
        if held is not None and self.free_bytes is not None and held > self.free_bytes:
            return (
                f"{held / 1e9:.1f} GB are allocated on a card that had {self.free_bytes / 1e9:.1f} "
                "GB free: the rest is in the host's memory"
            )
        now = (shared or shared_bytes)() if self.shared_bytes is not None else None
        if now is not None and self.shared_bytes is not None and now > self.shared_bytes + GROWN:
            grown = (now - self.shared_bytes) / 1e9
            return f"the card's shared memory on the host has grown by {grown:.1f} GB"
        return None


def _over_recommended(device: str) -> str | None:
    try:
        held, most = torch_memory.reserved_bytes(device), torch_memory.capacity_bytes(device)
    except Unreadable:
        return None
    if held <= most:
        return None
    return (
        f"{held / 1e9:.1f} GB are held, and Metal recommends {most / 1e9:.1f} at most: macOS swaps"
    )


def spills_here(dxg: Path = DXG) -> bool:
    """Whether this machine's drivers spill: those of Windows, also under WSL2."""
    return sys.platform == "win32" or dxg.exists()


def watch(device: str, *, spills: bool | None = None) -> Watch | None:
    """Begin to watch, before anything is loaded; None where drivers do not spill."""
    if kind_of(device) == "mps":
        return Watch(device=device)
    if kind_of(device) != "cuda" or not (spills_here() if spills is None else spills):
        return None
    try:
        free = sum(map(card.free_bytes, members(device)))
    except Unreadable:
        free = None
    return Watch(device=device, free_bytes=free, shared_bytes=shared_bytes())


def marked(watched: Watch | None, figures: Mapping[str, Any]) -> dict[str, Any]:
    """A measured window's reasons with SPILLED where it did, and what was seen."""
    why = None if watched is None else watched.spilled(figures["memory"])
    if why is None:
        return {}
    return {
        "reasons": sorted({*figures["reasons"], "SPILLED"}),
        "device": {**figures["device"], "spilled": why},
    }


def shared_bytes(run: Callable[..., Any] = subprocess.run) -> int | None:
    """Host memory of all graphics adapters, asked of Windows, from WSL2 too; None if it is mute."""
    try:
        done = run(
            ["typeperf.exe", COUNTER, "-sc", "1"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse(done.stdout) if done.returncode == 0 else None


def parse(text: str) -> int | None:
    """The sum of a typeperf sample: a line of names, then one of a time and figures, in quotes."""
    rows = [line for line in text.splitlines() if line.startswith('"')]
    if len(rows) < 2:
        return None
    try:
        return round(sum(float(cell.strip('"').replace(",", ".")) for cell in _cells(rows[1])))
    except ValueError:
        return None


def _cells(row: str) -> list[str]:
    """Figures of a row, without the time."""
    return row.strip().split('","')[1:]
