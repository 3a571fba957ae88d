"""Requests that differ, on engines that load a model themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench.cli import main
from bench.demand import demand
from bench.devices import Reading
from bench.engines.messages import Answered, Job, Served, TokenCounts
from bench.engines.registry import declines
from bench.engines.transformers.engine import TransformersEngine
from bench.errors import UnsupportedError
from bench.experiment import Measure, Variant, Workload
from bench.records import Record
from bench.records.file import read
from bench.summary import summarise
from bench.summary.replicate import speeds
from bench.worker import measure
from tests.conftest import TINY
from tests.fakes import FakeClock, FakeEngine, FakeReader
from tests.worker.test_worker import quiet

SPEC = "prompt=uniform:4:40 gen=uniform:2:9"
WORKLOAD = Workload(n_prompt=22, n_gen=6, requests=SPEC)
RULES = Measure(pairs=1, iterations=4, window_s=0.0, warmup_max_s=0.0)


class Sized(FakeEngine):
    """Remembers which sizes were started, with how many prefills of each."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[list[int]] = []

    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        super().start(n_prompt, n_gen, n_batch)
        self.sizes.append([n_prompt, n_gen, 0])

    def prefill(self) -> None:
        super().prefill()
        self.sizes[-1][2] += 1


def lengths(seed: str, count: int) -> list[tuple[int, int]]:
    return [(one.n_prompt, one.n_gen) for one in demand(SPEC).requests(f"{seed}/{SPEC}", count)]


def test_each_request_is_run_twice_and_measured_once_after_the_shortest_was_steady() -> None:
    runs = Sized()
    figures = measure(runs, FakeClock([0.01]), FakeReader(), WORKLOAD, RULES, quiet, "7/0")
    asked = lengths("7/0", 4)
    samples = figures["samples"]
    assert list(zip(samples["n_prompt"], samples["n_gen"], strict=True)) == asked
    assert [len(gaps) for gaps in samples["itl_s"]] == [n_gen - 1 for _, n_gen in asked]
    shortest = min(asked, key=sum)
    assert runs.sizes == [[*shortest, 1], *([*one, 2] for one in asked)]
    assert samples["wall_s"] == pytest.approx(0.01 * sum(n_gen for _, n_gen in asked))
    assert samples["n_cached"] == [0] * 4
    assert figures["energy"] == {}
    assert "run once before" in figures["absent"]["energy_j"]


class Together(Sized):
    """Computes requests that differ together, each round in a second."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[list[tuple[int, int]], int]] = []

    def together(self, sizes: Sequence[tuple[int, int]], at_once: int) -> Served:
        self.asked.append((list(sizes), at_once))
        each = [
            Answered(
                prefill_s=0.1,
                itl_s=(0.1,) * (n_gen - 1),
                e2e_s=0.1 * n_gen,
                counts=TokenCounts(n_prompt=n_prompt, n_gen=n_gen, n_shared=0, n_cached=0),
            )
            for n_prompt, n_gen in sizes
        ]
        return Served(requests=each, wall_s=1.0)


def test_an_engine_that_takes_them_together_is_given_whole_rounds() -> None:
    runs, rules = Together(), Measure(pairs=1, iterations=2, window_s=1.5, warmup_max_s=0.0)
    work = replace(WORKLOAD, n_batch=3)
    reader = FakeReader(Reading(energy={"energy_j": 5.0}), has_energy=True)
    figures = measure(runs, FakeClock([0.01]), reader, work, rules, quiet, "7/0")
    asked = lengths("7/0", 6)  # two for each of three sequences
    assert runs.asked == [(asked, 3)] * 3  # the first is discarded, and two fill the window
    assert figures["samples"]["n_gen"] == [n_gen for _, n_gen in asked] * 2
    assert figures["samples"]["wall_s"] == 2.0
    assert figures["energy"] == {"energy_j": 5.0}
    assert reader.windows == 1  # none for prefill and decode, which cannot be told apart


@pytest.mark.parametrize("step_s", [0.01, 0.5])
def test_a_fast_arm_and_a_slow_one_have_the_same_mix(step_s: float) -> None:
    rules = Measure(pairs=1, iterations=4, window_s=1.0, warmup_max_s=0.0)
    figures = measure(
        FakeEngine(), FakeClock([step_s]), FakeReader(), WORKLOAD, rules, quiet, "7/0"
    )
    made, asked = figures["samples"]["n_gen"], [n_gen for _, n_gen in lengths("7/0", 4)]
    n_rounds = len(made) // 4
    assert made == asked * n_rounds
    assert (n_rounds > 1) == (step_s < 0.1)
    assert figures["notes"]["requests_sha256"] == demand(SPEC).sha256(f"7/0/{SPEC}")


def test_other_seeds_ask_otherwise() -> None:
    each = {demand(SPEC).sha256(f"{seed}/{SPEC}") for seed in ("7/0", "7/1", "8/0")}
    assert len(each) == 3


def test_an_engine_that_makes_too_few_tokens_of_one_of_them_is_found_out() -> None:
    with pytest.raises(UnsupportedError, match="tokens, not"):
        measure(
            FakeEngine(lost_tokens=1), FakeClock([0.1]), FakeReader(), WORKLOAD, RULES, quiet, "0"
        )


def test_a_run_asks_both_arms_the_same_and_adds_up_their_tokens(tmp_path: Path) -> None:
    flags = ["-e", "synthetic", "-q", "none,fast", "--requests", SPEC, "--pairs", "2"]
    options = ["--option", "speedup.fast=2.0", "--option", "noise=0.01"]
    assert main(["run", *flags, *options, "--into", str(tmp_path)]) == 0
    records = read(tmp_path).records
    by_replicate: dict[int, list[Record]] = {}
    for record in records:
        by_replicate.setdefault(record.replicate, []).append(record)
    hashes = set()
    for one, other in by_replicate.values():
        mixes = [r.samples["n_gen"][:3] + r.samples["n_prompt"][:3] for r in (one, other)]
        assert mixes[0] == mixes[1]
        assert one.model["notes"] == other.model["notes"]
        hashes.add(one.model["notes"]["requests_sha256"])
    assert len(hashes) == 2
    for record in records:
        samples, found = record.samples, speeds(record)
        assert samples["wall_s"] == pytest.approx(sum(samples["e2e_s"]))
        assert found["output_tok_s"] == pytest.approx(sum(samples["n_gen"]) / samples["wall_s"])
        assert found["prefill_tok_s"] == pytest.approx(
            sum(samples["n_prompt"]) / sum(samples["prefill_s"])
        )
    assert all(row.value("output_tok_s") for row in summarise(read(tmp_path)).rows)


@pytest.mark.parametrize(
    ("engine", "work", "words"),
    [
        ("graph", {"requests": SPEC}, "compiled for one prompt length"),
        ("transformers", {"requests": SPEC, "n_batch": 4}, "one at a time: use -b 1"),
        ("llama.cpp", {"slo": "ttft_p95=1"}, "--slo needs a server"),
        ("transformers", {"requests": SPEC}, None),
        ("vllm", {"requests": SPEC, "n_batch": 4}, None),
        ("endpoint", {"requests": SPEC, "n_batch": 4}, None),
    ],
)
def test_what_an_engine_cannot_be_asked_is_said_in_a_line(
    engine: str, work: dict[str, object], words: str | None
) -> None:
    work = {"n_prompt": 8, "n_gen": 8, **work}
    why = declines(Variant(model="m", engine=engine), [Workload(**work)], 512)  # type: ignore[arg-type]  # a table of arguments
    assert why is None if words is None else words in str(why)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--requests", SPEC, "-b", "2"], "one at a time: use -b 1"),
        (["--slo", "ttft_p95=1"], "--slo needs a server"),
    ],
)
def test_an_arm_is_refused_before_anything_is_loaded(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = ["--pairs", "1", "--into", str(tmp_path)]
    assert main(["run", "-e", "synthetic", "-q", "none", *flags, *into]) == 3
    assert words in capsys.readouterr().err
    assert not (tmp_path / "records.jsonl").exists()


def test_a_model_is_asked_in_its_own_lengths(tiny_folder: Path) -> None:
    runs = TransformersEngine()
    runs.load(
        Job(
            architecture=TINY,
            folder=tiny_folder,
            random_seed=0,
            initializer_range=0.02,
            quant="none",
            mode="eager",
            dtype="auto",
            device="cpu",
            threads=None,
            seed=7,
            replicate=0,
        )
    )
    clock = FakeClock([0.01])
    figures = measure(runs, clock, FakeReader(), WORKLOAD, RULES, quiet, "7/0")
    asked = lengths("7/0", 4)
    assert figures["samples"]["n_gen"] == [n_gen for _, n_gen in asked]
    # Of the largest request: keys and values, layers, heads, positions, dimensions, bytes.
    positions = sum(max(asked, key=sum)) - 1
    assert figures["notes"]["cache_bytes"] == 2 * 2 * 2 * positions * 8 * 4
