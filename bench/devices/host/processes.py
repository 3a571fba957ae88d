"""Another program's processes: a server that was started, with whatever it started itself.

Source of the figures: proc(5).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.devices.figures import Unreadable, text_of
from bench.devices.host import machine
from bench.keeper import descendants

LISTENS: Final = "0A"
"""State of a listening socket in /proc/net/tcp."""


def family(pid: int, root: Path = machine.ROOT) -> list[int]:
    """A program and all that descends from it. Raises Unreadable where there is no /proc."""
    if not (root / f"proc/{pid}").exists():
        raise Unreadable(f"there is no /proc/{pid}")
    return [pid, *descendants(pid, root)]


def memory(pid: int, root: Path = machine.ROOT) -> dict[str, Any]:
    """What a program holds of the host's memory now: pages that several share, in parts (PSS)."""
    try:
        held = sum(_kilobytes(one, "smaps_rollup", "Pss", root) for one in family(pid, root))
    except Unreadable as reason:
        return {"host_bytes": None, "absent": {"host_bytes": str(reason)}}
    return {"host_bytes": held * 1024}


def reset_peaks(pids: Sequence[int], root: Path = machine.ROOT) -> bool:
    """Make the kernel forget each one's peak; whether it could."""
    try:
        for pid in pids:
            (root / f"proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_bytes(pids: Sequence[int], root: Path = machine.ROOT) -> int:
    """The sum of each one's most: an upper bound, as they share pages and peak at other times.

    Raises Unreadable.
    """
    return sum(_kilobytes(pid, "status", "VmHWM", root) for pid in pids) * 1024


def _kilobytes(pid: int, file: str, name: str, root: Path) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB", text_of(root / f"proc/{pid}/{file}"), re.MULTILINE)
    if found is None:
        raise Unreadable(f"/proc/{pid}/{file} has no {name}")
    return int(found[1])


def listens(pid: int, port: int, root: Path = machine.ROOT) -> bool | None:
    """Whether a process of that program listens on the port; None where that cannot be told: no
    /proc, or the port is that of a container, whose processes are not the program's."""
    owners = {inode for one in ("tcp", "tcp6") for inode in _listening(root, one, port)}
    if not owners:
        return None
    for one in family(pid, root):
        with contextlib.suppress(OSError):
            for handle in (root / f"proc/{one}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(handle.readlink()).removeprefix("socket:[").removesuffix("]") in owners:
                        return True
    return False


def _listening(root: Path, table: str, port: int) -> list[str]:
    """Inodes of the sockets that listen on a port."""
    try:
        lines = text_of(root / f"proc/net/{table}").splitlines()[1:]
    except Unreadable:
        return []
    rows = [line.split() for line in lines]
    return [r[9] for r in rows if r[3] == LISTENS and int(r[1].rpartition(":")[2], 16) == port]
