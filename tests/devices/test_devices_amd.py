"""The AMD reader on a stand-in for amdsmi, which is not installed here."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from bench.devices.figures import Unreadable
from bench.devices.gpu.amd import AmdCard
from bench.devices.gpu.card import open_card
from bench.devices.gpu.reader import GpuReader
from tests.replay import TracePace


class AmdSmiError(Exception):
    """Stands for amdsmi's base error."""


class FakeAmd:
    """Stands for the module `amdsmi`; `answers` gives results or errors."""

    AmdSmiException = AmdSmiError
    AmdSmiClkType = SimpleNamespace(GFX="gfx", MEM="mem")
    AmdSmiTemperatureType = SimpleNamespace(HOTSPOT="hotspot")
    AmdSmiTemperatureMetric = SimpleNamespace(CURRENT="current")
    AmdSmiMemoryType = SimpleNamespace(VRAM="vram")

    def __init__(self, **answers: Any) -> None:
        self.ticks = 0
        self.answers: dict[str, Any] = {
            "amdsmi_init": None,
            "amdsmi_shut_down": None,
            "amdsmi_get_processor_handles": ["first", "second"],
            "amdsmi_get_gpu_asic_info": {"market_name": "Invented MI"},
            "amdsmi_get_gpu_device_uuid": "abc",
            "amdsmi_get_gpu_driver_info": {"driver_version": "6.1"},
            "amdsmi_get_gpu_memory_total": 192 << 30,
            "amdsmi_get_gpu_memory_usage": 12 << 30,
            "amdsmi_get_power_info": {"current_socket_power": 400, "average_socket_power": "N/A"},
            "amdsmi_get_temp_metric": 61,
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


@pytest.fixture(autouse=True)
def _no_hidden_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def read(library: FakeAmd) -> Any:
    reader = GpuReader(AmdCard("cuda:0", library), pace=TracePace())
    reader.begin()
    reader._pace.sleep(3.0)
    return reader.end()


def test_a_card_in_order() -> None:
    reading = read(FakeAmd())
    assert reading.reasons == ()
    assert reading.energy["scope"] == "gpu-socket"
    assert reading.energy["energy_j"] > 0
    assert reading.energy["systematic_error"] is None
    assert reading.device["power_w"] == 400.0
    assert reading.device["temperature_c"] == 61.0
    assert reading.device["events"] == ["sw_power_cap"]
    assert reading.memory["device_used_bytes"] == 12 << 30


def test_identity() -> None:
    found = AmdCard("cuda:1", FakeAmd()).identity()
    assert found["gpu"] == "Invented MI"
    assert found["gpu_driver"] == "6.1"


@pytest.mark.parametrize(
    ("call", "figure"),
    [
        ("amdsmi_get_energy_count", "energy_j"),
        ("amdsmi_get_power_info", "power_w"),
        ("amdsmi_get_temp_metric", "temperature_c"),
        ("amdsmi_get_clock_info", "sm_mhz"),
        ("amdsmi_get_violation_status", "events"),
        ("amdsmi_get_gpu_process_list", "foreign_processes"),
    ],
)
def test_what_fails_is_absent_with_its_reason(call: str, figure: str) -> None:
    reading = read(FakeAmd(**{call: AmdSmiError("not supported")}))
    assert "not supported" in reading.absent[figure]
    assert figure not in {**reading.energy, **reading.device}


@pytest.mark.parametrize(
    ("call", "answer", "figure"),
    [
        ("amdsmi_get_power_info", {"current_socket_power": "N/A"}, "power_w"),
        ("amdsmi_get_power_info", {"socket_power": 0}, "power_w"),
        ("amdsmi_get_clock_info", {"clock": 5}, "sm_mhz"),
        ("amdsmi_get_temp_metric", "N/A", "temperature_c"),
        ("amdsmi_get_gpu_memory_usage", "N/A", "device_used_bytes"),
        ("amdsmi_get_violation_status", {"active_vr_thrm": "N/A"}, "events"),
        ("amdsmi_get_energy_count", {"timestamp": 5}, "energy_j"),
        ("amdsmi_get_gpu_process_list", [{"name": "x"}], "foreign_processes"),
    ],
)
def test_an_answer_without_the_figure_is_absent_and_not_zero(
    call: str, answer: Any, figure: str
) -> None:
    reading = read(FakeAmd(**{call: answer}))
    assert reading.absent[figure]
    assert figure not in {**reading.energy, **reading.device, **reading.memory}


def test_heat_and_company_are_reasons() -> None:
    hot = {"active_vr_thrm": True}
    assert read(FakeAmd(amdsmi_get_violation_status=hot)).reasons == ("THERMAL_THROTTLE",)
    others = [{"pid": 4_000_000}]
    assert read(FakeAmd(amdsmi_get_gpu_process_list=others)).reasons == ("FOREIGN_PROCESS",)


def test_which_card_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreadable, match="no device 5"):
        AmdCard("cuda:5", FakeAmd())
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    with pytest.raises(Unreadable, match="HIP_VISIBLE_DEVICES"):
        AmdCard("cuda:0", FakeAmd())


def test_without_any_library_both_reasons_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.devices.gpu import card

    def no(name: str) -> Any:
        def refuse(_device: str) -> None:
            raise Unreadable(f"no {name}")

        return refuse

    monkeypatch.setattr(card, "NvidiaCard", no("NVIDIA"))
    monkeypatch.setattr(card, "AmdCard", no("AMD"))
    with pytest.raises(Unreadable, match="no NVIDIA; no AMD"):
        open_card("cuda:0")


def test_the_doctor_examines_it() -> None:
    from bench.doctor.gpu import gpu_checks

    states = {c.check: c.state for c in gpu_checks(AmdCard("cuda:0", FakeAmd()))}
    assert states["gpu"] == states["energy counter"] == states["other processes"] == "ok"
    assert "persistence" not in states
    assert states["power limit"] == "warn"
