"""Weights, cache and the rest: what a peak of memory consists of."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from bench.devices.figures import Figures
from bench.devices.gpu.parts import after_loading, parts


def cuda(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    module = SimpleNamespace(memory_allocated=lambda _device: held)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=module))


def test_a_devices_peak_is_what_was_loaded_the_cache_and_workspace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda(monkeypatch, 700)
    loaded = after_loading("cuda:0")
    found = parts(
        "cuda:0",
        {"peak_device_bytes": 1000, "peak_host_bytes": 5000},
        loaded,
        weights_bytes=650,
        cache_bytes=200,
    )
    assert found.values == {
        "device_loaded_bytes": 700,
        "cache_bytes": 200,
        "device_workspace_bytes": 100,
    }
    assert found.absent == {}


def test_a_hosts_peak_is_weights_cache_and_the_whole_process() -> None:
    loaded = after_loading("cpu")
    found = parts("cpu", {"peak_host_bytes": 5000}, loaded, weights_bytes=650, cache_bytes=200)
    assert found.values == {"cache_bytes": 200, "host_other_bytes": 4150}


@pytest.mark.parametrize(
    ("weights", "cache", "figure", "words"),
    [
        (None, 200, "host_other_bytes", "the size of the weights is unknown"),
        (650, None, "host_other_bytes", "the size of the cache is unknown"),
        (650, None, "cache_bytes", "does not report"),
        (6000, 200, "host_other_bytes", "below weights and cache"),
    ],
)
def test_a_part_that_is_not_known_has_a_reason(
    weights: int | None, cache: int | None, figure: str, words: str
) -> None:
    memory = {"peak_host_bytes": 5000}
    found = parts("cpu", memory, Figures(), weights_bytes=weights, cache_bytes=cache)
    assert figure not in found.values
    assert words in found.absent[figure]


def test_an_engine_with_memory_of_its_own_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda(monkeypatch, 0)
    loaded = after_loading("cuda:0")
    assert "allocates without torch" in loaded.absent["device_loaded_bytes"]
    found = parts("cuda:0", {"peak_host_bytes": 5000}, loaded, weights_bytes=1, cache_bytes=None)
    assert found.values == {}  # the host does not hold the weights


def test_torch_that_counts_nothing_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(mps=SimpleNamespace()))
    assert "torch reports no" in after_loading("mps:0").absent["device_loaded_bytes"]


@pytest.mark.parametrize("device", ["remote", "remote:cuda:0", "synthetic"])
def test_what_computes_elsewhere_has_no_parts_here(device: str) -> None:
    loaded = after_loading(device)
    found = parts(device, {"peak_host_bytes": 5}, loaded, weights_bytes=None, cache_bytes=None)
    assert (found.values, found.absent) == ({}, {})
