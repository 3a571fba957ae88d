"""Known answers: a model of three tokens by hand, equal arms, grouping, broken files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.engines.messages import Job
from bench.engines.transformers.engine import TransformersEngine
from bench.errors import InputError, UnsupportedError
from bench.quality import agreed, evaluate, windows
from bench.quality import store as store
from tests.fakes import FakeEngine

RULES: dict[str, Any] = {"max_tokens": 100, "window": 4}


class Table(FakeEngine):
    """Predicts the next token from the last one alone, by a table of logits."""

    def __init__(self, logits: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def tokenize(self, text: str) -> list[int]:
        return [int(letter) for letter in text]

    def detokenize(self, tokens: Sequence[int]) -> str:
        return "".join(str(token) for token in tokens)

    def log_probs(self, window: Sequence[int]) -> Any:
        return torch.log_softmax(self.logits[torch.tensor(window[:-1])], dim=-1)


class Talker(Table):
    """Continues a prompt by counting up from its last token, a step at a time."""

    def __init__(self, logits: Sequence[Sequence[float]], step: int = 1) -> None:
        super().__init__(logits)
        self.pace = step
        self.prompt: list[int] = []
        self.new: list[int] = []

    def set_prompt(self, tokens: Sequence[int]) -> None:
        self.prompt = list(tokens)

    def reset(self) -> None:
        self.new = []

    def prefill(self) -> None:
        self.new = [(self.prompt[-1] + 1) % 10]

    def step(self) -> None:
        self.new.append((self.new[-1] + self.pace) % 10)

    def tokens(self) -> list[list[int]]:
        return [self.new]


LN2 = math.log(2)
HALVES = Table([[LN2, 0, 0]] * 3)  # probabilities 1/2, 1/4, 1/4 after every token
OTHER = Table([[0, LN2, 0]] * 3)  # 1/4, 1/2, 1/4


def test_by_hand(tmp_path: Path) -> None:
    kept = tmp_path / "base.npz"
    base = evaluate(HALVES, "0120021", **RULES, keep=kept)
    found = evaluate(OTHER, "0120021", **RULES, base=kept)
    # Windows 0120 and 021; scored: 1 2 0, 2 1.
    assert base["nll"] == pytest.approx([2 * LN2, 2 * LN2, LN2, 2 * LN2, 2 * LN2], abs=1e-5)
    assert found["nll"] == pytest.approx([LN2, 2 * LN2, 2 * LN2, 2 * LN2, LN2], abs=1e-5)
    # 1/2 ln(1/2 / 1/4) + 1/4 ln(1/4 / 1/2)
    assert found["kld"] == pytest.approx([LN2 / 4] * 5, abs=1e-5)
    assert found["same_top1"] == [0] * 5
    assert found["scored_tokens"] == 5
    assert found["tokens"] == 7
    assert found["method"].startswith("exact")


@pytest.mark.parametrize("limit", [0, store.EXACT_BYTES])
def test_equal_arms_agree_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(store, "EXACT_BYTES", limit)
    monkeypatch.setattr(store, "TOP_K", 3)
    draw = torch.Generator().manual_seed(0)
    runs = Table((torch.randn(10, 10, generator=draw) * 3).tolist())
    text = "0123456789" * 9
    base = evaluate(runs, text, **RULES, keep=tmp_path / "b")
    found = evaluate(runs, text, **RULES, base=tmp_path / "b")
    assert set(found["kld"]) == {0.0}
    assert set(found["same_top1"]) == {1}
    assert found["nll"] == base["nll"]


def test_grouping_never_overstates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(1)
    first = Table((torch.randn(10, 10, generator=draw) * 2).tolist())
    second = Table((first.logits + torch.randn(10, 10, generator=draw)).tolist())
    text = "0123456789" * 9
    evaluate(first, text, **RULES, keep=tmp_path / "whole")
    exact = evaluate(second, text, **RULES, base=tmp_path / "whole")
    monkeypatch.setattr(store, "EXACT_BYTES", 0)
    monkeypatch.setattr(store, "TOP_K", 3)
    evaluate(first, text, **RULES, keep=tmp_path / "top")
    bound = evaluate(second, text, **RULES, base=tmp_path / "top")
    assert all(b <= e + 1e-7 for b, e in zip(bound["kld"], exact["kld"], strict=True))
    assert sum(bound["kld"]) > 0.3 * sum(exact["kld"])
    assert bound["same_top1"] == exact["same_top1"]
    assert bound["method"].startswith("lower bound: over the baseline's 3 most likely")
    assert 0 < bound["rest_mass"] < 1
    assert exact["rest_mass"] is None


def test_impossible_tokens_of_the_baseline_count_for_nothing() -> None:
    base = torch.tensor([[0.5, 0.5, 0.0]]).log()
    other = torch.tensor([[0.25, 0.5, 0.25]]).log()
    assert store.divergence(base, other).tolist() == pytest.approx([LN2 / 2])
    assert store.divergence(base, base).tolist() == [0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_numbers_give_no_figures(value: float) -> None:
    runs = Table([[0.0, value, 0.0]] * 3)
    with pytest.raises(UnsupportedError, match="not finite") as caught:
        evaluate(runs, "012012", **RULES)
    assert caught.value.code == "NONFINITE"


def test_a_candidate_that_rules_out_what_the_baseline_expects(tmp_path: Path) -> None:
    evaluate(HALVES, "000", **RULES, keep=tmp_path / "b")
    with pytest.raises(UnsupportedError, match="probability 0") as caught:
        evaluate(Table([[0.0, -math.inf, 0.0]] * 3), "000", **RULES, base=tmp_path / "b")
    assert caught.value.code == "NONFINITE"


def test_windows_do_not_overlap_and_need_two_tokens() -> None:
    assert windows(range(7), 3) == [[0, 1, 2], [3, 4, 5]]
    assert windows([5], 3) == []


def test_max_tokens_and_a_text_too_short() -> None:
    assert evaluate(HALVES, "0120120", max_tokens=5, window=4)["scored_tokens"] == 3
    with pytest.raises(InputError, match="fewer than 2 tokens"):
        evaluate(HALVES, "0", **RULES)


def test_without_a_baseline_the_divergence_is_absent(tmp_path: Path) -> None:
    alone = evaluate(HALVES, "0120", **RULES)
    assert alone["kld"] == []
    assert alone["absent"]["kld"] == "there is no baseline arm"
    missing = evaluate(HALVES, "0120", **RULES, base=tmp_path / "missing")
    assert missing["absent"]["kld"] == "the baseline arm's predictions were not made"
    assert missing["method"] is None


def test_arms_of_different_vocabularies_are_not_compared(tmp_path: Path) -> None:
    evaluate(HALVES, "0120", **RULES, keep=tmp_path / "b")
    with pytest.raises(UnsupportedError, match="vocabularies differ: 3 and 4"):
        evaluate(Table([[0.0] * 4] * 4), "0120", **RULES, base=tmp_path / "b")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"NUMPY") + 130] ^= 0xFF
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_a_broken_store_is_removed_and_named(tmp_path: Path, damage: Any) -> None:
    kept = tmp_path / "base.npz"
    evaluate(HALVES, "0120", **RULES, keep=kept)
    damage(kept)
    with pytest.raises(InputError, match=r"base\.npz.*run the same command again"):
        evaluate(OTHER, "0120", **RULES, base=kept)
    assert not kept.exists()


def test_a_store_of_other_tokens_is_refused(tmp_path: Path) -> None:
    evaluate(HALVES, "0120", **RULES, keep=tmp_path / "b")
    with pytest.raises(InputError, match="other tokens or windows"):
        evaluate(OTHER, "0121", **RULES, base=tmp_path / "b")


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    class Breaks(Table):
        def log_probs(self, window: Sequence[int]) -> Any:
            if window[0] == 2:
                raise RuntimeError("out of memory")
            return super().log_probs(window)

    with pytest.raises(RuntimeError):
        evaluate(Breaks([[0.0] * 3] * 3), "01202120", **RULES, keep=tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnsupportedError, match="cannot keep the baseline's predictions"):
        evaluate(HALVES, "0120", **RULES, keep=tmp_path / "file" / "b")


def test_continuations_are_kept_to_look_at(tmp_path: Path) -> None:
    table = [[0.0] * 10] * 10
    evaluate(Talker(table), "0123", **RULES, keep=tmp_path / "b")
    (found,) = evaluate(Talker(table, step=2), "0123", **RULES, base=tmp_path / "b")[
        "continuations"
    ]
    assert found["prompt"] == "0123"
    assert found["text"].startswith("468")
    assert found["baseline"].startswith("456")
    assert (found["agreed_tokens"], found["new_tokens"]) == (1, 64)


def test_an_engine_that_takes_no_prompt_says_so() -> None:
    found = evaluate(HALVES, "0120", **RULES)
    assert found["continuations"] == []
    assert found["absent"]["continuations"] == "this engine cannot continue a given prompt"


def test_agreement_ends_at_the_first_difference() -> None:
    assert agreed([1, 2, 3, 4], [1, 2, 9, 4]) == 2


def loaded(folder: Path, quant: str = "none") -> TransformersEngine:
    runs = TransformersEngine()
    runs.load(
        Job(
            architecture={},
            folder=folder,
            random_seed=0,
            initializer_range=0.02,
            quant=quant,
            mode="eager",
            dtype="float32",
            device="cpu",
            threads=1,
            seed=0,
            replicate=0,
        )
    )
    return runs


def test_quantizing_a_real_model_shows(tiny_folder: Path, tmp_path: Path) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 4
    rules = {"max_tokens": 128, "window": 64}
    evaluate(loaded(tiny_folder), text, **rules, keep=tmp_path / "b")
    same = evaluate(loaded(tiny_folder), text, **rules, base=tmp_path / "b")
    int8 = evaluate(loaded(tiny_folder, "int8-weight-only"), text, **rules, base=tmp_path / "b")
    assert set(same["kld"]) == {0.0}
    assert same["continuations"][0]["agreed_tokens"] == 64
    assert 0 < sum(int8["kld"]) / len(int8["kld"]) < 0.01


@pytest.mark.model
def test_perplexity_of_the_embedded_model_is_that_of_plain_transformers(
    embedded_folder: Path,
) -> None:
    """The model's own loss, window by window, weighted by scored tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from bench.experiment.texts import read_text

    text = read_text("english").text
    found = evaluate(loaded(embedded_folder), text, max_tokens=600, window=256)
    tokenizer = AutoTokenizer.from_pretrained(embedded_folder)
    model = AutoModelForCausalLM.from_pretrained(embedded_folder, dtype=torch.float32).eval()
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids[:, :600]
    total = scored = 0.0
    with torch.no_grad():
        for start in range(0, 600, 256):
            part = ids[:, start : start + 256]
            total += model(part, labels=part).loss.item() * (part.shape[1] - 1)
            scored += part.shape[1] - 1
    assert scored == found["scored_tokens"]
    assert math.exp(sum(found["nll"]) / scored) == pytest.approx(
        math.exp(total / scored), rel=0.005
    )
