"""Arms of models that are quantized already are named after the scheme that the model holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.engines.registry import spec
from bench.errors import InputError, UnsupportedError
from bench.experiment import ArmEntry, Experiment, Variant
from bench.models import Model, resolve_model, weights
from bench.models.checkpoint import Checkpoint, checkpoint_of, refusal
from bench.schemes import Device, find


def named(experiment: Experiment) -> Experiment:
    """The experiment with the scheme of each such model in the place of `none`.

    Raises UnsupportedError for a model in a quantization that is not known.
    """
    given = experiment.variants
    known = {name: _resolved(name) for name in dict.fromkeys(v.model for v in given)}
    schemes = [_scheme(variant, known[variant.model]) for variant in given]
    if schemes == [variant.quant for variant in given]:
        return experiment
    arms = tuple(
        ArmEntry(
            engine=variant.engine,
            quant=scheme,
            mode=variant.mode,
            model=variant.model,
            options=variant.options,
        )
        for variant, scheme in zip(given, schemes, strict=True)
    )
    distinct = {(arm.model, arm.engine, arm.quant, arm.mode, str(arm.options)): arm for arm in arms}
    made = replace(experiment, arm=tuple(distinct.values()))
    if not made.baselines and len({arm.model for arm in arms}) == 1:
        # The file's baseline is a scheme that no arm of this model can have.
        made = replace(made, baseline=made.variants[0].name)
    return made


def is_quantized(experiment: Experiment) -> bool:
    """Whether a model of the experiment is a folder that was quantized before."""
    return any(
        model is not None and stored(variant, model) is not None
        for variant in experiment.variants
        for model in [_resolved(variant.model)]
    )


def _resolved(name: str) -> Model | None:
    try:
        return resolve_model(name)
    except (InputError, UnsupportedError):
        return None  # said where names are checked, or the name of a server's model


def _scheme(variant: Variant, model: Model | None) -> str:
    """What an arm is called: `none` gives way to what the model holds."""
    engine = spec(variant.engine)
    if variant.quant != "none" or engine.weights == "none" or model is None:
        return variant.quant
    if engine.weights == "gguf":
        return _of_file(model) or variant.quant
    found = checkpoint_of(model) if engine.weights == "folder" else None
    return found.scheme if found is not None else "none"


def _of_file(model: Model) -> str | None:
    """The scheme that the model's GGUF file is stored in; of one that is not here yet, by name."""
    if (told := weights.header(model)) is not None:
        return told.scheme
    place = weights.gguf(model)
    name = place.stem.rpartition(".")[2].lower() if place else ""
    return name if find(name) is not None else None


def stored(variant: Variant, model: Model) -> Checkpoint | None:
    """What the model of an arm was quantized to before, if the arm's engine loads folders."""
    return checkpoint_of(model) if spec(variant.engine).weights == "folder" else None


def why_not(variant: Variant, model: Model, device: Device) -> str | None:
    """Why an arm cannot run what its model holds on this device, or None. Loads nothing."""
    found = stored(variant, model)
    row = find(variant.quant)
    if found is None and (row is None or row.source != "checkpoint"):
        return None
    if found is not None and row is not None and variant.engine not in row.engines:
        return f"engine '{variant.engine}' does not load models in '{found.scheme}'"
    applies = spec(variant.engine).applies
    if found is not None and "+" in device.name and applies:
        return f"scheme '{found.scheme}' is measured on one device, not on {device.name}"
    if not applies:
        device = replace(device, elsewhere=True)  # its packages are the engine's business
    return refusal(found, variant.quant, device, variant.mode, variant.dtype)


def base_names(models: Sequence[Model]) -> dict[str, str]:
    """Model -> the one of these that its README names as its base, by the names as given."""
    from bench.models.checkpoint import base_of

    found = {}
    for model in models:
        told = base_of(model.path) if model.path is not None and model.path.is_dir() else None
        if told is None:
            continue
        for other in models:
            if other is not model and _is_named(other, told):
                found[model.ref] = other.ref
    return found


def _is_named(model: Model, told: str) -> bool:
    """Whether `ORG/NAME` means this model: its name, or the end of its folder."""
    last = told.rstrip("/").rsplit("/", 1)[-1].lower()
    names = {model.card.name.lower(), model.ref.rstrip("/").rsplit("/", 1)[-1].lower()}
    hub = model.card.weights.hub
    return last in names or (hub is not None and hub.repo.lower() == told.lower())
