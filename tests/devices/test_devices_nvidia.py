"""The NVIDIA reader on an autospecced NVML: mapping, figures, and every error it can raise."""

from __future__ import annotations

import os
import sys
from ctypes import c_uint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from bench.devices.figures import Unreadable
from bench.devices.gpu import company, nvidia
from bench.devices.gpu.nvidia import NvidiaCard
from bench.devices.gpu.nvml import Nvml, short_hash, visible_entry
from bench.devices.gpu.reader import GpuReader
from bench.devices.host import load
from bench.devices.none import NullReader
from bench.devices.opening import reader_for
from bench.experiment.devices import index_of
from tests.fake_nvml import FakeNvml, errors, field_value, process
from tests.replay import TracePace

FIGURE_CALLS = {
    "nvmlDeviceGetTotalEnergyConsumption": "energy_j",
    "nvmlDeviceGetTemperatureV": None,  # the older call answers
    "nvmlDeviceGetClockInfo": "sm_mhz",
    "nvmlDeviceGetMemoryInfo": "device_used_bytes",
    "nvmlDeviceGetCurrentClocksEventReasons": None,  # the older name answers
    "nvmlDeviceGetComputeRunningProcesses": "foreign_processes",
    "nvmlDeviceGetFieldValues": "held_share",
    "nvmlDeviceGetPowerUsage": None,  # only the second choice
    "nvmlDeviceGetMigMode": None,
    "nvmlDeviceIsMigDeviceHandle": None,
    "nvmlDeviceGetVirtualizationMode": None,
    "nvmlDeviceGetName": None,
    "nvmlSystemGetDriverVersion": None,
}
"""NVML call -> the figure that is absent if it fails; None if another call answers instead."""


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(company, "in_container", lambda: False)


def read(library: FakeNvml, seconds: float = 20.0) -> Any:
    reader = GpuReader(NvidiaCard("cuda:0", library), pace=TracePace())
    reader.begin()
    reader._pace.sleep(seconds)
    reading = reader.end()
    reader.close()
    return reading


# --- figures ---------------------------------------------------------------------------------


def test_a_card_in_order() -> None:
    reading = read(FakeNvml())
    assert reading.reasons == ()
    assert reading.absent == {
        "idle_power_w": "idle power was not measured",
        "busy_at_rest": "the idle card was not sampled",
    }
    assert reading.energy["energy_j"] > 0
    assert reading.energy["counter"] == "nvml-total-energy"
    assert reading.energy["scope"] == "gpu-board"
    assert reading.energy["systematic_error"] == 0.07
    assert reading.energy["cross_check_j"] == pytest.approx(250.0 * 20)
    assert reading.device["sm_mhz"] == 1500.0
    assert reading.device["temperature_c"] == 55.0
    assert reading.device["held_share"] == {"sw_power_cap": 0.0, "perf_policy_thermal": 0.0}
    assert reading.memory["device_used_bytes"] == 17 << 30


def test_identity() -> None:
    assert NvidiaCard("cuda:0", FakeNvml()).identity() == {
        "gpu": "Invented 100",
        "gpu_id": short_hash("GPU-0bc"),
        "gpu_memory_bytes": 80 << 30,
        "gpu_driver": "580.65.06",
        "gpu_power_limit_w": 500.0,
        "gpu_ecc": True,
        "gpu_mig": False,
        "gpu_virtualization": "none",
    }


@pytest.mark.parametrize("call", FIGURE_CALLS)
@pytest.mark.parametrize("error", errors(), ids=lambda error: type(error).__name__)
def test_every_error_at_every_call_is_a_reason_and_never_a_zero(
    call: str, error: pynvml.NVMLError
) -> None:
    reading = read(FakeNvml(**{call: error}), seconds=1.5)
    figure = FIGURE_CALLS[call]
    if figure is not None:
        assert call in reading.absent[figure]
        assert str(error) in reading.absent[figure]
    shown = {**reading.energy, **reading.memory, **reading.device}
    assert figure not in shown
    for name, value in shown.items():
        if name not in ("foreign_processes", "sw_power_cap_share", "held_share", "busy_at_rest"):
            assert value is False or value != 0, name


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"])
@pytest.mark.parametrize("error", errors(), ids=lambda error: type(error).__name__)
def test_every_error_on_the_way_to_the_card_is_a_reason(call: str, error: pynvml.NVMLError) -> None:
    with pytest.raises(Unreadable, match=call):
        NvidiaCard("cuda:0", FakeNvml(**{call: error}))


def test_a_library_older_than_the_package_is_a_reason() -> None:
    mismatch = pynvml.NVMLLibraryMismatchError("versions differ")
    reading = read(FakeNvml(nvmlDeviceGetComputeRunningProcesses=mismatch))
    assert "versions differ" in reading.absent["foreign_processes"]


def test_a_card_lost_while_it_is_measured() -> None:
    library = FakeNvml()
    reader = GpuReader(NvidiaCard("cuda:0", library), pace=TracePace())
    reader.begin()
    reader._pace.sleep(10.0)
    lost = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
    library.answers.update(dict.fromkeys(FIGURE_CALLS, lost))
    reading = reader.end()
    reader.close()
    assert reading.energy == {}
    assert "GPU is lost" in reading.absent["energy_j"]


def test_a_look_that_fails_once_is_no_loss() -> None:
    answers = iter([pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)])

    def clock(_handle: str, _kind: int) -> int:
        for error in answers:
            raise error
        return 1500

    reading = read(FakeNvml(nvmlDeviceGetClockInfo=clock))
    assert reading.device["sm_mhz"] == 1500.0
    assert "sm_mhz" not in reading.absent


def test_counters_of_throttling_that_go_back_are_absent() -> None:
    library = FakeNvml()
    reader = GpuReader(NvidiaCard("cuda:0", library), pace=TracePace())
    reader.begin()
    reader._pace.sleep(1.0)
    library.fields[74] = 1
    reading = reader.end()
    assert "went backwards" in reading.absent["held_share"]
    assert "held_share" not in reading.device


def test_a_call_that_the_package_lost_is_a_reason() -> None:
    class Newer(FakeNvml):
        def __getattr__(self, name: str) -> Any:
            if name == "nvmlDeviceGetClockInfo":
                raise AttributeError(name)
            return super().__getattr__(name)

    reading = read(Newer())
    assert "does not have it" in reading.absent["sm_mhz"]


def test_instant_power_is_preferred_and_the_average_is_second() -> None:
    library = FakeNvml()
    del library.fields[186]
    assert read(library).device["power_w"] == 240.0
    library.fields[186] = 250_000
    assert read(library).device["power_w"] == 250.0


@pytest.mark.parametrize(
    ("kind", "member", "value"),
    [
        (pynvml.NVML_VALUE_TYPE_DOUBLE, "dVal", 2.5),
        (pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, "uiVal", 7),
        (pynvml.NVML_VALUE_TYPE_SIGNED_INT, "siVal", -7),
        (pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG, "ulVal", 1 << 40),
    ],
)
def test_a_field_is_read_by_its_type(kind: int, member: str, value: float) -> None:
    field = field_value(186, 0)
    field.valueType = kind
    setattr(field.value, member, value)
    nvml = Nvml(FakeNvml(nvmlDeviceGetFieldValues=[field]))
    assert nvml.field("card-0", 186) == value


def test_a_field_of_unknown_type_is_unreadable() -> None:
    field = field_value(186, 5)
    field.valueType = 99
    with pytest.raises(Unreadable, match="unknown type"):
        Nvml(FakeNvml(nvmlDeviceGetFieldValues=[field])).field("card-0", 186)


# --- reasons ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0x00, ()),
        (0x04, ()),
        (0x08, ("THERMAL_THROTTLE",)),
        (0x20, ("THERMAL_THROTTLE",)),
        (0x48, ("THERMAL_THROTTLE",)),
        (0x88, ("POWER_BRAKE",)),
        (0xE8, ("POWER_BRAKE", "THERMAL_THROTTLE")),
        (0x100, ()),
    ],
)
def test_event_bits(bits: int, reasons: tuple[str, ...]) -> None:
    assert read(FakeNvml(nvmlDeviceGetCurrentClocksEventReasons=bits)).reasons == reasons


def test_the_event_bits_are_the_packages_own() -> None:
    for bit, name in nvidia.EVENTS.items():
        words = "".join(word.capitalize() for word in name.split("_"))
        assert getattr(pynvml, f"nvmlClocksEventReason{words}") == bit
    assert pynvml.NVML_FI_DEV_POWER_INSTANT == nvidia.POWER_INSTANT
    assert nvidia.HELD["sw_power_cap"] == pynvml.NVML_FI_DEV_PERF_POLICY_POWER
    assert nvidia.HELD["perf_policy_thermal"] == pynvml.NVML_FI_DEV_PERF_POLICY_THERMAL
    assert pynvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU == nvidia.VGPU


def test_the_numbers_of_the_new_counters_are_the_packages_own() -> None:
    prefix = "NVML_FI_DEV_CLOCKS_EVENT_REASON"
    named = ("SW_THERM", "HW_THERM", "HW_POWER_BRAKE")
    newest = max(nvidia.SLOWDOWNS_FROM.values())
    numbers = [getattr(pynvml, f"{prefix}_{name}_SLOWDOWN") for name in named]
    assert numbers == [newest, newest + 1, newest + 2]
    assert [cause.split("_")[0] for cause in nvidia.SLOWDOWNS] == ["sw", "hw", "hw"]


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"nvmlDeviceGetMigMode": [1, 1]}, "MIG is on"),
        ({"nvmlDeviceIsMigDeviceHandle": c_uint(1)}, "a MIG instance"),
        ({"nvmlDeviceGetVirtualizationMode": 2}, "vGPU"),
        ({"nvmlDeviceGetName": "NVIDIA GH200 480GB"}, "module"),
        ({"nvmlDeviceGetName": "NVIDIA GB300"}, "module"),
    ],
)
def test_energy_of_something_shared_is_absent(answers: dict[str, Any], why: str) -> None:
    card = NvidiaCard("cuda:0", FakeNvml(**answers))
    assert not GpuReader(card, pace=TracePace()).has_energy
    reading = read(FakeNvml(**answers))
    assert reading.energy == {}
    assert why in reading.absent["energy_j"]


# --- other processes -------------------------------------------------------------------------


def test_another_process_is_foreign_and_this_one_is_not() -> None:
    mine, other = process(os.getpid()), process(4_000_000)
    assert read(FakeNvml(nvmlDeviceGetComputeRunningProcesses=[mine])).reasons == ()
    reading = read(FakeNvml(nvmlDeviceGetComputeRunningProcesses=[mine, other]))
    assert reading.reasons == ("FOREIGN_PROCESS",)
    assert reading.device["foreign_processes"] == 1


def test_what_this_process_started_is_not_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "descendants", lambda _pid: [(4_000_000, 1)])
    library = FakeNvml(nvmlDeviceGetComputeRunningProcesses=[process(4_000_000)])
    assert read(library).reasons == ()


@pytest.mark.parametrize(("pids", "reasons"), [([123], ()), ([123, 456], ("FOREIGN_PROCESS",))])
def test_in_a_container_one_unknown_process_is_taken_to_be_this_one(
    monkeypatch: pytest.MonkeyPatch, pids: list[int], reasons: tuple[str, ...]
) -> None:
    monkeypatch.setattr(company, "in_container", lambda: True)
    listed = [process(pid + 4_000_000) for pid in pids]
    assert read(FakeNvml(nvmlDeviceGetComputeRunningProcesses=listed)).reasons == reasons


def test_in_a_container_an_empty_list_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(company, "in_container", lambda: True)
    assert "container" in read(FakeNvml()).absent["foreign_processes"]


# --- which card ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "index"), [("", 0), ("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:3", 3)]
)
def test_index_of(device: str, index: int) -> None:
    assert index_of(device) == index


@pytest.mark.parametrize(
    ("visible", "index", "entry"),
    [("2,0", 0, "2"), ("2, 0", 1, "0"), ("GPU-1bc", 0, "GPU-1bc"), ("1,-1,0", 0, "1")],
)
def test_visible_entry(visible: str, index: int, entry: str) -> None:
    assert visible_entry(visible, index) == entry


@pytest.mark.parametrize(("visible", "index"), [("", 0), ("-1", 0), ("0", 1), ("0,-1,1", 1)])
def test_a_device_that_cuda_hides(visible: str, index: int) -> None:
    with pytest.raises(Unreadable, match="shows no device"):
        visible_entry(visible, index)


@pytest.mark.parametrize(
    ("visible", "device", "card"),
    [
        (None, "cuda:1", "card-1"),
        ("2,0", "cuda:0", "card-2"),
        ("2,0", "cuda:1", "card-0"),
        ("GPU-1bc", "cuda:0", "card-1"),
        ("GPU-2", "cuda:0", "card-2"),
    ],
)
def test_cards_are_matched_as_cuda_shows_them(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str, card: str
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Nvml(FakeNvml(cards=3)).handle_for(device) == card


@pytest.mark.parametrize("uuid", ["2bc", "GPU-2bc"])
def test_the_uuid_is_torchs(monkeypatch: pytest.MonkeyPatch, uuid: str) -> None:
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        get_device_properties=lambda _index: SimpleNamespace(uuid=uuid),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert Nvml(FakeNvml(cards=3)).handle_for("cuda:0") == "card-2"


def test_torchs_uuid_decides_if_torch_is_running(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.devices.gpu import nvml

    monkeypatch.setattr(nvml, "_torch_uuid", lambda _index: "GPU-2bc")
    assert Nvml(FakeNvml(cards=3)).handle_for("cuda:0") == "card-2"


@pytest.mark.parametrize("visible", ["7", "GPU-9", "MIG-1"])
def test_a_card_that_is_not_there(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(Unreadable):
        Nvml(FakeNvml(cards=3)).handle_for("cuda:0")


def test_cards_of_several_models_are_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml(cards=2, nvmlDeviceGetName=lambda handle: f"model of {handle}")
    with pytest.raises(Unreadable, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        Nvml(library).handle_for("cuda:0")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert Nvml(library).handle_for("cuda:0") == "card-0"


def test_without_a_driver_the_reader_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    reader = reader_for("cuda:0")
    assert isinstance(reader, NullReader)
    reader.begin()
    reading = reader.end()
    reader.close()
    assert "NVML Shared Library Not Found" in reading.absent["energy_j"]
    assert reading.energy == {}


def test_nothing_sets_anything(tmp_path: Path) -> None:
    """The device's settings are the user's: the code never names a call that changes one."""
    folder = Path(nvidia.__file__).parent
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for verb in ("Set", "Reset", "Clear"):
            assert f"nvmlDevice{verb}" not in text, path


def test_a_power_or_clock_of_0_is_no_reading() -> None:
    fake = FakeNvml(nvmlDeviceGetClockInfo=0, nvmlDeviceGetPowerUsage=0)
    fake.fields[186] = 0
    found = read(fake)
    for name in ("power_w", "sm_mhz", "memory_mhz"):
        assert name not in found.device
        assert "reads 0" in found.absent[name]
    fake = FakeNvml(nvmlDeviceGetPowerUsage=240_000)
    fake.fields[186] = 0
    assert read(fake).device["power_w"] == 240.0
