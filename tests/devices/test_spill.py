"""Memory that spills into the host's under WSL2 and Windows: seen, marked, never valid."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.devices.figures import Unreadable
from bench.devices.gpu import card, spill
from bench.records.codes import CODES

GB = 10**9
SAMPLE = """
"(PDH-CSV 4.0)","\\\\PC\\GPU Adapter Memory(luid_0x0)\\Shared Usage","(luid_0x1)"
"11/28/2026 10:00:00.000","104857600.000000","52428800.000000"
Exiting, please wait...
"""


def watch(monkeypatch: pytest.MonkeyPatch, free: int | None, shared: int | None) -> spill.Watch:
    def read(device: str) -> int:
        if free is None:
            raise Unreadable("no")
        return free

    monkeypatch.setattr(card, "free_bytes", read)
    monkeypatch.setattr(spill, "shared_bytes", lambda: shared)
    found = spill.watch("cuda:0", spills=True)
    assert found is not None
    return found


def test_more_held_than_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch, free=15 * GB, shared=None)
    assert found.spilled({"peak_device_reserved_bytes": 14 * GB}) is None
    why = found.spilled({"peak_device_reserved_bytes": 30 * GB})
    assert why == (
        "30.0 GB are allocated on a card that had 15.0 GB free: the rest is in the host's memory"
    )


def test_shared_memory_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch, free=None, shared=GB)
    assert found.spilled({}, lambda: GB + 100_000_000) is None
    assert found.spilled({}, lambda: None) is None
    assert found.spilled({}, lambda: 3 * GB) == (
        "the card's shared memory on the host has grown by 2.0 GB"
    )


def test_nothing_readable_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch, free=None, shared=None)
    assert found.spilled({"peak_device_reserved_bytes": 30 * GB}) is None


def test_only_where_drivers_spill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not spill.spills_here(tmp_path / "dxg")
    (tmp_path / "dxg").write_text("")
    assert spill.spills_here(tmp_path / "dxg")
    assert spill.watch("cpu", spills=True) is None
    assert spill.watch("cuda:0", spills=False) is None


def test_the_counter_of_windows() -> None:
    assert spill.parse(SAMPLE) == 104_857_600 + 52_428_800
    assert spill.parse('"a","b"') is None
    assert spill.parse('"a","b"\n"time","none"') is None

    def done(*_: Any, **__: Any) -> Any:
        return subprocess.CompletedProcess([], 0, SAMPLE, "")

    def gone(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    assert spill.shared_bytes(done) == 157_286_400
    assert spill.shared_bytes(gone) is None


def test_a_window_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch, free=15 * GB, shared=None)
    figures = {
        "memory": {"peak_device_reserved_bytes": 30 * GB},
        "reasons": ["DRIFT"],
        "device": {"clock": "cuda"},
    }
    marked = spill.marked(found, figures)
    assert marked["reasons"] == ["DRIFT", "SPILLED"]
    assert "host's memory" in marked["device"]["spilled"]
    assert spill.marked(None, figures) == {}
    assert "SPILLED" in CODES
