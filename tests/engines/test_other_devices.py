"""A whole measurement on machines of AMD, Intel and Apple as torch documents them: tests/card.py.

Tensors lie on the CPU; what is replaced is what torch answers of the device around them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import worker
from bench.devices.gpu import amd, company
from bench.devices.gpu import card as cards
from bench.devices.gpu.amd import AmdCard
from bench.devices.room import room_bytes
from bench.engines.graph.attention import way_of
from bench.engines.messages import Job
from bench.errors import InputError, UnsupportedError, is_out_of_memory
from bench.experiment import Measure, Workload
from bench.quantization import streaming
from bench.schemes import Device, scheme
from bench.worker.messages import Failed, FitTask, Measured, Ready, Told
from tests import card as stand_in
from tests.card import Elsewhere, Machine
from tests.conftest import TINY
from tests.fake_amd import FakeAmd

RULES = Measure(pairs=1, iterations=2, window_s=0.0, warmup_max_s=1.0, warmup_window=2, idle_s=0.0)
ONE = Workload(n_prompt=8, n_gen=4)


def job(device: str) -> Job:
    return Job(
        architecture=TINY, folder=None, random_seed=0, initializer_range=0.02, quant="none",
        mode="eager", dtype="auto", device=device, threads=None, seed=7, replicate=0, options={},
    )  # fmt: skip


def measured(device: str) -> tuple[Ready, Any]:
    """What the worker says of the model, and of the one workload."""
    events: list[Any] = []
    told = Told(
        task="measure", engine="transformers", load=job(device), workloads=(ONE,), measure=RULES
    )
    with Elsewhere(device.partition(":")[0]):
        worker.perform(told, events.append)
    (loaded,) = (one for one in events if isinstance(one, Ready))
    (last,) = (one for one in events if isinstance(one, Measured | Failed))
    return loaded, last


def test_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.accelerator` has no memory there: loading itself would stop if it were asked."""
    machine = stand_in.apple(monkeypatch)
    loaded, found = measured("mps")
    assert isinstance(found, Measured), found
    assert (loaded.device, loaded.dtype) == ("mps:0", "bfloat16")
    assert machine.emptied > 0
    assert found.device["clock"] == "host, device synchronised at each step"
    assert found.memory["device_loaded_bytes"] == machine.allocated
    assert "peak_device_bytes" not in found.memory
    assert found.absent["peak_device_bytes"] == "torch keeps no peak of memory for mps"
    assert found.energy == {}
    assert "no counters of `mps`" in found.absent["energy_j"]
    assert "SPILLED" not in found.reasons


def test_a_mac_that_holds_more_than_metal_recommends_swaps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = stand_in.apple(monkeypatch)
    machine.reserved = machine.room + 1_000_000_000
    _, found = measured("mps:0")
    assert "SPILLED" in found.reasons
    assert found.device["spilled"] == (
        "1.0 GB are held, and Metal recommends 0.0 at most: macOS swaps"
    )


def test_the_largest_batch_of_a_mac_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.apple(monkeypatch)
    told = Told(
        task="fit", engine="transformers", load=job("mps"), fit=FitTask(n_prompt=8, n_gen=4, most=8)
    )
    with Elsewhere("mps"), pytest.raises(UnsupportedError, match="no peak of memory for mps; give"):
        worker.perform(told, lambda _: None)


def test_an_intel_card(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = stand_in.intel(monkeypatch)
    loaded, found = measured("xpu")
    assert isinstance(found, Measured), found
    assert (loaded.device, loaded.dtype) == ("xpu:0", "bfloat16")
    assert found.device["clock"] == "device events"
    assert found.memory["peak_device_bytes"] == 2 * machine.allocated
    assert found.memory["peak_device_reserved_bytes"] == 2 * machine.reserved
    assert "no counters of `xpu`" in found.absent["energy_j"]
    assert room_bytes("xpu:0") == machine.room + machine.reserved


def test_an_intel_card_that_does_not_tell_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in.intel(monkeypatch)

    def mute(_device: str) -> None:
        raise RuntimeError("The device doesn't support querying the available free memory.")

    monkeypatch.setattr(torch.xpu, "mem_get_info", mute)
    with pytest.raises(UnsupportedError, match="free memory of xpu:0 cannot be read"):
        room_bytes("xpu:0")


@pytest.fixture
def rocm(monkeypatch: pytest.MonkeyPatch) -> Machine:
    for name in amd.HIDING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(company, "in_container", lambda: False)
    monkeypatch.setattr(cards, "built_for", lambda: "hip")
    monkeypatch.setattr(cards, "NvidiaCard", lambda _device: pytest.fail("NVML was asked"))
    monkeypatch.setattr(cards, "AmdCard", lambda device: AmdCard(device, FakeAmd()))
    return stand_in.rocm(monkeypatch)


def test_an_amd_card(rocm: Machine) -> None:
    loaded, found = measured("cuda")
    assert isinstance(found, Measured), found
    assert (loaded.device, loaded.dtype) == ("cuda:0", "bfloat16")
    assert found.device["clock"] == "device events"
    assert found.memory["peak_device_bytes"] == 2 * rocm.allocated
    assert found.device["power_w"] == 400.0
    assert found.device["foreign_processes"] == 0
    assert worker.probe("cuda").arch == "gfx942"
    assert worker.probe("cuda").capability is None


def test_a_card_is_found_by_its_place_on_the_bus(rocm: Machine) -> None:
    """torch says bus 1; HIP's number would say the other one."""
    assert AmdCard("cuda:0", FakeAmd())._handle == "card-1"


OUT_OF_MEMORY = [
    RuntimeError(
        "MPS backend out of memory (MPS allocated: 7.43 GB, other allocations: 24.46 GB, max "
        "allowed: 32.00 GB). Tried to allocate 129.21 MB on private pool."
    ),
    RuntimeError("Invalid buffer size: 18.00 GiB"),
    RuntimeError("level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"),
    RuntimeError("UR backend failed. UR backend returns:39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    RuntimeError("HIP error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    torch.OutOfMemoryError("XPU out of memory. Tried to allocate 4.00 GiB."),
    MemoryError(),
]
"""As they are quoted in issues of pytorch and intel."""


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_memory_that_ran_out_is_told_from_a_crash(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert worker.failure(error).code == "OOM"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"),
        RuntimeError("out of resource: shared memory, Required: 131072, Hardware limit: 65536"),
        ValueError("memory layout"),
    ],
    ids=str,
)
def test_other_failures_are_not_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_what_was_freed_is_given_back_on_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (stand_in.apple, stand_in.intel, stand_in.rocm):
        with monkeypatch.context() as patch:
            machine = make(patch)
            streaming.give_back(f"{machine.kind}:0")
            streaming.give_back_all()
            assert machine.emptied == 2
    streaming.give_back_all()  # of a machine without one


MI300, MI210, RDNA2, RDNA3, RDNA4 = (
    Device(name="cuda:0", kind="cuda", arch=arch, elsewhere=True)
    for arch in ("gfx942", "gfx90a", "gfx1030", "gfx1100", "gfx1201")
)


@pytest.mark.parametrize(
    ("name", "mode", "runs", "refused"),
    [
        ("fp8-dynamic", "eager", (MI300,), (MI210, RDNA2, RDNA3, RDNA4)),
        ("fp8-dynamic-tensor", "eager", (MI300,), (MI210, RDNA4)),
        ("int4-weight-only", "eager", (MI300, MI210), (RDNA2, RDNA3, RDNA4)),
        ("int8-dynamic", "compiled", (MI300, MI210, RDNA3, RDNA4), (RDNA2,)),
        ("int8-dynamic", "eager", (RDNA2,), ()),
        ("int8-dynamic-fused", "cuda-graph", (MI300, RDNA3), ()),
        ("none", "cuda-graph", (MI300, RDNA2), ()),
    ],
)
def test_what_an_amd_chip_cannot_run_is_refused_before_anything_is_loaded(
    name: str, mode: str, runs: tuple[Device, ...], refused: tuple[Device, ...]
) -> None:
    for device in runs:
        assert scheme(name).refusal(device, mode) is None
    for device in refused:
        said = scheme(name).refusal(device, mode)
        assert said is not None
        assert f"cuda:0 is {device.arch}" in said


@pytest.mark.parametrize("kind", ["xpu", "mps"])
def test_only_what_is_not_quantized_or_a_file_runs_on_other_devices(kind: str) -> None:
    device = Device(name=f"{kind}:0", kind=kind, elsewhere=True)
    assert scheme("none").refusal(device) is None
    assert scheme("q4_k_m").refusal(device) is None
    for name in ("int8-dynamic", "int8-weight-only", "bnb-nf4", "fp8-dynamic", "int4-weight-only"):
        assert f"not on {kind}:0" in str(scheme(name).refusal(device))
    said = scheme("none").refusal(device, "cuda-graph")
    assert said == f"mode cuda-graph needs a CUDA device, not {kind}:0"
    assert way_of(None, kind) == "sdpa"
    with pytest.raises(InputError, match=f"is for cpu and cuda, not for {kind}"):
        way_of("split", kind)


def test_triton_goes_by_other_names_in_other_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.schemes import row

    device = Device(name="cuda:0", kind="cuda", arch="gfx942")
    for name in row.TRITONS:
        monkeypatch.setattr(row, "installed", lambda asked, name=name: "3.6" * (asked == name))
        assert scheme("int8-dynamic-fused").packages[1].missing(device) is None
    monkeypatch.setattr(row, "installed", lambda _: None)
    said = scheme("int8-dynamic-fused").packages[1].missing(device)
    assert said == "needs the package triton: pip install triton"
