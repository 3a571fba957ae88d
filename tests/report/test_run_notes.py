"""What stands under the table of a run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.comparison import Rules, compare
from bench.experiment import Experiment, load_experiment
from bench.records.file import Results, read
from bench.report.tables import verdicts
from bench.report.tables.run import notes, show
from bench.summary import summarise
from bench.summary.absence import absent_of
from tests.campaign.base import full, machine
from tests.slo_results import write_search


@pytest.mark.parametrize(
    ("share", "said"), [(0.07, True), (0.49, True), (0.5, False), (1.0, False)]
)
def test_a_scheme_that_leaves_most_of_a_model_out_is_said(share: float, said: bool) -> None:
    records = []
    for number in range(2):
        for quant in ("none", "int8-weight-only"):
            found = full(quant, 1, number)
            fraction = 0.0 if quant == "none" else share
            records.append(replace(found, model=found.model | {"quantized_fraction": fraction}))
    one = machine()
    rows = summarise(Results(environments={one.id: one}, records=records)).rows
    text = [line for line in notes(load_experiment("quickstart"), rows) if "stay in floats" in line]
    assert len(text) == said
    assert all(f"only {share:.0%}" in line and "int8-weight-only" in line for line in text)


def test_a_quantized_checkpoint_is_told_against_the_model_it_was_made_of() -> None:
    folder = Path(__file__).parents[2] / "results/ready-w8a8-cpu"
    experiment = load_experiment(str(folder / "experiment.toml"))
    text = show(experiment, read(folder), folder, "md")
    said = re.findall(r"\*\*.*w8a8-dynamic\*\* at 128\+32 x ([14]): decodes 1.[0-9]+x", text)
    assert said == ["1", "4"]
    assert text.count("faster, not at equal quality") == 2


def test_a_run_says_what_compare_says() -> None:
    """Of 12 arms and workloads in these records, some have a verdict and some have none."""
    folder = Path(__file__).parents[2] / "results/engines-standard-cpu"
    experiment = load_experiment(str(folder / "experiment.toml"))
    text = show(experiment, read(folder), folder, "md")
    rows = compare(read(folder), Rules(), experiment.baseline)
    words = {"higher": "faster", "lower": "slower", "ambiguous": "no verdict: the interval"}
    seen = set()
    for row in (row for row in rows if row.metric == "decode"):
        name = row.candidate.removeprefix("smollm2-135m-instruct/")
        assert row.sizes is not None
        start = f"- **{name}** at 128+32 x {row.sizes.n_batch}: "
        (said,) = [line for line in text.splitlines() if line.startswith(start)]
        assert words.get(row.verdict, "no verdict: `") in said
        seen.add(row.verdict)
    assert seen == {"higher", "ambiguous", "invalid"}
    assert "- `DRIFT`: speed changed" in text


def test_without_its_statistics_a_run_says_how_its_pairs_lie(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("scipy")

    monkeypatch.setattr(verdicts, "compare", missing)
    folder = Path(__file__).parents[2] / "results/engines-standard-cpu"
    experiment = load_experiment(str(folder / "experiment.toml"))
    text = show(experiment, read(folder), folder, "md")
    assert "no verdict" not in text
    assert "faster, at equal quality" in text


def test_two_arms_at_one_level_of_service_are_compared_by_their_rates(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "r", {"m/endpoint/none": 0.2, "m/endpoint/fast": 0.1}, 3)
    grid = replace(Experiment(name="e", question="?").grid, model=("m",), engine=("endpoint",))
    grid = replace(grid, quant=("none", "fast"))
    experiment = Experiment(name="e", question="Which?", baseline="none", grid=grid)
    text = show(experiment, read(folder), folder, "md")
    (said,) = re.findall(r"sustains ([0-9.]+)x the requests a second within ttft_p95", text)
    assert 1.6 < float(said) < 2.6
    assert "the records do not hold it" not in text
    (arm, _) = summarise(read(folder)).rows
    assert (
        absent_of(arm)["decode_tok_s"]
        == "a search gives the rate of requests that meets the limits"
    )
    assert "3 pairs estimate a difference" in text
