"""The real card, where there is one: figures are sensible or have a reason."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from bench.devices import Reader
from bench.devices.figures import Unreadable
from bench.devices.gpu.card import open_card
from bench.devices.opening import reader_for

pytestmark = pytest.mark.gpu


@pytest.fixture
def reader() -> Iterator[Reader]:
    try:
        open_card("cuda:0").close()
    except Unreadable as reason:
        pytest.skip(str(reason))
    found = reader_for("cuda:0")
    yield found
    found.close()


def test_a_window_at_rest(reader: Reader) -> None:
    reader.begin()
    time.sleep(3.0)
    reading = reader.end()
    if "energy_j" in reading.energy:
        assert 1 < reading.energy["mean_power_w"] < 2000
        assert reading.energy["window_s"] == pytest.approx(3.0, abs=0.5)
    else:
        assert reading.absent["energy_j"]
    for name, low, high in (("temperature_c", 5, 110), ("sm_mhz", 50, 5000)):
        assert name in reading.absent or low < reading.device[name] < high
    assert "SAMPLE_GAP" not in reading.reasons


def test_the_counter_ticks_and_agrees_with_the_power(reader: Reader) -> None:
    if not reader.has_energy:
        pytest.skip("no energy counter")
    reader.begin()
    time.sleep(10.0)
    reading = reader.end()
    assert "CLOCK_NOT_BRACKETED" not in reading.reasons
    assert 0.005 < reading.energy["tick_s"] < 0.5
    if reading.energy["cross_check_ratio"] is not None:
        assert reading.energy["cross_check_ratio"] == pytest.approx(1.0, abs=0.15)


def test_the_card_is_named(reader: Reader) -> None:
    found = reader.identity()
    assert found["gpu"]
    assert found["gpu_driver"]
