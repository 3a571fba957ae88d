"""Models of a hub pinned to a commit, before anything is named, planned or measured.

A branch moves; an arm must not. So the name of an arm holds the commit that its revision was when
the run began: the same command later goes on with the same arm, or, if the model was changed on the
hub, measures another one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from bench.engines.registry import spec
from bench.errors import BenchError, UnsupportedError
from bench.experiment import ArmEntry, Experiment, Variant
from bench.models import card_ref, hub, hub_heads, hub_ref, resolve_model
from bench.models.hub_gguf import gguf_files
from bench.models.places import known, remember
from bench.runner.counting import count

Say = Callable[[str], None]


def pinned(experiment: Experiment, say: Say, *, planning: bool = False) -> Experiment:
    """The experiment with each model of a hub at a commit, and those of paths by name and hash; one
    already pinned stays as it is.

    A card whose weights cannot be had falls back to random ones of its shape, and `say` is told,
    unless the user named the hub. `planning`: cards need no network, as their shape is known.
    The shape of each is known afterwards, if transformers can make it (`bench.runner.counting`).
    Raises InputError for a model that cannot be, UnsupportedError for one that cannot be had here.
    """
    experiment, names = _names(experiment, say, planning)
    for name in names.values():
        named = hub_ref(name)
        if named is None or named.file is None:  # a GGUF file says its shape itself
            count(resolve_model(name), say)
    changed = {model: name for model, name in names.items() if model != name}
    if not changed:
        return experiment
    baseline = experiment.baseline
    for model, name in changed.items():
        if baseline == model or baseline.startswith(f"{model}/"):
            baseline = name + baseline.removeprefix(model)
    experiment = replace(experiment, baseline=baseline)
    if any(v.model in changed and not _loads(v) for v in experiment.variants):
        # A server's arm keeps the model's name, which is what the server is asked for.
        arms = tuple(
            ArmEntry(
                engine=v.engine,
                quant=v.quant,
                mode=v.mode,
                model=changed.get(v.model, v.model) if _loads(v) else v.model,
                options=v.options,
            )
            for v in experiment.variants
        )
        return replace(experiment, arm=arms)
    grid = replace(
        experiment.grid, model=tuple(changed.get(name, name) for name in experiment.grid.model)
    )
    arms = tuple(
        replace(arm, model=changed.get(arm.model, arm.model)) if arm.model else arm
        for arm in experiment.arm
    )
    return replace(experiment, grid=grid, arm=arms)


def _names(experiment: Experiment, say: Say, planning: bool) -> tuple[Experiment, dict[str, str]]:
    """Each model that is loaded here -> its pinned name. GGUF files that an experiment's arms name
    and that cannot be had are left out with those arms, and `say` is told: there are no random
    weights in their place. Those that the user named, and the last arm, are not."""
    loading = dict.fromkeys(v.model for v in experiment.variants if _loads(v))
    names = {}
    for model in loading:
        try:
            names[model] = _pinned(model, say, planning)
        except UnsupportedError as error:
            named = hub_ref(model)
            rest = tuple(arm for arm in experiment.arm if arm.model != model)
            if named is None or named.file is None or model in experiment.grid.model or not rest:
                raise
            say(f"{error}")
            say(f"{model}: skipped, because random weights cannot replace a GGUF file")
            experiment = replace(experiment, arm=rest)
    return experiment, names


def _loads(variant: Variant) -> bool:
    """Whether the arm's engine loads the model here."""
    engine = spec(variant.engine)
    return not engine.remote and engine.weights != "none"


def _pinned(model: str, say: Say, planning: bool) -> str:
    if (named := hub_ref(model)) is not None:
        snapshot = hub.look_up(named, say)
        if named.file is None:
            return snapshot.pinned()
        file = gguf_files(snapshot, named.file)[0].name
        with suppress(BenchError):  # said where the file itself is fetched
            hub_heads.fetch(snapshot, file)
        return snapshot.pinned(file)
    found = resolve_model(model)
    if found.source in ("path", "gguf") and found.snapshot is None:
        return model if known(model) else remember(found)  # a path tells who and where
    wanted = card_ref(found)
    if wanted is None or (found.snapshot is not None and model.endswith(_commit(found.snapshot))):
        return model
    name, _, asked = model.partition("@")
    if planning:
        here = hub.known(wanted)
        return model if here is None else f"{name}@{_commit(here)}"
    try:
        return f"{name}@{_commit(hub.look_up(wanted, say))}"
    except UnsupportedError as error:
        if asked or found.card.weights.random is None:
            raise
        say(f"{error}")
        say(f"{name}: measured with random weights of its shape, so without quality")
        return f"{name}@random"


def _commit(snapshot: hub.Snapshot) -> str:
    return snapshot.revision[: hub.SHORT]
