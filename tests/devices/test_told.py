"""What torch tells of Intel's and Apple's devices: in the machine's identity, plans, the doctor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import doctor
from bench.devices import environment
from bench.devices.clock import suspended_s
from bench.devices.figures import Unreadable
from bench.devices.gpu import card as cards
from bench.devices.gpu import told
from bench.devices.host import machine
from bench.doctor import find_device, without_counters
from bench.doctor import gpu as gpu_doctor
from bench.doctor.host import software_checks
from bench.errors import UnsupportedError
from bench.runner import here

ARC = {
    "gpu": "Intel(R) Arc(TM) B580 Graphics",
    "gpu_id": "ab12",
    "gpu_memory_bytes": 12 << 30,
    "gpu_driver": "1.6.33578",
    "gpu_cores": 160,
}
M3 = {
    "gpu": "Apple M3 Max",
    "gpu_memory_bytes": 48 << 30,
    "gpu_driver": "macOS 15.5",
    "gpu_cores": 40,
}


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    told.facts.cache_clear()


def answers(monkeypatch: pytest.MonkeyPatch, found: Any, code: int = 0, said: str = "") -> None:
    done = subprocess.CompletedProcess([], code, f"a warning\n{json.dumps(found)}\n", said)
    monkeypatch.setattr(told.subprocess, "run", lambda *_, **__: done)


def test_the_facts_of_an_intel_card() -> None:
    """Names of `torch.xpu.get_device_properties` (torch 2.13)."""
    properties = SimpleNamespace(
        name=ARC["gpu"], driver_version="1.6.33578", total_memory=12 << 30, gpu_eu_count=160,
        uuid=b"0123456789abcdef",
    )  # fmt: skip
    torch = SimpleNamespace(xpu=SimpleNamespace(get_device_properties=lambda _index: properties))
    found = told.of_intel(torch, 0)
    assert found | {"gpu_id": "ab12"} == ARC
    assert "0123" not in found["gpu_id"]


def test_the_facts_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told.platform, "mac_ver", lambda: ("15.5", ("", "", ""), "arm64"))
    cores = 40
    mps = SimpleNamespace(get_name=lambda: "Apple M3 Max", get_core_count=lambda: cores)
    torch = SimpleNamespace(
        backends=SimpleNamespace(mps=mps),
        mps=SimpleNamespace(recommended_max_memory=lambda: 48 << 30),
    )
    assert told.of_apple(torch, 0) == M3
    cores = 30  # with three quarters of the bandwidth
    assert told.of_apple(torch, 0)["gpu"] == "Apple M3 Max (30 GPU cores)"


@pytest.mark.parametrize(("device", "facts"), [("xpu:0", ARC), ("mps:0", M3)])
def test_two_cards_are_two_machines(
    device: str, facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "NvidiaCard", lambda _device: pytest.fail("NVML was asked"))
    answers(monkeypatch, facts)
    one = environment.capture(device)
    assert one.identity["gpu"] == facts["gpu"]
    told.facts.cache_clear()
    answers(monkeypatch, facts | {"gpu_cores": 30})
    assert environment.capture(device).id != one.id


def test_a_device_that_torch_cannot_use_has_torchs_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, {}, 1, "Traceback\nAssertionError: Torch not compiled with XPU enabled\n")
    assert environment.capture("xpu:0").state["absent"]["gpu"] == (
        "xpu:0: AssertionError: Torch not compiled with XPU enabled"
    )
    answers(monkeypatch, None)
    with pytest.raises(Unreadable, match="xpu:1"):
        told.facts("xpu:1")


@pytest.mark.slow
def test_torch_is_really_asked() -> None:
    with pytest.raises(Unreadable, match=r"xpu:0: .*(XPU|xpu)"):
        told.facts("xpu:0")
    if sys.platform != "darwin":
        with pytest.raises(Unreadable, match="mps:0: torch cannot use Metal here"):
            told.facts("mps:0")


def test_a_plan_knows_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, ARC)
    arc = here.here("xpu:0")
    assert (arc.kind, arc.memory_bytes) == ("xpu", 12 << 30)
    assert arc.gpu is not None
    assert arc.gpu.name == "arc-b580"
    answers(monkeypatch, M3)
    mac = here.place_of("mps:0")
    assert mac is not None
    assert (mac.kind, mac.memory_bytes, mac.dtype) == ("mps", 48 << 30, "bfloat16")
    assert mac.gpu is not None
    assert mac.gpu.name == "apple-m3-max"


def test_a_plan_knows_amds_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"gpu": "AMD Instinct MI300X OAM", "gpu_memory_bytes": 192 << 30, "gpu_arch": "gfx942"}
    monkeypatch.setattr(cards, "describe", lambda _: (facts, {}))
    monkeypatch.setattr(cards, "used_bytes", lambda _: 1 << 30)
    found = here.here("cuda:0")
    assert (found.device.arch, found.device.capability) == ("gfx942", None)
    assert found.gpu is not None
    assert found.gpu.name == "mi300x"
    apu = {"gpu": "AMD Radeon 8060S Graphics", "gpu_memory_bytes": 512 << 20}
    monkeypatch.setattr(cards, "describe", lambda _: (apu, {}))
    assert here.here("cuda:0").memory_bytes is None  # what the firmware set apart is not its limit


def test_a_mac_is_named_by_its_chip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = subprocess.CompletedProcess([], 0, "Apple M3 Max\n", "")
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(machine.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(machine.platform, "processor", lambda: "arm")
    assert machine.cpu_model(tmp_path) == "Apple M3 Max"


def test_a_mac_that_slept_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {5: 100.0, 6: 40.0}
    fake = SimpleNamespace(CLOCK_MONOTONIC=5, CLOCK_UPTIME_RAW=6, clock_gettime=clocks.__getitem__)
    monkeypatch.setattr("bench.devices.clock.time", fake)
    assert suspended_s() == 60.0


@pytest.mark.parametrize(
    ("build", "apple", "usable", "device"),
    [
        ("hip", False, True, "cuda:0"),
        ("hip", False, False, "cpu"),
        ("xpu", False, True, "xpu:0"),
        (None, True, True, "mps:0"),
        (None, True, False, "cpu"),
        (None, False, True, "cpu"),
        ("cuda", False, True, "cpu"),  # without a driver
    ],
)
def test_the_doctor_examines_what_a_run_would_take(
    build: str | None, apple: bool, usable: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(_device: str) -> None:
        if not usable:
            raise UnsupportedError("no")

    def no_library(_device: str) -> None:
        raise Unreadable("no library")

    monkeypatch.setattr(doctor, "ask_torch", ask)
    monkeypatch.setattr(cards, "built_for", lambda: build)
    monkeypatch.setattr(cards, "open_card", no_library)
    monkeypatch.setattr(cards.sys, "platform", "darwin" if apple else "linux")
    monkeypatch.setattr(cards.platform, "machine", lambda: "arm64" if apple else "x86_64")
    assert without_counters() == device
    assert find_device(None) == (device, None)
    if usable:  # and so does a plan
        assert cards.meant("auto") == ("auto" if device == "cpu" else device)


def test_an_amd_card_without_amdsmi_is_there_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_amdsmi(_device: str) -> None:
        raise Unreadable("amdsmi cannot be imported: No module named 'amdsmi'")

    monkeypatch.setattr(cards, "open_card", no_amdsmi)
    monkeypatch.setattr(cards, "built_for", lambda: "hip")
    monkeypatch.setattr(doctor, "ask_torch", lambda _device: None)
    assert find_device("cuda:0") == ("cuda:0", None)
    said = gpu_doctor.unread_check("cuda:0")
    assert said.state == "warn"
    assert "No module named 'amdsmi'" in said.meaning
    assert "/opt/rocm/share/amd_smi" in said.advice
    monkeypatch.setattr(cards, "built_for", lambda: "cuda")
    with pytest.raises(UnsupportedError, match="amdsmi cannot be imported"):
        find_device("cuda:0")


def test_the_doctor_says_what_torch_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, ARC)
    said = gpu_doctor.unread_check("xpu:0")
    assert said.found == "Intel(R) Arc(TM) B580 Graphics, 12.0 GiB, 1.6.33578"
    assert "energy, temperature and clocks are null" in said.meaning


@pytest.mark.parametrize(
    ("build", "index"), [("xpu", "whl/xpu"), ("hip", "whl/rocm"), ("cuda", None), (None, None)]
)
def test_advice_does_not_put_nvidias_torch_in_the_place_of_another(
    build: str | None, index: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.doctor.host.metadata.version", lambda _name: "1.0")
    found = {one.check: one.advice for one in software_checks(build)}
    assert ("--index-url" in found["torch"]) == (index is not None)
    assert index is None or index in found["torch"]
    assert "--index-url" not in found["transformers"]
    assert sys.platform  # the advice does not hang on it
