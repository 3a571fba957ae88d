"""A fake NVML: the real package's functions, autospecced, answering for invented cards.

Signatures, constants and errors are those of the installed nvidia-ml-py, so that a call with the
wrong arguments fails here as it would on a machine with a driver.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_uint
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import pynvml

NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED


_SPECS: dict[Any, Any] = {}


def _spec(real: Any, answer: Callable[..., Any]) -> Any:
    """The autospec of a function, made once (it is slow to make)."""
    if real not in _SPECS:
        _SPECS[real] = create_autospec(real)
    _SPECS[real].side_effect = answer
    return _SPECS[real]


def field_value(number: int, value: int | None, code: int = NOT_SUPPORTED) -> Any:
    """One answer of nvmlDeviceGetFieldValues, in its real structure."""
    field = pynvml.c_nvmlFieldValue_t()
    field.fieldId = number
    if value is None:
        field.nvmlReturn = code
    else:
        field.nvmlReturn = pynvml.NVML_SUCCESS
        field.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
        field.value.ullVal = value
    return field


class FakeNvml:
    """Stands for the module `pynvml`. `answers` gives each function's result, or its error."""

    def __init__(self, cards: int = 1, **answers: Any) -> None:
        self.fields: dict[int, int] = {186: 250_000, 74: 5_000_000_000, 75: 7_000_000_000}
        self.energy_mj = 1_000_000
        self.calls: list[str] = []
        self._cards = [f"card-{i}" for i in range(cards)]
        memory = pynvml.c_nvmlMemory_t()
        memory.total, memory.used, memory.free = 80 << 30, 17 << 30, 63 << 30
        self.answers: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlSystemGetDriverVersion": "580.65.06",
            "nvmlDeviceGetCount": cards,
            "nvmlDeviceGetHandleByIndex": lambda index: self._cards[index],
            "nvmlDeviceGetHandleByUUID": self._by_uuid,
            "nvmlDeviceGetName": "Invented 100",
            "nvmlDeviceGetUUID": lambda handle: f"GPU-{self._cards.index(handle)}bc",
            "nvmlDeviceGetMemoryInfo": memory,
            "nvmlDeviceGetPowerManagementLimit": 500_000,
            "nvmlDeviceGetEnforcedPowerLimit": 500_000,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=0, memory=0),
            "nvmlDeviceGetEccMode": [1, 1],
            "nvmlDeviceGetMigMode": [0, 0],
            "nvmlDeviceIsMigDeviceHandle": c_uint(0),  # the package gives its buffer, not a number
            "nvmlDeviceGetVirtualizationMode": 0,
            "nvmlDeviceGetPersistenceMode": 1,
            "nvmlDeviceGetTotalEnergyConsumption": lambda _: self._energy(),
            "nvmlDeviceGetPowerUsage": 240_000,
            "nvmlDeviceGetTemperatureV": 55,
            "nvmlDeviceGetTemperature": 55,
            "nvmlDeviceGetTemperatureThreshold": 87,
            "nvmlDeviceGetClockInfo": 1500,
            "nvmlDeviceGetMaxClockInfo": 1980,
            "nvmlDeviceGetPowerManagementDefaultLimit": 500_000,
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0,
            "nvmlDeviceGetComputeRunningProcesses": [],
            "nvmlDeviceGetGraphicsRunningProcesses": [],
            "nvmlDeviceGetFieldValues": self._fields,
        }
        self.answers |= answers

    def __getattr__(self, name: str) -> Any:
        real = getattr(pynvml, name)  # a name that the package does not have is an AttributeError
        if not name.startswith("nvml") or not callable(real):
            return real
        return _spec(real, lambda *arguments: self._answer(name, *arguments))

    def _answer(self, name: str, *arguments: Any) -> Any:
        self.calls.append(name)
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer(*arguments) if callable(answer) else answer

    def _energy(self) -> int:
        self.energy_mj += 1000  # a tick at each look
        return self.energy_mj

    def _by_uuid(self, uuid: str) -> str:
        for card in self._cards:
            if uuid == f"GPU-{self._cards.index(card)}bc":
                return card
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def _fields(self, _: Any, numbers: list[int]) -> list[Any]:
        return [field_value(number, self.fields.get(number)) for number in numbers]


def process(pid: int) -> Any:
    """One entry of nvmlDeviceGetComputeRunningProcesses."""
    return SimpleNamespace(pid=pid, usedGpuMemory=1 << 30)


def errors() -> list[Any]:
    """Every error that the real package knows."""
    return [
        pynvml.NVMLError(value)
        for name, value in vars(pynvml).items()
        if name.startswith("NVML_ERROR_") and isinstance(value, int)
    ]
