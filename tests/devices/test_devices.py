"""Energy and reasons from replayed traces. The traces are synthetic: see tests/make_traces.py."""

from __future__ import annotations

import dataclasses
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.devices import Reading
from bench.devices.figures import Unreadable
from bench.devices.gpu.energy import Edge, Sample, energy_between, has_gap, integral, is_reset
from bench.devices.gpu.meter import LivePace, Meter
from bench.devices.gpu.reader import GpuReader
from bench.devices.none import NullReader
from bench.devices.opening import reader_for
from bench.errors import InputError
from bench.records import codes as validity
from tests import make_traces
from tests.replay import ReplayReader, Trace, TraceCard, TracePace, read_trace

FOLDER = Path(__file__).parents[1] / "data" / "traces"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> Trace:
    return read_trace(FOLDER / f"{name}.json")


def window(
    trace: Trace, seconds: float, *, start_s: float = 1.25, align: bool = True
) -> tuple[Reading, float]:
    """A reading over a window of work, and the energy that was really drawn in it."""
    reader = ReplayReader(trace, start_s=start_s, align=align)
    reader.begin()
    begin = reader.pace.now()
    reader.work(seconds)
    end = reader.pace.now()
    reading = reader.end()
    return reading, trace.true_energy_j(begin, end)


def zeros(value: Any, at: str = "") -> list[str]:
    """Every figure of a reading that is 0."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in zeros(item, f"{at}.{key}")]
    return [at] if isinstance(value, int | float) and value == 0 and value is not False else []


# --- traces ----------------------------------------------------------------------------------


def test_the_shipped_traces_are_what_the_generator_makes() -> None:
    made = make_traces.traces()
    assert sorted(made) == NAMES
    for name, whole in made.items():
        kept = json.loads((FOLDER / f"{name}.json").read_text())
        assert kept == json.loads(json.dumps(whole)), f"{name}: run python tests/make_traces.py"


@pytest.mark.parametrize("name", NAMES)
def test_a_trace_says_where_it_comes_from(name: str) -> None:
    assert load(name).origin in ("synthetic", "measured")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 99}',
        '{"format": 1, "origin": "x"}',
        '{"format": 1, "origin": "x", "about": "y", "more": 1}',
    ],
)
def test_what_is_no_trace_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.json"):
        read_trace(path)


# --- energy against the truth ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["steady", "fast-ticks", "waves", "no-power", "bare"])
@pytest.mark.parametrize("seconds", [10.0, 20.037, 30.5])
def test_aligned_energy_is_within_a_thousandth(name: str, seconds: float) -> None:
    reading, truth = window(load(name), seconds)
    assert reading.energy["energy_j"] == pytest.approx(truth, rel=2e-3)
    assert "CLOCK_NOT_BRACKETED" not in reading.reasons
    assert reading.energy["window_s"] == pytest.approx(seconds)
    assert reading.energy["short_window"] is (seconds < 30)


@pytest.mark.parametrize("name", ["steady", "fast-ticks", "waves"])
@pytest.mark.parametrize("start_s", [1.25, 1.283, 1.301, 1.349])
@pytest.mark.parametrize("seconds", [10.0, 20.037])
def test_unaligned_energy_is_within_a_hundredth_and_says_so(
    name: str, start_s: float, seconds: float
) -> None:
    reading, truth = window(load(name), seconds, start_s=start_s, align=False)
    assert reading.energy["energy_j"] == pytest.approx(truth, rel=1e-2)
    assert reading.reasons == ("CLOCK_NOT_BRACKETED",)


@settings(max_examples=60, deadline=None)
@given(
    start_s=st.floats(1.1, 3.0),
    seconds=st.floats(10.0, 30.0),
    name=st.sampled_from(["steady", "fast-ticks", "waves"]),
)
def test_alignment_holds_wherever_the_window_falls(
    start_s: float, seconds: float, name: str
) -> None:
    reading, truth = window(TRACES[name], seconds, start_s=start_s)
    error = abs(reading.energy["energy_j"] / truth - 1)
    assert error < 5e-3
    if name != "waves":  # with an uneven power the last part of a tick is an estimate
        assert error <= reading.energy["edge_error"] + 2e-6


TRACES = {name: load(name) for name in ("steady", "fast-ticks", "waves")}


def test_what_is_drawn_while_the_tick_is_waited_for_is_left_out() -> None:
    trace = load("steady")  # at work until 36 s, then at a fifth of the power
    reader = ReplayReader(trace, start_s=1.25)
    reader.begin()
    begin = reader.pace.now()
    reader.work(36.0 - begin)
    reading = reader.end()
    assert reader.pace.now() > 36.0
    assert reading.energy["mean_power_w"] == pytest.approx(312.0, rel=1e-3)


def test_the_power_samples_agree_with_the_counter() -> None:
    energy = window(load("waves"), 20.0)[0].energy
    assert energy["cross_check_ratio"] == pytest.approx(1.0, abs=0.01)
    assert energy["cross_check_agrees"] is True


def test_a_counter_that_counts_something_else_is_found_by_the_samples() -> None:
    whole = load("steady")
    half = [(at, value / 2) for at, value in whole.series["power_w"]]
    trace = dataclasses.replace(whole, series={**whole.series, "power_w": half})
    energy = window(trace, 20.0)[0].energy
    assert energy["cross_check_ratio"] == pytest.approx(0.5, abs=0.01)
    assert energy["cross_check_agrees"] is False


def test_idle_power_is_carried_by_later_windows() -> None:
    reader = ReplayReader(load("steady"), start_s=36.5)
    reader.idle(4.0)
    reader.pace._now = 1.25  # the trace is at rest only at its end
    reader.begin()
    reader.work(20.0)
    energy = reader.end().energy
    assert energy["idle_power_w"] == pytest.approx(70.0, rel=5e-3)
    assert energy["mean_power_w"] == pytest.approx(312.0, rel=5e-3)


def test_idle_power_that_could_not_be_measured_says_so() -> None:
    reader = ReplayReader(load("steady"), start_s=1.25)
    reader.idle(0.1)
    reader.begin()
    reader.work(20.0)
    reading = reader.end()
    assert reading.energy["idle_power_w"] is None
    assert reading.absent["idle_power_w"].startswith("at rest: a window of 0.1")


POWERS = [
    # watts at a time, and how much they may change between two ticks
    (lambda _: 300.0, 0.0),
    (lambda t: 450.0 if int(t) % 2 else 60.0, 390.0),
    (lambda t: 60 + t, 0.0),
]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000),
    st.floats(10.0, 20.0),
    st.floats(0.02, 0.1),
    st.floats(0.0, 0.5),
    st.sampled_from(POWERS),
)
@example(143, 10.0, 0.09506813415976352, 0.5, POWERS[1])  # 1.07%, by a jump at an edge
def test_energy_is_within_a_hundredth_though_ticks_come_unevenly(
    seed: int,
    seconds: float,
    period: float,
    uneven: float,
    powers: tuple[Callable[[float], float], float],
) -> None:
    """A counter of this test's own: ticks up to half a period early or late. What a jump of the
    power does within the tick that the window begins or ends in, no counter shows."""
    power, jump = powers
    chance = random.Random(seed)
    at, joules, counter = -period * chance.random(), 1e6, []
    while at < 25:
        later = at + period * (1 + uneven * chance.uniform(-1, 1))
        joules += truth(power, at, later, 20)
        counter.append((later, int(joules * 1000)))
        at = later
    trace = Trace(origin="synthetic", about="uneven ticks", series={"counter_mj": counter})
    reader = ReplayReader(trace, start_s=1 + chance.random())
    reader.begin()
    begin = reader.pace.now()
    reader.work(seconds)
    end = reader.pace.now()
    true = truth(power, begin, end)
    hidden = jump * period * (1 + uneven)
    assert abs(reader.end().energy["energy_j"] - true) <= max(0.01 * true, hidden)


def truth(power: Callable[[float], float], begin: float, end: float, steps: int = 5000) -> float:
    """The integral of a power, joules."""
    step = (end - begin) / steps
    return step * sum(power(begin + (i + 0.5) * step) for i in range(steps))


# --- reasons ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("steady", ()),
        ("reset", ("COUNTER_RESET",)),
        ("stuck", ("CLOCK_NOT_BRACKETED",)),
        ("gap", ("SAMPLE_GAP",)),
        ("throttle", ("THERMAL_THROTTLE",)),
        ("throttle-counted", ("THERMAL_THROTTLE",)),
        ("brake", ("POWER_BRAKE",)),
        ("clock-change", ()),
        ("power-cap", ()),
        ("shared", ("FOREIGN_PROCESS",)),
        ("no-power", ()),
        ("bare", ()),
        ("no-counter", ()),
    ],
)
def test_reasons(name: str, reasons: tuple[str, ...]) -> None:
    reading = window(load(name), 20.037)[0]
    assert reading.reasons == reasons
    assert set(reasons) <= validity.CODES.keys()


def test_episodes_outside_the_window_are_none_of_its_business() -> None:
    assert window(load("throttle"), 10.0, start_s=16.0)[0].reasons == ()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("reset", "went backwards"),
        ("stuck", "did not move"),
        ("no-counter", "Not Supported"),
    ],
)
def test_energy_that_cannot_be_known_is_absent_with_its_reason(name: str, why: str) -> None:
    reading = window(load(name), 20.0)[0]
    assert reading.energy == {}
    assert why in reading.absent["energy_j"]


def test_a_card_that_shows_only_its_counter_gives_a_reason_for_all_the_rest() -> None:
    reading = window(load("bare"), 20.0)[0]
    figures = ("power_w", "temperature_c", "sm_mhz", "events", "held_share", "foreign_processes")
    for name in figures:
        assert reading.absent[name] == "Not Supported"
        assert name not in reading.device
    assert reading.energy["cross_check_j"] is None
    assert reading.energy["cross_check_agrees"] is None
    assert reading.absent["cross_check_j"]


@pytest.mark.parametrize("name", NAMES)
def test_no_figure_is_0_because_it_could_not_be_read(name: str) -> None:
    trace = load(name)
    reading = window(trace, 20.0)[0]
    shown = zeros({"energy": reading.energy, "memory": reading.memory, "device": reading.device})
    # These are 0 because the trace says that nothing of the kind happened.
    honest = {".device.foreign_processes", ".device.sw_power_cap_share"}
    honest |= {f".device.held_share.{cause}" for cause in ("sw_power_cap", "sw_thermal_slowdown")}
    assert set(shown) <= honest
    if name == "bare":
        assert shown == []


def test_a_power_cap_is_recorded_and_no_reason() -> None:
    reading = window(load("power-cap"), 20.0)[0]
    assert reading.device["sw_power_cap_share"] == 1.0
    assert reading.device["events"] == ["sw_power_cap"]


def test_device_figures_are_of_the_window() -> None:
    reading = window(load("steady"), 20.0, start_s=10.0)[0]
    assert reading.device["temperature_start_c"] == 52.0
    assert reading.device["temperature_c"] == 60.0
    assert reading.device["sm_mhz"] == 1980.0
    assert reading.memory["device_used_bytes"] == 17 << 30


def test_a_reading_is_json() -> None:
    reading = window(load("waves"), 20.0)[0]
    json.dumps([reading.energy, reading.memory, reading.device], allow_nan=False)


# --- the pure parts --------------------------------------------------------------------------


def edge(at_s: float, mj: int, *, tick_s: float | None = None, aligned: bool = True) -> Edge:
    return Edge(
        at_s=at_s,
        counter_mj=mj,
        tick_s=at_s if tick_s is None else tick_s,
        uncertain_s=0.002,
        aligned=aligned,
    )


def test_energy_is_filled_in_from_the_last_tick_to_the_close() -> None:
    energy = energy_between(edge(0.0, 0), edge(10.05, 1_000_000, tick_s=10.0), 0.1)
    assert energy.energy_j == pytest.approx(1005.0)
    assert energy.mean_power_w == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("closed", "period", "why"),
    [
        (edge(10.0, 99), 0.1, "backwards"),
        (edge(10.0, 100), 0.1, "did not move"),
        (edge(0.4, 200, tick_s=0.3), 0.1, "too short"),
    ],
)
def test_energy_is_refused(closed: Edge, period: float, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        energy_between(edge(0.0, 100), closed, period)


def test_a_reset_is_seen_even_if_the_counter_has_passed_its_old_value() -> None:
    assert is_reset([100, 200, 5, 300])
    assert not is_reset([100, 100, 300])
    assert not is_reset([])


def powers(*points: tuple[float, float]) -> list[Sample]:
    return [Sample(at_s=at, power_w=power) for at, power in points]


def test_integral_of_the_power() -> None:
    assert integral(powers((0.5, 100), (1.5, 200)), 0.0, 2.0) == pytest.approx(50 + 150 + 100)


def test_integral_leaves_out_what_was_sampled_outside() -> None:
    assert integral(powers((-1, 9e9), (1, 100), (3, 9e9)), 0.0, 2.0) == pytest.approx(200)


def test_a_gap_in_the_samples() -> None:
    samples = powers((1, 1), (4.5, 1))
    assert has_gap(samples, 0.0, 5.0)
    assert not has_gap(samples, 4.0, 5.0)
    with pytest.raises(Unreadable, match="apart"):
        integral(samples, 0.0, 5.0)


def test_a_counter_that_does_not_tick_is_not_waited_for_long() -> None:
    pace = TracePace()
    opened = Meter(lambda: 7, pace).open()
    assert not opened.aligned
    assert 0.4 < pace.now() < 1.1


def test_a_counter_that_stops_in_the_window_gives_no_figure() -> None:
    whole = load("steady")
    ticks = [change for change in whole.series["counter_mj"] if change[0] < 10]
    trace = dataclasses.replace(whole, series={**whole.series, "counter_mj": ticks})
    reading = window(trace, 20.0)[0]
    assert reading.energy == {}
    assert "stopped ticking" in reading.absent["energy_j"]


@pytest.mark.parametrize("value", ["N/A", None, 0, 0.0])
def test_what_is_no_power_is_not_taken_for_one(value: Any) -> None:
    whole = load("steady")
    powers = [(at, value if 5 < at < 6 else watts) for at, watts in whole.series["power_w"]]
    trace = dataclasses.replace(whole, series={**whole.series, "power_w": powers})
    reading, drawn = window(trace, 20.0)
    assert reading.energy["energy_j"] == pytest.approx(drawn, rel=1e-3)
    assert reading.energy["cross_check_ratio"] == pytest.approx(1, abs=0.01)
    nothing = dataclasses.replace(trace, series={**whole.series, "power_w": [(0, value)]})
    reading = window(nothing, 20.0)[0]
    assert "power_w" not in reading.device
    assert reading.energy["cross_check_j"] is None
    assert reading.absent["power_w"]


def test_a_live_thread_samples_until_it_is_stopped() -> None:
    taken = threading.Event()
    pace = LivePace()

    def take() -> Sample:
        taken.set()
        return Sample(at_s=pace.now())

    for _ in range(2):
        taken.clear()
        pace.start(take)
        assert taken.wait(30)
        samples = pace.stop()
        assert samples


def test_a_window_left_open_by_failed_work_does_not_spoil_the_next() -> None:
    reader = GpuReader(TraceCard(load("steady"), TracePace()), pace=LivePace())
    reader.begin()
    reader.begin()
    reader.end()
    reader.close()


# --- readers ---------------------------------------------------------------------------------


def test_a_device_that_nobody_can_read_says_so() -> None:
    reader = reader_for("meta:0")
    assert isinstance(reader, NullReader)
    assert reader.has_energy is False
    reader.begin()
    reader.idle(1e9)
    reading = reader.end()
    assert reading.energy == {}
    assert "`meta`" in reading.absent["energy_j"]
    assert reader.identity()["device"] == "meta:0"
    reader.close()


@pytest.mark.parametrize(("device", "reasons"), [("synthetic", ()), ("mps", ("FOREIGN_PROCESS",))])
def test_a_busy_host_does_not_move_scripted_time(
    device: str, reasons: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = NullReader(device, "a test")
    monkeypatch.setattr(reader, "_memory", None)
    monkeypatch.setattr(reader._host, "end", lambda: Reading(reasons=("FOREIGN_PROCESS",)))
    reader.begin()
    assert reader.end().reasons == reasons
