"""The timing loop, with time scripted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.devices import Reading
from bench.engines.messages import Answered, Served, Timed
from bench.errors import InputError, UnsupportedError
from bench.experiment import LEVELS, Measure, Workload
from bench.models.shapes import Shape
from bench.worker import failure, measure, messages, request, warm_up
from bench.worker.energy import without_prefill
from bench.worker.messages import (
    Done,
    Event,
    Failed,
    Fit,
    Phase,
    Probed,
    QualityTask,
    Shaped,
    Told,
    sent,
    told,
)
from bench.worker.steady import has_trend
from tests.fakes import FakeClock, FakeEngine, FakeReader

WORKLOAD = Workload(n_prompt=8, n_gen=64)
RULES = Measure(pairs=1, iterations=5, window_s=0.0, warmup_max_s=99.0)


TEXT = QualityTask(text="a text", max_tokens=9, window=3, base=None, keep="there")


def quiet(event: Event) -> None:
    pass


def test_five_iterations_of_63_gaps_give_exactly_315_samples() -> None:
    figures = measure(FakeEngine(), FakeClock([0.01]), FakeReader(), WORKLOAD, RULES, quiet)
    gaps = figures["samples"]["itl_s"]
    assert [len(iteration) for iteration in gaps] == [63] * 5
    assert sum(len(iteration) for iteration in gaps) == 315
    assert len(figures["samples"]["prefill_s"]) == 5


def test_a_request_is_one_reset_one_prefill_and_n_gen_minus_1_steps() -> None:
    runs = FakeEngine()
    one = request(runs, FakeClock([0.5, 0.1, 0.2]), n_gen=3)
    assert runs.calls == ["reset", "synchronize", "prefill", "step", "step"]
    assert one.prefill_s == 0.5
    assert one.itl_s == [0.1, 0.2]


def test_first_token_is_no_gap_and_e2e_is_their_sum() -> None:
    rules = Measure(pairs=1, iterations=1, window_s=0.0, warmup_max_s=0.0)
    workload = Workload(n_prompt=8, n_gen=3)
    figures = measure(
        FakeEngine(), FakeClock([0.5, 0.1, 0.2]), FakeReader(), workload, rules, quiet
    )
    assert figures["samples"]["prefill_s"] == [0.5]
    assert figures["samples"]["e2e_s"] == pytest.approx([0.8])


def test_one_new_token_has_no_gaps() -> None:
    rules = Measure(pairs=1, iterations=2, window_s=0.0, warmup_max_s=9.0)
    workload = Workload(n_prompt=8, n_gen=1)
    figures = measure(FakeEngine(), FakeClock([0.5]), FakeReader(), workload, rules, quiet)
    assert figures["samples"]["itl_s"] == [[], []]
    assert "NO_STEADY_STATE" not in figures["reasons"]


def test_the_window_is_filled_by_the_clock_of_the_samples() -> None:
    rules = Measure(pairs=1, iterations=1, window_s=2.0, warmup_max_s=0.0)
    workload = Workload(n_prompt=8, n_gen=2)
    figures = measure(FakeEngine(), FakeClock([0.25]), FakeReader(), workload, rules, quiet)
    assert len(figures["samples"]["e2e_s"]) == 4


def test_warm_up_goes_on_until_steady() -> None:
    # Four requests of two steps that get faster, then steady ones.
    times = [9.0, 3.0, 5.0, 2.0, 3.0, 1.5, 1.0, 1.0] + [1.0] * 8
    found = warm_up(
        FakeEngine(),
        FakeClock(times),
        Workload(n_prompt=8, n_gen=2),
        Measure(pairs=1, iterations=1, window_s=0, warmup_max_s=99),
    )
    assert found["steady"]
    assert found["prefill_s"] == [9.0, 5.0, 3.0, 1.0, 1.0, 1.0, 1.0]


def test_warm_up_that_reaches_its_limit_says_so() -> None:
    rules = Measure(pairs=1, iterations=1, window_s=0.0, warmup_max_s=3.0)
    workload = Workload(n_prompt=8, n_gen=2)
    clock = FakeClock([1.0, 1.0, 2.0, 2.0])
    figures = measure(FakeEngine(), clock, FakeReader(), workload, rules, quiet)
    assert figures["reasons"] == ["NO_STEADY_STATE"]
    assert figures["warmup"]["steady"] is False


def test_warm_up_that_only_scatters_is_steady_at_its_limit_and_says_so() -> None:
    workload = Workload(n_prompt=8, n_gen=2)
    rules = Measure(pairs=1, iterations=1, window_s=0.0, warmup_max_s=12.0)
    scatter = [1.0, 1.0, 1.3, 1.3]  # every other request is slower
    found = warm_up(FakeEngine(), FakeClock(scatter), workload, rules)
    assert (found["steady"], found["agreed"]) == (True, False)
    slower = [0.5 * 1.12**n for n in range(20)]
    found = warm_up(FakeEngine(), FakeClock(slower), workload, rules)
    assert (found["steady"], found["agreed"]) == (False, False)


def test_warm_up_of_a_machine_that_scatters_ends_when_medians_agree() -> None:
    scatter = [1.0, 1.0, 1.1, 1.1, 1.3, 1.3, 0.9, 0.9, 1.2, 1.2]
    rules = Measure(pairs=1, iterations=1, window_s=0.0, warmup_max_s=999.0, warmup_window=2)
    found = warm_up(FakeEngine(), FakeClock(scatter), Workload(n_prompt=8, n_gen=2), rules)
    assert (found["steady"], found["agreed"]) == (True, True)
    assert len(found["prefill_s"]) == 12


def test_warm_up_that_scatters_goes_on_while_it_gets_faster() -> None:
    faster = [1.08**-n * (1.1 if n % 2 else 1.0) for n in range(40)]
    times = [seconds for one in [*faster, *[faster[-1]] * 20] for seconds in (one, one)]
    rules = Measure(pairs=1, iterations=1, window_s=0.0, warmup_max_s=99.0)
    found = warm_up(FakeEngine(), FakeClock(times), Workload(n_prompt=8, n_gen=2), rules)
    assert found["agreed"]
    assert len(found["prefill_s"]) > 38


@pytest.mark.parametrize(
    ("prefill", "decode", "unsteady"),
    [
        ([1.2**-n for n in range(8)], [1.0] * 8, ["prefill"]),
        ([1.0] * 8, [1.2**-n for n in range(8)], ["decode"]),
        ([1.2**-n for n in range(8)], [1.2**n for n in range(8)], ["prefill", "decode"]),
        ([1.0] * 8, [1.0] * 8, []),
    ],
)
def test_warm_up_says_which_phase_was_not_steady(
    prefill: list[float], decode: list[float], unsteady: list[str]
) -> None:
    """As on the first day of a fresh clone: prefill fell at each request, decoding did not."""
    both = [second for pair in zip(prefill, decode, strict=True) for second in pair]
    rules = Measure(pairs=1, iterations=1, window_s=0.0, warmup_max_s=sum(both) - 0.01)
    found = warm_up(FakeEngine(), FakeClock(both), Workload(n_prompt=8, n_gen=2), rules)
    assert found["unsteady"] == unsteady
    assert found["steady"] is not bool(unsteady)


@given(st.permutations([1.0 + 0.1 * n for n in range(8)]))
def test_a_trend_is_one_half_wholly_above_the_other(durations: list[float]) -> None:
    later = durations[-4:]
    expected = {frozenset(later[:2]), frozenset(later[2:])} == {
        frozenset(sorted(later)[:2]),
        frozenset(sorted(later)[2:]),
    }
    assert has_trend(durations) <= expected
    assert not has_trend([1.0] * 8)
    assert has_trend([1.0] * 3)


def test_reasons_of_the_reader_are_kept() -> None:
    reader = FakeReader(Reading(reasons=("FOREIGN_PROCESS",), absent={"energy": "no counter"}))
    figures = measure(FakeEngine(), FakeClock([0.1]), reader, WORKLOAD, RULES, quiet)
    assert figures["reasons"] == ["FOREIGN_PROCESS"]
    assert figures["absent"] == {"energy": "no counter"}


def test_energy_has_windows_of_its_own_for_prefill_and_decode() -> None:
    reader = FakeReader(Reading(energy={"energy_j": 4.0}), has_energy=True)
    runs = FakeEngine()
    figures = measure(runs, FakeClock([0.1]), reader, WORKLOAD, RULES, quiet)
    assert reader.windows == 3
    assert figures["energy"]["prefill"]["tokens"] == 8
    assert figures["energy"]["decode"]["tokens"] == 63
    assert "rewind" in runs.calls


def test_a_cache_that_cannot_go_back_has_its_prompt_read_again_and_taken_off() -> None:
    class Forgetful(FakeEngine):
        def rewind(self) -> None:
            raise UnsupportedError("cannot go back")

    class Counter(FakeReader):
        """1 J for each prefill and 0.25 J for each step in the window."""

        def end(self) -> Reading:
            steps = runs.calls[self.before :]
            joules = steps.count("prefill") + 0.25 * steps.count("step")
            return Reading(energy={"energy_j": joules, "window_s": joules / 10})

        def begin(self) -> None:
            self.before = len(runs.calls)

    runs = Forgetful()
    figures = measure(runs, FakeClock([0.1]), Counter(has_energy=True), WORKLOAD, RULES, quiet)
    decode = figures["energy"]["decode"]
    assert figures["energy"]["prefill"]["energy_j"] == 1.0
    assert decode["energy_j"] / decode["tokens"] == pytest.approx(0.25)
    assert decode["mean_power_w"] == pytest.approx(10.0)
    assert decode["measured_as"] == "whole requests less their prefills"


def test_a_difference_that_is_not_above_zero_is_no_energy() -> None:
    window = {"energy_j": 4.0, "window_s": 1.0, "tokens": 63, "absent": {}}
    found = without_prefill(window, 63, window, 1.0)
    assert "energy_j" not in found
    assert "not above zero" in found["absent"]["energy_j"]


def test_a_wrong_number_of_tokens_is_an_error() -> None:
    with pytest.raises(UnsupportedError, match="made \\[63\\] tokens") as error:
        measure(FakeEngine(lost_tokens=1), FakeClock([0.1]), FakeReader(), WORKLOAD, RULES, quiet)
    assert error.value.code == "TOKEN_COUNT"


class Whole(FakeEngine):
    """Does whole requests, and says how long they took."""

    def __init__(self, timed: Timed) -> None:
        super().__init__()
        self._timed = timed

    def request(self, n_gen: int) -> Timed:
        self.calls.append("request")
        self._made = n_gen
        return self._timed


def test_an_engine_of_whole_requests_times_itself_within_the_hosts_time() -> None:
    runs = Whole(Timed(prefill_s=2e-9, itl_s=[1e-9, 1e-9]))
    rules = Measure(pairs=1, iterations=2, window_s=0.0, warmup_max_s=0.0)
    workload = Workload(n_prompt=8, n_gen=3)
    figures = measure(runs, FakeClock([99.0]), FakeReader(), workload, rules, quiet)
    assert set(runs.calls) == {"reset", "synchronize", "request"}
    assert figures["samples"]["prefill_s"] == [2e-9] * 2
    assert figures["samples"]["itl_s"] == [[1e-9, 1e-9]] * 2
    assert all(host > 4e-9 for host in figures["samples"]["host_s"])


def test_a_request_cannot_take_longer_than_the_host_waited_for_it() -> None:
    with pytest.raises(UnsupportedError, match=r"reports 2\.000000 s for a request that took 0\.0"):
        request(Whole(Timed(prefill_s=2.0, itl_s=[])), FakeClock([0.0]), 1)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError("no room"), "OOM"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "OOM"),
        (UnsupportedError("not here"), "UNSUPPORTED"),
        (UnsupportedError("nan", "NONFINITE"), "NONFINITE"),
        (InputError("no such mode"), "INPUT"),
        (ValueError("\n  odd\nmore"), "CRASH"),
    ],
)
def test_failures_have_a_code_and_one_line(error: Exception, code: str) -> None:
    event = failure(error)
    assert event.code == code
    assert "\n" not in event.message


def test_every_level_is_longer_than_the_one_before() -> None:
    quick, standard, strict = LEVELS.values()
    assert quick.pairs < 6 <= standard.pairs < strict.pairs
    assert quick.window_s < standard.window_s < strict.window_s == 30.0


def test_a_job_holds_what_a_worker_is_sent() -> None:
    from bench.experiment import Variant
    from bench.models import resolve_model
    from bench.runner.arms import Arm

    arm = Arm(
        variant=Variant(model="llama-3.2-1b", device="cpu"),
        model=resolve_model("llama-3.2-1b@random"),
        identity="x",
    )
    job = Told(task="quality", engine="e", load=arm.job(seed=0, replicate=0), quality=TEXT)
    assert told(json.loads(json.dumps(sent(job), default=str))) == job


class FakeServer(FakeEngine):
    """Whole requests for the warm-up, a window of many for the measurement."""

    def __init__(self, rounds: list[Timed], served: Served) -> None:
        super().__init__()
        self._rounds = iter(rounds)
        self._served = served
        self.asked: list[tuple[int, float]] = []

    def request(self, n_gen: int) -> Timed:
        return next(self._rounds)

    def expect(self, workload: Workload) -> None:
        assert not workload.slo

    def serve(self, rounds: int, seconds: float) -> Served:
        self.asked.append((rounds, seconds))
        return self._served


def test_a_server_fills_its_window_by_itself() -> None:
    # The time to the first token jumps about, the whole request does not: that is steady enough.
    warm = [Timed(prefill_s=p, itl_s=[1e-9 - p]) for p in (1e-10, 3e-10, 2e-10, 5e-10)]
    served = Served(
        requests=[Answered(prefill_s=0.5, itl_s=(0.1, 0.2), e2e_s=1.0)] * 3,
        wall_s=1.5,
        device={"requests": {"n_failed": 0}},
        reasons=("CLIENT_BOUND",),
        absent={"itl_s": "chunks"},
    )
    runs = FakeServer(warm, served)
    reader = FakeReader(Reading(absent={"energy_j": "far away"}), has_energy=True)
    rules = Measure(pairs=1, iterations=5, window_s=2.0, warmup_max_s=9.0)
    figures = measure(runs, FakeClock([]), reader, WORKLOAD, rules, quiet)
    assert runs.asked == [(5, 2.0)]
    assert figures["samples"] == {
        "prefill_s": [0.5] * 3,
        "itl_s": [[0.1, 0.2]] * 3,
        "e2e_s": [1.0] * 3,
        "wall_s": 1.5,
    }
    assert figures["reasons"] == ["CLIENT_BOUND"]
    assert figures["absent"] == {"energy_j": "far away", "itl_s": "chunks"}
    assert figures["device"] == {"requests": {"n_failed": 0}, "clock": "fake"}
    assert reader.windows == 1  # prefill and decode cannot be repeated apart
    assert runs.calls == ["reset", "synchronize"] * 4  # nothing is asked step by step


def test_what_was_counted_before_a_failure_goes_along_with_it() -> None:
    event = failure(UnsupportedError("no", "REQUESTS_FAILED", about={"requests": {"n_failed": 2}}))
    assert event.device == {"requests": {"n_failed": 2}}
    assert failure(ValueError("no")).device == {}


EVENTS = (
    Phase(phase="start", workload=WORKLOAD),
    Failed(code="OOM", message="no room", workload=WORKLOAD),
    Fit(n_batch=2, limited_by="memory", peaks={"1": 5}),
    Probed(device="cpu", kind="cpu", capability=None, n_sm=None),
    Probed(device="cuda:0", kind="cuda", capability=(9, 0), n_sm=132),
    Shaped(shape=Shape(matrices=(), attention=(), tied=True, hidden_size=8, n_layers=1)),
    Done(),
)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_is_read_as_it_was_said(event: Event) -> None:
    assert messages.event(json.loads(json.dumps(sent(event)))) == event


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"event": "sneeze"}, "is not one of"),
        ({"event": "phase"}, "phase: missing"),
        ({"event": "failed", "code": "OOM", "message": 3}, "message: expected text"),
        ({"event": "fit", "n_batch": 1, "limited_by": "memory", "peaks": {"1": "x"}}, "peaks.1"),
    ],
)
def test_what_is_no_event_is_named(line: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        messages.event(line)


def test_a_job_without_what_its_task_needs_is_refused() -> None:
    with pytest.raises(InputError, match="load: missing for task measure"):
        told({"task": "measure"})
