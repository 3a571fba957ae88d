"""Does an arm fit while it loads and while it runs: worked by hand, and refused before loading."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bench.cli import main
from bench.experiment import Variant, Workload
from bench.models import load_card, model_cards, resolve_model
from bench.roofline.gpus import resolve_gpu
from bench.roofline.memory import loading_bytes
from bench.roofline.reserve import Reserve, reserve_of
from bench.runner.fits import most_that_fit, needs, too_large
from bench.runner.here import here

MIB = 2**20
CARD = load_card(model_cards()["llama-3.1-8b"])
PLACE = here(gpu="rtx-4080-super")
LAYER = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
"""Weights of one layer: q and o, k and v, and three of the MLP; two norms come on top."""
HEAD = 128256 * 4096


def variant(quant: str, engine: str = "transformers") -> Variant:
    return Variant(model="llama-3.1-8b", quant=quant, engine=engine)


def test_the_reserve_of_a_card() -> None:
    super_ = resolve_gpu("rtx-4080-super")
    assert reserve_of(super_).total_bytes == (512 + 64 + 192 + 512) * MIB
    assert reserve_of(super_, used_bytes=0).total_bytes == (512 + 64 + 192) * MIB
    assert reserve_of(super_, wddm=True).system_bytes == int(0.05 * 16 * 2**30)
    assert reserve_of(resolve_gpu("h200-sxm")).total_bytes == (512 + 128 + 192) * MIB
    assert reserve_of(None) == Reserve()


def test_llama_8b_on_16_gb_by_hand() -> None:
    """Weights as held + one layer and the head in bfloat16 + the reserve."""
    reserve = (512 + 64 + 192 + 512) * MIB
    embedding = 2 * HEAD
    norms = 2 * (65 * 4096)
    # int8: a byte a weight, a float32 scale and an int8 zero point for each row.
    rows = 32 * (4096 * 3 + 2 * 1024 + 2 * 14336) + 128256
    int8 = embedding + norms + 32 * LAYER + HEAD + 5 * rows
    layer = 2 * LAYER + 2 * 2 * 4096
    close = {"abs": 2 * 8192}  # the last norm is spread over the layers
    found = loading_bytes(CARD, "int8-weight-only", reserve_bytes=reserve)
    assert found == pytest.approx(int8 + layer + 2 * HEAD + reserve, **close)
    assert found / 1e9 == pytest.approx(11.39, abs=0.005)
    whole = loading_bytes(CARD, "none", reserve_bytes=reserve)
    assert whole == embedding + norms + 64 * LAYER + 2 * HEAD + reserve
    # The head of bitsandbytes stays in floats: it is there once.
    nf4 = loading_bytes(CARD, "bnb-nf4", reserve_bytes=0)
    half = embedding + norms + 2 * HEAD + 32 * LAYER * (0.5 + 4 / 64)
    assert nf4 == pytest.approx(half + layer, **close)


def test_on_several_cards_it_is_there_in_floats_first() -> None:
    one = loading_bytes(CARD, "int8-weight-only", reserve_bytes=0)
    two = loading_bytes(CARD, "int8-weight-only", reserve_bytes=0, n_devices=2)
    assert one is not None
    assert two == loading_bytes(CARD, "none", reserve_bytes=0)
    assert two > one
    assert loading_bytes(CARD, "q4_k_m", engine="llama.cpp") is None


def test_the_plan_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    schemes = "none,int8-weight-only,int4-weight-only"
    command = ["plan", "-m", "llama-3.1-8b", "-q", schemes, "--gpu", "rtx-4080-super"]
    assert main([*command, "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["fit"] for row in rows] == ["no", "yes", "yes"]
    assert [row["fits"] for row in rows] == [False, True, True]
    assert [round(row["loading_bytes"] / 1e9, 2) for row in rows] == [17.4, 11.39, 8.1]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "loading GB" in out
    assert "11.39" in out


def test_the_plan_has_room_for_the_longest_of_requests_that_differ(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["plan", "-m", "llama-3.1-8b", "--gpu", "h200", "-o", "json"]
    spec = "prompt=quantiles:1000@0:1000@50:60000@100 gen=100"
    assert main([*command, "--requests", spec]) == 0
    differing = json.loads(capsys.readouterr().out)[0]
    sizes = ["-p", str(differing["n_prompt"]), "-n", "100"]
    assert main([*command, *sizes]) == 0
    alike = json.loads(capsys.readouterr().out)[0]
    # 131,072 bytes a token: the longest of the nine is far above the mean.
    assert differing["memory_bytes"] > alike["memory_bytes"] + 2e9


@pytest.mark.parametrize(
    ("quant", "engine", "word"),
    [
        ("none", "transformers", "no"),
        ("int8-weight-only", "transformers", "yes"),
        ("bnb-nf4", "transformers", "yes"),
        ("q8_0", "llama.cpp", "yes"),
        ("f16", "llama.cpp", "offload"),
    ],
)
def test_words_for_llama_8b_on_16_gb(quant: str, engine: str, word: str) -> None:
    work = Workload(n_prompt=512, n_gen=128)
    assert needs(variant(quant, engine), work, CARD, PLACE).fit == word


CACHES = (
    ("graph", {"kv_cache_dtype": "fp8"}, 1.0, 0),
    ("graph", {"kv_cache_dtype": "int8"}, 1.0, 4),
    ("vllm", {"kv_cache_dtype": "fp8"}, 1.0, 0),
    ("llama.cpp", {"type_k": "q8_0", "type_v": "q8_0"}, 34 / 32, 0),
    ("llama.cpp", {"type_k": "q8_0"}, (34 / 32 + 2) / 2, 0),
    ("graph", {}, 2.0, 0),
)


@pytest.mark.parametrize(("engine", "options", "width", "scale"), CACHES)
def test_a_narrow_cache_makes_room(
    engine: str, options: dict[str, str], width: float, scale: int
) -> None:
    arm = replace(variant("none", engine), options=options)
    found = needs(arm, Workload(n_prompt=4000, n_gen=96, n_batch=8), CARD, PLACE).memory
    assert found.cache_bytes == 8 * 4096 * 32 * 2 * 8 * (128 * width + scale)


def test_the_plan_knows_the_cache(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["-p", "32768", "-n", "64", "-q", "int8-weight-only", "--gpu", "rtx-4080-super"]
    command = ["plan", "-m", "llama-3.1-8b", "-e", "graph", *sizes, "-o", "json"]
    rows = []
    for kind in ("auto", "int8", "fp8"):
        assert main([*command, "--option", f"kv_cache_dtype={kind}"]) == 0
        rows += json.loads(capsys.readouterr().out)
    saved = 32832 * 32 * 2 * 8
    memory = [row["memory_bytes"] for row in rows]
    assert memory[0] - memory[1] == saved * (128 - 4)
    assert memory[0] - memory[2] == saved * 128
    rates = [row["bound_decode_tok_s"] for row in rows]
    assert rates[0] < rates[1] < rates[2]
    assert rates[2] / rates[0] == pytest.approx((8.0e9 + 4.3e9) / (8.0e9 + 2.15e9), rel=0.03)


def test_refused_before_anything_is_loaded() -> None:
    assert too_large(variant("none"), CARD, PLACE) == (
        "llama-3.1-8b in scheme none needs 17.4 GB while it runs, 1.3 of them for driver, display "
        "and libraries; RTX 4080 SUPER has 17.2 GB"
    )
    assert too_large(variant("int8-weight-only"), CARD, PLACE) is None
    assert too_large(variant("q8_0", "llama.cpp"), CARD, PLACE) is None


def test_no_batch_that_surely_does_not_fit_is_tried() -> None:
    work = Workload(n_prompt=1024, n_gen=128)
    most = most_that_fit(variant("int8-weight-only"), work, CARD, PLACE)
    assert most is not None
    held = [
        needs(variant("int8-weight-only"), Workload(n_prompt=1024, n_gen=128, n_batch=n), CARD,
              PLACE).fit
        for n in (most, most + 1)
    ]  # fmt: skip
    assert held == ["tight", "no"]
    assert most_that_fit(variant("none"), work, CARD, PLACE) is None


def test_a_run_is_refused_where_a_model_cannot_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    from bench.devices.host import machine

    monkeypatch.setattr(machine, "memory_bytes", lambda: 8 * 2**30)
    command = ["run", "-m", "llama-3.1-8b@random", "-d", "cpu", "-q", "none", "--into"]
    assert main([*command, str(tmp_path)]) == 3
    assert "llama-3.1-8b@random in scheme none needs 32" in capsys.readouterr().err
    assert resolve_model("llama-3.1-8b@random").source == "random"
