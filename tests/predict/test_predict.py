"""The predictor: recovery of known parameters, honesty of intervals, targets, the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bench import cli
from bench.errors import InputError
from bench.models.shapes import shape
from bench.predict import Predictor
from bench.predict.efficiency import DecodeModel, Point, PrefillModel, Prompt, kernel
from bench.predict.names import card_of_size, engine_for
from bench.predict.published import FOLDER, card, rows, sources, validate_published
from bench.predict.report import BEGIN, END, TARGETS, Validation, spliced
from bench.predict.sample import point, samples
from bench.roofline import bound
from bench.roofline.gpus import gpus
from bench.schemes import meant


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor()


@pytest.fixture(scope="module")
def validation(predictor) -> Validation:
    return Validation(predictor)


LLAMA = card("llama-3.1-8b")


def grid(engine: str = "made-up") -> list[Point]:
    return [
        point(card(model), gpus()[gpu], quant, engine, 500, 1)
        for model in ("llama-3.1-8b", "llama-2-13b", "tinyllama-1.1b")
        for gpu in ("rtx-3070", "rtx-3090", "rtx-4090", "h100-sxm", "a100-sxm-80gb")
        for quant in ("none", "q4_k_m")
    ]


def test_the_fit_finds_parameters_that_made_the_data() -> None:
    points = grid()
    share, fixed_us = 0.8, 50.0
    slow = np.array([2e9 / (p.gpu.boost_mhz * 1e6) for p in points])
    seconds = np.array(
        [p.step_bytes / (p.gpu.bandwidth * share) + p.kv_bytes / p.gpu.bandwidth for p in points]
    ) + slow * np.array([p.layers * fixed_us * 1e-6 for p in points])
    model = DecodeModel(points, seconds, np.ones(len(points)))

    assert model.seconds(points) == pytest.approx(seconds, rel=0.05)
    found = model.parameters("made-up")
    assert found["fixed_us_per_layer"] == pytest.approx(fixed_us, rel=0.15)
    assert found["share_gddr"] == pytest.approx(share, rel=0.1)


def test_the_slopes_are_those_of_the_formula(predictor) -> None:
    model = predictor.decode
    slopes = model._slopes(model.x, model.columns)
    for i in range(len(model.x)):
        step = np.zeros_like(model.x)
        step[i] = 1e-6
        up, down = (np.log(model._seconds(model.x + s, model.columns)) for s in (step, -step))
        assert slopes[:, i] == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_a_point_of_weight_zero_says_nothing() -> None:
    points = grid()
    seconds = np.array([p.step_bytes / p.gpu.bandwidth / 0.7 + 1e-3 for p in points])
    odd = seconds.copy()
    odd[0] *= 50
    weights = np.ones(len(points))
    weights[0] = 0

    ours = DecodeModel(points, odd, weights).seconds(points)
    assert ours == pytest.approx(DecodeModel(points, seconds, weights).seconds(points), rel=1e-3)


def test_prefill_is_robust_against_one_odd_row() -> None:
    prompts = [
        Prompt(gpu=gpus()[g], kernel="k-quant", n_prompt=n, layers=32, flops=15e9 * n)
        for g in ("rtx-3070", "rtx-3090", "rtx-4080", "rtx-4090", "a40", "l40s")
        for n in (512, 1024, 4096)
    ]
    # GeForce cards sum in 16 bits at twice the catalogued rate.
    peaks = [p.gpu.bf16_tflops * (2 if p.gpu.kind == "consumer" else 1) for p in prompts]
    seconds = np.array([p.flops / (0.4e12 * peak) for p, peak in zip(prompts, peaks, strict=True)])
    seconds[5] *= 20
    model = PrefillModel(prompts, seconds)

    keep = np.arange(len(prompts)) != 5
    assert model.seconds(prompts)[keep] == pytest.approx(seconds[keep], rel=0.25)


def test_published_rows_are_in_order() -> None:
    assert validate_published() == []
    assert all(row.source in sources() for row in rows())
    assert len(samples()) > 500


def test_an_impossible_row_and_an_unknown_card_are_problems(tmp_path) -> None:
    text = (FOLDER / "throughput.csv").read_text(encoding="utf-8").splitlines()
    lines = [
        "rtx-5080,1,llama-3.1-8b,none,vllm,,decode,128,128,1,192,,68,argonne,,",
        "rtx-9,1,llama-3.1-8b,none,vllm,,decode,128,128,1,192,,68,nowhere,,",
        "rtx-4080,1,llama-3.1-8b,int9,vllm,,decode,128,128,1,192,,6,argonne,,",
    ]
    (tmp_path / "throughput.csv").write_text("\n".join([text[0], *lines]) + "\n", encoding="utf-8")
    (tmp_path / "sources.toml").write_bytes((FOLDER / "sources.toml").read_bytes())
    problems = "\n".join(validate_published(tmp_path))

    assert "2: decode_tok_s: 68.0 is above the bound 63" in problems
    assert "3: source: 'nowhere' is not in sources.toml" in problems
    assert "3: gpu: 'rtx-9' is not in the catalog" in problems
    assert "4: quant: unknown scheme 'int9'" in problems


def test_a_broken_number_names_its_line(tmp_path) -> None:
    text = (FOLDER / "throughput.csv").read_text(encoding="utf-8").splitlines()
    row = "rtx-4080,1,llama-3.1-8b,none,vllm,,decode,128,x,1,192,,inf,argonne,,"
    (tmp_path / "throughput.csv").write_text(f"{text[0]}\n{row}\n", encoding="utf-8")
    (tmp_path / "sources.toml").write_bytes((FOLDER / "sources.toml").read_bytes())

    assert len(validate_published(tmp_path)) == 2


@pytest.mark.parametrize(("name", "key", "target", "holds"), TARGETS)
def test_targets_with_each_card_left_out(validation, name, key, target, holds) -> None:
    assert holds(getattr(validation.headline(), key)), f"{name} misses {target}"


def test_prefill_target_with_each_card_left_out(validation) -> None:
    assert validation.prefill().median <= 0.20


def test_a_left_out_card_is_really_left_out(predictor) -> None:
    """Errors of a card do not change if its own rows say something absurd."""
    name = "rtx-4080"
    absurd = [
        replace(row, decode_tok_s=row.decode_tok_s * 1.3)
        if row.gpu == name and row.decode_tok_s and not row.excluded
        else row
        for row in rows()
    ]
    twisted = object.__new__(Predictor)
    twisted.samples = samples(absurd)
    twisted.points = [s.point for s in twisted.samples]
    twisted.seconds = np.array([s.step_s for s in twisted.samples])
    twisted.weights = predictor.weights
    twisted.decode = predictor.decode
    chosen = np.array([s.point.gpu.name == name for s in predictor.samples])

    before, after = predictor.by_gpu[chosen], twisted.errors("gpu")[chosen]
    assert after == pytest.approx(before - np.log(1.3), abs=1e-3)


@pytest.mark.parametrize(
    ("baseline", "low", "high"),
    [("rtx-4080", 1.0, 1.1), ("rtx-3080", 0.9, 1.15), ("rtx-3070", 1.4, 1.7), ("rtx-4090", 0.7, 1)],
)
def test_the_claimed_card_against_its_baselines(predictor, baseline, low, high) -> None:
    ours, theirs = (
        predictor.predict(LLAMA, gpus()[name], "q4_k_m", "llama.cpp")
        for name in ("rtx-4080-super", baseline)
    )

    assert low < ours.decode_tok_s / theirs.decode_tok_s < high
    assert ours.low < ours.decode_tok_s < ours.high <= ours.bound_decode_tok_s


def test_a_ratio_of_cards_is_narrower_than_the_rates(predictor) -> None:
    """Measured by others, llama-bench: an RTX 4080 decodes at 1.50x a 3070, 1.00x a 3080."""
    for baseline, measured in (("rtx-3070", 1.50), ("rtx-3080", 1.00), ("rtx-4070-ti", 1.29)):
        found = predictor.ratio(LLAMA, "q4_k_m", "llama.cpp", gpus()["rtx-4080"], gpus()[baseline])
        assert found.low < measured < found.high
        assert found.ratio == pytest.approx(measured, rel=0.1)
        rate = predictor.predict(LLAMA, gpus()["rtx-4080"], "q4_k_m", "llama.cpp")
        assert found.high / found.ratio < rate.high / rate.decode_tok_s * 1.05


def test_what_was_not_measured_widens_the_interval_and_says_so(predictor) -> None:
    def width(quant: str, engine: str) -> float:
        found = predictor.predict(LLAMA, gpus()["h200-sxm"], quant, engine)
        return np.log(found.decode_tok_s / found.low)

    known = width("none", "vllm")
    scheme, engine = width("fp8-dynamic", "vllm"), width("none", "an-engine-of-2027")
    assert known < scheme
    assert known < engine
    found = predictor.predict(LLAMA, gpus()["h200-sxm"], "fp8-dynamic", "vllm")
    assert found.extrapolates == ("no measurement of fp8-dynamic or a scheme like it on vllm",)
    assert predictor.predict(LLAMA, gpus()["mi300x"], "none", "vllm").extrapolates == (
        "no measurement of vllm on a CDNA3 card",
    )


def test_r1_on_two_cards_gets_a_bound_and_a_wide_prediction(predictor) -> None:
    found = predictor.predict(
        card("deepseek-r1"), gpus()["h100-sxm"], "ud-iq1_s", "llama.cpp", n_gpus=2
    )

    assert found.fits
    # Independent llama-bench: 11.89 tok/s.
    assert found.low < 11.89 < found.high < found.bound_decode_tok_s
    assert "mixtures of experts" in found.extrapolates[0]
    assert found.prefill_tok_s is None
    assert "prefill_tok_s" in found.absent


def test_several_cards_on_another_engine_are_not_predicted(predictor) -> None:
    found = predictor.predict(LLAMA, gpus()["h100-sxm"], "none", "vllm", n_gpus=2)

    assert found.decode_tok_s is None
    assert "several cards" in found.absent["decode_tok_s"]
    assert found.bound_decode_tok_s > 300


@pytest.mark.parametrize("gpu", sorted(gpus()))
@pytest.mark.parametrize("quant", ["none", "q4_k_m", "bnb-nf4"])
def test_nothing_is_predicted_above_the_bound(predictor, gpu, quant) -> None:
    for engine in ("llama.cpp", "transformers", "unheard-of"):
        found = predictor.predict(LLAMA, gpus()[gpu], quant, engine, n_batch=4)
        assert 0 < found.low <= found.decode_tok_s <= found.high <= found.bound_decode_tok_s


def test_a_card_of_a_size_has_that_size() -> None:
    for n_bytes, quant in ((4_900_000_000, "q4_k_m"), (140e9, "none"), (1.5e9, "int8-weight-only")):
        made = card_of_size(int(n_bytes), quant)
        found = bound(made, gpus()["h200-sxm"], quant, engine="any").weights_bytes

        assert found == pytest.approx(n_bytes, rel=0.02)
        assert shape(made).n_experts == 0


def test_names_that_people_use() -> None:
    assert meant("FP16", "llama.cpp") == "f16"
    assert meant("fp16", "vllm") == "none"
    assert meant("Q4_K_M", "llama.cpp") == "q4_k_m"
    assert engine_for("vLLM") == "vllm"
    with pytest.raises(InputError, match="empty"):
        engine_for(" ")


@pytest.mark.parametrize(
    ("quant", "family"),
    [
        ("none", "float"),
        ("f16", "float"),
        ("q4_k_m", "k-quant"),
        ("q4_0", "block-quant"),
        ("ud-iq1_s", "i-quant"),
        ("exl2-4.0bpw", "mean-bits"),
        ("bnb-nf4", "bnb-nf4"),
    ],
)
def test_families_of_schemes(quant, family) -> None:
    assert kernel(quant) == family


def test_the_page_is_spliced_between_its_marks() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"

    assert spliced(page, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


CONTRACT = {
    "gpu",
    "model",
    "engine",
    "quant",
    "n_batch",
    "decode_tok_s",
    "low",
    "high",
    "bound_decode_tok_s",
    "limited_by",
    "fits",
}


def run(capsys, *args: str) -> tuple[int, str, str]:
    code = cli.main(["predict", *args])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def _verbs(monkeypatch) -> None:
    monkeypatch.setattr(cli, "VERBS", ("predict", "gpus"))


@pytest.mark.usefixtures("_verbs")
def test_the_verb_prints_the_contract(capsys) -> None:
    code, out, _ = run(
        capsys,
        "-m",
        "llama-3.1-8b",
        "-q",
        "fp16,Q4_K_M",
        "--gpu",
        "RTX 4080 SUPER,rtx-5080",
        "--measured",
        "68",
        "-o",
        "json",
    )
    found = json.loads(out)

    assert code == 0
    assert [row["quant"] for row in found] == ["f16", "f16", "q4_k_m", "q4_k_m"]
    assert all(row.keys() >= CONTRACT for row in found)
    assert [row["reasons"] for row in found] == [["ABOVE_BOUND"], ["ABOVE_BOUND"], [], []]


@pytest.mark.usefixtures("_verbs")
def test_the_verb_takes_a_size_and_a_rent(capsys) -> None:
    code, out, _ = run(
        capsys,
        "--weights-bytes",
        "4.9e9",
        "-q",
        "q4_k_m",
        "--gpu",
        "rtx-3060",
        "--rent",
        "0.2",
        "-o",
        "jsonl",
    )
    row = json.loads(out)

    assert code == 0
    assert row["usd_per_mtok"] == pytest.approx(0.2 / 3600 / row["decode_tok_s"] * 1e6)
    assert row["usd_per_mtok_low"] < row["usd_per_mtok"] < row["usd_per_mtok_high"]
    assert row["energy_per_output_token_j"] is None
    assert "energy_per_output_token_j: no published power of a GDDR card" in row["absent"]
    assert row["energy_per_output_token_j_max"] == pytest.approx(170 / row["low"])


@pytest.mark.usefixtures("_verbs")
def test_energy_has_an_interval_where_power_was_measured(capsys) -> None:
    _, out, _ = run(capsys, "-m", "llama-3.1-8b", "-e", "vllm", "--gpu", "h100-sxm", "-o", "jsonl")
    row = json.loads(out)

    # Published for this card, model and engine: 2.87 J at batch 1, prompt included.
    assert row["energy_low_j"] < 2.87 < row["energy_high_j"]
    assert row["energy_per_output_token_j"] == pytest.approx(2.87, rel=0.15)


@pytest.mark.usefixtures("_verbs")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-m", "llama-3.1-8b", "--gpu", "rtx-9999"), "unknown gpu 'rtx-9999'"),
        (("-m", "llama-9b", "--gpu", "l4"), "llama-9b"),
        (("-m", "llama-3.1-8b", "-q", "int9", "--gpu", "l4"), "unknown scheme 'int9'"),
        (("-m", "llama-3.1-8b", "--gpu", "l4", "--rent", "0"), "--rent: must be above 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(capsys, args, message) -> None:
    code, out, err = run(capsys, *args)

    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("_verbs")
def test_the_catalog_verb_lists_sources(capsys) -> None:
    assert cli.main(["gpus", "rtx-4080-super", "-o", "json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]

    assert row["released"] == "2024-01-31"
    assert row["source"]
    assert cli.main(["gpus"]) == 0
    assert capsys.readouterr().out.count("\n") == len(gpus()) + 2
