"""Virtual environments of engines whose packages conflict with the harness's own.

Such an engine names one in `Spec.environment`. Its packages are pinned in bench/data/engines/
NAME.txt, and it lives in $XDG_CACHE_HOME/gpu-cost-bench/engines/NAME, made by plain
`python -m pip`, so that the user's own index settings count. A stamp says what it was made for, and
that it is whole; one that is not is mended by the next install. Standard library only; the engine's
worker is started in it by `Home.program`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, Required, TypedDict

from bench import fields
from bench.data import DATA
from bench.errors import InputError, UnsupportedError, unknown
from bench.models.weights import cache_folder, last_line, locked
from bench.programs import BOOT, PYTHON

FILES: Final = DATA / "engines"
STAMP: Final = "gpu-cost-bench.json"
ALIAS: Final = re.compile(r"^# alias: (\S+) (\S+)$", re.MULTILINE)
WITHOUT: Final = re.compile(r"^# without: (.+)$", re.MULTILINE)

Say = Callable[[str], None]
State = Literal["installed", "outdated", "unfinished", "missing"]


class Stamp(TypedDict, total=False):
    """What an environment was made for, and what is in it once it is whole."""

    fingerprint: Required[str]
    packages: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """One environment: where it is and what must be in it."""

    name: str
    requirements: Path
    """Its packages, exact versions."""
    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        if os.name == "nt":
            return self.folder / "Scripts" / "python.exe"
        return self.folder / "bin" / "python"

    @property
    def without(self) -> list[str]:
        """Packages that come along and must not stay: `# without: NAME ...` of the file."""
        found = WITHOUT.search(self.requirements.read_text("utf-8"))
        return found[1].split() if found else []

    @property
    def alias(self) -> tuple[str, str] | None:
        """Name and version by which a package looks itself up, `# alias: NAME VERSION`."""
        found = ALIAS.search(self.requirements.read_text("utf-8"))
        return (found[1], found[2]) if found else None

    @property
    def fingerprint(self) -> str:
        """What it must be made for: packages, Python, machine (16 hexadecimal digits)."""
        pinned = [line.strip() for line in self.requirements.read_text("utf-8").splitlines()]
        said = (WITHOUT, ALIAS)
        lines = [
            line
            for line in pinned
            if line and (not line.startswith("#") or any(one.match(line) for one in said))
        ]
        here = ["{}.{}".format(*sys.version_info), sys.platform, platform.machine()]
        return hashlib.sha256("\n".join([*lines, *here]).encode()).hexdigest()[:16]

    def program(self, module: str, *arguments: str) -> tuple[str, ...]:
        """The command that runs a module of ours in it, with none of our packages beside it."""
        return (str(self.python), "-I", str(BOOT), module, *arguments)

    def serves(self, kind: str) -> bool:
        """Whether engines run on such a device in this one, and not in one made for the kind."""
        base, _, own = self.name.partition("-")
        return kind == own if own else f"{base}-{kind}" not in names()


def names() -> list[str]:
    """Every environment that ships."""
    return sorted(path.stem for path in FILES.glob("*.txt"))


def home(name: str, kind: str = "") -> Home:
    """The environment of that very name, or for a kind of device; InputError for an unknown one.

    A kind with packages of its own has the file NAME-KIND.txt; the others share NAME.txt.
    """
    if kind and f"{name}-{kind}" in names():
        name = f"{name}-{kind}"
    if name not in names():
        raise InputError(unknown("engine environment", name, names()))
    return Home(
        name=name, requirements=FILES / f"{name}.txt", folder=cache_folder() / "engines" / name
    )


def homes(name: str) -> list[Home]:
    """That environment, and those of the same engine for single kinds of devices."""
    return [home(one) for one in names() if one.partition("-")[0] == name]


def own_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are in the environment which this runs in."""
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def state(place: Home) -> State:
    """Whether it is there, whole and what it must be. Starts no process."""
    if not place.folder.exists():
        return "missing"
    stamp = _stamp(place)
    if not stamp.get("packages") or not place.python.exists():
        return "unfinished"
    if stamp["fingerprint"] != place.fingerprint:
        return "outdated"
    return "installed" if versions(place) == stamp["packages"] else "unfinished"


def versions(place: Home) -> dict[str, str]:
    """Version of each package that is in it."""
    places = [str(path) for path in _site_packages(place)]
    found = {
        dist.metadata["Name"]: dist.version
        for dist in metadata.distributions(path=places)
        if dist.metadata["Name"]
    }
    return dict(sorted(found.items()))


def ensure(place: Home, say: Say) -> Home:
    """Install it unless it is there. Raises UnsupportedError with pip's own last word."""
    if state(place) != "installed":
        install(place, say)
    return place


def install(place: Home, say: Say) -> None:
    """Make it, or go on with one that was not finished; does nothing to one that is whole.

    `say` is told each slow step. Raises UnsupportedError.
    """
    try:
        with _alone(place, say) as held:
            if state(place) != "installed":
                _make(place, say, held)
    except OSError as error:
        raise UnsupportedError(
            f"cannot make the environment of {place.name} in {place.folder}: "
            f"{error.strerror or error}; XDG_CACHE_HOME chooses another place"
        ) from error


def remove(place: Home, say: Say) -> bool:
    """Delete it; False if it was not there. Raises UnsupportedError where that is not allowed."""
    if not place.folder.exists():
        return False
    try:
        with _alone(place, say):
            (place.folder / STAMP).unlink(missing_ok=True)  # what is left of it is not whole
            shutil.rmtree(place.folder)
    except OSError as error:
        raise UnsupportedError(
            f"cannot remove {error.filename or place.folder}: {error.strerror or error}"
        ) from error
    return True


def _alone(place: Home, say: Say) -> AbstractContextManager[tuple[int, ...]]:
    """Its lock; another run that installs it is waited for, and so is a pip that it left behind."""
    lock = place.folder.with_name(f"{place.name}.lock")
    return locked(lock, say, f"installs the environment of {place.name}")


def _make(place: Home, say: Say, held: tuple[int, ...]) -> None:
    wanted = place.fingerprint
    if _stamp(place).get("fingerprint") != wanted or not _has_pip(place):
        say(f"making an environment for {place.name} in {place.folder}")
        _venv(place)
    # Not whole until it is stamped again, with what is in it.
    _write_stamp(place, {"fingerprint": wanted})
    say(f"installing the packages of {place.name} with pip (once)")
    _pip(place, say, held)
    if place.without:
        _uninstall(place)
    if place.alias:
        _add_alias(place, *place.alias)
    _write_stamp(place, {"fingerprint": wanted, "packages": versions(place)})


def _venv(place: Home) -> None:
    place.folder.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [*PYTHON, "-m", "venv", "--clear", str(place.folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or not _has_pip(place):
        said = next(filter(str.strip, (done.stdout + done.stderr).splitlines()), "it said nothing")
        raise UnsupportedError(
            f"cannot make the environment of {place.name}: python -m venv: {said.strip()}"
        )


def _has_pip(place: Home) -> bool:
    """Whether its interpreter starts and has pip."""
    try:
        command = [str(place.python), "-I", "-c", "import pip"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _pip(place: Home, say: Say, held: tuple[int, ...]) -> None:
    # -I: packages that PYTHONPATH shows are not in this environment. pip's own settings count.
    command = [
        str(place.python),
        "-I",
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        "--requirement",
        str(place.requirements),
    ]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            pass_fds=held,
        ) as pip,
    ):
        try:
            assert pip.stdout is not None
            for step in steps(pip.stdout):
                say(step)
            if pip.wait() == 0:
                return
        finally:
            pip.kill()  # on Ctrl-C; nothing happens to one that has ended
        errors.seek(0)
        said = pip_error(errors.read())
    raise UnsupportedError(
        f"cannot install the environment of {place.name}: pip: {said} (what was downloaded is "
        "kept: run the same command to resume)"
    )


def _add_alias(place: Home, name: str, version: str) -> None:
    """Metadata of a distribution whose files came under another name."""
    folder = _site_packages(place)[0] / f"{name}-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / "METADATA").write_text(text, encoding="utf-8")


def _uninstall(place: Home) -> None:
    command = [str(place.python), "-I", "-m", "pip", "uninstall", "--yes", *place.without]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnsupportedError(
            f"cannot finish the environment of {place.name}: pip: {pip_error(done.stderr)}"
        )


def steps(output: Iterator[str]) -> Iterator[str]:
    """What is worth showing of pip's output: large downloads, and the last long step."""
    for line in output:
        words = line.split()
        if words[:1] == ["Downloading"] and line.rstrip().endswith(("MB)", "GB)")):
            yield "downloading " + " ".join(words[1:])
        elif line.startswith("Installing collected packages:"):
            yield f"unpacking {line.count(',') + 1} packages"


def pip_error(text: str) -> str:
    """The last error in what pip wrote to stderr that names something, else the last line."""
    errors = [line for line in text.splitlines() if line.startswith("ERROR:")]
    errors = [line for line in errors if not line.startswith("ERROR: ResolutionImpossible")]
    said = last_line("\n".join(errors) or text).removeprefix("ERROR: ")
    if "(from versions: none)" in text:  # all that pip says of an index that does not answer
        said += "; its index has no version at all, or cannot be reached (`pip config list`)"
    return said


def _stamp(place: Home) -> dict[str, Any]:
    problems: list[str] = []
    try:
        table = fields.read_json(place.folder / STAMP)
        fields.convert(Stamp, table, "", problems)
    except InputError:
        return {}
    return {} if problems else table


def _write_stamp(place: Home, stamp: dict[str, Any]) -> None:
    path = place.folder / STAMP
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    partial.replace(path)


def _site_packages(place: Home) -> list[Path]:
    patterns = ("lib/python*/site-packages", "Lib/site-packages")
    return [path for pattern in patterns for path in place.folder.glob(pattern)]
