"""The Python API: from an experiment to a verdict in ten lines. docs/python.md.

Rows have the keys that `-o json` prints. Wherever results are asked for, `Results`, a results
folder or a records file will do.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import InputError
from bench.experiment import Experiment, load_experiment
from bench.records.file import Results, read

if TYPE_CHECKING:
    from bench.cost.scenario import Scenario
    from bench.runner.session import Progress

Row = dict[str, Any]
AnyResults = Results | Path | str
log = logging.getLogger("bench")


class Logged:
    """Progress as lines of the logger `bench`."""

    def say(self, text: str) -> None:
        log.warning("%s", text)

    def step(self, done: int, total: int, title: str) -> None:
        log.info("[%d/%d] %s", done + 1, total, title)

    def phase(self, text: str) -> None:
        log.debug("%s", text)


def run(
    experiment: Experiment | Path | str,
    into: Path | str | None = None,
    *,
    progress: Progress | None = None,
) -> Results:
    """Measure what is missing of an experiment, as `bench run` does; returns all that it asks for.

    `into`: the results folder, by default results/local/NAME. A replicate that failed is a record
    too. Raises InputError, or UnsupportedError if no arm can run on this machine.
    """
    from bench import runner

    asked = experiment if isinstance(experiment, Experiment) else load_experiment(str(experiment))
    if problems := list(asked.problems()):
        raise InputError(*problems)
    folder = Path(into) if into is not None else Path("results/local") / asked.name
    return runner.run(asked, folder, progress or Logged()).results


def summarise(results: AnyResults, experiment: Experiment | None = None) -> list[Row]:
    """One row a variant, workload and machine: speed, memory, energy, quality, validity.

    `experiment`: the one whose price of an hour `usd_per_mtok` is computed under.
    """
    from bench.report.tables.row import shown, table
    from bench.summary import summarise as rows_of

    price = experiment.cost if experiment is not None else None
    return [table(one) for one in shown(rows_of(_results(results)), price)]


def compare(
    results: AnyResults,
    *,
    baseline: str | None = None,
    candidate: str | None = None,
    against: AnyResults | None = None,
    metrics: Sequence[str] | None = None,
    margin: float | None = None,
    confidence: float = 0.95,
    max_ppl_ratio: float | None = 1.02,
    pool: bool = False,
) -> list[Row]:
    """Candidate over baseline: one row a metric and workload, with interval and verdict.

    `baseline`, `candidate`: an arm's name, scheme, engine, mode or model. `against`: results of
    another run, in which each arm's baseline is the arm of its own name. Raises InputError.
    """
    from bench.comparison import MARGIN, Rules
    from bench.comparison import compare as rows_of
    from bench.comparison import metrics as all_metrics
    from bench.comparison.stored import beside
    from bench.experiment import Gate
    from bench.report.tables.compare import table

    rules = Rules(
        margin=MARGIN if margin is None else margin,
        confidence=confidence,
        metrics=tuple(metrics) if metrics is not None else all_metrics(),
        gate=Gate(max_ppl_ratio=max_ppl_ratio),
        pool=pool,
    )
    if against is not None and baseline is not None:
        raise InputError("baseline: with `against`, each arm's baseline is the stored one")
    if against is None:
        rows = rows_of(_results(results), rules, baseline, candidate)
    else:
        rows = beside(_results(results), _results(against), rules, candidate)
    return [table(row) for row in rows]


def price(
    results: AnyResults,
    *,
    rent: float | None = None,
    utilization: float = 1.0,
    scenario: Scenario | str | None = None,
    gpu: str | None = None,
) -> list[Row]:
    """What a million tokens cost: one row a variant and workload, with interval and band.

    `rent`: dollars for an hour of the machine, busy for the share `utilization` of it; or
    `scenario`: a shipped one's name, a file, or a `bench.cost.scenario.Scenario`. `gpu`: price as
    this card, whatever was measured. Raises InputError.
    """
    from bench.cost.hour import as_scenario, stated
    from bench.cost.pricing import Terms
    from bench.cost.pricing import price as priced
    from bench.cost.scenario import load_scenario
    from bench.cost.throughput import throughputs

    if (rent is None) == (scenario is None):
        raise InputError("price: give either rent or scenario")
    if isinstance(scenario, str):
        scenario = load_scenario(scenario)
    if scenario is None:
        assumed = stated(rent, utilization, "given")
        assert assumed is not None
        scenario = as_scenario(assumed, gpu)
    items = throughputs(_results(results))
    if not items:
        raise InputError("price: the results hold no finished measurement")
    terms = Terms(any_card=gpu is not None)
    return [row.table() for row in priced(items, scenario, terms)]


def judge(claim: Path | str, results: AnyResults | None = None) -> list[Row]:
    """A verdict on each sub-claim of a source in claims/, or of a claim file, with its evidence.

    `results`: own measurements, which count most. Raises InputError.
    """
    from bench.claims.files import load_claims
    from bench.claims.findings import as_row, findings

    own = Results() if results is None else _results(results)
    return [as_row(found) for found in findings(load_claims(str(claim)), own)]


def _results(results: AnyResults) -> Results:
    """The results that are meant; a line that cannot be read is warned about."""
    if isinstance(results, Results):
        return results
    found = read(Path(results))
    for problem in found.problems:
        warnings.warn(f"skipped a broken line: {problem}", stacklevel=3)
    return found
