"""One AMD card through amdsmi, where it is installed (it comes with ROCm).

Written against the documented Python interface of ROCm 6 and 7 and tested with a stand-in, on no
card yet: a key that a version names otherwise makes its figure absent, with that reason.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bench.devices.figures import NOT_LISTED, Figures, Unreadable, above_zero
from bench.devices.gpu.company import strangers
from bench.devices.gpu.energy import Sample
from bench.devices.gpu.nvml import short_hash, visible_entry
from bench.experiment.devices import index_of

HIDING = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
"""In the order in which they count: the first is another library's, whose numbers are others."""

WHOLE = ("SPX", "N/A", "None")
"""Compute partitions that are the whole card (MI300: SPX, DPX, TPX, QPX, CPX)."""

NO_COUNT = 2**64 - 1
"""What the driver's table holds where a chip counts no energy, as Radeons do not."""

VIOLATIONS: Mapping[str, str] = {
    "active_ppt_pwr": "sw_power_cap",
    "active_prochot_thrm": "hw_thermal_slowdown",
    "active_socket_thrm": "hw_thermal_slowdown",
    "active_vr_thrm": "hw_thermal_slowdown",
    "active_hbm_thrm": "hw_thermal_slowdown",
}
"""Keys of amdsmi_get_violation_status (MI300 and newer) -> the words used for every card."""


class AmdCard:
    """One card. Raises Unreadable on making if amdsmi or the card is not there."""

    vendor = "amd"
    counter = "amdsmi-energy-count"
    scope = "gpu-socket"
    systematic_error: float | None = None

    def __init__(self, device: str, library: Any = None) -> None:
        if library is None:
            try:
                library = importlib.import_module("amdsmi")
            except (ImportError, KeyError, OSError) as error:
                # amdsmi looks for its shared library while it is imported.
                raise Unreadable(f"amdsmi cannot be imported: {error}") from error
        self._library = library
        self._missing: dict[str, str] = {}
        self._call("amdsmi_init")
        try:
            self._handle = self._find(index_of(device))
        except Unreadable:
            self.close()
            raise
        self.no_energy = self._why_no_energy()

    def identity(self) -> Mapping[str, Any]:
        """Name, memory, driver, power limit, partition; None where amdsmi does not say."""
        found = Figures()
        found.read("gpu", lambda: str(self._key("amdsmi_get_gpu_asic_info", "market_name")))
        found.read("gpu_id", lambda: short_hash(str(self._ask("amdsmi_get_gpu_device_uuid"))))
        found.read("gpu_memory_bytes", lambda: self._memory("amdsmi_get_gpu_memory_total"))
        found.read(
            "gpu_driver", lambda: str(self._key("amdsmi_get_gpu_driver_info", "driver_version"))
        )
        found.read("gpu_arch", self._arch)
        found.read("gpu_power_limit_w", lambda: self._watts("power_cap"))
        found.read("gpu_partition", self._partition)
        return found.values | dict.fromkeys(found.absent)

    def state(self) -> Mapping[str, Any]:
        """What may change while it is the same card: nothing that is read here."""
        return {}

    def counter_mj(self) -> int:
        """Energy counted so far: the accumulator times its resolution, microjoule."""
        count = self._ask("amdsmi_get_energy_count")
        ticks = count.get("energy_accumulator", count.get("power"))  # `power` until ROCm 6.0
        try:
            if not 0 < ticks < NO_COUNT:
                raise Unreadable(f"amdsmi_get_energy_count: {ticks} is not a count")
            return int(ticks * count["counter_resolution"] / 1e3)
        except (KeyError, TypeError, ValueError) as error:
            raise Unreadable(f"amdsmi_get_energy_count: {error!r}") from error

    def sample(self, at_s: float, *, thorough: bool) -> Sample:
        """Look once. A figure that fails is None, and `missing` says why."""
        seen = Figures()
        if thorough and self.no_energy is None:
            seen.read("counter_mj", self.counter_mj)
        seen.read("power_w", self._power_w)
        if thorough:
            seen.read("temperature_c", self._temperature_c)
            seen.read("sm_mhz", lambda: self._clock_mhz("GFX"))
            seen.read("memory_mhz", lambda: self._clock_mhz("MEM"))
            seen.read("used_bytes", self.used_bytes)
            seen.read("events", self._events)
            seen.read("busy", self._busy)
        self._missing |= seen.absent
        return Sample(at_s=at_s, **seen.values)

    def held_s(self) -> Mapping[str, float]:
        """amdsmi gives no cumulative seconds."""
        raise Unreadable("amdsmi does not report the time of throttling")

    def foreign(self, *, computing: bool = True) -> Sequence[int]:
        """Process ids of others that compute on the card. Raises Unreadable."""
        listed = self._ask("amdsmi_get_gpu_process_list")
        try:
            pids = [int(process["pid"]) for process in listed]
        except (KeyError, TypeError, ValueError) as error:
            raise Unreadable(f"amdsmi_get_gpu_process_list: {error!r}") from error
        return strangers(pids, computing=computing)

    def used_bytes(self) -> int:
        """Bytes that all programs hold on the card. Raises Unreadable."""
        return self._memory("amdsmi_get_gpu_memory_usage")

    def held_by(self, pids: Sequence[int]) -> int:
        """Bytes of the card's memory that these processes hold. Raises Unreadable."""
        listed = self._ask("amdsmi_get_gpu_process_list")
        try:
            held = [
                int(process["memory_usage"]["vram_mem"])
                for process in listed
                if int(process["pid"]) in pids
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise Unreadable(f"amdsmi_get_gpu_process_list: {error!r}") from error
        if not held:
            raise Unreadable(NOT_LISTED)
        return sum(held)

    def missing(self) -> Mapping[str, str]:
        """Figures that could not be read, and why."""
        return self._missing

    def health(self) -> dict[str, float]:
        """Default power limit and critical temperature, where amdsmi shows them."""
        figures = Figures()
        figures.read("default_power_limit_w", lambda: self._watts("default_power_cap"))
        figures.read("slowdown_c", lambda: self._temperature_c("CRITICAL"))
        return figures.values

    def close(self) -> None:
        """Give amdsmi back; an error on the way out changes nothing."""
        try:
            self._call("amdsmi_shut_down")
        except Unreadable:
            return

    def _find(self, index: int) -> Any:
        """The handle of torch's device: by its place on the bus, or else by HIP's number (ROCm 6.4
        and newer tell it), as amdsmi counts in another order. Raises Unreadable."""
        handles = self._call("amdsmi_get_processor_handles")
        if place := _torch_bus(index):
            for handle in handles:
                if str(self._call("amdsmi_get_gpu_device_bdf", handle)).lower().startswith(place):
                    return handle
        ids = {handle: self._hip_id(handle) for handle in handles}
        told = None not in ids.values()
        hidden = next((name for name in HIDING if name in os.environ), None)
        entry = str(index) if hidden is None else visible_entry(os.environ[hidden], index, hidden)
        if hidden is not None and not (told and entry.isdigit() and hidden != HIDING[0]):
            raise Unreadable(f"{hidden} is set, so the card of device {index} is unknown")
        if int(entry) >= len(handles):
            raise Unreadable(f"there is no device {entry}: the driver shows {len(handles)}")
        if not told and len({self._name(handle) for handle in handles}) > 1:
            raise Unreadable(
                f"cards of several models, and this amdsmi does not say which is device {index}"
            )
        # A container that was given some of the cards counts those, in the same order.
        return sorted(handles, key=lambda one: (ids[one] or 0) if told else 0)[int(entry)]

    def _hip_id(self, handle: Any) -> int | None:
        with contextlib.suppress(Unreadable, KeyError, TypeError, ValueError):
            return int(self._call("amdsmi_get_gpu_enumeration_info", handle)["hip_id"])
        return None

    def _name(self, handle: Any) -> str | None:
        with contextlib.suppress(Unreadable, KeyError, TypeError):
            return str(self._call("amdsmi_get_gpu_asic_info", handle)["market_name"])
        return None

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._library, name)(*arguments)
        except AttributeError as error:
            raise Unreadable(f"{name}: this amdsmi does not have it") from error
        except self._library.AmdSmiException as error:
            raise Unreadable(f"{name}: {error}") from error

    def _ask(self, name: str, *arguments: Any) -> Any:
        return self._call(name, self._handle, *arguments)

    def _key(self, name: str, *keys: str, arguments: Sequence[Any] = ()) -> Any:
        """The first of `keys` that an answer has; amdsmi writes "N/A" for what it cannot say."""
        answer = self._ask(name, *arguments)
        for key in keys:
            if answer.get(key, "N/A") != "N/A":
                return answer[key]
        raise Unreadable(f"{name} gives no {' or '.join(keys)}")

    def _number(self, name: str, *keys: str, arguments: Sequence[Any] = ()) -> float:
        return above_zero(name, self._key(name, *keys, arguments=arguments))

    def _power_w(self) -> float:
        keys = ("socket_power", "current_socket_power", "average_socket_power")
        return self._number("amdsmi_get_power_info", *keys)

    def _watts(self, cap: str) -> float:
        """A power cap, which Linux tells in microwatts."""
        return self._number("amdsmi_get_power_cap_info", cap) / 1e6

    def _arch(self) -> str:
        """LLVM's name of the chip: `gfx942`."""
        return str(self._key("amdsmi_get_gpu_asic_info", "target_graphics_version"))

    def _partition(self) -> str:
        """What of a card this device is: `SPX` is all of it, `CPX` one of its dies."""
        return str(self._ask("amdsmi_get_gpu_compute_partition"))

    def _clock_mhz(self, kind: str) -> float:
        clock = getattr(self._library.AmdSmiClkType, kind)
        return self._number("amdsmi_get_clock_info", "clk", "cur_clk", arguments=(clock,))

    def _temperature_c(self, which: str = "CURRENT") -> float:
        sensor = self._library.AmdSmiTemperatureType.HOTSPOT
        metric = getattr(self._library.AmdSmiTemperatureMetric, which)
        return above_zero(
            "amdsmi_get_temp_metric", self._ask("amdsmi_get_temp_metric", sensor, metric)
        )

    def _memory(self, name: str) -> int:
        return int(above_zero(name, self._ask(name, self._library.AmdSmiMemoryType.VRAM)))

    def _busy(self) -> float:
        share = self._key("amdsmi_get_gpu_activity", "gfx_activity")
        try:
            return float(share) / 100
        except (TypeError, ValueError) as error:
            raise Unreadable(f"amdsmi_get_gpu_activity: {error!r}") from error

    def _events(self) -> frozenset[str]:
        answer = self._ask("amdsmi_get_violation_status")
        if all(answer.get(key, "N/A") == "N/A" for key in VIOLATIONS):
            raise Unreadable("amdsmi_get_violation_status reports nothing for this card")
        return frozenset(word for key, word in VIOLATIONS.items() if answer.get(key) is True)

    def _why_no_energy(self) -> str | None:
        with contextlib.suppress(Unreadable):  # a card that is not partitioned
            if (part := self._partition()) not in WHOLE:
                return f"partitioned ({part}): the counter is the whole card's"
        try:
            self.counter_mj()
        except Unreadable as reason:
            return f"no energy counter ({reason})"
        return None


def _torch_bus(index: int) -> str | None:
    """Where torch's device sits, as in `0000:23:00`, if torch is running on it already."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    facts = torch.cuda.get_device_properties(index)
    parts = [getattr(facts, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    numbers = [part for part in parts if isinstance(part, int)]
    return "{:04x}:{:02x}:{:02x}".format(*numbers) if len(numbers) == len(parts) else None
