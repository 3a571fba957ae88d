"""`-b max`: ask a worker of each arm which batch fits, once, and keep the answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from bench.engines.registry import spec
from bench.errors import InputError, UnsupportedError
from bench.experiment import Experiment, Workload
from bench.fields import Between, convert, read_json
from bench.identity import key
from bench.runner.arms import Arm, resolve
from bench.runner.fits import most_that_fit
from bench.runner.here import place_of
from bench.runner.naming import named
from bench.runner.pinning import pinned
from bench.runner.process import events, last
from bench.worker.fitting import MOST
from bench.worker.messages import Event, Failed, Fit, FitTask, Phase, Told

KEPT = "largest_batch.json"


def with_largest_batch(
    experiment: Experiment, folder: Path, say: Callable[[str], None], most: int = MOST
) -> Experiment:
    """The experiment at the largest batch that fits for every one of its arms.

    Arms are compared at equal batches, so the arm that needs most memory decides; `say` is told
    what each could take. The answer is kept in `folder`: a run that goes on uses the same.
    Raises UnsupportedError if not even one sequence fits, InputError for a server.
    """
    if any(spec(variant.engine).remote for variant in experiment.variants):
        raise InputError(
            "-b max: bench cannot see a server's memory; give numbers, such as -b 1,2,4,8"
        )
    experiment = named(pinned(experiment, say))
    every = resolve(experiment, say)
    arms = [arm for arm in every if arm.refusal is None]
    if not arms:
        raise UnsupportedError("\n".join(dict.fromkeys(str(arm.refusal) for arm in every)))
    n_prompt, n_gen = max(experiment.grid.n_prompt), max(experiment.grid.n_gen)
    name = key(
        "fit",
        arms=[[a.variant.name, a.variant.device, a.identity] for a in arms],
        p=n_prompt,
        n=n_gen,
    )
    path = folder / KEPT
    kept = _kept(path)
    if name not in kept:
        kept[name] = min(
            _ask(arm, experiment, _task(arm, n_prompt, n_gen, most), say) for arm in arms
        )
        folder.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".part")
        half.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        half.replace(path)
    say(f"largest batch that fits: {kept[name]} ({n_prompt} + {n_gen} tokens, every arm)")
    return replace(experiment, grid=replace(experiment.grid, n_batch=(kept[name],)))


def _task(arm: Arm, n_prompt: int, n_gen: int, most: int) -> FitTask:
    """What an arm is asked; a batch that surely does not fit is not tried."""
    place = place_of(arm.variant.device)
    if place is not None and place.kind != "cpu":  # there, what others hold changes all the time
        work = Workload(n_prompt=n_prompt, n_gen=n_gen)
        most = min(most, most_that_fit(arm.variant, work, arm.model.card, place) or most)
    return FitTask(n_prompt=n_prompt, n_gen=n_gen, most=most)


def _kept(path: Path) -> dict[str, int]:
    """What was found before; {} where the file cannot be used: it is asked for again."""
    problems: list[str] = []
    try:
        found: dict[str, int] = convert(
            dict[str, Annotated[int, Between(1, 1 << 20)]], read_json(path), "", problems
        )
    except InputError:
        return {}
    return {} if problems else found


def _ask(arm: Arm, experiment: Experiment, shape: FitTask, say: Callable[[str], None]) -> int:
    job = Told(task="fit", engine=arm.variant.engine, load=arm.job(experiment.seed, 0), fit=shape)
    limit_s = experiment.measuring.time_limit_s

    def heard() -> Iterator[Event]:
        for event in events(job, limit_s=limit_s, command=arm.command):
            if isinstance(event, Phase) and event.n_batch is not None:
                say(f"{arm.variant.name}: trying {event.n_batch} sequences")
            yield event

    found = last(heard())
    if isinstance(found, Failed):
        raise UnsupportedError(f"{arm.variant.name}: {found.message}")
    assert isinstance(found, Fit)
    if found.n_batch == 0:
        raise UnsupportedError(f"{arm.variant.name}: not even one sequence fits in memory")
    say(f"{arm.variant.name}: {found.n_batch} sequences fit, limited by {found.limited_by}")
    return found.n_batch
