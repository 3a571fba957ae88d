"""What a run writes down about where it ran."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from bench.devices import environment
from bench.devices.environment import capture, hash_of
from bench.devices.gpu import card
from bench.devices.gpu.nvidia import NvidiaCard
from bench.devices.host import machine
from bench.records import from_json, to_json
from tests.fake_nvml import FakeNvml


def test_equal_machines_give_equal_ids() -> None:
    one, two = capture("cpu"), capture("cpu")
    assert one.id == two.id
    assert one.identity == two.identity


def test_it_is_a_line_of_the_record_format() -> None:
    here = capture()
    assert from_json(to_json(here)) == here


def test_it_names_neither_the_machine_nor_its_user() -> None:
    text = json.dumps(to_json(capture()))
    assert socket.gethostname() not in text or len(socket.gethostname()) < 4


def test_versions_are_told_without_importing_what_is_measured() -> None:
    code = (
        "import sys; from bench.devices.environment import capture; e = capture();"
        "print(e.identity['torch'], sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, _, imported = done.stdout.strip().partition(" ")
    assert imported == "[]"
    assert version == str(environment.versions()["torch"])


def test_a_setting_that_changes_figures_changes_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = capture("cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    after = capture("cpu")
    assert after.identity["settings"]["OMP_NUM_THREADS"] == "1"
    assert before.id != after.id


def test_memory_that_grows_is_another_machine_for_the_cpu_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(card, "open_card", lambda name: NvidiaCard(name, FakeNvml()))
    ids = {}
    for size in (16 << 30, 64 << 30):
        monkeypatch.setattr(machine, "memory_bytes", lambda _root, size=size: size)
        ids[size] = [capture(device).id for device in ("cpu", "cuda:0")]
    (cpu, card_), (cpu_later, card_later) = ids.values()
    assert cpu != cpu_later
    assert card_ == card_later
    assert capture("cuda:0").state["memory_bytes"] == 64 << 30


def test_no_card_has_a_reason() -> None:
    here = capture("cpu")
    assert here.identity["gpu"] is None
    assert here.state["absent"]["gpu"] == "the device is the CPU"


def test_a_card_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = [NvidiaCard("cuda:0", FakeNvml(nvmlDeviceGetPowerManagementLimit=w)) for w in (5, 6)]
    monkeypatch.setattr(card, "open_card", lambda _device: found.pop(0))
    one, two = capture("cuda:0"), capture("cuda:0")
    assert one.identity["gpu"] == "Invented 100"
    assert "gpu" not in one.state["absent"]
    assert "GPU-0bc" not in to_json(one)
    assert one.id != two.id  # another power limit


def test_what_changes_while_it_is_the_same_card_is_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop's firmware moves the enforced limit, and the doctor advises persistence mode."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    changed = {"nvmlDeviceGetEnforcedPowerLimit": 80_000, "nvmlDeviceGetPersistenceMode": 0}
    found = [NvidiaCard("cuda:0", FakeNvml(**answers)) for answers in ({}, changed)]
    monkeypatch.setattr(card, "open_card", lambda _device: found.pop(0))
    one, two = capture("cuda:0"), capture("cuda:0")
    assert one.id == two.id
    assert (one.state["gpu_persistence"], two.state["gpu_persistence"]) == (True, False)
    limits = [env.state["gpu_enforced_power_limit_w"] for env in (one, two)]
    assert limits == [500.0, 80.0]


def test_the_id_does_not_depend_on_the_order_of_keys() -> None:
    assert hash_of({"a": 1, "b": 2}) == hash_of({"b": 2, "a": 1})
