"""Who else computes on a card, from the process ids that its driver lists."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bench.devices.figures import Unreadable
from bench.devices.host import load

INITIAL_PID_NAMESPACE: Final = "pid:[4026531836]"
"""PROC_PID_INIT_INO of the Linux kernel: outside every container."""


def strangers(listed: Iterable[int], *, computing: bool) -> Sequence[int]:
    """Of the process ids that compute on a card, those of others. Raises Unreadable.

    In a container a driver may list ids of the host, or nothing: NVIDIA's, and AMD's in
    /sys/class/kfd (ROCm/rocm-systems#3752). There an empty list is no answer, and if this process
    is `computing` one of those listed is taken to be this one.
    """
    pids = sorted({*listed})
    own = {os.getpid(), *(pid for pid, _ in load.descendants(os.getpid()))}
    others = [pid for pid in pids if pid not in own]
    if len(others) < len(pids) or not in_container():
        return others
    if not pids:
        raise Unreadable("the driver lists no processes here (a container, or WSL2)")
    return others[1:] if computing else others


def in_container() -> bool:
    """Whether process ids here may differ from the driver's."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) != INITIAL_PID_NAMESPACE
    except OSError:
        return False
