"""What stands under the table of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.experiment import load_experiment
from bench.records.file import Results
from bench.report.tables.run import notes
from bench.summary import summarise
from tests.campaign.base import full, machine


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
