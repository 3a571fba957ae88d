"""`-b max`: ask a worker of each arm which batch fits, once, and keep the answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench.engines.registry import spec
from bench.errors import InputError, UnsupportedError
from bench.experiment import Experiment
from bench.identity import key
from bench.runner.arms import Arm, resolve
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
            "-b max: a server's memory is not seen from here, and it queues what does not fit; "
            "give numbers, such as -b 1,2,4,8"
        )
    experiment = named(pinned(experiment, say))
    arms = [arm for arm in resolve(experiment, say) if arm.refusal is None]
    n_prompt, n_gen = max(experiment.grid.n_prompt), max(experiment.grid.n_gen)
    name = key(
        "fit",
        arms=[[a.variant.name, a.variant.device, a.identity] for a in arms],
        p=n_prompt,
        n=n_gen,
    )
    path = folder / KEPT
    kept: dict[str, int] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if name not in kept:
        shape = FitTask(n_prompt=n_prompt, n_gen=n_gen, most=most)
        kept[name] = min(_ask(arm, experiment, shape, say) for arm in arms)
        folder.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".part")
        half.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        half.replace(path)
    say(f"largest batch that fits: {kept[name]} ({n_prompt} + {n_gen} tokens, every arm)")
    return replace(experiment, grid=replace(experiment.grid, n_batch=(kept[name],)))


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
