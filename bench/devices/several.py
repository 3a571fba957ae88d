"""Several devices, or several processes, that hold one model: read as one.

Energy, power and memory add up; of temperatures the hottest counts, of clocks the slowest, of what
disturbs a window the worst. Each device's own figures are kept in `each`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from bench.devices import Reader, Reading
from bench.devices.gpu.energy import CROSS_CHECK_LIMIT
from bench.devices.room import room_bytes
from bench.experiment.devices import on_cpu

T = TypeVar("T")
ADDED = ("peak_device_bytes", "peak_device_reserved_bytes", "device_used_bytes")
"""Memory of all devices together."""

SLOWEST = ("sm_mhz", "sm_mhz_min", "memory_mhz", "samples")
"""Of these the least counts; of other numbers the most, but for power, which adds up."""


class Others(Protocol):
    """Processes beside this one that compute a part of the model."""

    own: Sequence[str]
    """Devices that this process itself computes on."""

    @property
    def broken(self) -> bool:
        """Whether they were ended by a failure, and the engine can do no more."""

    def begin(self) -> None:
        """Their window of memory opens."""

    def end(self) -> Sequence[Mapping[str, int]]:
        """Of each: its peaks over the window, by the names of `Reading.memory`."""

    def room(self) -> Sequence[int]:
        """Of each: bytes that it could hold on its own device."""


class GroupReader:
    """The devices of a group; the first of `readers` reads the host too."""

    def __init__(self, names: Sequence[str], readers: Sequence[Reader]) -> None:
        self._names = names
        self._readers = readers
        self.has_energy = all(reader.has_energy for reader in readers)

    def identity(self) -> Mapping[str, Any]:
        return group_identity([reader.identity() for reader in self._readers])

    def begin(self) -> None:
        self._at_once(lambda reader: reader.begin())

    def end(self) -> Reading:
        return combined(self._names, self._at_once(lambda reader: reader.end()))

    def idle(self, seconds: float) -> None:
        self._at_once(lambda reader: reader.idle(seconds))

    def close(self) -> None:
        for reader in self._readers:
            reader.close()

    def _at_once(self, do: Callable[[Reader], T]) -> list[T]:
        """In a thread each, as each waits for its own counter's tick and the edges must be near."""
        with ThreadPoolExecutor(len(self._readers)) as pool:
            return list(pool.map(do, self._readers))


class WithOthers:
    """A reader of this process's device, with the memory that other processes hold added."""

    def __init__(self, inner: Reader, others: Others) -> None:
        self._inner = inner
        self._others = others
        self.has_energy = inner.has_energy

    def identity(self) -> Mapping[str, Any]:
        return self._inner.identity()

    def begin(self) -> None:
        self._others.begin()
        self._inner.begin()

    def end(self) -> Reading:
        reading = self._inner.end()
        memory, absent = dict(reading.memory), dict(reading.absent)
        told = self._others.end()
        for name in ("peak_device_bytes", "peak_device_reserved_bytes", "peak_host_bytes"):
            if name not in memory:
                continue
            if all(name in one for one in told):
                memory[name] += sum(one[name] for one in told)
            else:
                del memory[name]
                absent[name] = "a process that holds a part of the model does not report it"
        return dataclasses.replace(reading, memory=memory, absent=absent)

    def idle(self, seconds: float) -> None:
        self._inner.idle(seconds)

    def close(self) -> None:
        self._inner.close()


def room_of(device: str, others: Others | None) -> int:
    """Bytes that could be held on the device or several, by all processes together.

    Each process tells of its own device: what another holds there is neither free nor its own.
    """
    if others is None:
        return room_bytes(device)
    each = [*map(room_bytes, others.own), *others.room()]
    return max(each) if on_cpu(device) else sum(each)  # a host's free memory is there once


def group_identity(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What cards have in common, once; what differs, joined; and how many they are (`gpus`)."""
    found: dict[str, Any] = {"gpus": len(each)}
    for name in each[0]:
        values = [one.get(name) for one in each]
        same = all(value == values[0] for value in values)
        found[name] = values[0] if same else " + ".join(map(str, values))
    return found


def combined(names: Sequence[str], readings: Sequence[Reading]) -> Reading:
    """One reading of several devices over the same window."""
    energy, no_energy = _energy(readings)
    absent = dict(no_energy)
    for name, reading in zip(names, readings, strict=True):
        for figure, why in reading.absent.items():
            absent.setdefault(figure, f"{name}: {why}")
    memory = _memory(readings)
    device = _device(names, readings)
    return Reading(
        energy=energy,
        memory=memory,
        device=device,
        reasons=tuple(sorted({reason for reading in readings for reason in reading.reasons})),
        absent={n: w for n, w in absent.items() if n not in (*device, *memory)},
    )


def _memory(readings: Sequence[Reading]) -> dict[str, Any]:
    """Sums over the devices whose memory this process holds; what the first says of the host."""
    memory = {name: v for name, v in readings[0].memory.items() if name not in ADDED}
    for name in ADDED:
        found = [reading.memory[name] for reading in readings if name in reading.memory]
        if found and not any(name in reading.absent for reading in readings):
            memory[name] = sum(found)
    return memory


def _energy(readings: Sequence[Reading]) -> tuple[dict[str, Any], dict[str, str]]:
    """Figures of all together; none, and why, unless each was read."""
    each = [reading.energy for reading in readings]
    missing = next((r for r in readings if "energy_j" not in r.energy), None)
    if missing is not None:
        return {}, {"energy_j": missing.absent.get("energy_j", "one of the devices was not read")}

    def total(name: str) -> Any:
        values = [one.get(name) for one in each]
        return None if None in values else sum(values)

    def most(name: str) -> Any:
        return max((one[name] for one in each if one.get(name) is not None), default=None)

    joules, check_j = total("energy_j"), total("cross_check_j")
    window_s = total("window_s") / len(each)
    ratio = None if check_j is None else check_j / joules
    figures = dict(each[0]) | {
        "energy_j": joules,
        "window_s": window_s,
        "mean_power_w": joules / window_s,
        "idle_power_w": total("idle_power_w"),
        "systematic_error": most("systematic_error"),
        "edge_error": most("edge_error"),
        "tick_s": most("tick_s"),
        "cross_check_j": check_j,
        "cross_check_ratio": ratio,
        "cross_check_agrees": None if ratio is None else abs(ratio - 1) <= CROSS_CHECK_LIMIT,
        "short_window": any(one.get("short_window") for one in each),
    }
    return figures, {}


def _device(names: Sequence[str], readings: Sequence[Reading]) -> dict[str, Any]:
    each = [dict(reading.device) for reading in readings]
    found: dict[str, Any] = dict(each[0])
    for name in {name for one in each for name in one}:
        values = [one[name] for one in each if name in one]
        if name == "events":
            found[name] = sorted({event for value in values for event in value})
        elif name == "held_share":
            causes = {cause for value in values for cause in value}
            found[name] = {c: max(value.get(c, 0.0) for value in values) for c in causes}
        elif name == "power_w" and len(values) < len(each):
            found.pop(name, None)  # a part of the power is no figure
        elif all(isinstance(value, int | float) for value in values):
            joined = min if name in SLOWEST else sum if name == "power_w" else max
            found[name] = joined(values)
    own = [name for name in each[-1] if not name.startswith(("host_", "cgroup_", "cpu_"))]
    found["each"] = [
        {"device": device, **{name: one[name] for name in own if name in one}}
        for device, one in zip(names, each, strict=True)
    ]
    return found
