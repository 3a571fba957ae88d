"""How many pairs an experiment needs, from a pilot of its own: fixed before the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bench.comparison import opponents
from bench.comparison.judging import pairs_of
from bench.errors import InputError
from bench.experiment import Experiment
from bench.records import Record
from bench.records.file import Results
from bench.summary import replicate_figures
from bench.summary.statistics import log_ratios, pairs_for

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
    arms: dict[str, list[Record]] = {}
    for record in results.records:
        arms.setdefault(record.variant["name"], []).append(record)
    wanted = [
        _pairs(arms[base], arms[name], work, target)
        for name, base in opponents(arms, experiment.baseline, None).items()
        for work in {_work(record) for record in arms[name]}
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


def _work(record: Record) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(record.workload.items()))


def _pairs(
    base: list[Record], other: list[Record], work: tuple[tuple[str, int], ...], target: float
) -> int | None:
    ours, theirs = ([r for r in arm if _work(r) == work] for arm in (base, other))
    speeds = [(_speed(pair.baseline), _speed(pair.candidate)) for pair in pairs_of(ours, theirs)]
    if len(speeds) < 3:
        return None
    return pairs_for(target, log_ratios([b for b, _ in speeds], [c for _, c in speeds]))


def _speed(record: Record) -> float:
    figures = replicate_figures(record)
    return figures["decode_tok_s"] or figures["prefill_tok_s"] or 0.0
