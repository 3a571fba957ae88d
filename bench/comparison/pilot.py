"""How many pairs an experiment needs, from a pilot of its own: fixed before the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bench.comparison import by_workload, opponents
from bench.comparison.judging import pairs_of
from bench.errors import InputError
from bench.experiment import Experiment
from bench.records.file import Results
from bench.statistics.paired import log_ratios, pairs_for
from bench.summary import Replicate, summarise
from bench.summary.pooling import Pooling

PILOT_PAIRS: Final = 4
MOST_PAIRS: Final = 100
"""A plan of more is refused: a steadier machine or a wider target is the better answer."""


def pilot(experiment: Experiment) -> Experiment:
    """The first pairs of the experiment; they are the first of the whole as well."""
    return with_pairs(experiment, PILOT_PAIRS)


def with_pairs(experiment: Experiment, pairs: int) -> Experiment:
    """The experiment with that many replicates of each variant."""
    return replace(experiment, measure=dict(experiment.measure) | {"pairs": pairs})


def pairs_wanted(experiment: Experiment, results: Results, target: float) -> int:
    """Pairs for a half-width of `target` (a share) on the decode ratio of every arm and workload.

    Only the spread of the pilot is looked at, never its ratios. Raises InputError.
    """
    arms = summarise(results).arms
    against = opponents({n: rows[0].arm for n, rows in arms.items()}, experiment.baseline, None)
    wanted: list[int | None] = []
    for name, base in against.items():
        ours, theirs = by_workload(arms[base]), by_workload(arms[name])
        wanted += [
            _pairs(ours[sizes], theirs[sizes], target) if sizes in ours else None
            for sizes in theirs
        ]
    needed = [n for n in wanted if n is not None]
    if not needed:
        raise InputError("--target: the pilot has too few good pairs to plan from")
    if max(needed) > MOST_PAIRS:
        raise InputError(
            f"--target {target:.1%} would take {max(needed)} pairs on this machine, more than "
            f"{MOST_PAIRS}; the pilot is kept: choose a wider target, or fix --pairs"
        )
    return max(*needed, PILOT_PAIRS)


def _pairs(base: Pooling, other: Pooling, target: float) -> int | None:
    speeds = [(_speed(one), _speed(two)) for one, two in pairs_of(base, other)]
    if len(speeds) < 3:
        return None
    return pairs_for(target, log_ratios([b for b, _ in speeds], [c for _, c in speeds]))


def _speed(one: Replicate) -> float:
    return one.figures["decode_tok_s"] or one.figures["prefill_tok_s"] or 0.0
