"""What each kind of machine shows: one identity, whatever moves; reasons; what the doctor says."""

from __future__ import annotations

from typing import Any

import pytest

from bench.devices.gpu import company, nvidia
from bench.devices.gpu.nvidia import NvidiaCard
from bench.devices.gpu.reader import GpuReader
from bench.doctor import gpu as doctor
from tests.fake_nvml import FakeNvml
from tests.machines import MACHINES, NAMESPACES, busy, library
from tests.replay import TracePace


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    name = str(request.param)
    monkeypatch.setattr(company, "in_container", lambda: name in NAMESPACES)
    monkeypatch.setattr(doctor, "spills_here", lambda: name == "WSL2")
    return name


def measured(nvml: FakeNvml, rest_s: float = 3.0) -> Any:
    """A rest, then a window of work."""
    reader = GpuReader(NvidiaCard("cuda:0", nvml), pace=TracePace())
    reader.idle(rest_s)
    reader.begin()
    reader._pace.sleep(5.0)
    try:
        return reader.end()
    finally:
        reader.close()


def test_the_identity_is_the_same_at_each_look(machine: str) -> None:
    card = NvidiaCard("cuda:0", library(machine))
    assert card.identity() == card.identity()
    assert {"gpu_persistence", "gpu_enforced_power_limit_w"} == set(card.state())


def test_only_a_card_that_others_use_is_marked(machine: str) -> None:
    found = measured(library(machine))
    assert found.reasons == (("FOREIGN_PROCESS",) if machine == "desktop with a game" else ())
    assert ("busy_at_rest" in found.device) != (machine == "MIG")
    if machine == "MIG":
        assert "Not Supported" in found.absent["busy_at_rest"]
    assert ("energy_j" in found.energy) == (machine not in ("MIG", "vGPU"))
    if machine == "vGPU":
        assert {"power_w", "temperature_c", "held_share"} <= set(found.absent)


def test_the_doctor_examines_every_machine(machine: str) -> None:
    checks = {one.check: one for one in doctor.gpu_checks(NvidiaCard("cuda:0", library(machine)))}
    bad = [name for name, one in checks.items() if one.state == "bad"]
    expected = {"desktop with a game": ["card at rest"], "container": ["other processes"]}
    assert bad == expected.get(machine, [])
    persistence = checks["persistence"]
    if machine == "WSL2":  # where `nvidia-smi -pm 1` is not supported
        assert (persistence.state, persistence.advice) == ("ok", "")
    if machine == "desktop with X":
        assert persistence.advice == "sudo nvidia-smi -pm 1"
    if machine == "laptop":
        assert "the firmware moves it" in checks["power limit"].found
    if machine in ("MIG", "vGPU"):
        assert "no energy per token" in checks["energy counter"].meaning
    if machine == "WSL2":
        assert "lists no processes here" in checks["other processes"].meaning


def test_work_of_ones_own_before_the_rest_is_not_anothers() -> None:
    """NVML tells the last second: loading just before the rest is still in its first look."""
    looks = iter([busy(90), *[busy(0)] * 50])
    found = measured(FakeNvml(nvmlDeviceGetUtilizationRates=lambda _: next(looks)))
    assert found.reasons == ()
    assert found.device["busy_at_rest"] == 0


def test_a_rest_that_was_too_short_is_no_answer() -> None:
    found = measured(FakeNvml(nvmlDeviceGetUtilizationRates=busy(64)), rest_s=0.5)
    assert found.reasons == ()
    assert found.absent["busy_at_rest"] == "at rest: the idle time was too short to sample"


@pytest.mark.parametrize(
    ("driver", "first"),
    [("570.86.10", None), ("575.57.08", 251), ("580.65.06", 251), ("580.82.07", 269),
     ("615.71", 269), ("of our own", None)],
)  # fmt: skip
def test_each_driver_is_asked_its_own_numbers(driver: str, first: int | None) -> None:
    nvml = FakeNvml(nvmlSystemGetDriverVersion=driver)
    nvml.fields |= {251: 1, 252: 2, 253: 3, 269: 4, 270: 5, 271: 6}
    held = dict(NvidiaCard("cuda:0", nvml).held_s())
    assert (held.pop("sw_power_cap"), held.pop("perf_policy_thermal")) == (5.0, 7.0)
    expected = {} if first is None else {
        cause: nvml.fields[first + i] / 1e9 for i, cause in enumerate(nvidia.SLOWDOWNS)
    }  # fmt: skip
    assert held == expected


def test_time_below_application_clocks_is_no_slowdown() -> None:
    """Field 75 grows where a warm card boosts less; the slowdown's own counter is the reason."""

    class Warm(FakeNvml):
        grows = 75

        def _fields(self, handle: Any, numbers: list[int]) -> list[Any]:
            self.fields[self.grows] += 50_000_000
            return super()._fields(handle, numbers)

    class Slowed(Warm):
        grows = 269

    for kind, reasons in ((Warm, ()), (Slowed, ("THERMAL_THROTTLE",))):
        nvml = kind(nvmlSystemGetDriverVersion="590.44.01")
        nvml.fields |= {269: 0, 270: 0, 271: 0}
        assert measured(nvml).reasons == reasons
