"""The predictor: recovery of known parameters, fit words, honest intervals, the artefact."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bench.errors import InputError
from bench.models import load_card, model_cards
from bench.models.shapes import shape
from bench.predict import Predictor
from bench.predict.artefact import LEAST, shipped
from bench.predict.calibration import Calibration, owner
from bench.predict.fitting import Design, fit, parameters
from bench.predict.names import (
    build_of,
    card_of_size,
    catalogued,
    engine_for,
    in_its_scheme,
    recipe_in,
)
from bench.predict.placement import (
    PIECE,
    TAKEN,
    PlacedWorkload,
    Spilled,
    host_of,
    layers_of,
    memory_of,
    place,
)
from bench.predict.prefill import Prompt, line, prefill_seconds
from bench.predict.published import (
    COLLECTED,
    FOLDER,
    HELD_OUT,
    POSTED,
    card,
    rows,
    sized,
    sources,
    spilled,
    validate_published,
)
from bench.predict.sample import all_rows, samples
from bench.predict.sample import build_of as made_by
from bench.predict.terms import (
    Build,
    Layers,
    Point,
    kernel,
    overlapped,
    prior,
    seconds,
    terms,
    vendor,
)
from bench.roofline import bound
from bench.roofline.gpus import gpus
from bench.roofline.memory import HostMemory
from bench.schemes import meant
from bench.schemes.cache import TYPES
from scripts.held_out import held, p90, table
from scripts.predictor_report import BEGIN, END, spliced
from tests.split_gguf import llama

LLAMA = card("llama-3.1-8b")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor()


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration()


def point(model: str, gpu: str, quant: str, engine: str = "made-up", context: float = 500) -> Point:
    work = PlacedWorkload(context=context, positions=round(context) + 100)
    memory = memory_of(card(model), quant, engine, round(context), 100, 1)
    return place(card(model), gpus()[gpu], quant, engine, work, memory).point


def grid() -> list[Point]:
    return [
        point(model, gpu, quant)
        for model in ("llama-3.1-8b", "qwen3-4b", "tinyllama-1.1b", "qwen3-0.6b")
        for gpu in ("rtx-3090", "rtx-4090", "rtx-5090", "rtx-6000-ada")
        for quant in ("none", "q4_k_m")
    ]


def test_the_fit_finds_the_rates_that_known_parameters_made() -> None:
    points = grid()
    truth = {name: prior(name)[0] for p in points for term in terms(p) for name in term.names}
    truth |= {"tau": math.log(20e-6), "lost": math.log(0.25)}
    made = np.array([seconds(p, truth) for p in points])
    design = Design.of(points)
    x = fit(design, made, np.full(len(points), 0.02), np.ones(len(points)))
    found = parameters(design, x)

    assert [seconds(p, found) for p in points] == pytest.approx(list(made), rel=0.03)


def test_fitting_and_predicting_share_one_formula() -> None:
    points = grid()
    design = Design.of(points)
    x = np.array([prior(name)[0] for name in design.names])

    one_by_one = [seconds(p, parameters(design, x)) for p in points]
    assert list(design.seconds(x)) == pytest.approx(one_by_one, rel=1e-4)


def test_launches_of_an_eager_engine_overlap_with_the_device() -> None:
    """One sum where the device waits for nothing; the longer of the two where it runs behind."""
    assert overlapped(0, 5e-3) == 5e-3
    assert overlapped(20e-3, 5e-3) == pytest.approx(20e-3, rel=0.01)
    assert overlapped(5e-3, 20e-3) == overlapped(20e-3, 5e-3)
    assert overlapped(10e-3, 10e-3) == pytest.approx(11.9e-3, rel=0.01)


def test_a_design_passes_on_relative_changes_as_the_formula_does() -> None:
    """Against differences of the formula itself, with engines that overlap and others."""
    points = [
        point(model, "rtx-4090", "none", engine)
        for model in ("llama-3.1-8b", "qwen3-0.6b")
        for engine in ("transformers", "llama.cpp")
    ]
    design = Design.of(points)
    x = np.array([prior(name)[0] for name in design.names])
    _, passed = design.total(design.parts(x))
    slopes = np.einsum("kp,kpn->pn", passed, design.uses)
    for n in range(len(x)):
        step = np.zeros(len(x))
        step[n] = 1e-5
        moved = np.log(design.seconds(x + step) / design.seconds(x - step)) / 2e-5
        assert slopes[:, n] == pytest.approx(moved, abs=1e-6)


def test_a_server_launches_more_slowly_than_a_desktop(predictor) -> None:
    """bitsandbytes: an 8B in nf4 decodes at 30 tok/s on an H100 and at 68 on an RTX 4090."""
    for gpu, measured in (("h100-sxm", 30.14), ("rtx-4090", 67.71)):
        found = predictor.predict(LLAMA, gpus()[gpu], "bnb-nf4", "transformers", n_prompt=192)
        assert found.decode_tok_s == pytest.approx(measured, rel=0.25)


def test_a_point_of_weight_zero_says_nothing() -> None:
    points = grid()
    design = Design.of(points)
    good = np.array([seconds(p, {n: prior(n)[0] for n in design.names}) for p in points])
    weights = np.ones(len(points))
    weights[3] = 0
    absurd = good.copy()
    absurd[3] *= 10
    sigma = np.full(len(points), 0.05)

    assert fit(design, good, sigma, weights) == pytest.approx(fit(design, absurd, sigma, weights))


def test_one_absurd_row_hardly_moves_the_fit() -> None:
    points = grid()
    design = Design.of(points)
    good = np.array([seconds(p, {n: prior(n)[0] for n in design.names}) for p in points])
    absurd = good.copy()
    absurd[3] *= 10
    sigma, weights = np.full(len(points), 0.05), np.ones(len(points))
    there = design.seconds(fit(design, absurd, sigma, weights))
    others = np.arange(len(points)) != 3

    assert there[others] == pytest.approx(good[others], rel=0.1)


def test_prefill_is_robust_against_one_odd_row() -> None:
    prompts = [
        Prompt(gpu=gpus()[gpu], kernel="float", n_prompt=n, layers=32, flops=2 * 8e9 * n)
        for gpu in ("rtx-3090", "rtx-4090", "rtx-4080", "a100-sxm-80gb", "h100-sxm")
        for n in (256, 512, 1024, 2048, 4096)
    ]
    peak = [p.gpu.peak("bf16") * 0.6 * (2 if p.gpu.geforce else 1) for p in prompts]
    made = [p.flops / rate for p, rate in zip(prompts, peak, strict=True)]
    made[5] *= 10
    x = line(prompts, made)

    found = [prefill_seconds(p, x) for p in prompts]
    keep = [i for i in range(len(prompts)) if i != 5]
    assert [found[i] for i in keep] == pytest.approx([made[i] for i in keep], rel=0.25)


def test_published_rows_are_in_order(calibration) -> None:
    assert validate_published() == []
    assert all(row.source in sources() for row in (*rows(), *rows(file=POSTED)))
    assert len(calibration.samples) > 700


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


def test_the_shipped_fit_is_that_of_the_shipped_data(calibration) -> None:
    """`scripts/fit-predictor` renews it."""
    assert calibration.inputs() == shipped().inputs_sha256, "stale: run scripts/fit-predictor"


def test_another_row_makes_the_shipped_fit_stale(calibration) -> None:
    changed = object.__new__(Calibration)
    changed.__dict__.update(calibration.__dict__)
    changed.seconds = calibration.seconds.copy()
    changed.seconds[0] *= 1.01

    assert changed.inputs() != calibration.inputs()


def test_every_kind_of_twenty_rows_has_a_width_of_at_most_three(calibration) -> None:
    model = shipped()
    kinds: dict[str, list[float]] = {}
    for sample in calibration.samples:
        kinds.setdefault(sample.kind, []).append(model.width(sample.kind, sample.point))
    wide = {k: math.exp(2 * float(np.median(v))) for k, v in kinds.items() if len(v) >= LEAST}

    assert {k: round(v, 2) for k, v in wide.items() if v > 3} == {}


def test_a_left_out_card_is_really_left_out(calibration) -> None:
    """What is predicted for a card does not change if its own rows say something absurd."""
    chosen = np.array([s.point.gpu.name == "rtx-4080" for s in calibration.samples])
    without = np.where(chosen, 0, calibration.weights)
    twisted = np.where(chosen, calibration.seconds * 2, calibration.seconds)

    def predicted(measured):
        x = fit(calibration.design, measured, calibration.sigma, without)
        return calibration.design.of_points(chosen).seconds(x)

    assert chosen.any()
    assert predicted(twisted) == pytest.approx(predicted(calibration.seconds))


@pytest.mark.parametrize(
    ("baseline", "low", "high"),
    [("rtx-4080", 1.0, 1.1), ("rtx-3080", 0.9, 1.2), ("rtx-3070", 1.4, 1.8), ("rtx-4090", 0.7, 1)],
)
def test_the_claimed_card_against_its_baselines(predictor, baseline, low, high) -> None:
    ours, theirs = (
        predictor.predict(LLAMA, gpus()[name], "q4_k_m", "llama.cpp")
        for name in ("rtx-4080-super", baseline)
    )

    assert low < ours.decode_tok_s / theirs.decode_tok_s < high
    assert ours.low < ours.decode_tok_s < ours.high <= ours.bound_decode_tok_s


def test_a_ratio_of_cards_is_narrower_than_the_rates(predictor) -> None:
    """Measured by others, llama-bench: an RTX 4080 decodes at 1.50x a 3070, 1.29x a 4070 Ti."""
    for baseline, measured in (("rtx-3070", 1.50), ("rtx-3080", 1.00), ("rtx-4070-ti", 1.29)):
        found = predictor.ratio(LLAMA, "q4_k_m", "llama.cpp", gpus()["rtx-4080"], gpus()[baseline])
        assert found.low < measured < found.high
        rate = predictor.predict(LLAMA, gpus()["rtx-4080"], "q4_k_m", "llama.cpp")
        assert found.high / found.low < (rate.decode_tok_s / rate.low) ** 4


def test_what_was_not_measured_widens_the_interval_and_says_so(predictor) -> None:
    def width(quant: str, engine: str) -> float:
        found = predictor.predict(LLAMA, gpus()["h200-sxm"], quant, engine)
        return math.log(found.decode_tok_s / found.low)

    known = width("none", "vllm")
    assert known < width("bnb-nf4", "vllm")
    assert known < width("fp8-dynamic", "vllm")  # one figure of one owner
    assert known < width("none", "an-engine-of-2027")
    found = predictor.predict(LLAMA, gpus()["h200-sxm"], "bnb-nf4", "vllm")
    assert found.extrapolates == (
        "almost no measurement of bnb-nf4, or of a scheme like it, on vllm",
    )
    assert predictor.predict(LLAMA, gpus()["mi300x"], "none", "vllm").extrapolates == (
        "no measurement of vllm on CDNA3 cards",
    )


def test_r1_on_two_cards_gets_a_bound_and_a_wide_prediction(predictor) -> None:
    found = predictor.predict(
        card("deepseek-r1"), gpus()["h100-sxm"], "ud-iq1_s", "llama.cpp", n_gpus=2
    )

    assert found.fits
    assert found.low < found.high / 2 < found.high < found.bound_decode_tok_s
    assert any("latent attention" in text for text in found.extrapolates)
    assert found.prefill_tok_s is None
    assert "prefill_tok_s" in found.absent


def test_latent_attention_is_slow_by_the_builds_that_computed_it_on_full_heads() -> None:
    table = shipped().parameters
    old = next(s for s in samples() if s.row.source == "unsloth-r1")

    assert not old.point.new
    assert 1 / seconds(old.point, table) == pytest.approx(11.89, rel=0.3)  # two H100, 2025-01-29
    newer = replace(old.point, build=replace(old.point.build, new=True))
    assert seconds(newer, table) < seconds(old.point, table) / 3


def test_several_cards_on_another_engine_are_not_predicted(predictor) -> None:
    found = predictor.predict(LLAMA, gpus()["h100-sxm"], "none", "vllm", n_gpus=2)

    assert found.decode_tok_s is None
    assert "several cards" in found.absent["decode_tok_s"]
    assert found.bound_decode_tok_s > 300


@pytest.mark.parametrize("quant", ["none", "q4_k_m", "bnb-nf4"])
@pytest.mark.parametrize("engine", ["llama.cpp", "transformers", "unheard-of"])
def test_nothing_is_predicted_above_the_bound(predictor, quant, engine) -> None:
    for gpu in gpus().values():
        found = predictor.predict(LLAMA, gpu, quant, engine, n_batch=4)
        if found.fit == "no":
            assert (found.decode_tok_s, found.low, found.high) == (None, None, None)
            assert "does not fit" in found.absent["decode_tok_s"]
        else:
            assert 0 < found.low <= found.decode_tok_s <= found.high <= found.bound_decode_tok_s


def test_what_does_not_fit_is_split_between_card_and_host(predictor) -> None:
    """Posted: Qwen2.5 32B Q4_K_M on an RTX 5070 of 12 GB decodes at 4.09 tok/s."""
    model, gpu = card("qwen2.5-32b"), gpus()["rtx-5070"]
    found = predictor.predict(model, gpu, "q4_k_m", "llama.cpp", n_prompt=512)

    assert (found.fit, found.fits) == ("offload", False)
    assert found.low < 4.09 < found.high
    assert found.host_bytes > 5e9
    fast = predictor.predict(
        model, gpu, "q4_k_m", "llama.cpp", n_prompt=512, host=HostMemory(bandwidth=70e9)
    )
    assert 1.3 < fast.decode_tok_s / found.decode_tok_s < 2


def test_experts_on_the_host_are_read_by_their_active_bytes(predictor) -> None:
    """Posted: Qwen3.6 35B A3B Q4_K on an RTX 4070 of 12 GB decodes at 52 to 62 tok/s."""
    model, gpu = card("qwen3.6-35b-a3b"), gpus()["rtx-4070"]
    found = predictor.predict(model, gpu, "q4_k_m", "llama.cpp", n_prompt=512)

    assert found.fit == "offload"
    assert found.low < 55 < found.high
    assert found.host_bytes < 1e9


def test_what_is_told_to_stay_on_the_host_stays_there(predictor) -> None:
    """Posted: Qwen3.5 35B A3B on an RTX 5080 and DDR5-4800: 69.6 tok/s with the experts of 24
    of 40 layers on the host, 51.0 with all of them."""
    model, gpu = card("qwen3.5-35b-a3b"), gpus()["rtx-5080"]
    host = host_of(gpus()["cpu-ddr5-4800-2ch"])

    def at(text: str, **more):
        told = spilled(text)
        return predictor.predict(
            model, gpu, "q4_k_m", "llama.cpp", n_prompt=100, host=host, spilled=told, **more
        )

    some, everything = at("experts 24/40"), at("experts 40/40")
    assert (some.fit, everything.fit) == ("offload", "offload")
    assert some.decode_tok_s == pytest.approx(69.6, rel=0.15)
    assert everything.decode_tok_s == pytest.approx(51.0, rel=0.15)
    assert everything.host_bytes == pytest.approx(some.host_bytes * 40 / 24, rel=0.01)
    assert at("layers 40/40").host_bytes > 1.5 * everything.host_bytes
    assert spilled("layers") == Spilled(part="layers")
    assert spilled("experts 9/8") is spilled("experts 0/8") is spilled("all") is None


def test_layers_on_the_host_cost_what_its_memory_takes(predictor) -> None:
    """Measured (InventiveHQ): a 14B Q4_K_M on an RTX 5060 Ti with an i7-8700, DDR4-2400."""
    host = host_of(gpus()["cpu-ddr4-2400-2ch"])
    for layers, measured in ((9, 12.5), (25, 5.61), (49, 2.89)):
        found = predictor.predict(
            card("qwen2.5-14b"),
            gpus()["rtx-5060-ti-16gb"],
            "q4_k_m",
            "llama.cpp",
            n_prompt=1,
            host=host,
            spilled=spilled(f"layers {layers}/49"),
        )
        assert found.decode_tok_s == pytest.approx(measured, rel=0.15)


def test_weights_are_multiplied_where_they_are() -> None:
    """What the host computes is no unpacking of the card's."""
    s = shape(card("qwen3-30b-a3b"))

    def split(text: str) -> Point:
        work = PlacedWorkload(context=500, positions=600)
        memory = memory_of(card("qwen3-30b-a3b"), "q4_k_m", "llama.cpp", 500, 100, 1)
        told = spilled(text)
        gpu, model = gpus()["rtx-4080"], card("qwen3-30b-a3b")
        return place(model, gpu, "q4_k_m", "llama.cpp", work, memory, spilled=told).point

    for told, least, most in (("experts 48/48", 0.5, 0.7), ("layers 48/48", 1, 1)):
        at = split(told)
        assert at.n_weights + at.host_weights == pytest.approx(s.n_active_params)
        assert least <= at.host_weights / s.n_active_params <= most


def test_a_host_that_is_not_stated_is_taken_for_a_typical_one(predictor) -> None:
    """Beside a card of 2025 memory is faster than beside an older one."""

    def slower(gpu: str) -> float:
        asked = (card("qwen3.6-35b-a3b"), gpus()[gpu], "q4_k_m", "llama.cpp")
        told = spilled("experts 40/40")
        stated = HostMemory(bandwidth=HostMemory().bandwidth, stated=True)
        rates = [predictor.predict(*asked, host=h, spilled=told) for h in (HostMemory(), stated)]
        return rates[0].decode_tok_s / rates[1].decode_tok_s

    assert slower("rtx-5070-ti") > slower("rtx-3090")


def test_codebooks_cost_the_hosts_time_and_not_its_bytes(predictor) -> None:
    model, gpu = card("qwen3.6-35b-a3b"), gpus()["rtx-3060"]
    host = host_of(gpus()["cpu-ddr4-3200-2ch"])

    def rate(quant: str) -> float:
        told = spilled("experts 40/40")
        asked = {"host": host, "spilled": told}
        return predictor.predict(model, gpu, quant, "llama.cpp", **asked).decode_tok_s

    assert rate("iq3_xxs") < rate("q3_k_m")


def test_an_engine_without_rows_is_taken_for_one_like_it(predictor) -> None:
    ours, like = (
        predictor.predict(LLAMA, gpus()["h100-sxm"], "none", engine)
        for engine in ("sglang", "vllm")
    )

    assert ours.decode_tok_s == like.decode_tok_s
    assert ours.extrapolates == ("no measurement of sglang",)
    assert ours.high / ours.low > like.high / like.low


def test_each_owner_of_a_card_is_a_source_of_posts() -> None:
    (one, *_), published = rows(file=POSTED), rows()

    assert owner(one) == f"localmaxxing, {one.gpu}"
    assert owner(published[0]) == "xiongjiedai"


def test_a_host_without_room_or_an_engine_without_offload_gives_no_rate(predictor) -> None:
    model, gpu = card("llama-3.1-70b"), gpus()["rtx-4090"]
    small = HostMemory(memory_bytes=8 * 2**30)

    for engine, host in (("llama.cpp", small), ("vllm", HostMemory())):
        found = predictor.predict(model, gpu, "q4_k_m", engine, host=host)
        assert (found.fit, found.decode_tok_s) == ("no", None)


def test_unified_memory_has_no_host_to_offload_to(predictor) -> None:
    mac = gpus()["apple-m4-max"].with_memory(36)

    assert predictor.predict(card("llama-3.1-70b"), mac, "q4_k_m", "llama.cpp").fit == "no"
    assert predictor.predict(card("qwen3-30b-a3b"), mac, "q4_k_m", "llama.cpp").fit == "yes"


def test_depth_costs_what_the_cache_takes(predictor) -> None:
    """Posted for an RTX 4070: a Qwen3.5 9B falls from 74.5 tok/s at 4k to 45.7 at 131k."""

    def at(n_prompt: int) -> float:
        return predictor.predict(
            card("qwen3.5-9b"), gpus()["rtx-4070"], "q4_k_m", "llama.cpp", n_prompt=n_prompt
        ).decode_tok_s

    assert at(131_072) / at(4096) == pytest.approx(45.7 / 74.5, rel=0.15)


def test_a_bound_is_sure_only_where_all_bytes_are_known(predictor) -> None:
    gpu = gpus()["rtx-4090"]

    def sure(model, quant, **more) -> bool:
        return predictor.predict(model, gpu, quant, "llama.cpp", **more).bound_sure

    assert sure(LLAMA, "q4_k_m")
    assert not sure(LLAMA, "ud-q4_k_xl")
    assert not sure(card_of_size(4_900_000_000, "q4_k_m"), "q4_k_m", bytes_known=False)
    assert sure(card("qwen3-30b-a3b"), "q4_k_m")
    assert not sure(card("qwen3-30b-a3b"), "q4_k_m", n_batch=8)


def test_layers_are_counted_by_their_halves() -> None:
    assert layers_of(shape(LLAMA)) == Layers(full=32)
    hybrid = layers_of(shape(card("qwen3.6-27b")))
    assert (hybrid.full, hybrid.linear, hybrid.total) == (40, 24, 64)
    mamba = layers_of(shape(card("nemotron-3-nano-30b-a3b")))
    assert (mamba.full, mamba.linear, mamba.experts) == (14.5, 11.5, 23)
    assert layers_of(shape(card("lfm2.5-8b-a1b"))).conv == 9


def test_mixes_of_a_file_are_taken_for_their_recipe() -> None:
    assert sized("UD-Q4_K_XL") == "q4-5.19bpw"
    assert sized("UD-Q5_K_XL") == "q5_k_m"
    assert sized("ud-iq2_xxs") == "iq2_xxs"
    assert sized("q4_k_m") == "q4_k_m"
    assert sized("int9") == "int9"


def test_vendors_are_told_apart() -> None:
    names = ("rtx-4090", "rx-7900-xtx", "arc-b580", "apple-m1", "cpu-ddr5-6000-2ch", "mi300x")

    found = [vendor(gpus()[name]) for name in names]
    assert found == ["nvidia", "amd", "intel", "apple", "cpu", "amd"]


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
    assert engine_for("Ollama") == "llama.cpp"
    with pytest.raises(InputError, match="empty"):
        engine_for(" ")
    assert meant("MXFP4", "llama.cpp") == "mxfp4_moe"
    assert meant("MXFP4", "vllm") == "mxfp4"
    assert meant("NVFP4", "llama.cpp") == "nvfp4-gguf"
    assert engine_for("ollama-0.24") == engine_for("llama.cpp-rocm") == "llama.cpp"


@pytest.mark.parametrize(
    ("said", "name", "recipe"),
    [
        ("Qwen3-8B-Q4_K_M.gguf", "qwen3-8b", "q4_k_m"),
        ("unsloth/Qwen3-8B-GGUF", "qwen3-8b", None),
        (
            "hf.co/unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF:UD-Q4_K_XL",
            "qwen3-30b-a3b",
            "ud-q4_k_xl",
        ),
        ("Qwen3-235B-A22B-UD-Q2_K_XL-00001-of-00002.gguf", "qwen3-235b-a22b", "ud-q2_k_xl"),
        ("ggml-org/gpt-oss-20b-GGUF:gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b", "mxfp4"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", None),
        ("Meta-Llama-3.1-8B-Instruct-f16.gguf", "llama-3.1-8b", None),
        ("llama3.1:8b-instruct-q4_K_M", "llama-3.1-8b", "q4_k_m"),
        ("google_gemma-3-27b-it-Q4_0.gguf", "gemma-3-27b", "q4_0"),
        ("Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b", None),
        ("phi4:14b", "phi-4", None),
        ("deepseek-r1:671b", "deepseek-r1", None),
    ],
)
def test_a_model_is_known_by_files_tags_and_names_of_the_hub(
    said: str, name: str, recipe: str | None
) -> None:
    assert catalogued(said) == name
    assert recipe_in(said) == recipe


@pytest.mark.parametrize(
    "said",
    ["phi4:4b", "deepseek-r1:8b", "./Qwen3-8B.gguf", "casperhansen/llama-3-8b-instruct-awq", "x/y"],
)
def test_another_model_is_not_taken_for_one_of_the_catalog(said: str) -> None:
    assert catalogued(said) == said


def test_a_file_that_is_here_says_its_recipe_itself(tmp_path) -> None:
    path = llama(tmp_path / "tiny-Q8_0.gguf")
    model = load_card(model_cards()["qwen3-8b"])
    assert in_its_scheme(model, str(path)).published_in == ""
    assert in_its_scheme(model, "tiny-Q8_0.gguf").published_in == "q8_0"
    assert in_its_scheme(model, "qwen3-8b").published_in == ""


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("llama-cpp", "llama.cpp"),
        ("llama-server", "llama.cpp"),
        ("LM Studio", "llama.cpp"),
        ("llamacpp-cuda", "llama.cpp"),
        ("ik-llama.cpp", "ik_llama.cpp"),
        ("TensorRT-LLM", "tensorrt-llm"),
        ("trtllm", "tensorrt-llm"),
        ("mlx_lm", "mlx"),
        ("exllamav3", "exllamav3"),
        ("lmdeploy", "lmdeploy"),
    ],
)
def test_an_engine_is_known_in_other_spelling(said: str, name: str) -> None:
    assert engine_for(said) == name


@pytest.mark.parametrize(
    ("said", "meant_name"),
    [("vlllm", "vllm"), ("vllm-0.11", "vllm"), ("olama", "ollama"), ("mlx-vlm", "mlx")],
)
def test_a_slip_in_an_engine_s_name_is_no_engine_that_nobody_measured(
    said: str, meant_name: str
) -> None:
    with pytest.raises(InputError, match=f"unknown engine '{said}'; did you mean .*'{meant_name}'"):
        engine_for(said)


def test_builds_are_read_from_names_and_rows() -> None:
    assert build_of("ollama") == Build(ollama="server")
    assert build_of("Ollama-0.24.1") == Build(ollama="own", fused=False)
    assert build_of("ollama-0.30") == Build(ollama="server")
    assert build_of("llama.cpp-rocm") == Build(backend="rocm")
    assert build_of("vllm") == Build()
    row = next(r for r in rows(file=COLLECTED) if r.version == "Ollama 0.24")
    assert made_by(row) == Build(ollama="own", fused=False)
    pieces, fused = (
        next(r for r in rows(file=COLLECTED) if r.source == "llamacpp-20334" and word in r.version)
        for word in ("single operations", "fused delta")
    )
    assert (made_by(pieces).fused, made_by(fused).fused) == (False, True)
    assert made_by(fused).backend == "vulkan"


def test_a_delta_net_of_single_operations_is_slower() -> None:
    """Measured (llama.cpp pull request 20334): 17 to 23% on Strix Halo with Vulkan."""
    table = shipped().parameters
    fused = next(s for s in samples() if s.row.version == "llama-bench, Vulkan, fused delta nets")
    pieces = replace(fused.point, build=replace(fused.point.build, fused=False))

    assert 1.05 < seconds(pieces, table) / seconds(fused.point, table) < 1.4


def test_a_narrow_cache_leaves_the_constant_state_as_wide() -> None:
    def states(kv: str) -> Point:
        work = PlacedWorkload(context=4000, positions=4100, kv=TYPES[kv])
        memory = memory_of(card("qwen3.6-27b"), "q4_k_m", "llama.cpp", 4000, 100, 1)
        gpu, model = gpus()["rtx-5090"], card("qwen3.6-27b")
        return place(model, gpu, "q4_k_m", "llama.cpp", work, memory).point

    wide, narrow = states("f16"), states("q4_0")
    assert narrow.state_bytes == wide.state_bytes > 3e8
    assert narrow.kv_bytes == pytest.approx(wide.kv_bytes * 18 / 64)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("qwen3-8b", "qwen3-8b"),
        ("Qwen3-8B", "qwen3-8b"),
        ("gpt-oss:20b", "gpt-oss-20b"),
        ("llama3.2:3b", "llama-3.2-3b"),
        ("gemma4:26b", "gemma-4-26b-a4b"),
        ("qwen3:30b-a3b-instruct-2507", "qwen3-30b-a3b"),
        ("qwen3:8b-q4_K_M", "qwen3-8b"),
        ("Qwen/Qwen3-8B", "qwen3-8b"),
        ("Llama-3.3-70B-Instruct", "llama-3.1-70b"),
        ("deepseek-r1-distill-llama-8b", "llama-3.1-8b"),
        ("gemma-3-27b-it-qat", "gemma-3-27b"),
        ("mistral-nemo", "mistral-nemo-12b"),
        ("phi3.5", "phi-3.5-mini"),
        ("QwQ-32B", "qwen2.5-32b"),
        ("Qwen2.5-Coder-32B-Instruct", "qwen2.5-32b"),
        ("deepseek-v3.1:671b", "deepseek-r1"),
        ("devstral:24b", "mistral-small-24b"),
        ("Mistral-Small-3.2-24B-Instruct-2506", "mistral-small-24b"),
        ("Devstral-2-123B", "Devstral-2-123B"),
        ("GLM-4.7", "glm-4.5-355b-a32b"),
        ("kimi-k2.5", "kimi-k2"),
        ("llama3", "llama3"),  # of several sizes
        ("gemma-2-2", "gemma-2-2"),  # no part of 27b
        ("deepseek-r1:14b", "deepseek-r1:14b"),  # a distillation, which the tag does not say
        ("", ""),
    ],
)
def test_models_in_the_spelling_of_others(said, name) -> None:
    assert catalogued(said) == name


@pytest.mark.parametrize(
    ("quant", "family"),
    [
        ("none", "float"),
        ("f16", "float"),
        ("q4_k_m", "k-quant"),
        ("q4_0", "block-quant"),
        ("ud-iq1_s", "i-quant"),
        ("exl2-4.0bpw", "mean-bits"),
        ("q4-5.19bpw", "k-quant"),
        ("q8-9.12bpw", "block-quant"),
        ("bnb-nf4", "bnb-nf4"),
    ],
)
def test_families_of_schemes(quant, family) -> None:
    assert kernel(quant) == family


def test_own_records_move_the_fit() -> None:
    row = next(r for r in rows() if not r.excluded and r.decode_tok_s and r.n_batch == 1)
    slow = [
        replace(
            row,
            gpu="rtx-5060",
            model="llama-3.1-8b",
            quant="q4_k_m",
            engine="an-engine-of-2027",
            measured="2026-10-01",
            n_prompt=n,
            n_gen=128,
            context=n + 64,
            decode_tok_s=20.0,
            source="own records",
        )
        for n in (128, 512, 1024)
    ]

    def rate(by: Predictor) -> float:
        return by.predict(LLAMA, gpus()["rtx-5060"], "q4_k_m", "an-engine-of-2027").decode_tok_s

    assert rate(Predictor(slow)) < 0.7 * rate(Predictor())


def test_the_page_is_spliced_between_its_marks() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"

    assert spliced(page, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


def _figure(row) -> tuple[object, ...]:
    return row.gpu, row.model, row.quant, row.engine, row.context, row.decode_tok_s


def test_rows_held_out_are_no_fits() -> None:
    held_out, fitted = rows(file=HELD_OUT), all_rows()

    assert len(held_out) >= 60
    assert {row.source for row in held_out} <= set(sources())
    assert not {row.source for row in held_out} & {row.source for row in fitted}
    assert not {_figure(row) for row in held_out} & {_figure(row) for row in fitted}
    assert {row.source for row in rows(file=COLLECTED)} <= {row.source for row in fitted}
    assert len({row.source for row in held_out}) >= 20
    assert all(row.measured for row in held_out)


def test_no_fit_reads_the_rows_held_out(calibration) -> None:
    out = {row.source for row in rows(file=HELD_OUT)}

    assert not [row for row in calibration.rows if row.source in out]


def test_rows_held_out_are_predicted_and_tabled(predictor) -> None:
    found = held(predictor)
    text = "\n".join(table(found))

    assert len(found) >= 60
    assert {"dense", "hybrid", "moe", "offload", "small"} <= {one.found.kind for one in found}
    dense = [abs(one.error) for one in found if one.found.kind == "dense"]
    assert np.median(dense) <= 0.10
    assert f"{len(found)} rows" in text
    assert "| dense, fits |" in text
    assert p90([0.1 * n for n in range(1, 11)]) == pytest.approx(0.9)


def test_a_held_out_row_of_nonsense_is_named(tmp_path) -> None:
    for name in ("sources.toml", HELD_OUT):
        (tmp_path / name).write_text((FOLDER / name).read_text(encoding="utf-8"), encoding="utf-8")
    head, first, *rest = (tmp_path / HELD_OUT).read_text(encoding="utf-8").splitlines()
    cells = first.split(",")
    cells[-2:] = ["rtx-4090", ""]
    bad = rest[0].split(",")
    bad[-1] = "half of it"
    (tmp_path / HELD_OUT).write_text("\n".join([head, ",".join(cells), ",".join(bad)]))
    (tmp_path / "throughput.csv").write_text(head + "\n")

    problems = validate_published(tmp_path)
    assert len(problems) == 2
    assert "host: 'rtx-4090' is not one of the catalog's processors" in problems[0]
    assert "on_host: 'half of it' is not like" in problems[1]


def test_llama_cpp_reserves_logits_of_a_whole_piece() -> None:
    memory = memory_of(card("qwen3-8b"), "q4_k_m", "llama.cpp", 128, 128, 1)

    assert memory.activations_bytes >= PIECE * 151_936 * 4
    assert memory.reserve_bytes == TAKEN


def test_experts_in_fp4_weigh_what_the_files_do() -> None:
    """llama-bench prints 11.27 and 59.02 GiB for these files."""
    for model, gib in (("gpt-oss-20b", 11.27), ("gpt-oss-120b", 59.02)):
        found = bound(card(model), gpus()["gb10"], "mxfp4_moe", engine="llama.cpp")
        assert found.weights_bytes / 2**30 == pytest.approx(gib, rel=0.01)
