"""A stand-in for amdsmi, which is not installed here: keys and answers as its Python interface
makes them (ROCm/amdsmi, py-interface/amdsmi_interface.py, ROCm 6.4 to 7.13).
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any


class AmdSmiError(Exception):
    """Stands for amdsmi's base error."""


class FakeAmd:
    """Stands for the module `amdsmi`; `answers` gives results or errors."""

    AmdSmiException = AmdSmiError
    AmdSmiClkType = SimpleNamespace(GFX="gfx", MEM="mem")
    AmdSmiTemperatureType = SimpleNamespace(HOTSPOT="hotspot")
    AmdSmiTemperatureMetric = SimpleNamespace(CURRENT="current", CRITICAL="critical")
    AmdSmiMemoryType = SimpleNamespace(VRAM="vram")

    def __init__(self, cards: int = 2, **answers: Any) -> None:
        self.ticks = 0
        self.cards = [f"card-{i}" for i in range(cards)]
        self.answers: dict[str, Any] = {
            "amdsmi_init": None,
            "amdsmi_shut_down": None,
            "amdsmi_get_processor_handles": self.cards,
            "amdsmi_get_gpu_asic_info": {
                "market_name": "AMD Instinct MI300X OAM",
                "target_graphics_version": "gfx942",
            },
            "amdsmi_get_gpu_device_bdf": lambda card: f"0000:{self.cards.index(card):02X}:00.0",
            "amdsmi_get_gpu_enumeration_info": lambda card: {
                "drm_card": self.cards.index(card),
                "hip_id": self.cards.index(card),
            },
            "amdsmi_get_power_cap_info": {
                "power_cap": 750_000_000,
                "default_power_cap": 750_000_000,
            },
            "amdsmi_get_gpu_compute_partition": "SPX",
            "amdsmi_get_gpu_device_uuid": "abc",
            "amdsmi_get_gpu_driver_info": {"driver_version": "6.1"},
            "amdsmi_get_gpu_memory_total": 192 << 30,
            "amdsmi_get_gpu_memory_usage": 12 << 30,
            "amdsmi_get_power_info": {"current_socket_power": 400, "average_socket_power": "N/A"},
            "amdsmi_get_temp_metric": lambda _card, _sensor, which: (
                61 if which == "current" else 100
            ),
            "amdsmi_get_clock_info": {"clk": 2100},
            "amdsmi_get_violation_status": {"active_ppt_pwr": True, "active_vr_thrm": False},
            "amdsmi_get_gpu_process_list": [{"pid": os.getpid()}],
            "amdsmi_get_gpu_activity": {"gfx_activity": 0, "umc_activity": 0},
            "amdsmi_get_energy_count": self._energy,
        } | answers

    def _energy(self, _handle: str) -> dict[str, Any]:
        self.ticks += 1
        return {"energy_accumulator": 1_000_000 * self.ticks, "counter_resolution": 15.3}

    def __getattr__(self, name: str) -> Any:
        if name not in self.answers:
            raise AttributeError(name)
        answer = self.answers[name]

        def call(*arguments: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer(*arguments) if callable(answer) else answer

        return call
