"""NVML, NVIDIA's management library, through nvidia-ml-py: calls whose errors become reasons.

Nothing here changes a setting of the device. The package is imported on first use.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.devices.figures import Figures, Unreadable
from bench.experiment.devices import index_of


class Nvml:
    """An open NVML. Raises Unreadable where there is no NVIDIA driver or no nvidia-ml-py."""

    def __init__(self, library: Any = None) -> None:
        if library is None:
            try:
                library = importlib.import_module("pynvml")
            except ImportError:
                raise Unreadable("nvidia-ml-py is not installed") from None
        self.library = library
        self.call("nvmlInit")

    def call(self, name: str, *arguments: Any) -> Any:
        """One NVML call. Raises Unreadable with the library's own words."""
        function = getattr(self.library, name, None)
        if function is None:
            raise Unreadable(f"{name}: this nvidia-ml-py does not have it")
        try:
            return function(*arguments)
        except self.library.NVMLError as error:
            raise Unreadable(f"{name}: {error}") from error
        except (self.library.NVMLLibraryMismatchError, OSError, UnicodeDecodeError) as error:
            raise Unreadable(f"{name}: {error}") from error

    def close(self) -> None:
        """Give NVML back; an error on the way out changes nothing."""
        try:
            self.call("nvmlShutdown")
        except Unreadable:
            return

    def field(self, handle: Any, number: int) -> int | float:
        """One value of nvmlDeviceGetFieldValues, which has an error code of its own."""
        value = self.call("nvmlDeviceGetFieldValues", handle, [number])[0]
        if value.nvmlReturn != self.library.NVML_SUCCESS:
            error = self.library.NVMLError(value.nvmlReturn)
            raise Unreadable(f"nvmlDeviceGetFieldValues {number}: {error}")
        return _value(value)

    def handle_for(self, device: str | None) -> Any:
        """NVML's handle of a device as torch names it (`cuda:1`); None and `auto` are `cuda:0`.

        torch counts the devices that CUDA shows, NVML all of them in the order of the bus, so
        the card is matched by its UUID: torch's, or that of CUDA_VISIBLE_DEVICES.
        """
        index = index_of(device or "")
        if uuid := _torch_uuid(index):
            try:
                return self.call("nvmlDeviceGetHandleByUUID", uuid)
            except Unreadable:  # a MIG instance: torch's UUID is not the card's
                pass
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            entry = visible_entry(visible, index)
            if not entry.isdigit():
                return self._handle_by_prefix(entry)
            index = int(entry)
        count = self.call("nvmlDeviceGetCount")
        if index >= count:
            raise Unreadable(f"there is no device {index}: the driver shows {count}")
        handles = [self.call("nvmlDeviceGetHandleByIndex", i) for i in range(count)]
        if count > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            names = {self.call("nvmlDeviceGetName", handle) for handle in handles}
            if len(names) > 1:
                raise Unreadable(
                    "cards of several models, and CUDA orders them by speed: "
                    "set CUDA_DEVICE_ORDER=PCI_BUS_ID"
                )
        return handles[index]

    def _handle_by_prefix(self, entry: str) -> Any:
        """The card whose UUID starts with `entry`: CUDA takes any prefix that is unique."""
        if entry.startswith("MIG-"):
            return self.call("nvmlDeviceGetHandleByUUID", entry)
        for index in range(self.call("nvmlDeviceGetCount")):
            handle = self.call("nvmlDeviceGetHandleByIndex", index)
            if self.call("nvmlDeviceGetUUID", handle).startswith(entry):
                return handle
        raise Unreadable(f"CUDA_VISIBLE_DEVICES names {entry}, which the driver does not show")


def visible_entry(visible: str, index: int, name: str = "CUDA_VISIBLE_DEVICES") -> str:
    """The `index`th device of CUDA_VISIBLE_DEVICES, an index or a UUID; it ends at the first bad
    entry, as CUDA reads it. AMD's variables, by their `name`, are read alike."""
    shown: list[str] = []
    for entry in (text.strip() for text in visible.split(",")):
        if not entry or entry.startswith("-"):
            break
        shown.append(entry)
    if index >= len(shown):
        raise Unreadable(f"{name}={visible!r} shows no device {index}")
    return shown[index]


def card_identity(nvml: Nvml, handle: Any) -> dict[str, Any]:
    """Name, memory, driver, power limit, ECC, MIG; None where NVML does not say.

    The limit is the one that was set: a laptop's firmware moves the enforced one all the time.
    """
    asked: Questions = {
        "gpu": ("nvmlDeviceGetName", str),
        "gpu_id": ("nvmlDeviceGetUUID", short_hash),
        "gpu_memory_bytes": ("nvmlDeviceGetMemoryInfo", lambda info: int(info.total)),
        "gpu_power_limit_w": ("nvmlDeviceGetPowerManagementLimit", _watts),
        "gpu_ecc": ("nvmlDeviceGetEccMode", _current),
        "gpu_mig": ("nvmlDeviceGetMigMode", _current),
        "gpu_virtualization": ("nvmlDeviceGetVirtualizationMode", _virtualization),
    }
    found = Figures()
    found.read("gpu_driver", lambda: str(nvml.call("nvmlSystemGetDriverVersion")))
    return _answers(nvml, handle, asked) | found.values | dict.fromkeys(found.absent)


def card_state(nvml: Nvml, handle: Any) -> dict[str, Any]:
    """The limit that is enforced now, and persistence mode; None where NVML does not say."""
    asked: Questions = {
        "gpu_enforced_power_limit_w": ("nvmlDeviceGetEnforcedPowerLimit", _watts),
        "gpu_persistence": ("nvmlDeviceGetPersistenceMode", bool),
    }
    return _answers(nvml, handle, asked)


Questions = Mapping[str, tuple[str, Callable[[Any], Any]]]
"""Name of a fact -> NVML's function of a card, and what makes the fact of its answer."""


def _answers(nvml: Nvml, handle: Any, asked: Questions) -> dict[str, Any]:
    found = Figures()
    for name, (function, made) in asked.items():
        found.read(name, lambda f=function, made=made: made(nvml.call(f, handle)))  # type: ignore[misc]  # mypy infers no lambda with defaults
    return found.values | dict.fromkeys(found.absent)


def _watts(milliwatts: int) -> float:
    return milliwatts / 1e3


def short_hash(uuid: str) -> str:
    """Tells one card from another of its model without naming it."""
    return hashlib.sha256(f"gpu-cost-bench:{uuid}".encode()).hexdigest()[:12]


def _current(modes: Sequence[int]) -> bool:
    return bool(modes[0])  # [now, after the next reset]


def _virtualization(mode: int) -> str:
    names = ("none", "passthrough", "vgpu", "host-vgpu", "host-vsga")  # NVML_GPU_VIRTUALIZATION_*
    return names[mode] if 0 <= mode < len(names) else str(mode)


def _torch_uuid(index: int) -> str | None:
    """The UUID by which torch knows a device, if torch is running on CUDA already."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    if uuid is None:
        return None
    text = str(uuid)
    return text if text.startswith(("GPU-", "MIG-")) else f"GPU-{text}"


def _value(value: Any) -> int | float:
    """The member of the union that the value's type names (NVML_VALUE_TYPE_*)."""
    members = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
    if not 0 <= value.valueType < len(members):
        raise Unreadable(f"NVML value of unknown type {value.valueType}")
    number: int | float = getattr(value.value, members[value.valueType])
    return number
