"""Recording a trace from a (fake) card gives back what the card showed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.devices.gpu import company
from bench.devices.gpu.nvidia import NvidiaCard
from scripts.trace_recording import FIELDS, as_trace, fields_shown, idle_lag_s, record, ticks
from tests.fake_nvml import FakeNvml
from tests.replay import ReplayReader, TracePace, read_trace


class Steady(FakeNvml):
    """A card at 250 W whose counter ticks every 100 ms of the pace's time."""

    def __init__(self, pace: TracePace) -> None:
        super().__init__()
        self._pace = pace

    def _energy(self) -> int:
        return 1_000_000 + int(self._pace.now() * 10 + 1e-9) * 25_000


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(company, "in_container", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pace = TracePace()
    card = NvidiaCard("cuda:0", Steady(pace))
    found = record(card, pace, 14.0)
    notes = {"ticks": ticks(found[0]["counter_mj"]), "fields": fields_shown(card)}
    path = tmp_path / "trace.json"
    path.write_text(as_trace("a fake", card.identity(), found, notes))
    return path


def test_what_was_recorded_is_played_back(recorded: Path) -> None:
    trace = read_trace(recorded)
    assert trace.origin == "measured"
    reader = ReplayReader(trace, start_s=0.5)
    reader.begin()
    reader.work(11.0)
    reading = reader.end()
    assert reading.energy["mean_power_w"] == pytest.approx(250.0, rel=2e-3)
    assert reading.energy["cross_check_agrees"] is True
    assert reading.reasons == ()


def test_the_period_is_learned(recorded: Path) -> None:
    found = read_trace(recorded).notes["ticks"]
    assert found["median_s"] == pytest.approx(0.1, abs=0.003)


def test_every_field_has_an_answer_or_a_reason(recorded: Path) -> None:
    shown = read_trace(recorded).notes["fields"]
    assert set(shown) == {str(number) for number in FIELDS}
    assert shown["186"] == 250_000
    assert "Not Supported" in shown["270"]


def test_only_changes_are_kept(recorded: Path) -> None:
    series = read_trace(recorded).series
    assert len(series["power_w"]) == 1
    assert len(series["counter_mj"]) == 140


def test_too_few_ticks_tell_no_period() -> None:
    assert ticks([(0.0, 1), (0.1, 2)]) is None


def test_idle_lag() -> None:
    shown = [(0.0, 300.0), (10.0, 310.0), (10.2, 200.0), (10.6, 75.0), (11.0, 70.0)]
    assert idle_lag_s(shown, 10.0) == pytest.approx(0.6)
    assert idle_lag_s(shown, 20.0) is None
