"""Which vendor's library shows the card that torch calls `cuda:N`, and what a device is."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.devices.figures import Unreadable
from bench.devices.gpu import told
from bench.devices.gpu.amd import AmdCard
from bench.devices.gpu.nvidia import NvidiaCard
from bench.experiment.devices import kind_of


def open_card(device: str) -> NvidiaCard | AmdCard:
    """The card, by NVIDIA's library or AMD's. Raises Unreadable with the reasons.

    Where torch was built for ROCm, NVIDIA's is not asked: `cuda:0` is not its first card then. Any
    other build says nothing of a card that llama.cpp or a server computes on.
    """
    if kind_of(device) not in ("cuda", "auto"):
        raise Unreadable(f"no library here reads the counters of `{kind_of(device)}` devices")
    if built_for() == "hip":
        return AmdCard(device)
    try:
        return NvidiaCard(device)
    except Unreadable as reason:
        no_nvidia = str(reason)
    try:
        return AmdCard(device)
    except Unreadable as reason:
        raise Unreadable(f"{no_nvidia}; {reason}") from None


def built_for(folder: Path | None = None) -> str | None:
    """What the torch that is installed was built for, without importing it: `cuda`, `hip`, `xpu`;
    None for a CPU (or a Mac), or where there is none. `folder`: torch's own."""
    if folder is None:
        found = find_spec("torch")
        if found is None or found.origin is None:
            return None
        folder = Path(found.origin).parent
    try:
        text = (folder / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    named = re.findall(r"^(cuda|hip|xpu)\b[^=\n]*=\s*['\"]", text, re.MULTILINE)
    return str(named[0]) if named else None


def by_build() -> str | None:
    """The device that a torch for AMD or Intel, or on a Mac, would take here if it can use it."""
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    return {"hip": "cuda:0", "xpu": "xpu:0"}.get(str(built_for()), "mps:0" if apple else None)


def meant(device: str) -> str:
    """What `auto` means as far as it is known without torch: the first card that a library shows,
    else `by_build`; any other name as it is, and `auto` where there is no card."""
    if device != "auto":
        return device
    try:
        with _opened("cuda:0"):
            return "cuda:0"
    except Unreadable:
        return by_build() or device


@contextmanager
def _opened(device: str) -> Iterator[NvidiaCard | AmdCard]:
    card = open_card(device)
    try:
        yield card
    finally:
        card.close()


def describe(device: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What identifies a card, and what may change while it is the same. Raises Unreadable."""
    if kind_of(device) in told.KINDS:
        return dict(told.facts(device)), {}
    with _opened(device) as card:
        return dict(card.identity()), dict(card.state())


def used_bytes(device: str) -> int:
    """Bytes that all programs hold on one card now, the display among them. Raises Unreadable."""
    with _opened(device) as card:
        return card.used_bytes()


def free_bytes(device: str) -> int:
    """Bytes of one card that no program holds now. Raises Unreadable."""
    with _opened(device) as card:
        total = card.identity()["gpu_memory_bytes"]
        if total is None:
            raise Unreadable("the driver does not report the card's memory")
        return int(total) - card.used_bytes()
