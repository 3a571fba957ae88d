"""How many pairs a pilot asks for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bench.comparison.pilot import pairs_wanted, pilot
from bench.errors import InputError
from bench.experiment import Experiment, Grid
from bench.records.file import Results
from bench.statistics.paired import pairs_for
from tests.comparison.test_comparison import arms

EXPERIMENT = Experiment(
    name="e", question="?", grid=Grid(model=("m", "n"), quant=("none", "int8")), baseline="none"
)


def two_models(noise: float) -> Results:
    """The same pilot on two models, of which the second is three times slower."""
    one = arms(1.2, pairs=4, noise=noise)
    other = [
        replace(
            r,
            key=f"n{r.key}",
            variant=r.variant | {"model": "n", "name": r.variant["name"].replace("m/", "n/")},
            samples={
                "prefill_s": [3 * s for s in r.samples["prefill_s"]],
                "itl_s": [[3 * s for s in gaps] for gaps in r.samples["itl_s"]],
                "e2e_s": [3 * s for s in r.samples["e2e_s"]],
            },
        )
        for r in one.records
    ]
    return Results(records=[*one.records, *other], environments=one.environments)


def test_a_noisier_pilot_asks_for_more() -> None:
    quiet, loud = (pairs_wanted(EXPERIMENT, two_models(noise), 0.01) for noise in (0.002, 0.01))
    assert 6 <= quiet < loud


def test_every_arm_is_planned_against_the_baseline_of_its_own_model() -> None:
    alone = replace(EXPERIMENT, grid=replace(EXPERIMENT.grid, model=("m",)))
    one = pairs_wanted(alone, arms(1.2, pairs=4, noise=0.01), 0.01)
    assert pairs_wanted(EXPERIMENT, two_models(0.01), 0.01) == one


def test_the_number_of_pairs_by_hand() -> None:
    log_ratios = [0.01, 0.02, 0.03]  # a standard deviation of 0.01, at worst of 0.0212
    at_worst = 0.01 * math.sqrt(2 / 0.44629)  # chi-square with 2 degrees: 20% lie below 0.446
    needed = (1.959964 * at_worst / math.log(1.01)) ** 2 * math.pi / 3
    assert pairs_for(0.01, log_ratios) == math.ceil(needed) == 19
    assert pairs_for(0.5, log_ratios) == 6
    with pytest.raises(InputError, match="target: 0 must be above 0"):
        pairs_for(0, log_ratios)
    with pytest.raises(InputError, match="2 pairs are too few"):
        pairs_for(0.01, log_ratios[:2])


def test_a_pilot_of_one_new_token_is_planned_by_its_prefill() -> None:
    def only_prompts(noise: float) -> Results:
        results = arms(1.2, pairs=4, noise=noise)
        one_token = {"n_prompt": 8, "n_gen": 1, "n_batch": 2}
        results.records = [
            replace(r, workload=one_token, samples=r.samples | {"itl_s": [[]] * 3})
            for r in results.records
        ]
        return results

    alone = replace(EXPERIMENT, grid=replace(EXPERIMENT.grid, model=("m",)))
    quiet, loud = (pairs_wanted(alone, only_prompts(noise), 0.01) for noise in (0.002, 0.01))
    assert 6 <= quiet < loud


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(InputError, match="would take"):
        pairs_wanted(EXPERIMENT, two_models(0.05), 0.001)
    few = Results(records=arms(1.2, pairs=2).records)
    with pytest.raises(InputError, match="too few good pairs"):
        pairs_wanted(EXPERIMENT, few, 0.01)
    assert pairs_wanted(EXPERIMENT, Results(records=arms(1.2, pairs=3).records), 0.01) >= 6
    assert pilot(EXPERIMENT).measuring.pairs == 4
