"""Kinds of machines as NVML shows them: documented behaviour, not recorded on any of them.

Sources: NVML API reference (which calls are "not supported" where: MIG, vGPU, GeForce); CUDA on
WSL user guide, "Known limitations" (persistence mode, ECC and the list of active compute processes
are not supported under WSL2); NVIDIA vGPU software documentation (no energy, power or temperature
inside a guest). A laptop's firmware moves the enforced limit (Dynamic Boost) and refuses the set
one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from types import SimpleNamespace
from typing import Any, Final

import pynvml

from tests.fake_nvml import NOT_SUPPORTED, FakeNvml, process

MUTE: Final = pynvml.NVMLError(NOT_SUPPORTED)


def busy(percent: int) -> Any:
    """An answer of nvmlDeviceGetUtilizationRates."""
    return SimpleNamespace(gpu=percent, memory=percent // 2)


def moving(*milliwatts: int) -> Callable[[Any], int]:
    """An enforced limit that is another at each look."""
    values: Iterator[int] = cycle(milliwatts)
    return lambda _: next(values)


MACHINES: Final[Mapping[str, Mapping[str, Any]]] = {
    "server": {},
    "desktop with X": {
        "nvmlDeviceGetName": "NVIDIA GeForce RTX 4080 SUPER",
        "nvmlDeviceGetEccMode": MUTE,
        "nvmlDeviceGetMigMode": MUTE,
        "nvmlDeviceGetPersistenceMode": 0,
        "nvmlDeviceGetUtilizationRates": busy(2),
    },
    "desktop with a game": {
        "nvmlDeviceGetName": "NVIDIA GeForce RTX 4080 SUPER",
        "nvmlDeviceGetEccMode": MUTE,
        "nvmlDeviceGetMigMode": MUTE,
        "nvmlDeviceGetUtilizationRates": busy(64),
    },
    "WSL2": {
        "nvmlDeviceGetName": "NVIDIA GeForce RTX 4080 SUPER",
        "nvmlDeviceGetEccMode": MUTE,
        "nvmlDeviceGetMigMode": MUTE,
        "nvmlDeviceGetPersistenceMode": MUTE,
        "nvmlDeviceGetComputeRunningProcesses": [],
        "nvmlDeviceGetUtilizationRates": busy(1),
    },
    "laptop": {
        "nvmlDeviceGetName": "NVIDIA GeForce RTX 4080 Laptop GPU",
        "nvmlDeviceGetEccMode": MUTE,
        "nvmlDeviceGetMigMode": MUTE,
        "nvmlDeviceGetPowerManagementLimit": MUTE,
        "nvmlDeviceGetPowerManagementDefaultLimit": MUTE,
        "nvmlDeviceGetEnforcedPowerLimit": moving(80_000, 115_000, 150_000),
    },
    "MIG": {
        "nvmlDeviceGetMigMode": [1, 1],
        "nvmlDeviceGetUtilizationRates": MUTE,
        "nvmlDeviceGetTotalEnergyConsumption": MUTE,
    },
    "vGPU": {
        "nvmlDeviceGetVirtualizationMode": 2,
        "nvmlDeviceGetTotalEnergyConsumption": MUTE,
        "nvmlDeviceGetPowerUsage": MUTE,
        "nvmlDeviceGetTemperatureV": MUTE,
        "nvmlDeviceGetTemperature": MUTE,
        "nvmlDeviceGetPowerManagementLimit": MUTE,
        "nvmlDeviceGetEnforcedPowerLimit": MUTE,
        "nvmlDeviceGetPowerManagementDefaultLimit": MUTE,
        "nvmlDeviceGetEccMode": MUTE,
    },
    "container": {"nvmlDeviceGetComputeRunningProcesses": [process(4_000_001)]},
}
"""Kind of machine -> what NVML answers there, beside what every card does."""

NAMESPACES: Final = ("WSL2", "container")
"""Machines where process ids here are not the driver's: WSL2's distributions have a namespace."""


def library(machine: str) -> FakeNvml:
    """NVML of that machine."""
    made = FakeNvml(**MACHINES[machine])
    if machine == "vGPU":
        made.fields.clear()  # a guest has no fields of its own
    return made
