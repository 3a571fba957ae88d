"""How many pairs an experiment needs, from a pilot of its own: fixed before the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bench.analysis import log_ratios, pairs_for
from bench.errors import InputError
from bench.experiment import Experiment
from bench.judging import pairs_of
from bench.records import Record, Results
from bench.summary import replicate_figures

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
    arms = {v.name: v.matches(experiment.baseline) for v in experiment.variants}
    bases = [name for name, is_base in arms.items() if is_base]
    wanted = [
        _pairs(results, base, name, work, target)
        for name, is_base in arms.items()
        if not is_base
        for base in bases[:1]
        for work in {tuple(sorted(record.workload.items())) for record in results.records}
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


def _pairs(
    results: Results, base: str, name: str, work: tuple[tuple[str, int], ...], target: float
) -> int | None:
    def of(arm: str) -> list[Record]:
        return [
            record
            for record in results.records
            if record.variant["name"] == arm and tuple(sorted(record.workload.items())) == work
        ]

    pairs = pairs_of(of(base), of(name))
    speeds = [(_speed(pair.baseline), _speed(pair.candidate)) for pair in pairs]
    if len(speeds) < 3:
        return None
    return pairs_for(target, log_ratios([b for b, _ in speeds], [c for _, c in speeds]))


def _speed(record: Record) -> float:
    figures = replicate_figures(record)
    return figures["decode_tok_s"] or figures["prefill_tok_s"] or 0.0
