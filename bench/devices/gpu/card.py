"""Which vendor's library shows the card that torch calls `cuda:N`."""

from __future__ import annotations

from bench.devices.figures import Unreadable
from bench.devices.gpu.amd import AmdCard
from bench.devices.gpu.nvidia import NvidiaCard


def open_card(device: str) -> NvidiaCard | AmdCard:
    """The card, by NVIDIA's library or AMD's. Raises Unreadable with both reasons."""
    try:
        return NvidiaCard(device)
    except Unreadable as reason:
        no_nvidia = str(reason)
    try:
        return AmdCard(device)
    except Unreadable as reason:
        raise Unreadable(f"{no_nvidia}; {reason}") from None
