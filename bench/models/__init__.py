"""Model cards: load, check, and say where the weights come from.

A card is a TOML file in models/. Its `[architecture]` holds the keys of the model's own
config.json, so that one set of names serves loading, arithmetic (`bench.roofline`) and reading.
Standard library only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from bench import fields
from bench.data import shipped
from bench.errors import InputError, unknown
from bench.models import folders, gguf, hub, hub_heads, places
from bench.models.architecture import problems as shape_problems
from bench.models.hub_gguf import gguf_files

WeightSource = Literal["wheel", "hub", "random", "path", "gguf", "server"]
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
COMMIT_OF_ARM = re.compile(r"[0-9a-f]{7,40}")
"""What follows `NAME@` where the weights of a hub are pinned to a commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelPart:
    """A piece of a weight file that was cut into several wheels of one version."""

    package: str
    file: str

    def problems(self) -> Iterator[str]:
        yield from _place_problems(self.package, self.file)


def _place_problems(package: str, file: str) -> Iterator[str]:
    """A card is data: it names a distribution and a file in it, never a path, an address, code."""
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", package):
        yield f"package: {fields.shown(package)} is not the name of a distribution"
    parts = file.split("/")
    if not file or "\\" in file or "\0" in file or any(p in ("", ".", "..") for p in parts):
        yield f"file: {fields.shown(file)} is not a path within a wheel"


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelWeights:
    """One weight file inside a wheel on the user's package index."""

    package: str
    version: str
    file: str
    sha256: str
    """Of the whole file, after its parts (if any) are joined."""
    bytes: int
    parts: tuple[WheelPart, ...] = ()
    """Pieces that make up the file, in order; empty where `package` holds it whole."""

    def problems(self) -> Iterator[str]:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            yield "sha256: expected 64 hexadecimal digits"
        yield from _place_problems(self.package, self.file)
        if not re.fullmatch(r"[0-9][0-9A-Za-z.!+]*", self.version):
            yield f"version: {fields.shown(self.version)} is not a version such as 1.2.3"
        if self.bytes < 1:
            yield "bytes: must be at least 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubWeights:
    """Safetensors files on a model hub. Which commit it was stands in the record."""

    repo: str
    source: str
    """Where it was read that this repository is the model."""
    revision: str | None = None
    """A commit, where it must be this one; None: the newest of the main branch."""

    def problems(self) -> Iterator[str]:
        if hub.parse(self.repo) != hub.Ref(repo=self.repo):
            yield f"repo: {self.repo!r} is not ORG/NAME"
        if self.revision is not None and not hub.COMMIT.fullmatch(self.revision):
            yield "revision: expected a commit hash of 40 hexadecimal digits"


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomWeights:
    """The card's shape with seeded weights: real speed and memory, no quality."""

    seed: int = 0
    initializer_range: float = 0.02
    """Standard deviation of the normal distribution that the weights are drawn from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Where weights can come from; the first that is there is the default."""

    wheel: WheelWeights | None = None
    hub: HubWeights | None = None
    random: RandomWeights | None = None

    def sources(self) -> list[str]:
        return [name for name in ("wheel", "hub", "random") if getattr(self, name) is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One model: its shape, licence and weights, each figure with its source."""

    name: str
    title: str
    license: str
    architecture: Mapping[str, Any]
    """Keys of config.json: `model_type`, `num_hidden_layers`, `hidden_size`, ..."""
    architecture_source: str
    """Where the figures of `[architecture]` were read."""
    figure_sources: Mapping[str, str] = field(default_factory=dict)
    """Source of single figures that come from elsewhere."""
    weights: Weights
    published_in: str = ""
    """Scheme of the weights that its makers publish; empty: floats."""
    same_shape: tuple[str, ...] = ()
    """Other models of this very shape, which `bench predict` therefore knows."""
    note: str = ""

    def problems(self) -> Iterator[str]:
        if not NAME.fullmatch(self.name):
            yield f"name: {self.name!r} is not lower-case letters, digits, '.', '_', '-'"
        if not self.weights.sources():
            yield "weights: at least one of wheel, hub, random is needed"
        for key in ("model_type", "num_hidden_layers", "hidden_size", "vocab_size"):
            if key not in self.architecture:
                yield f"architecture.{key}: missing"
        yield from shape_problems(self.architecture, "architecture")
        for key in self.figure_sources:
            if key not in self.architecture:
                yield f"figure_sources.{key}: no such figure in [architecture]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A card and the weight source chosen for it."""

    ref: str
    """As the user writes it: NAME, NAME@SOURCE, ORG/NAME, a folder or a GGUF file."""
    card: ModelCard
    source: WeightSource
    path: Path | None = None
    """Folder with config.json and safetensors, for source `path`; the file, for source `gguf`."""
    snapshot: hub.Snapshot | None = None
    """The commit that a model of a hub is; None where the hub was not asked yet."""
    file: str | None = None
    """Of a snapshot's GGUF files the one that is meant; of a model in several files the first."""


def model_cards() -> dict[str, Path]:
    """Name -> file of every shipped card."""
    return {path.stem: path for path in sorted(shipped("models").glob("*.toml"))}


def load_card(path: Path) -> ModelCard:
    """Read and check one card; its name must be the file's."""
    card = fields.load(ModelCard, path)
    if card.name != path.stem:
        raise InputError(f"{path}: name: {card.name!r} is not the file's name {path.stem!r}")
    return card


def resolve_model(ref: str) -> Model:
    """The model that a user means: NAME, NAME@SOURCE, ORG/NAME, a folder, a card's or a GGUF file.

    No network is asked: of a hub's model only what is in the cache is known
    (`bench.runner.pinning` looks names up).
    """
    if (named := hub_ref(ref)) is not None:
        return _of_hub(ref, named)
    if ref.endswith(".gguf") or "/" in ref or "\\" in ref or ref in (".", ".."):
        return _model_at(ref)
    name, _, source = ref.partition("@")
    if (place := places.known(ref)) is not None:
        return replace(resolve_model(place), ref=ref)
    cards = model_cards()
    if name not in cards and os.path.isdir(ref):  # noqa: PTH112 (raises for no name, however long)
        raise InputError(f"model '{ref}' is not a card; ./{ref} names the folder")
    if name not in cards:
        raise InputError(unknown("model", name, cards) + " (`bench models` lists them)")
    return _choose(ref, load_card(cards[name]), source)


def hub_ref(ref: str) -> hub.Ref | None:
    """The hub's model that a user names, or None: what is here by that name goes first."""
    named = hub.parse(ref)
    return None if named is None or _is_here(ref) else named


def _is_here(ref: str) -> bool:
    """Whether a path is there; no name of a model, however long, is an error."""
    return os.path.exists(os.path.expanduser(ref))  # noqa: PTH110, PTH111


def card_ref(model: Model) -> hub.Ref | None:
    """The hub's model that a card's weights come from, or None for another source."""
    weights = model.card.weights.hub
    if model.source != "hub" or weights is None or hub_ref(model.ref) is not None:
        return None
    asked = model.ref.rpartition("@")[2] if "@" in model.ref else ""
    pinned = asked if COMMIT_OF_ARM.fullmatch(asked) else None
    return hub.Ref(repo=weights.repo, revision=pinned or weights.revision)


def _of_hub(ref: str, named: hub.Ref) -> Model:
    """A model by its name on the hub: a shipped card's description, else that of its config."""
    snapshot = hub.known(named)
    card = next(
        (c for c in _hub_cards() if c.weights.hub and c.weights.hub.repo == named.repo), None
    )
    if snapshot is None and card is None:
        raise InputError(f"'{ref}': not looked up on the hub yet; `bench plan -m {ref}` does")
    if named.file is not None:
        return _gguf_of_hub(ref, named, snapshot)
    if card is None:
        assert snapshot is not None
        card = ModelCard(
            name=name_of(named.repo.partition("/")[2]),
            title=named.repo,
            license=snapshot.license or "not stated",
            architecture=snapshot.config,
            architecture_source=f"config.json of {named.repo} at {snapshot.revision}",
            weights=Weights(random=RandomWeights()),
        )
    return Model(ref=ref, card=card, source="hub", snapshot=snapshot)


def _gguf_of_hub(ref: str, named: hub.Ref, snapshot: hub.Snapshot | None) -> Model:
    if snapshot is None or named.file is None:
        raise InputError(f"'{ref}': not looked up on the hub yet; `bench plan -m {ref}` does")
    file = gguf_files(snapshot, named.file)[0]
    path = snapshot.folder / file.name
    if told := hub_heads.told(snapshot, file.name):
        card = _gguf_card(told)
    else:
        card = ModelCard(
            name=name_of(Path(file.name).stem),
            title=f"{named.repo}, {file.name}",
            license=snapshot.license or "not stated",
            architecture={},
            architecture_source=f"{file.name} is not fetched yet",
            weights=Weights(random=RandomWeights()),
        )
    return Model(ref=ref, card=card, source="gguf", path=path, snapshot=snapshot, file=file.name)


@cache
def _hub_cards() -> tuple[ModelCard, ...]:
    """The shipped cards whose weights a hub has."""
    cards = (load_card(path) for path in model_cards().values())
    return tuple(card for card in cards if card.weights.hub is not None)


def named_model(name: str) -> Model:
    """A model that a server holds and no card describes: its name, and nothing known of it."""
    card = ModelCard(
        name=name,
        title=name,
        license="not stated",
        architecture={},
        architecture_source="not known: a server holds it",
        weights=Weights(),
    )
    return Model(ref=name, card=card, source="server")


def _choose(ref: str, card: ModelCard, source: str) -> Model:
    known = card.weights.sources()
    if card.weights.hub is not None and COMMIT_OF_ARM.fullmatch(source):
        named = hub.Ref(repo=card.weights.hub.repo, revision=source)
        return Model(ref=ref, card=card, source="hub", snapshot=hub.known(named))
    if source and source not in known:
        raise InputError(f"model '{ref}': {unknown('weight source', source, known)}")
    return Model(ref=ref, card=card, source=source or known[0])  # type: ignore[arg-type]


def _model_at(ref: str) -> Model:
    place, _, source = ref.partition(".toml@")
    if source:
        return _choose(ref, load_card(Path(place + ".toml")), source)
    path = Path(ref).expanduser()
    if path.suffix == ".toml":
        return _choose(ref, load_card(path), "")
    if path.suffix == ".gguf":
        card = _gguf_card(gguf.read(path))
        return Model(ref=ref, card=card, source="gguf", path=path.resolve())
    folders.check_form(path)
    architecture = folders.config(path)
    if found := shape_problems(architecture):
        raise InputError(*(f"{path / 'config.json'}: {problem}" for problem in found))
    title = _title(path.resolve(), architecture)
    card = ModelCard(
        name=name_of(title),
        title=title,
        license="not stated",
        architecture=architecture,
        architecture_source="config.json",
        weights=Weights(random=RandomWeights()),
    )
    return Model(ref=ref, card=card, source="path", path=path.resolve())


def _title(folder: Path, architecture: Mapping[str, Any]) -> str:
    """What a folder's model is called: as its config says, else as the folder, never a home."""
    told = architecture.get("_name_or_path")
    last = re.split(r"[/\\]", told.rstrip("/\\"))[-1] if isinstance(told, str) else ""
    if last and last not in (".", ".."):
        return last
    return str(architecture.get("model_type", "model")) if folder == Path.home() else folder.name


def _gguf_card(file: gguf.GgufFile) -> ModelCard:
    """A card of what a GGUF file says of itself."""
    stem = gguf.PART.sub("", file.path.name).removesuffix(".gguf")
    return ModelCard(
        name=name_of(stem),
        title=str(file.keys.get("general.name", stem)),
        license=str(file.keys.get("general.license", "not stated")),
        architecture=file.architecture(),
        architecture_source=f"keys of {file.path.name}",
        weights=Weights(random=RandomWeights()),
    )


def name_of(text: str) -> str:
    """A model's name out of a file's: lower case, no odd signs."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._") or "model"
