"""Scheme `mixed` on the tiny model: what it measures, what it applies, what it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench import quantization, schemes
from bench.errors import InputError, UnsupportedError
from bench.quantization import mixed
from bench.schemes.allocation import Option, Target


@pytest.fixture
def model(tiny_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()


def tokenize(text: str) -> list[int]:
    return list(text.encode())


def predictions(model: Any) -> Any:
    with torch.inference_mode():
        return model(input_ids=torch.arange(40)[None], use_cache=False).logits


def test_a_budget_is_kept_and_recorded(model: Any, tmp_path: Path) -> None:
    before = predictions(model)
    found = mixed.quantize(Target(bits=6.0), model, tokenize, tmp_path)
    assert set(found["levels"].values()) <= set(mixed.LEVELS)
    assert len(set(found["levels"].values())) > 1
    assert len(found["levels"]) == 2 * 7 + 1
    assert 4.75 <= found["bits"] <= 6.0
    assert found["calibration_tokens"] == mixed.TOKENS
    assert found["calibration_kld"] > 0
    assert not torch.equal(before, predictions(model))
    held = quantization.held(model)
    assert held.quantized_fraction > 0.5
    assert found["packed_bytes"] < held.weights_bytes  # 4-bit numbers are held in 8 bits


def test_what_is_applied_is_what_was_measured(model: Any, tmp_path: Path) -> None:
    """The divergence of the quantized model is that of the round trip it was chosen by."""
    with torch.inference_mode():
        tokens = torch.tensor([tokenize(mixed.TEXT.read_text(encoding="utf-8"))[: mixed.TOKENS]])
        base = mixed.predict(model, tokens)
    found = mixed.quantize(Target(bits=5.0), model, tokenize, tmp_path)
    with torch.inference_mode():
        after = float(mixed.divergence(base, mixed.predict(model, tokens)).mean())
    assert after == pytest.approx(found["calibration_kld"], rel=1e-3)


def test_a_bound_is_kept_as_measured(model: Any, tmp_path: Path) -> None:
    all_four = mixed.quantize(Target(bits=4.76), reload(model), tokenize, tmp_path)[
        "calibration_kld"
    ]
    bound = all_four / 3
    found = mixed.quantize(Target(max_kld=bound), model, tokenize, tmp_path)
    assert found["calibration_kld"] <= bound


def reload(model: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model.name_or_path, dtype=torch.float32).eval()


def test_sensitivities_are_measured_once(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = mixed.quantize(Target(bits=6.0), reload(model), tokenize, tmp_path)

    def refuse(*args: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(mixed, "options_of", refuse)
    assert mixed.quantize(Target(bits=6.0), reload(model), tokenize, tmp_path) == first
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    with pytest.raises(AssertionError, match="measured again"):
        mixed.quantize(Target(bits=6.0), model, tokenize, tmp_path)


def test_a_broken_cache_is_measured_anew(model: Any, tmp_path: Path) -> None:
    first = mixed.quantize(Target(bits=6.0), reload(model), tokenize, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text("{", encoding="utf-8")
    assert mixed.quantize(Target(bits=6.0), model, tokenize, tmp_path) == first


def test_weights_are_as_before_after_measuring(model: Any, tmp_path: Path) -> None:
    before = predictions(model)
    layers = mixed.linear_layers(model)
    with torch.inference_mode():
        tokens = torch.arange(20)[None]
        base = mixed.predict(model, tokens)
        mixed.sensitivities(model, layers, tokens, base, tmp_path, "text")
    assert torch.equal(before, predictions(model))


def test_rows_that_groups_do_not_fill_are_not_taken_to_4_bits() -> None:
    assert mixed.levels_of({"a": torch.nn.Linear(64, 8), "b": torch.nn.Linear(40, 8)}) == (
        "int8",
        "none",
    )


def test_packed_bytes_by_hand() -> None:
    layer = torch.nn.Linear(64, 10, bias=False)
    assert mixed.packed_bytes(layer, "int4") == 10 * (32 + 2 * 3)
    assert mixed.packed_bytes(layer, "int6") == 10 * (48 + 2 * 3)
    assert mixed.packed_bytes(layer, "int8") == 10 * (64 + 5)
    assert mixed.packed_bytes(layer, "none") == 10 * 64 * 4


def test_a_bound_that_sums_do_not_meet_is_asked_for_more_strictly() -> None:
    options = {"a": [Option("int4", 1, 0.3), Option("int8", 2, 0.1), Option("none", 8, 0.0)]}

    def thrice(chosen: Any) -> float:
        return 3 * sum(option.kld for option in chosen.values())

    chosen, found = mixed.allocate(Target(max_kld=0.2), options, 8, thrice)
    assert chosen["a"].level == "none"
    assert found == 0.0


def test_a_bound_that_is_never_met() -> None:
    def stubborn(chosen: Any) -> float:
        return 1.0

    with pytest.raises(UnsupportedError, match=r"divergence below 0\.2"):
        mixed.allocate(Target(max_kld=0.2), {"a": [Option("none", 8, 0.0)]}, 8, stubborn)


def test_a_scheme_by_name() -> None:
    assert schemes.scheme("mixed:5.0bit").dynamic == "bit-allocation"
    with pytest.raises(InputError, match=r"did you mean 'mixed:5\.0bit'"):
        schemes.scheme("mixd:5.0bit")


def test_random_weights_have_no_text_to_measure_on(model: Any, tmp_path: Path) -> None:
    def refuse(text: str) -> list[int]:
        raise UnsupportedError("random weights have no tokenizer")

    with pytest.raises(UnsupportedError, match="no tokenizer"):
        mixed.quantize(Target(bits=5.0), model, refuse, tmp_path)
