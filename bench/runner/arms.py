"""From an experiment to arms that can run here: names checked, device found, weights prepared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench import schemes
from bench.engines.endpoint.settings import ApiKey, EndpointSettings, settings
from bench.engines.messages import Job, Order
from bench.engines.registry import DTYPES, ENGINES, attribute, declines, refusal, spec
from bench.errors import InputError, UnsupportedError, unknown
from bench.experiment import Experiment, Variant, Workload
from bench.experiment.devices import REMOTE
from bench.experiment.selectors import chosen
from bench.identity import key
from bench.models import Model, gguf, model_cards, named_model, resolve_model, weights
from bench.runner import venvs
from bench.runner.fits import too_large
from bench.runner.here import Here, place_of
from bench.runner.naming import base_names, why_not
from bench.runner.process import WORKER, events, last
from bench.runner.servers import RunningServer, command_of, for_worker, starts_server
from bench.runner.venvs import Home
from bench.worker.messages import Failed, Probed, Told

METHOD = 1
"""Raised when the worker measures in another way, so that old records are not taken for new."""

SYNTHETIC = "synthetic"
"""Origin and device of scripted timings: no torch, never mixed with measured results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A variant with its device resolved, and the model that it loads."""

    variant: Variant
    model: Model
    identity: str
    """Of the weights: `bench.models.weights.identity`."""
    refusal: str | None = None
    """Why it cannot run on this device."""
    home: Home | None = None
    """The environment of its engine; None: the harness's own."""
    made: Path | None = None
    """The model in the engine's own format, where it has one."""

    @property
    def command(self) -> Sequence[str]:
        """What starts a worker for it."""
        return WORKER if self.home is None else self.home.program("bench.worker")

    @property
    def origin(self) -> str:
        return SYNTHETIC if spec(self.variant.engine).scripted else "measured"

    def key(self, experiment: Experiment, workload: Workload, replicate: int) -> str:
        """Identity of one measurement; what does not change the figure is left out."""
        rules = asdict(experiment.measuring)
        for name in ("pairs", "time_limit_s", "idle_s"):
            del rules[name]
        return key(
            "measurement",
            method=METHOD,
            weights=self.identity,
            workload=workload.table(),
            rules=rules,
            seed=experiment.seed,
            replicate=replicate,
            **self._what(),
        )

    def quality_key(self, text: Mapping[str, Any], baseline: Arm | None) -> str:
        """Identity of this arm's quality: once a variant, not a replicate."""
        return key(
            "quality",
            method=METHOD,
            weights=self.identity,
            text=dict(text),
            baseline=baseline.variant.name if baseline else None,
            **self._what(),
        )

    def _what(self) -> dict[str, Any]:
        """What runs: the variant, and the packages of its engine where those are not ours."""
        what: dict[str, Any] = {"variant": asdict(self.variant)}
        if self.home:
            what["packages"] = self.home.fingerprint
        if (revision := spec(self.variant.engine).revision) > 1:
            what["revision"] = revision
        return what

    def job(self, seed: int, replicate: int, server: RunningServer | None = None) -> Job:
        """What a worker must know to load this arm, or to ask the server started for it."""
        random = self.model.card.weights.random
        kind = spec(self.variant.engine).weights
        folder = weights.folder(self.model) if kind == "folder" else None
        gguf = weights.gguf(self.model) if kind == "gguf" else None
        variant = self.variant
        return Job(
            architecture=dict(self.model.card.architecture),
            folder=folder,
            gguf=gguf,
            random_seed=random.seed if random else 0,
            initializer_range=random.initializer_range if random else 0.02,
            quant=variant.quant,
            mode=variant.mode,
            dtype=variant.dtype,
            device=variant.device,
            threads=variant.threads,
            seed=seed,
            replicate=replicate,
            options=for_worker(variant.options, server),
            server_pid=server.leash.pid if server else None,
            made=self.made,
        )


def check_names(experiment: Experiment) -> None:
    """Refuse an unknown engine, mode, dtype, scheme, model or baseline before anything slow."""
    variants = experiment.variants
    if not experiment.baselines:
        names = {name for v in variants for name in (v.name, v.model, v.engine, v.quant, v.mode)}
        raise InputError(unknown("baseline", experiment.baseline, names))
    for variant in variants:
        _check_mode(variant)
        check_weights(variant, model_of(variant))
        check_scheme(variant)
        engine = spec(variant.engine)
        if engine.check is not None:
            attribute(engine.check)(variant.options)


def _check_mode(variant: Variant) -> None:
    """Refuse an unknown engine, mode or dtype."""
    engine = spec(variant.engine)
    if variant.mode not in engine.modes:
        raise InputError(unknown("mode", variant.mode, engine.modes))
    if variant.dtype not in DTYPES:
        raise InputError(unknown("dtype", variant.dtype, DTYPES))


def unknown_names(experiment: Experiment) -> list[str]:
    """What an experiment names that exists on no machine, a line each; no file is looked for."""
    found: list[str] = []
    for variant in experiment.variants:
        try:
            _check_mode(variant)
            check_scheme(variant)
            if not variant.model.endswith(".gguf") and not {"/", "\\"} & set(variant.model):
                model_of(variant)
        except InputError as error:
            found += error.problems
    return list(dict.fromkeys(found))


def check_scheme(variant: Variant) -> None:
    """Refuse a scheme that does not exist, or that this engine does not run."""
    if spec(variant.engine).weights == "none":
        return  # a name that tells arms apart
    row = schemes.find(variant.quant)
    if row is not None and row.source == "checkpoint":
        return  # whether the engine loads it is said of the arm alone
    if row is None or variant.engine not in row.engines:
        known = [
            name
            for name in (*schemes.of_engine(variant.engine), *schemes.MIXED)
            if (one := schemes.scheme(name)).source != "checkpoint"
            and variant.engine in one.engines
        ]
        raise InputError(unknown(f"scheme of {variant.engine}", variant.quant, known))


def check_weights(variant: Variant, model: Model) -> None:
    """Refuse an engine that cannot load this model's kind of weights."""
    kind, file = spec(variant.engine).weights, weights.gguf(model)
    if kind == "gguf" and file is None:
        raise InputError(f"engine {variant.engine}: {weights.no_gguf(model)}")
    if kind == "gguf" and (told := weights.header(model)) is not None:
        check_file(variant, told)
    if kind == "folder" and model.source == "gguf":
        engines = [name for name in ENGINES if spec(name).weights == "gguf"]
        raise InputError(
            f"engine {variant.engine} does not load the GGUF file {model.ref}; "
            f"run it with -e {' or '.join(engines)}"
        )


def model_of(variant: Variant) -> Model:
    """The model that an arm names. A server's need not have a card: then it is a name alone."""
    if starts_server(variant) and settings(variant.options).holds_model:
        return resolve_model(variant.model)
    path = "/" in variant.model and Path(variant.model).expanduser().exists()
    if not spec(variant.engine).remote or path or variant.model.partition("@")[0] in model_cards():
        found = resolve_model(variant.model)
        return replace(found, source="server") if spec(variant.engine).remote else found
    return named_model(variant.model)


def resolve(experiment: Experiment, say: Callable[[str], None]) -> list[Arm]:
    """The experiment's arms on this machine; weights are fetched and converted where needed."""
    check_names(experiment)
    device = find_device(experiment)
    place = place_of(device.name)
    return [_resolved(variant, device, place, experiment, say) for variant in experiment.variants]


def _resolved(
    variant: Variant,
    device: schemes.Device,
    place: Here | None,
    experiment: Experiment,
    say: Callable[[str], None],
) -> Arm:
    model, engine = model_of(variant), spec(variant.engine)
    if engine.remote:
        asked = settings(variant.options)
        ApiKey(asked.key_env)  # one that is not set is said before any worker starts
        where = replace(variant, device=asked.device)
        arm = Arm(variant=where, model=model, identity=key("served", model=model.ref))
        return _prepared_to_serve(arm, asked, say) if asked.serve else arm
    # What loads no weights needs no commit of a hub.
    bare = engine.weights == "none" and model.source == "hub"
    identity = key("named", model=model.ref) if bare else weights.identity(model)
    arm = Arm(variant=replace(variant, device=device.name), model=model, identity=identity)
    if reason := declines(variant, experiment.workloads, experiment.quality.longest):
        return replace(arm, refusal=reason)
    if engine.scripted:
        return arm
    if reason := why_not(variant, model, device) or refusal(variant, device):
        return replace(arm, refusal=reason)
    if place is not None and (reason := too_large(variant, model.card, place)):
        return replace(arm, refusal=reason)  # before gigabytes are fetched
    if engine.weights == "gguf":
        check_file(variant, gguf.read(weights.prepare_gguf(model, say)))
    elif engine.weights == "folder":
        weights.prepare(model, say)
    try:
        return _with_engine(arm, device, say)
    except UnsupportedError as error:  # the other arms can run all the same
        return replace(arm, refusal=str(error))


def _prepared_to_serve(arm: Arm, asked: EndpointSettings, say: Callable[[str], None]) -> Arm:
    """The arm of a server that will be started: its program found, its weights fetched."""
    if "{model}" in asked.serve:
        weights.prepare(arm.model, say)
    if "{gguf}" in asked.serve:
        weights.prepare_gguf(arm.model, say)
    command_of(asked, arm.model)
    if asked.holds_model:
        arm = replace(arm, identity=weights.identity(arm.model))
    return arm


def _with_engine(arm: Arm, device: schemes.Device, say: Callable[[str], None]) -> Arm:
    """The arm with its engine's environment installed and the model in the engine's format."""
    engine = spec(arm.variant.engine)
    if engine.environment is not None:
        place = venvs.home(engine.environment, device.kind)
        arm = replace(arm, home=venvs.ensure(place, say))
    if engine.prepare is None:
        return arm
    order = Order(
        folder=weights.folder(arm.model),
        name=arm.model.card.name,
        identity=arm.identity,
        quant=arm.variant.quant,
        dtype=arm.variant.dtype,
        device=device,
        options=arm.variant.options,
        home=arm.home,
        say=say,
    )
    return replace(arm, made=attribute(engine.prepare)(order))


def check_file(variant: Variant, file: gguf.GgufFile) -> None:
    """Refuse a scheme that is not the one which the GGUF file was stored in."""
    held = file.scheme
    if held != variant.quant:
        raise InputError(
            f"{variant.engine} runs a GGUF file as it is, and {file.path.name} is '{held}', "
            f"not '{variant.quant}'; name its arm by that: -q {held}"
        )


def find_device(experiment: Experiment) -> schemes.Device:
    """The device that the experiment means on this machine, asked of a process that has torch."""
    if all(spec(variant.engine).scripted for variant in experiment.variants):
        return schemes.Device(name=SYNTHETIC, kind=SYNTHETIC)
    if all(spec(variant.engine).remote for variant in experiment.variants):
        return schemes.Device(name=REMOTE, kind=REMOTE)
    found = last(events(Told(task="probe", device=experiment.grid.device), limit_s=300.0))
    if isinstance(found, Failed):
        raise (InputError if found.code == "INPUT" else UnsupportedError)(found.message)
    assert isinstance(found, Probed)
    capability = found.capability
    return schemes.Device(
        name=found.device,
        kind=found.kind,
        capability=(capability[0], capability[1]) if capability else None,
        n_sm=found.n_sm,
        arch=found.arch,
    )


def baseline_of(arm: Arm, arms: Sequence[Arm], selector: str) -> Arm | None:
    """The arm that `selector` names, of the same weights, or for a model that was quantized before
    of the model that it was made from; None if there is none that can run."""
    able = [one for one in arms if one.refusal is None]
    same = [one for one in able if one.identity == arm.identity]
    if found := _first(same, selector):
        return found
    row = schemes.find(arm.variant.quant)
    if row is None or row.source == "float":
        return None
    bases = base_names([one.model for one in able])
    base = bases.get(arm.model.ref)
    others = [one for one in able if one.identity != arm.identity]
    like = [one for one in others if base in (None, one.model.ref)]
    for name in ("mode", "engine"):
        mine = [one for one in like if getattr(one.variant, name) == getattr(arm.variant, name)]
        like = mine or like
    return _first(like, selector)


def _first(arms: Sequence[Arm], selector: str) -> Arm | None:
    names = chosen(selector, {one.variant.name: one.variant.table() for one in arms})
    return next((one for one in arms if one.variant.name in names), None)
