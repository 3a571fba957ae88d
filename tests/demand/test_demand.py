"""What is asked for: lengths, sessions, traces, arrivals."""

from __future__ import annotations

import itertools
import random
from math import ceil
from pathlib import Path
from statistics import fmean, median

import pytest

from bench.demand import arrival_times, demand
from bench.demand.lengths import lengths
from bench.demand.shapes import shapes
from bench.demand.traces import read_trace
from bench.errors import InputError


def test_equal_seeds_ask_the_same_and_others_do_not() -> None:
    chat = demand("chat")
    assert chat.requests("0/1", 50) == chat.requests("0/1", 80)[:50]
    assert chat.requests("0/1", 50) != chat.requests("0/2", 50)


def test_the_peak_is_of_the_longest_requests() -> None:
    spec = "prompt=quantiles:100@0:100@90:900@100 gen=10"
    each = {s: sorted(one.n_prompt for one in demand(spec).requests(s, 40)) for s in "ab"}
    one, four = (demand(spec).peak_lengths("ab", 40, n_batch) for n_batch in (1, 4))
    assert one == (max(lengths[-1] for lengths in each.values()), 10)
    assert four[0] == ceil(max(fmean(lengths[-4:]) for lengths in each.values()))
    assert one[0] > 2 * demand(spec).mean_lengths()[0]
    assert demand("prompt=64 gen=8").peak_lengths("a", 40, 8) == (64, 8)


@pytest.mark.parametrize(
    ("text", "middle"),
    [
        ("512", 512),
        ("uniform:64:256", 160),
        ("normal:300:30", 300),
        ("lognormal:512:0.8", 512),
        ("quantiles:10@0:400@50:900@100", 400),
    ],
)
def test_distributions_have_their_middle(text: str, middle: int) -> None:
    draw = random.Random(1)
    drawn = [lengths(text, "prompt").draw(draw) for _ in range(4000)]
    assert median(drawn) == pytest.approx(middle, rel=0.05)
    assert min(drawn) >= 1


def test_a_histogram_is_drawn_by_its_counts(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_text("length,count\n10,3\n1000,1\n")
    draw, law = random.Random(0), lengths(f"histogram:{tmp_path / 'h.csv'}", "gen")
    drawn = [law.draw(draw) for _ in range(4000)]
    assert set(drawn) == {10, 1000}
    assert drawn.count(10) / 4000 == pytest.approx(0.75, abs=0.03)


def test_quantiles_are_drawn_as_they_stand() -> None:
    draw, law = random.Random(2), lengths("quantiles:10@0:10@25:110@75:1000@95:2000@100", "gen")
    drawn = [law.draw(draw) for _ in range(8000)]
    for least, share in ((11, 0.75), (60, 0.5), (111, 0.25), (1001, 0.05)):
        assert sum(one >= least for one in drawn) / 8000 == pytest.approx(share, abs=0.02)
    assert min(drawn) == 10
    assert max(drawn) <= 2000


def test_a_turn_begins_with_all_that_was_said_before() -> None:
    every = demand("prompt=uniform:50:60 gen=10 turns=3 system=100 think=1.5").requests("s", 6)
    assert [one.turn for one in every] == [0, 1, 2, 0, 1, 2]
    first, second, third = every[:3]
    assert second.n_prompt > first.n_prompt + first.n_gen
    assert second.parts[0] == first.parts[0] == ("system", 100)
    assert second.parts[1][0] == first.parts[1][0]
    assert (second.n_shared, third.n_shared) == (first.n_prompt, second.n_prompt)
    assert (first.n_shared, every[3].n_shared) == (0, 100)
    assert (first.think_s, second.think_s) == (0.0, 1.5)


def test_arrivals_have_the_rate_and_one_pattern_at_every_rate() -> None:
    asked = demand("prompt=8 gen=1").requests("0", 400)
    slow, fast = arrival_times(asked, 2.0), arrival_times(asked, 8.0)
    assert slow[-1] == pytest.approx(200.0)
    assert [a / b for a, b in zip(slow, fast, strict=True) if a and b] == pytest.approx([4.0] * 400)
    leading = arrival_times(asked, 2.0, over=100)
    assert leading[99] == pytest.approx(50.0)
    turns = arrival_times(demand("prompt=8 gen=1 turns=4").requests("0", 400), 2.0)
    assert turns.count(None) == 300
    assert turns[-4] == pytest.approx(200.0)


def test_mooncakes_columns_and_shared_blocks(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(
        '{"timestamp": 0, "input_length": 1100, "output_length": 52, "hash_ids": [0, 1, 2]}\n'
        '{"timestamp": 2000, "input_length": 1500, "output_length": 26, "hash_ids": [0, 1, 5]}\n'
        '{"timestamp": 3000, "input_length": 300, "output_length": 0, "hash_ids": [9]}\n'
    )
    first, second, third = demand(f"trace:{file}").requests("0", 3)
    assert first.parts == (("0/block 0", 512), ("0/block 1", 512), ("0/block 2", 76))
    assert (first.n_shared, second.n_shared, third.n_shared) == (0, 1024, 0)
    assert third.n_gen == 1
    assert (second.gap, third.gap) == pytest.approx((4 / 3, 2 / 3))
    again = demand(f"trace:{file}").requests("0", 6)
    assert [one.n_prompt for one in again[3:]] == [1100, 1500, 300]
    assert again[3].parts[0] == ("1/block 0", 512)


def test_azures_columns(tmp_path: Path) -> None:
    file = tmp_path / "azure.csv"
    file.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    )
    first, second = read_trace(str(file))
    assert (first.n_prompt, first.n_gen, second.n_prompt) == (374, 44, 396)
    assert second.at_s - first.at_s == pytest.approx(4.314579, abs=1e-5)


def test_sessions_of_a_trace_begin_alike(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text("at_s,n_prompt,n_gen,session\n0,100,5,a\n1,50,5,b\n2,180,5,a\n")
    every = demand(f"trace:{file}").requests("0", 3)
    assert [one.n_shared for one in every] == [0, 0, 100]
    assert every[0].parts[0][0] == every[2].parts[0][0] != every[1].parts[0][0]


def test_every_published_shape_has_a_source_and_can_be_drawn() -> None:
    assert {"chat", "summarize", "code", "rag", "reasoning", "chat-turns"} <= set(shapes())
    for name, shape in shapes().items():
        assert shape.source, name
        n_prompt, n_gen = demand(name).mean_lengths()
        each = demand(name).requests("mean", 2000)
        assert n_prompt == round(fmean(one.n_prompt for one in each))
        assert n_gen >= 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("chats", "did you mean|chat"),
        ("prompt=12", "gen is missing"),
        ("prompt=uniform:9:3 gen=1", "first is above the second"),
        ("prompt=quantiles:5@0:4@100 gen=1", "values that do not fall"),
        ("prompt=quantiles:5@0:9@99 gen=1", "rise from 0 to 100"),
        ("prompt=quantiles:5@0 gen=1", "rise from 0 to 100"),
        ("prompt=quantiles:5 gen=1", "is not quantiles:VALUE@PERCENT"),
        ("prompt=quantiles:nan@0:9@100 gen=1", "values that do not fall"),
        ("prompt=weibull:1:2 gen=1", "prompt: 'weibull:1:2' is not"),
        ("prompt=0 gen=1", "at least 1"),
        ("prompt=1 gen=1 prompt=2", "prompt is repeated"),
        ("prompt=1 gen=1 size=3", "'size=3' is not KEY=VALUE"),
        ("prompt=1 gen=1 system=-3", "system: '-3' is not"),
        ("trace:/nowhere.jsonl", "nowhere.jsonl"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(spec: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        demand(spec)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"timestamp": 0, "output_length": 5}\n', "t:1: n_prompt .*null|None"),
        (
            '{"timestamp": "x", "input_length": 3, "output_length": 5}\n',
            "t:1: .*not an arrival time",
        ),
        ('{"input_length": 3, "output_length": 5, "hash_ids": ["a"]}\n', "t:1: hash_ids"),
        ("{broken\n", "t:1"),
        ("at_s,n_prompt,n_gen\n", "no request"),
    ],
)
def test_a_bad_trace_names_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(InputError, match=words):
        read_trace(str(tmp_path / "t"))


def test_parts_make_up_the_prompt() -> None:
    for spec in itertools.chain(shapes(), ["prompt=lognormal:64:1 gen=4 turns=3 system=9"]):
        for one in demand(spec).requests("p", 60):
            assert sum(n for _, n in one.parts) == one.n_prompt
            assert 0 <= one.n_shared <= one.n_prompt
