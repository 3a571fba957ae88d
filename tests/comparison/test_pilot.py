"""How many pairs a pilot asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.comparison.pilot import pairs_wanted, pilot
from bench.errors import InputError
from bench.experiment import Experiment, Grid
from bench.records.file import Results
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


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(InputError, match="would take"):
        pairs_wanted(EXPERIMENT, two_models(0.05), 0.001)
    few = Results(records=arms(1.2, pairs=2).records)
    with pytest.raises(InputError, match="too few good pairs"):
        pairs_wanted(EXPERIMENT, few, 0.01)
    assert pilot(EXPERIMENT).measuring.pairs == 4
