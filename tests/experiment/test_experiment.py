"""Plans: which arms, in which order, and what counts as the same measurement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from bench.comparison import opponents
from bench.engines.registry import ENGINES
from bench.errors import InputError, unknown
from bench.experiment import (
    Experiment,
    Grid,
    Variant,
    Workload,
    experiments,
    load_experiment,
    started_by,
)
from bench.experiment.modes import engine_and_mode
from bench.experiment.plan import plan
from bench.experiment.selectors import chosen, selects, short_names
from bench.identity import key
from bench.models import resolve_model
from bench.runner.arms import Arm
from bench.summary.arm import ArmSettings as Settings

A, B, C = (Variant(model="m", quant=name) for name in "abc")


def names(pairs: int, seed: int = 0, arms: list[Variant] | None = None) -> list[str]:
    return [step.variant.quant for step in plan(arms or [A, B], pairs, seed)]


@pytest.mark.parametrize("seed", range(8))
def test_two_arms_alternate_abba(seed: int) -> None:
    order = names(4, seed)
    for first, second in ((order[0:2], order[2:4]), (order[4:6], order[6:8])):
        assert sorted(first) == ["a", "b"]
        assert second == first[::-1]


def test_a_linear_drift_cancels_over_two_blocks() -> None:
    total: Counter[str] = Counter()
    for step in plan([A, B, C], pairs=6, seed=3):
        total[step.variant.quant] += step.position
    assert len(set(total.values())) == 1


def test_every_pair_holds_every_arm_side_by_side() -> None:
    steps = plan([A, B, C], pairs=5, seed=1)
    assert [step.position for step in steps] == list(range(15))
    for index in range(5):
        block = [step for step in steps if step.index == index]
        assert {step.variant.quant for step in block} == {"a", "b", "c"}
        assert all(b.position - a.position == 1 for a, b in pairwise(block))


def test_the_order_is_seeded() -> None:
    assert names(8, seed=1) == names(8, seed=1)
    assert len({tuple(names(8, seed)) for seed in range(20)}) > 1


def test_a_name_tells_arms_apart() -> None:
    arms = [
        A,
        B,
        replace(A, mode="cuda-graph"),
        replace(A, threads=2),
        replace(A, dtype="float16"),
        replace(A, options={"group": 64}),
    ]
    assert len({arm.name for arm in arms}) == len(arms)
    assert A.name == "m/transformers/a"


def test_a_started_server_is_named_by_a_mark_that_is_explained() -> None:
    served = {"serve": "env A=1 /opt/vllm serve {model} --port {port} --quantization fp8"}
    variant = Variant(model="m", engine="endpoint", options=served)
    (line,) = started_by([served, {}, served])
    mark, command = line.split(" is the server started by: ")
    assert mark.startswith("serve=vllm-")
    assert mark in variant.name.split("/")
    assert command == served["serve"]
    assert list(started_by([{"threads": 1}])) == []


def test_the_key_says_what_was_measured_not_how_often() -> None:
    experiment = load_experiment("quickstart")
    arm = Arm(variant=A, model=resolve_model("llama-3.2-1b@random"), identity="w")
    workload = Workload(n_prompt=1, n_gen=1)
    same = arm.key(replace(experiment, measure={"pairs": 9}), workload, 0)
    assert arm.key(experiment, workload, 0) == same
    others = {
        arm.key(experiment, workload, 1),
        arm.key(experiment, replace(workload, n_gen=2), 0),
        arm.key(replace(experiment, seed=1), workload, 0),
        arm.key(replace(experiment, level="strict"), workload, 0),
        replace(arm, identity="other").key(experiment, workload, 0),
        replace(arm, variant=B).key(experiment, workload, 0),
    }
    assert len(others | {same}) == 7


def test_an_engine_of_ours_that_computes_otherwise_is_measured_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment, workload = load_experiment("quickstart"), Workload(n_prompt=1, n_gen=1)
    arm = Arm(variant=A, model=resolve_model("llama-3.2-1b@random"), identity="w")
    before = arm.key(experiment, workload, 0)
    changed = replace(ENGINES["transformers"], revision=2)
    monkeypatch.setitem(ENGINES, "transformers", changed)  # type: ignore[misc]
    assert arm.key(experiment, workload, 0) != before


def test_keys_are_stable() -> None:
    # Written in records: a change here would make every finished replicate run again.
    assert key("measurement", a=1, b="x") == key("measurement", b="x", a=1) == "2ab485592b3776dd"


@pytest.mark.parametrize("name", sorted(experiments()))
def test_shipped_experiments_are_good(name: str) -> None:
    experiment = load_experiment(name)
    assert experiment.name == name
    assert experiment.variants
    arms = {v.name: Settings(**v.table(), settings=v.table()) for v in experiment.variants}
    bases = set(experiment.baselines)
    assert bases
    if len(arms) > 1:
        found = opponents(arms, experiment.baseline, None)
        assert set(found) == set(arms) - bases


def test_an_arm_with_an_option_of_its_own_is_compared_with_the_one_without() -> None:
    def of(*options: tuple[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
        arms = [Variant(model="m", quant=quant, options=dict(own)) for quant, own in options]  # type: ignore[arg-type]
        return {arm.name: arm.table() for arm in arms}

    tuned = {"compile": "model"}
    alone = of(("none", {}), ("none", tuned), ("int8", {}))
    assert chosen("none", alone) == ["m/transformers/none"]
    assert chosen("none/compile=model", alone) == ["m/transformers/none/compile=model"]
    both = of(("none", {}), ("none", tuned), ("int8", {}), ("int8", tuned))
    assert chosen("none", both) == ["m/transformers/none", "m/transformers/none/compile=model"]
    everywhere = of(("none", tuned), ("int8", tuned))
    assert chosen("none", everywhere) == ["m/transformers/none/compile=model"]
    assert chosen("fp8", everywhere) == []


def test_a_misspelt_experiment_is_named() -> None:
    with pytest.raises(InputError, match="did you mean 'quickstart'"):
        load_experiment("quikstart")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[grid]\nn_prompt = [0]", "grid.n_prompt: 0 must be at least 1"),
        ("[grid]\nquant = []", "grid.quant: must not be empty"),
        ("[grid]\nquant = ['a', 'a']", "grid.quant: a value is repeated"),
        ("[measure]\npairs = 0", "measure.pairs: must be at least 1"),
        ("[measure]\npairs = 100000000000", "measure.pairs: must be at least 1 and at most 10,000"),
        ("[measure]\nwindow_s = 1e300", "measure.window_s: must be at most 10,000,000"),
        ("[measure]\nidle_s = 1e300", "measure.idle_s: must be at most 10,000,000"),
        ("[grid]\nn_prompt = [99999999999999999999]", "n_prompt: 1e+20 must be at most 1,000,000"),
        ("[grid]\nthreads = 100000000", "grid.threads: must be at least 1 and at most 10,000"),
        (
            f"[grid]\nn_prompt = {list(range(1, 400))}\nn_gen = {list(range(1, 400))}",
            "grid.n_prompt, n_gen: 159,201 combinations; at most 100,000 are measured",
        ),
        ("[gate]\nmax_ppl_ratio = -1", "gate.max_ppl_ratio: must be above 0"),
        ("[gate]\nmin_same_top1 = 2", "gate.min_same_top1: must be at least 0 and at most 1"),
        ("[measure]\npears = 3", "measure.pears: unknown key; did you mean 'pairs'?"),
        ("[measure]\nlevel = 'strict'", "measure.level: unknown key; known: pairs, iterations"),
        ("[measure]\nwindow_s = 'x'", "measure.window_s: expected a number, got 'x'"),
        ("[measure]\npairs = 2.5", "measure.pairs: expected a whole number, got 2.5"),
        ("[cost]\nusd_per_hour = 0.0\nsource = 's'", "cost.usd_per_hour: must be above 0"),
        ("[cost]\nusd_per_hour = 1.0", "cost.source: missing"),
        (
            "[cost]\nusd_per_hour = 1.0\nutilization = 1.5\nsource = 's'",
            "cost.utilization: must be above 0 and at most 1",
        ),
    ],
)
def test_problems_name_their_key(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_text(f"name = 'e'\nquestion = 'q'\n{text}\n")
    with pytest.raises(InputError) as error:
        load_experiment(str(path))
    assert problem in str(error.value)
    assert isinstance(load_experiment("quickstart"), Experiment)


@pytest.mark.parametrize("seed", [-1, 10**20])
def test_a_seed_is_one_that_every_library_takes(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_text(f"name = 'e'\nquestion = 'q'\nseed = {seed}\n")
    with pytest.raises(InputError, match="seed: must be at least 0 and below"):
        load_experiment(str(path))


def test_a_file_of_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_bytes(b"\xef\xbb\xbfname = 'e'\r\nquestion = 'q'\r\n")
    assert load_experiment(str(path)).name == "e"


def test_a_name_that_is_not_known_is_shown_in_one_line() -> None:
    assert unknown("model", "a\nb" + "x" * 500, ["c"]).startswith("unknown model 'a\\nbxxx")
    assert len(unknown("model", "x" * 5000, ["c"])) < 300


def test_arms_written_out_stand_in_for_the_grid_s_combinations(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(
        'name = "x"\nquestion = "?"\n'
        '[grid]\nmodel = ["a", "b"]\nquant = ["ignored"]\noptions = {k = 1, l = 1}\n'
        '[[arm]]\nengine = "e"\nquant = "none"\noptions = {k = 2}\n'
        '[[arm]]\nmodel = "c"\nmode = "compiled"\n'
    )
    found = load_experiment(str(path)).variants
    assert [(v.model, v.engine, v.quant, v.mode) for v in found] == [
        ("a", "e", "none", "eager"),
        ("b", "e", "none", "eager"),
        ("c", "graph", "none", "compiled"),
    ]
    assert [dict(v.options) for v in found] == [{"k": 2, "l": 1}] * 2 + [{"k": 1, "l": 1}]


def test_an_arm_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\nquestion = "?"\n[[arm]]\n[[arm]]\n')
    with pytest.raises(InputError, match=r"arm: .*/none is repeated"):
        load_experiment(str(path))


def test_a_selector_of_several_parts_needs_all_of_them():
    arm = Variant(model="m", quant="none", mode="cuda-graph")
    assert selects("none/cuda-graph", arm.table())
    assert selects("m/none", arm.table())
    assert not selects("none/compiled", arm.table())
    assert not selects("cuda-graph/int8-dynamic", arm.table())
    assert selects("none/eager", Variant(model="m").table())


def test_short_names_of_arms_that_differ_by_a_setting_alone_keep_the_scheme():
    assert short_names(["m/t/none", "m/t/none/compiled"]) == {
        "m/t/none": "none",
        "m/t/none/compiled": "none/compiled",
    }


def test_a_mode_that_moved_is_taken_as_its_engine_and_said() -> None:
    grid = Grid(model=("m",), engine=("transformers",), mode=("eager", "cuda-graph"))
    asked = Experiment(name="e", question="q", grid=grid)
    assert [(v.engine, v.mode) for v in asked.variants] == [
        ("transformers", "eager"),
        ("graph", "cuda-graph"),
    ]
    (line,) = asked.moved
    assert "-e graph --mode cuda-graph" in line


def test_an_engine_runs_in_its_default_mode_where_none_is_asked_for() -> None:
    grid = Grid(model=("m",), engine=("transformers", "graph"))
    asked = Experiment(name="e", question="q", grid=grid)
    assert [(v.engine, v.mode) for v in asked.variants] == [
        ("transformers", "eager"),
        ("graph", "compiled"),
    ]
    assert asked.moved == []


def test_the_table_of_default_modes_is_that_of_the_engines() -> None:
    for name, of in ENGINES.items():
        assert engine_and_mode(name, None) == (name, of.modes[0])
