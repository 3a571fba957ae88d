"""Records -> rows -> words."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.api import summarise
from bench.experiment import CostAssumption, Experiment, Gate, Grid
from bench.experiment.selectors import short_names
from bench.records import QualityRecord, Record
from bench.records.file import Results
from bench.report.tables.run import show
from bench.summary import replicate
from bench.summary import summarise as rows_of
from bench.summary.replicate import speeds

EXPERIMENT = Experiment(
    name="e",
    question="Faster?",
    level="quick",
    grid=Grid(model=("m",), quant=("none", "int8")),
    cost=CostAssumption(usd_per_hour=0.36, source="assumed"),
    gate=Gate(max_ppl_ratio=1.02),
)
VARIANT = {"model": "m", "engine": "transformers", "device": "cpu", "dtype": "float32"}


def record(quant: str, replicate: int = 0, *, gap: float = 0.1, **changes: object) -> Record:
    base = Record(
        key=f"{quant}{replicate}",
        environment="e1",
        experiment="e",
        variant=VARIANT | {"name": f"m/transformers/{quant}", "quant": quant, "weights": "w"},
        workload={"n_prompt": 8, "n_gen": 3, "n_batch": 2},
        replicate=replicate,
        position=0,
        started_at="2026-11-23T00:00:00+00:00",
        status="ok",
        samples={"prefill_s": [0.4, 0.2, 0.3], "itl_s": [[gap, gap]] * 3, "e2e_s": [0.5] * 3},
        model={"weights_bytes": 1000, "quantized_fraction": 0.5},
        memory={"peak_host_bytes": 5000},
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def quality(quant: str, nll: float, **changes: object) -> QualityRecord:
    base = QualityRecord(
        key=f"q{quant}",
        environment="e1",
        experiment="e",
        started_at="2026-11-23T00:00:00+00:00",
        variant=VARIANT | {"name": f"m/transformers/{quant}", "quant": quant, "weights": "w"},
        status="ok",
        text={"name": "english", "sha256": "s", "max_tokens": 9, "window": 9},
        nll=(nll, nll + 0.5, nll - 0.5),
        baseline="m/transformers/none",
        kld=() if quant == "none" else (0.1, 0.2, 0.3),
        same_top1=() if quant == "none" else (1, 1, 0),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def test_definitions() -> None:
    assert speeds(record("none")) == pytest.approx(
        {
            "ttft_s": 0.3,
            "tpot_s": 0.1,
            "e2e_s": 0.5,
            "prefill_tok_s": 2 * 8 / 0.3,
            "decode_tok_s": 2 / 0.1,
            "output_tok_s": 2 * 3 / 0.5,
            "total_tok_s": 2 * 11 / 0.5,
        }
    )


def served(energy: dict[str, float] | None = None, **options: float) -> dict[str, Any]:
    """The row of a server that answered two requests in 2 s, the second slowly."""
    times = {"prefill_s": [0.2, 0.4], "itl_s": [[0.1, 0.1], [0.3, 0.3]], "e2e_s": [0.4, 1.0]}
    one = record("none", samples=times | {"wall_s": 2.0}, energy=energy or {})
    (row,) = summarise(Results(records=[replace(one, variant=one.variant | {"options": options})]))
    return row


@pytest.mark.parametrize(
    ("limits", "goodput"),
    [
        ({}, None),
        ({"ttft_limit_s": 0.4}, 1.0),
        ({"ttft_limit_s": 0.39}, 0.5),
        ({"tpot_limit_s": 0.2}, 0.5),
        ({"e2e_limit_s": 1.0}, 1.0),
        ({"ttft_limit_s": 0.4, "tpot_limit_s": 0.05}, 0.0),
    ],
)
def test_requests_within_every_limit_are_counted(
    limits: dict[str, float], goodput: float | None
) -> None:
    row = served(**limits)
    assert row["goodput_req_s"] == (None if goodput is None else pytest.approx(goodput))
    assert row["requests_s"] == pytest.approx(1.0)


def test_a_server_is_shared_by_its_devices_and_pays_joules_for_all_tokens() -> None:
    row = served({"energy_j": 50.0, "window_s": 2.0}, n_devices=2)
    assert row["device_output_tok_s"] == pytest.approx(row["output_tok_s"] / 2)
    assert row["energy_per_token_j"] == pytest.approx(25.0 / row["total_tok_s"])
    assert row["absent"]["goodput_req_s"].startswith("no limit was given")
    assert row["absent"]["ttft_p99_s"].startswith("2 values; a 99th percentile needs")
    assert row["absent"]["energy_per_output_token_j"].startswith("a server's prompts and new")
    assert served()["energy_per_token_j"] is None
    assert served()["absent"]["energy_per_token_j"] == "no counter read"
    (without,) = rows_of(Results(records=[record("none")]))
    assert (without.systematic_error, without.energy_disagreement) == (0.0, None)


def test_a_replicate_is_valid_if_it_finished_and_its_decoding_stands() -> None:
    assert replicate(record("none")).valid
    assert not replicate(record("none", status="failed", samples={})).valid
    assert not replicate(record("none", reasons=("DRIFT",))).valid
    unsteady = {"reasons": ("NO_STEADY_STATE",), "warmup": {"unsteady": ["prefill"]}}
    assert replicate(record("none", **unsteady)).valid
    one_token = {"n_prompt": 8, "n_gen": 1, "n_batch": 2}
    assert not replicate(record("none", workload=one_token, **unsteady)).valid


def test_a_row_is_the_geometric_mean_of_its_replicates() -> None:
    records = [record("none", i, gap=gap) for i, gap in enumerate([0.1, 0.2, 0.4])]
    (row,) = summarise(Results(records=records))
    assert row["decode_tok_s"] == pytest.approx(10)
    assert row["decode_spread"] == pytest.approx((20 - 5) / 2 / 10)
    assert row["n_replicates"] == 3
    assert row["valid"] is True
    assert row["absent"]["ppl"] == "quality was not measured"
    assert "machine_s_per_token" not in row  # what `compare` calls cost, and no figure of a run


def test_noise_within_a_process_stands_apart_from_that_between_them() -> None:
    steady = {"prefill_s": [0.1] * 3, "e2e_s": [0.3] * 3}
    first = record("none", 0, samples=steady | {"itl_s": [[0.1], [0.1], [0.1]]})
    other = record("none", 1, samples=steady | {"itl_s": [[0.18], [0.2], [0.22]]})
    (row,) = summarise(Results(records=[first, other]))
    assert row["decode_noise"] == pytest.approx((0 + 0.1) / 2)
    # Two sequences at once: 20 and 10 tok/s.
    assert row["decode_spread"] == pytest.approx((20 - 10) / 2 / math.sqrt(20 * 10))


def test_the_command_of_a_started_server_is_told() -> None:
    options = {"serve": "llama-server -m {gguf} --port {port} -np 4"}
    served = [
        record("none", variant=record("none").variant | {"options": options}),
        record("int8"),
    ]
    text = show(EXPERIMENT, Results(records=served), Path("x"), "md")
    assert f"is the server started by: {options['serve']}" in text


def test_the_contracts_keys_are_there() -> None:
    (row,) = json.loads(show(EXPERIMENT, Results(records=[record("none")]), Path("x"), "json"))
    contract = (
        "variant model engine quant device n_prompt n_gen n_batch prefill_tok_s decode_tok_s "
        "ttft_s tpot_s peak_memory_bytes weights_bytes ppl mean_kld usd_per_mtok valid reasons"
    )
    assert set(contract.split()) <= row.keys()
    # 22 tokens in 0.5 s at $0.36 an hour: 44 tok/s, $1e-4 a second.
    assert row["usd_per_mtok"] == pytest.approx(1e-4 / 44 * 1e6)


def test_energy_is_gross_first_and_net_of_idle_second() -> None:
    window = {"energy_j": 30.0, "window_s": 10.0, "idle_power_w": 1.0, "tokens": 100}
    one = record("none", energy={"decode": window | {"scope": "gpu-board"}})
    (row,) = summarise(Results(records=[one]))
    assert row["energy_per_output_token_j"] == pytest.approx(0.3)
    assert row["net_energy_per_output_token_j"] == pytest.approx(0.2)
    assert row["energy_scope"] == "gpu-board"
    assert row["energy_per_prompt_token_j"] is None


def test_energy_that_was_not_read_is_null_with_the_reason() -> None:
    (row,) = summarise(Results(records=[record("none", absent={"energy_j": "no RAPL"})]))
    assert row["energy_per_output_token_j"] is None
    assert row["absent"]["energy_per_output_token_j"] == "no RAPL"


@pytest.mark.parametrize(
    ("window", "absent", "why"),
    [
        ({"idle_power_w": None}, {"idle_power_w": "at rest: no tick"}, "at rest: no tick"),
        ({"idle_power_w": 4.0}, {}, "power was no higher than at rest"),
    ],
)
def test_net_energy_that_cannot_be_told_is_null_with_the_reason(
    window: dict[str, Any], absent: dict[str, str], why: str
) -> None:
    decode = {"energy_j": 30.0, "window_s": 10.0, "tokens": 100, **window}
    (row,) = summarise(Results(records=[record("none", energy={"decode": decode}, absent=absent)]))
    assert row["net_energy_per_output_token_j"] is None
    assert row["absent"]["net_energy_per_output_token_j"] == why


def test_the_hosts_memory_never_stands_for_an_accelerators() -> None:
    (on_cpu,) = summarise(Results(records=[record("none")]))
    assert on_cpu["peak_memory_bytes"] == 5000
    gpu = record("none", variant=record("none").variant | {"device": "cuda:0"})
    (row,) = summarise(Results(records=[gpu]))
    assert row["peak_memory_bytes"] is None
    assert row["absent"]["peak_memory_bytes"] == "the device's own peak was not read"
    read = replace(gpu, memory={"peak_host_bytes": 5000, "peak_device_bytes": 700})
    assert summarise(Results(records=[read]))[0]["peak_memory_bytes"] == 700


def test_a_failure_has_no_figures_and_says_why() -> None:
    failed = record("int8", status="failed", reasons=("OOM",), message="out of memory", samples={})
    row = summarise(Results(records=[record("none"), failed]))[1]
    assert row["valid"] is False
    assert row["reasons"] == ["OOM"]
    assert row["decode_tok_s"] is row["peak_memory_bytes"] is None
    assert row["absent"]["decode_tok_s"] == "out of memory"


def test_one_new_token_has_no_decode_rate_and_says_why() -> None:
    one = record(
        "none",
        workload={"n_prompt": 8, "n_gen": 1, "n_batch": 1},
        samples={"prefill_s": [0.4], "itl_s": [[]], "e2e_s": [0.4]},
    )
    (row,) = summarise(Results(records=[one]))
    assert row["decode_tok_s"] is row["tpot_s"] is None
    assert "n_gen is 1" in row["absent"]["decode_tok_s"]
    assert row["prefill_tok_s"] == pytest.approx(20)


def shown(candidate_gap: float, candidate_nll: float, tmp_path: Path) -> str:
    results = Results(
        records=[record("none"), record("int8", gap=candidate_gap, model={"weights_bytes": 500})],
        qualities=[quality("none", 2.0), quality("int8", candidate_nll)],
    )
    return show(EXPERIMENT, results, tmp_path, "md")


def test_faster_with_worse_quality_is_said_to_be_so(tmp_path: Path) -> None:
    text = shown(0.05, 2.0 + math.log(3), tmp_path)
    assert (
        "**int8**: decodes 2.00x as fast, weights 0.50x the bytes, a token costs 1.00x, "
        "perplexity 3.00x: faster, not at equal quality."
    ) in text
    assert "perplexity ratio at most 1.02, on `english`" in text
    assert "at $0.36 an hour, busy 100% of it (assumed)" in text
    assert "cannot establish it" in text


def test_faster_at_equal_quality_is_said_to_be_so(tmp_path: Path) -> None:
    assert "faster, at equal quality" in shown(0.05, 2.0, tmp_path)
    assert "slower, at equal quality" in shown(0.2, 2.0, tmp_path)
    assert "no faster, at equal quality" in shown(0.1, 2.0, tmp_path)


def test_text_from_files_cannot_break_the_table(tmp_path: Path) -> None:
    odd = record("a|b\nc")
    table = show(EXPERIMENT, Results(records=[record("none"), odd]), tmp_path, "md")
    assert "a\\|b c" in table


def test_short_names_leave_out_what_all_share() -> None:
    assert short_names(["m/e/none", "m/e/int8"]) == {"m/e/none": "none", "m/e/int8": "int8"}
    assert short_names(["m/e/none"]) == {"m/e/none": "m/e/none"}
    assert short_names(["m/e/q", "m/e/q/2t"]) == {"m/e/q": "q", "m/e/q/2t": "q/2t"}


def test_what_an_engine_warns_of_is_said_once() -> None:
    model = {"weights_bytes": 1, "details": {"warning": "this build does not use AVX2"}}
    records = [record("none"), *(record("int8", i, model=model) for i in range(2))]
    text = show(EXPERIMENT, Results(records=records), Path("x"), "md")
    assert text.count("- this build does not use AVX2.") == 1


def test_a_mode_that_makes_other_tokens_is_named() -> None:
    model = {"weights_bytes": 1, "notes": {"tokens_checked": 16, "tokens_as_eager": 5}}
    records = [record("none"), record("int8", model=model), record("int8", 1)]
    text = show(EXPERIMENT, Results(records=records), Path("x"), "md")
    assert "- **int8** agrees with eager mode on the first 5 of 16 tokens only." in text
    agreeing = {"notes": {"tokens_checked": 16, "tokens_as_eager": 16}}
    text = show(EXPERIMENT, Results(records=[record("none", model=agreeing)]), Path("x"), "md")
    assert "agrees with eager" not in text


def test_a_step_that_writes_weights_out_in_floats_is_told() -> None:
    def compiled(copies: bool | None) -> dict[str, object]:
        step = None if copies is None else {"calls": 10, "copies_weights": copies}
        return {"weights_bytes": 1, "notes": {"step": step}}

    records = [record("none", model=compiled(False)), record("int8", model=compiled(True))]
    text = show(EXPERIMENT, Results(records=records), Path("x"), "md")
    assert text.count("in memory before it multiplies") == 1
    assert "- **int8**, batch 2: each step converts weights to floats" in text
    rows = summarise(Results(records=[*records, record("eager")]))
    assert [row["copies_weights"] for row in rows] == [False, True, None]
    (row,) = summarise(Results(records=[record("none", model=compiled(None))]))
    assert row["copies_weights"] is None


def test_host_and_device_that_disagree_are_told() -> None:
    late = record("none").samples | {"host_s": [0.6] * 3}
    rows = summarise(Results(records=[record("none", samples=late)]))
    assert rows[0]["host_ratio"] == pytest.approx(1.2)
    text = show(EXPERIMENT, Results(records=[record("none", samples=late)]), Path("x"), "md")
    assert "the host measured 1.20x the device's time" in text
    assert summarise(Results(records=[record("none")]))[0]["host_ratio"] is None


def test_several_batches_are_a_curve_of_throughput_and_latency(tmp_path: Path) -> None:
    def at(n_batch: int, prefill_s: float, gap: float) -> Record:
        work = {"n_prompt": 8, "n_gen": 3, "n_batch": n_batch}
        samples = {"prefill_s": [prefill_s], "itl_s": [[gap, gap]], "e2e_s": [prefill_s + 2 * gap]}
        return record("none", key=f"k{n_batch}", workload=work, samples=samples)

    # 3 tokens in 0.3 s, then 6 in 0.44 s, then 12 in 0.6 s.
    curve = [at(4, 0.3, 0.15), at(1, 0.1, 0.1), at(2, 0.2, 0.12)]
    text = show(EXPERIMENT, Results(records=curve), tmp_path, "md")
    assert (
        "4 at once: 2.00x the tokens of 1, 3.00x the time to the first token, "
        "1.50x the time per token." in text
    )
    shown = (("TTFT ms", "300.0"), ("per token ms", "150.0"), ("output tok/s", "20.0"))
    for heading, value in shown:
        assert heading in text
        assert value in text
    alone = show(EXPERIMENT, Results(records=curve[:1]), tmp_path, "md")
    assert "at once" not in alone
    assert "TTFT ms" not in alone


def test_tokens_that_were_decoded_during_prefill_are_told() -> None:
    # 2 x 2 tokens decoded, of which one while the other prompt was still read.
    blurred = record("none", model={"notes": {"early_tokens": 1}})
    (row,) = summarise(Results(records=[blurred]))
    assert row["early_share"] == 0.25
    text = show(EXPERIMENT, Results(records=[blurred]), Path("x"), "md")
    assert "25% of the tokens were made while prompts were still read" in text
    assert "decode tok/s is up to 33% too high" in text
    apart = record("none", model={"notes": {"early_tokens": 0}})
    assert summarise(Results(records=[apart]))[0]["early_share"] is None
    assert summarise(Results(records=[record("none")]))[0]["early_share"] is None


def pairs(*gaps: tuple[float, float]) -> str:
    records = [
        record(quant, at, gap=gap)
        for at, both in enumerate(gaps)
        for quant, gap in zip(("none", "int8"), both, strict=True)
    ]
    return show(EXPERIMENT, Results(records=records), Path("x"), "md")


def test_few_pairs_say_how_they_agree_and_what_gives_a_verdict() -> None:
    text = pairs((0.1, 0.05), (0.1, 0.04), (0.1, 0.08))
    assert "as fast (faster in 3 of 3 pairs: 1.25x to 2.50x)" in text
    assert "same way in all 3 pairs 1 time in 4. `bench run --level standard`" in text
    assert "(slower in 2 of 3 pairs: 0.50x to 2.00x)" in pairs((0.1, 0.2), (0.1, 0.2), (0.1, 0.05))
    assert "1 replicate estimates a difference" in pairs((0.1, 0.05))


def test_few_pairs_that_disagree_are_not_called_slower() -> None:
    records = [
        record(quant, at, gap=gap)
        for at, gaps in enumerate(((0.1, 0.2), (0.1, 0.2), (0.1, 0.05)))
        for quant, gap in zip(("none", "int8"), gaps, strict=True)
    ]
    results = Results(records=records, qualities=[quality("none", 2.0), quality("int8", 2.0)])
    text = show(EXPERIMENT, results, Path("x"), "md")
    assert "its pairs disagree on which is faster, at equal quality" in text
    agreeing = Results(records=records[:4], qualities=results.qualities)
    assert "slower, at equal quality" in show(EXPERIMENT, agreeing, Path("x"), "md")


def test_enough_pairs_say_nothing_of_their_number() -> None:
    enough = pairs(*[(0.1, 0.05)] * 6)
    assert "pairs" not in enough
    alone = show(EXPERIMENT, Results(records=[record("none")]), Path("x"), "md")
    assert "estimate" not in alone
