"""What a price takes from the records: rates, intervals, power, card."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench.cost.throughput import throughputs
from bench.errors import InputError
from bench.records import Environment, Record
from bench.records.file import Results
from bench.statistics import log_interval


def record(replicate: int = 0, **changes: Any) -> Record:
    """A replicate that makes 2 x (100 + 10) tokens in about 1 s."""
    given: dict[str, Any] = {
        "key": f"k{replicate}{changes.get('workload')}",
        "environment": "e",
        "experiment": "x",
        "variant": {"name": "m/t/none", "device": "cuda:0"},
        "workload": {"n_prompt": 100, "n_gen": 10, "n_batch": 2},
        "replicate": replicate,
        "position": replicate,
        "started_at": "2026-11-23T00:00:00+00:00",
        "status": "ok",
        "samples": {"prefill_s": [0.1, 0.2, 0.9], "e2e_s": [1.0, 5.0, 0.5], "itl_s": [[0.1] * 9]},
    }
    return Record(**(given | changes))


def results(*records: Record) -> Results:
    identity = {"gpu": "NVIDIA GeForce RTX 4080", "gpu_power_limit_w": 320.0}
    return Results(
        environments={"e": Environment(id="e", identity=identity, state={})}, records=list(records)
    )


def test_a_replicate_s_rate_is_its_batch_over_its_median_request() -> None:
    [found] = throughputs(results(record()))

    assert found.total_tok_s == pytest.approx(2 * 110 / 1.0)
    assert found.prefill_s == pytest.approx(0.2)
    assert (found.device, found.limit_w) == ("RTX 4080", 320.0)


def test_one_replicate_has_no_interval_and_says_why() -> None:
    [found] = throughputs(results(record()))

    assert (found.low, found.high, found.n_replicates) == (None, None, 1)
    assert "one replicate" in found.absent["ci_low"]


def test_the_interval_of_two_by_hand() -> None:
    found = log_interval([1.0, math.e])

    # t(0.975, 1) = 12.706, standard error 0.5
    assert found.value == pytest.approx(math.exp(0.5))
    assert math.log(found.high or 0) == pytest.approx(0.5 + 12.706 * 0.5, abs=1e-3)
    assert math.log(found.low or 1) == pytest.approx(0.5 - 12.706 * 0.5, abs=1e-3)


def test_workloads_variants_and_machines_are_kept_apart() -> None:
    other_work = {"n_prompt": 7, "n_gen": 10, "n_batch": 2}
    found = throughputs(
        results(
            record(0),
            record(1),
            record(0, workload=other_work),
            record(0, variant={"name": "m/t/int8", "device": "cuda:0"}),
            record(0, environment="other"),
        )
    )

    assert [one.n_replicates for one in found] == [2, 1, 1, 1]


def test_failures_and_records_without_samples_are_left_out() -> None:
    assert throughputs(results(record(status="failed"), record(1, samples={}))) == []


def test_reasons_of_any_replicate_mark_the_figure() -> None:
    [found] = throughputs(results(record(0), record(1, reasons=("DRIFT",))))

    assert found.reasons == ("DRIFT",)
    assert not found.valid


def test_power_weighs_prefill_and_decode_by_their_time() -> None:
    energy = {
        "prefill": {"energy_j": 3000.0, "window_s": 10.0, "scope": "gpu"},
        "decode": {"energy_j": 2000.0, "window_s": 10.0, "scope": "gpu"},
    }
    samples = {"prefill_s": [0.25], "e2e_s": [1.0]}

    [found] = throughputs(results(record(energy=energy, samples=samples)))

    assert found.power_w == pytest.approx(0.25 * 300 + 0.75 * 200)
    assert found.power_scope == "gpu"


def test_a_first_token_later_than_the_request_is_all_prefill() -> None:
    energy = {
        "prefill": {"energy_j": 3000.0, "window_s": 10.0, "scope": "gpu"},
        "decode": {"energy_j": 2000.0, "window_s": 10.0, "scope": "gpu"},
    }
    stated = {"prefill_s": [2.0], "e2e_s": [1.0]}  # a tool's own, of different requests

    [found] = throughputs(results(record(energy=energy, samples=stated, origin="tool")))

    assert found.power_w == pytest.approx(300)


def test_power_of_the_whole_window_where_the_phases_were_not_read() -> None:
    energy = {"energy_j": 500.0, "window_s": 2.0, "scope": "wall"}

    [found] = throughputs(results(record(energy=energy)))

    assert (found.power_w, found.power_scope) == (250.0, "wall")


def test_idle_power_is_the_mean_of_the_replicates_if_each_measured_it() -> None:
    def of(watts: float | None) -> dict[str, Any]:
        window = {"energy_j": 2000.0, "window_s": 10.0, "scope": "gpu", "idle_power_w": watts}
        return {"prefill": window, "decode": window}

    [both] = throughputs(results(record(0, energy=of(20.0)), record(1, energy=of(30.0))))
    [one] = throughputs(results(record(0, energy=of(20.0)), record(1, energy=of(None))))

    assert both.idle_w == pytest.approx(25.0)
    assert one.idle_w is None


def test_missing_energy_is_none_with_its_reason() -> None:
    absent = {"energy_j": "no energy counter"}

    [found] = throughputs(results(record(absent=absent)))

    assert found.power_w is None
    assert found.absent["power_w"] == "no energy counter"


def test_energy_in_some_replicates_only_is_not_used() -> None:
    energy = {"energy_j": 500.0, "window_s": 2.0}

    [found] = throughputs(results(record(0, energy=energy), record(1)))

    assert found.power_w is None
    assert "not read in every replicate" in found.absent["power_w"]


@pytest.mark.parametrize("variant", [{"name": "v", "device": "cpu"}, {"name": "v"}])
def test_no_card_where_none_was_used_or_named(variant) -> None:
    nameless = results(record(variant=variant))
    if "device" not in variant:
        nameless.environments["e"] = Environment(id="e", identity={"gpu": None}, state={})

    [found] = throughputs(nameless)

    assert (found.device, found.limit_w) == (None, None)


def test_a_record_without_time_is_refused_by_its_key() -> None:
    with pytest.raises(InputError, match=r"record k0None: samples\.e2e_s: 0 must be"):
        throughputs(results(record(samples={"e2e_s": [0.0]})))
