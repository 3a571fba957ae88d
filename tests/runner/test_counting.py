"""Shapes that no formula describes: counted once on transformers' modules, then known to all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.engines.transformers.counting import count
from bench.errors import UnsupportedError
from bench.models import counted, resolve_model
from bench.models.config_file import card_of_config
from bench.models.shapes import forget, shape
from bench.roofline.memory import cache_bytes
from bench.runner import counting

BLOOM = {"model_type": "bloom", "hidden_size": 64, "n_layer": 3, "n_head": 4, "vocab_size": 96}
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 96}
MIXTURE = {
    "model_type": "granitemoe",
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "vocab_size": 96,
}
TOWERS = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_hidden_layers": 6,
        "num_key_value_heads": 2,
        "sliding_window": 8,
        "vocab_size": 96,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "image_size": 28,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
    },
    "mm_tokens_per_image": 4,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()


def folder(config: dict[str, Any], at: Path) -> Path:
    at.mkdir()
    (at / "config.json").write_text(json.dumps(config))
    (at / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return at


def test_every_parameter_and_every_cached_number_is_counted() -> None:
    found = count(BLOOM)
    layer = 64 * 64 * 4 + 64 * 256 * 2
    matrices = 3 * layer + 96 * 64
    assert sum(m.n_params for m in found.matrices if m.part in ("attention", "mlp")) == 3 * layer
    assert found.n_params - matrices == sum(m.n_params for m in found.matrices if m.part == "small")
    assert found.tied
    assert cache_bytes(found, 10) == 2 * 3 * 2 * 64 * 10
    (attention,) = found.attention
    assert (attention.layers, attention.decode_macs) == (3, 2 * 64)
    assert attention.cache_heads == 4


def test_experts_are_those_that_a_token_takes() -> None:
    found = count(MIXTURE)
    assert (found.n_experts, found.n_active_experts) == (8, 2)
    experts = sum(m.n_params for m in found.matrices if m.part == "expert")
    assert experts == 3 * 8 * (64 * 96 + 48 * 64)
    assert [m.count for m in found.matrices if m.part == "router"] == [3]


def test_towers_are_held_and_no_step_reads_them() -> None:
    found, text = count(TOWERS), count(TOWERS["text_config"])  # type: ignore[arg-type]
    assert found.n_params > text.n_params
    assert found.n_active_params == text.n_active_params
    windows = {(a.layers, a.window) for a in found.attention}
    assert windows == {(5, 8), (1, None)}


def test_a_folder_of_an_unknown_type_is_planned_and_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at = folder(GPT2, tmp_path / "mine")
    plan = ["plan", "-m", str(at), "-q", "none", "-p", "8", "-n", "4", "--gpu", "rtx-4080"]
    assert main([*plan, "-o", "json"]) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)
    assert row["fit"] == "yes"
    assert row["memory_bytes"] > 0
    assert row["bound_decode_tok_s"] > 0
    assert "counting its layers" in captured.err

    monkeypatch.setattr(counting, "events", lambda *_, **__: pytest.fail("asked again"))
    forget()
    assert main([*plan, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["memory_bytes"] == row["memory_bytes"]
    assert main(["predict", "-m", str(at), "--gpu", "rtx-4080", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["bound_decode_tok_s"] > 0
    assert shape(resolve_model(str(at)).card).n_params == count(GPT2).n_params


def test_a_type_that_transformers_cannot_make_is_one_line_and_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**BLOOM, "model_type": "bart", "num_hidden_layers": 2}))
    predict = ["predict", "-m", str(file), "--gpu", "rtx-4080"]
    assert main(predict) == 3
    assert "is an encoder-decoder" in capsys.readouterr().err
    monkeypatch.setattr(counting, "events", lambda *_, **__: pytest.fail("asked again"))
    forget()
    assert main(predict) == 3


def test_what_was_counted_by_another_transformers_is_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted.keep(BLOOM, {"refused": "a reason"})
    assert counted.known(BLOOM) is not None
    monkeypatch.setattr(counted, "_transformers", lambda: "999")
    assert counted.known(BLOOM) is None
    monkeypatch.setattr(counted, "_transformers", lambda: None)  # a laptop without it
    assert counted.known(BLOOM) is not None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"shape": 3}', '{"shape": {"matrices": []}}'])
def test_a_broken_answer_is_none(text: str, tmp_path: Path) -> None:
    file = tmp_path / "m" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps(BLOOM))
    card = card_of_config(file)
    counted.keep(BLOOM, {"refused": "a reason"})
    (kept,) = (tmp_path / "cache").rglob("shapes/*.json")
    table = text.replace("{", f'{{"transformers": {json.dumps(counted._transformers())}, ', 1)
    kept.write_text(table.replace(", }", "}"))
    with pytest.raises(UnsupportedError, match="no arithmetic"):
        shape(card)


@pytest.mark.parametrize("count_kept", [2, -1])
def test_a_kept_shape_has_no_number_below_0(count_kept: int, tmp_path: Path) -> None:
    card = card_of_config(folder(BLOOM, tmp_path / "m") / "config.json")
    made = {
        "matrices": [{"part": "head", "n_out": 8, "n_in": 8, "count": count_kept}],
        "attention": [{"layers": 1}],
        "tied": False,
        "hidden_size": 8,
        "n_layers": 1,
    }
    counted.keep(BLOOM, {"shape": made})
    if count_kept > 0:
        assert shape(card).n_params == 8 * 8 * 2
    else:
        with pytest.raises(UnsupportedError, match="no arithmetic"):
            shape(card)
