"""From an experiment to arms that can run here: names checked, device found, weights prepared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench import quantization, weights
from bench.catalog import Model, resolve_model
from bench.engines import DTYPES, spec
from bench.errors import InputError, UnsupportedError, unknown
from bench.experiment import Experiment, Variant, Workload, key
from bench.process import converse, last

METHOD = 1
"""Raised when the worker measures in another way, so that old records are not taken for new."""

SYNTHETIC = "synthetic"
"""The engine of scripted timings: no torch, no device, never mixed with measured results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A variant with its device resolved, and the model that it loads."""

    variant: Variant
    model: Model
    identity: str
    """Of the weights: `bench.weights.identity`."""
    refusal: str | None = None
    """Why it cannot run on this device."""

    @property
    def origin(self) -> str:
        return SYNTHETIC if self.variant.engine == SYNTHETIC else "measured"

    def key(self, experiment: Experiment, workload: Workload, replicate: int) -> str:
        """Identity of one measurement; what does not change the figure is left out."""
        rules = asdict(experiment.measuring)
        for name in ("pairs", "time_limit_s", "idle_s"):
            del rules[name]
        return key(
            "measurement", method=METHOD, variant=asdict(self.variant), weights=self.identity,
            workload=asdict(workload), rules=rules, seed=experiment.seed, replicate=replicate,
        )  # fmt: skip

    def quality_key(self, text: Mapping[str, Any], baseline: Arm | None) -> str:
        """Identity of this arm's quality: once a variant, not a replicate."""
        return key(
            "quality", method=METHOD, variant=asdict(self.variant), weights=self.identity,
            text=dict(text), baseline=baseline.variant.name if baseline else None,
        )  # fmt: skip

    def job(self, seed: int, replicate: int) -> dict[str, Any]:
        """What a worker must know to load this arm."""
        random = self.model.card.weights.random
        folder = None if self.origin == SYNTHETIC else weights.folder(self.model)
        variant = asdict(self.variant)
        return {
            "engine": variant.pop("engine"),
            "load": {
                "architecture": dict(self.model.card.architecture),
                "folder": str(folder) if folder else None,
                "random_seed": random.seed if random else 0,
                "initializer_range": random.initializer_range if random else 0.02,
                "seed": seed,
                "replicate": replicate,
            }
            | {name: value for name, value in variant.items() if name != "model"},
        }


def check_names(experiment: Experiment) -> None:
    """Refuse an unknown engine, mode, dtype, scheme, model or baseline before anything slow."""
    variants = experiment.variants
    if not any(variant.matches(experiment.baseline) for variant in variants):
        names = {name for v in variants for name in (v.name, v.model, v.engine, v.quant, v.mode)}
        raise InputError(unknown("baseline", experiment.baseline, names))
    for variant in variants:
        engine = spec(variant.engine)
        if variant.mode not in engine.modes:
            raise InputError(unknown("mode", variant.mode, engine.modes))
        if variant.dtype not in DTYPES:
            raise InputError(unknown("dtype", variant.dtype, DTYPES))
        if engine.schemes is not None and variant.quant not in engine.schemes:
            raise InputError(unknown(f"scheme of {variant.engine}", variant.quant, engine.schemes))
        if engine.schemes is None and variant.engine != SYNTHETIC:
            quantization.scheme(variant.quant)
        resolve_model(variant.model)


def resolve(experiment: Experiment, say: Callable[[str], None]) -> list[Arm]:
    """The experiment's arms on this machine; weights are fetched and converted where needed."""
    check_names(experiment)
    device = find_device(experiment)
    arms = []
    for variant in experiment.variants:
        model = resolve_model(variant.model)
        reason = None
        if variant.engine != SYNTHETIC:
            reason = quantization.refusal(variant.quant, device, variant.mode, variant.dtype)
            if reason is None:
                weights.prepare(model, say)
        arms.append(
            Arm(
                variant=replace(variant, device=device.name),
                model=model,
                identity=weights.identity(model),
                refusal=reason,
            )
        )
    return arms


def find_device(experiment: Experiment) -> quantization.Device:
    """The device that the experiment means on this machine, asked of a process that has torch."""
    if {variant.engine for variant in experiment.variants} <= {SYNTHETIC}:
        return quantization.Device(name=SYNTHETIC, kind=SYNTHETIC)
    event = last(converse({"task": "probe", "device": experiment.grid.device}, limit_s=300.0))
    if event["event"] == "failed":
        raise (InputError if event["code"] == "INPUT" else UnsupportedError)(event["message"])
    capability = event["capability"]
    return quantization.Device(
        name=event["device"],
        kind=event["kind"],
        capability=(capability[0], capability[1]) if capability else None,
    )


def baseline_of(arm: Arm, arms: Sequence[Arm], selector: str) -> Arm | None:
    """The arm of the same weights that `selector` names; None if there is none that can run."""
    for other in arms:
        same = other.identity == arm.identity
        if same and other.refusal is None and other.variant.matches(selector):
            return other
    return None
