"""Who used the CPU over a window: this process and its children, or others.

Source of the counters: proc(5), /proc/stat and /proc/PID/stat. They count in ticks of 10 ms, so
a window of 2 s resolves about 1% of a core.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from bench.devices.figures import Unreadable, text_of
from bench.devices.host import machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """CPU seconds so far."""

    at_s: float
    """Monotonic time of this reading."""
    busy_s: float
    """All cores, whoever used them."""
    steal_s: float
    """Time in which the hypervisor ran somebody else on our cores."""
    own_s: float
    """This process with its threads and its children."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Cores in use on average over a window; 1.0 is one core all the time."""

    window_s: float
    own_cores: float
    foreign_cores: float
    """Used by other processes. Counters of unlike resolution can differ by a tick: not below 0."""
    steal_cores: float


def times(root: Path = machine.ROOT) -> Times:
    """The counters now. Raises Unreadable where there is no /proc/stat."""
    first, _, _ = text_of(root / "proc/stat").partition("\n")
    name, *fields = first.split()
    if name != "cpu" or len(fields) < 8:
        raise Unreadable("/proc/stat has no line of eight counters for all cores")
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(text) for text in fields[:8])
    tick = os.sysconf("SC_CLK_TCK")
    return Times(
        at_s=time.monotonic(),
        busy_s=(user + nice + system + irq + softirq) / tick,  # `user` includes guests
        steal_s=steal / tick,
        own_s=own_cpu_s(root),
    )


def own_cpu_s(root: Path = machine.ROOT) -> float:
    """CPU seconds of this process with all threads, and of its children, living or waited for."""
    mine = os.times()
    own = time.process_time() + mine.children_user + mine.children_system
    tick = os.sysconf("SC_CLK_TCK")
    return own + sum(ticks for _, ticks in descendants(os.getpid(), root)) / tick


def descendants(pid: int, root: Path = machine.ROOT) -> list[tuple[int, int]]:
    """Process id and CPU ticks (with those of children waited for) of all that `pid` started."""
    children: dict[int, list[tuple[int, int]]] = {}
    for folder in (root / "proc").glob("[0-9]*"):
        try:
            # The command may hold spaces and brackets; the fields start after its last bracket.
            fields = text_of(folder / "stat").rpartition(")")[2].split()
            ticks = sum(int(text) for text in fields[11:15])
            children.setdefault(int(fields[1]), []).append((int(folder.name), ticks))
        except (Unreadable, IndexError, ValueError):  # it ended while we looked
            continue
    found: list[tuple[int, int]] = []
    pending = [pid]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += [child for child, _ in below]
    return found


def between(before: Times, after: Times) -> Load:
    """The load over the window between two readings. Raises Unreadable if it is too short."""
    window = after.at_s - before.at_s
    if window < 0.1:
        raise Unreadable(f"a window of {window:.3f} s is too short for counters of 10 ms")
    own = (after.own_s - before.own_s) / window
    busy = (after.busy_s - before.busy_s) / window
    return Load(
        window_s=window,
        own_cores=own,
        foreign_cores=max(busy - own, 0.0),
        steal_cores=max((after.steal_s - before.steal_s) / window, 0.0),
    )


def foreign_limit(cores: int) -> float:
    """Cores that others may use, stolen time included, before a CPU figure is called disturbed.

    A fifth of a core, or 5% of the machine where that is more: as much as replicates may differ
    (`CV`). A system at rest stays below 0.05; on two cores a fifth of one costs a figure up to
    10%, which pairs in ABBA order and a robust estimate still bear; more is a machine in use.
    """
    return max(0.2, 0.05 * cores)
