"""Engine environments, made by pip from a folder of tiny wheels: no network, no real engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cli import main
from bench.errors import InputError, UnsupportedError
from bench.runner import venvs as environments
from bench.runner.process import converse
from bench.runner.venvs import Home, install, remove, state, versions


def wheel(folder: Path, name: str, version: str) -> None:
    """The smallest wheel that pip installs: one module of one line."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", f"version = {version!r}\n")
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, list[str]]]:
    """An environment installed once, and what was said; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        place = prepared(folder, patch)
        said: list[str] = []
        install(place, said.append)
        yield place, said


def prepared(folder: Path, patch: pytest.MonkeyPatch) -> Home:
    """An environment that is not there yet; pip's settings, as a user makes them, name a folder."""
    wheels = folder / "wheels"
    wheels.mkdir()
    wheel(wheels, "tinyengine", "1.0")
    wheel(wheels, "tinyengine", "2.0")
    patch.setenv("PIP_CONFIG_FILE", "/dev/null")
    patch.setenv("PIP_NO_INDEX", "1")
    patch.setenv("PIP_FIND_LINKS", str(wheels))
    patch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    # What is beside the harness must not be taken for what is in the environment.
    patch.setenv("PYTHONPATH", str(Path(pytest.__file__).parent.parent))
    requirements = folder / "tiny.txt"
    requirements.write_text("# one package\ntinyengine==1.0\n")
    return Home(name="tiny", requirements=requirements, folder=folder / "cache" / "tiny")


@pytest.fixture
def place(made: tuple[Home, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of the installed environment, to be broken."""
    copy = prepared(tmp_path, monkeypatch)
    copy.folder.parent.mkdir()
    shutil.copytree(made[0].folder, copy.folder, symlinks=True)
    return copy


def version_in(place: Home) -> str:
    command = [str(place.python), "-I", "-c", "import tinyengine; print(tinyengine.version)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_it_is_installed_once(made: tuple[Home, list[str]]) -> None:
    place, said = made
    assert said == [
        f"making an environment for tiny in {place.folder}",
        "installing the packages of tiny with pip (once)",
        "unpacking 1 packages",
    ]
    assert state(place) == "installed"
    assert versions(place)["tinyengine"] == "1.0"
    assert version_in(place) == "1.0"
    again: list[str] = []
    install(place, again.append)
    assert again == []


def test_a_worker_runs_there_with_the_standard_library_alone(
    made: tuple[Home, list[str]],
) -> None:
    place, _ = made
    nothing = [str(place.python), "-I", "-c", "import torch"]
    assert subprocess.run(nothing, capture_output=True, check=False).returncode == 1
    load = {
        "architecture": {},
        "folder": None,
        "gguf": None,
        "made": None,
        "random_seed": 0,
        "initializer_range": 0.02,
        "quant": "none",
        "mode": "eager",
        "dtype": "auto",
        "device": "synthetic",
        "threads": None,
        "seed": 0,
        "replicate": 0,
        "options": {},
    }
    rules = {
        "pairs": 1,
        "iterations": 3,
        "window_s": 0.0,
        "warmup_max_s": 1.0,
        "warmup_window": 2,
        "idle_s": 0.0,
        "time_limit_s": 60.0,
    }
    job = {
        "task": "measure",
        "engine": "synthetic",
        "load": load,
        "measure": rules,
        "workloads": [{"n_prompt": 8, "n_gen": 4, "n_batch": 1}],
    }
    events = list(converse(job, limit_s=60, command=place.program("bench.worker")))
    assert [event["event"] for event in events if event["event"] != "phase"] == [
        "loaded",
        "measured",
        "done",
    ]


def test_a_package_beside_the_harness_is_not_seen(made: tuple[Home, list[str]]) -> None:
    place, _ = made
    done = subprocess.run(
        place.program("bench.models.convert", "gguf", "a", "b"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip().splitlines()[-1] == (
        "ModuleNotFoundError: No module named 'transformers'"
    )


def test_a_package_that_went_missing_is_put_back(place: Home) -> None:
    (info,) = place.folder.rglob("tinyengine-1.0.dist-info")
    shutil.rmtree(info)
    assert state(place) == "unfinished"
    said: list[str] = []
    install(place, said.append)
    assert said[0] == "installing the packages of tiny with pip (once)"  # the rest was kept
    assert state(place) == "installed"


def test_a_dead_interpreter_means_a_new_environment(place: Home) -> None:
    for name in place.python.parent.glob("python*"):
        name.unlink()
    place.python.symlink_to("/nowhere/python")
    assert state(place) == "unfinished"
    install(place, lambda _: None)
    assert version_in(place) == "1.0"


def test_other_pins_mean_a_new_environment(place: Home) -> None:
    before = place.fingerprint
    place.requirements.write_text("# another comment\n\ntinyengine==1.0\n")
    assert place.fingerprint == before
    place.requirements.write_text("tinyengine==2.0\n")
    assert state(place) == "outdated"
    install(place, lambda _: None)
    assert version_in(place) == "2.0"


def test_what_comes_along_is_taken_out_and_a_package_is_known_by_its_other_name(
    place: Home,
) -> None:
    before = place.fingerprint
    place.requirements.write_text("# alias: tiny-engine 1.0+cpu\ntinyengine==1.0\n")
    assert place.fingerprint != before
    install(place, lambda _: None)
    assert versions(place)["tiny-engine"] == "1.0+cpu"
    assert version_in(place) == "1.0"
    place.requirements.write_text("# without: tinyengine nosuch\ntinyengine==1.0\n")
    install(place, lambda _: None)
    assert "tinyengine" not in versions(place)
    assert state(place) == "installed"


def test_an_interrupted_install_goes_on(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    (info,) = place.folder.rglob("tinyengine-1.0.dist-info")
    shutil.rmtree(info)
    with monkeypatch.context() as patch:
        patch.setattr(environments, "_pip", interrupted)
        with pytest.raises(KeyboardInterrupt):
            install(place, lambda _: None)
    assert state(place) == "unfinished"
    said: list[str] = []
    install(place, said.append)
    assert said[0] == "installing the packages of tiny with pip (once)"  # into what was begun
    assert state(place) == "installed"


def test_pip_that_fails_is_one_line_with_its_last_word(place: Home) -> None:
    place.requirements.write_text("tinyengine==1.0\nnosuchpackage==3.1\n")
    (place.folder / environments.STAMP).write_text(
        f'{{"fingerprint": "{place.fingerprint}"}}'  # as an interrupted install leaves it
    )
    with pytest.raises(UnsupportedError, match="No matching distribution found") as error:
        install(place, lambda _: None)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 3
    assert state(place) == "unfinished"


def test_two_at_once_install_once(place: Home) -> None:
    (info,) = place.folder.rglob("tinyengine-1.0.dist-info")
    shutil.rmtree(info)
    said: list[str] = []
    threads = [threading.Thread(target=install, args=(place, said.append)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state(place) == "installed"
    assert said.count("installing the packages of tiny with pip (once)") == 1
    assert said.count("waiting for another run that installs the environment of tiny") == 1


def test_a_pip_that_outlives_its_install_is_waited_for(tmp_path: Path) -> None:
    """`kill -9` ends the install and not its pip; two of them in one folder would break it."""
    place = Home(name="tiny", requirements=tmp_path / "tiny.txt", folder=tmp_path / "tiny")
    place.requirements.write_text("tinyengine==1.0\n")
    place.python.parent.mkdir(parents=True)
    os.mkfifo(tmp_path / "go")
    place.python.write_text(f"#!/bin/sh\ntouch {tmp_path}/begun\ncat {tmp_path}/go\n")
    place.python.chmod(0o755)
    program = f"""
from pathlib import Path
from bench.runner import venvs as environments
place = environments.Home(
    name="tiny", requirements=Path({str(place.requirements)!r}), folder=Path({str(place.folder)!r})
)
with environments._alone(place, print) as held:
    environments._pip(place, print, held)
"""
    killed = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2])
    while not (tmp_path / "begun").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    said: list[str] = []
    released = threading.Event()

    def wait() -> None:
        with environments._alone(place, said.append):
            released.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not said:
        time.sleep(0.01)
    assert not released.is_set()
    (tmp_path / "go").write_text("")  # pip ends
    waiting.join(30)
    assert released.is_set()
    assert said == ["waiting for another run that installs the environment of tiny"]


def test_terminating_an_install_ends_its_pip(tmp_path: Path) -> None:
    """SIGTERM (`timeout`, CI, a batch system) is an interruption, not an orphan."""
    program = (
        "import os, signal; from bench.cli import stop_on_terminate; stop_on_terminate()\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM); signal.pause()\n"
        "except KeyboardInterrupt:\n    print('ended')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout == "ended\n"


def test_what_cannot_be_removed_is_one_line(
    place: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path / "lib"))

    monkeypatch.setattr(environments, "home", lambda name: place)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refused)
        assert main(["engines", "remove", "tiny"]) == 3
    assert capsys.readouterr().err == (
        f"bench: cannot remove {place.folder / 'lib'}: Permission denied\n"
    )
    assert state(place) == "unfinished"  # whatever is left of it is no whole environment


def test_it_can_be_removed(place: Home) -> None:
    assert remove(place, lambda _: None)
    assert state(place) == "missing"
    assert not remove(place, lambda _: None)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    requirements = tmp_path / "tiny.txt"
    requirements.write_text("tinyengine==1.0\n")
    place = Home(name="tiny", requirements=requirements, folder=tmp_path / "file" / "tiny")
    with pytest.raises(UnsupportedError, match="XDG_CACHE_HOME chooses another place"):
        install(place, lambda _: None)


def test_only_what_takes_long_is_shown() -> None:
    output = iter(
        [
            "Collecting torch==2.13.0\n",
            "  Downloading torch-2.13.0.whl.metadata (30 kB)\n",
            "Downloading torch-2.13.0.whl (899.7 MB)\n",
            "Downloading nvidia.whl (1.2 GB)\n",
            "Installing collected packages: torch, numpy, idna\n",
        ]
    )
    assert list(environments.steps(output)) == [
        "downloading torch-2.13.0.whl (899.7 MB)",
        "downloading nvidia.whl (1.2 GB)",
        "unpacking 3 packages",
    ]


def test_what_pip_says_last_is_its_error() -> None:
    text = "WARNING: retrying\nERROR: first\nERROR: No space left\n\n[notice] a new release\n"
    assert environments.pip_error(text) == "No space left"
    assert environments.pip_error("") == "it said nothing"
    text = (
        "ERROR: Could not find a version that satisfies the requirement a==1 (from versions: none)"
        "\nERROR: No matching distribution found for a==1\n"
    )
    assert environments.pip_error(text) == (
        "No matching distribution found for a==1; its index has no version at all, or cannot be "
        "reached (`pip config list`)"
    )


def test_versions_that_exclude_each_other_are_named() -> None:
    text = (
        "ERROR: Cannot install a==1 and b==2 because these package versions have conflicting "
        "dependencies.\nERROR: ResolutionImpossible: for help visit https://pip.pypa.io/"
    )
    assert environments.pip_error(text).startswith("Cannot install a==1 and b==2 because")


def test_every_engine_has_its_pins_and_all_are_exact() -> None:
    from bench.engines.registry import ENGINES

    for spec in ENGINES.values():
        if spec.environment is not None:
            assert spec.environment in environments.names()
    for name in environments.names():
        lines = environments.home(name).requirements.read_text(encoding="utf-8").splitlines()
        pins = [line for line in lines if line and not line.startswith("#")]
        assert pins
        assert [pin for pin in pins if "==" not in pin] == []


def test_a_kind_of_device_may_have_packages_of_its_own() -> None:
    assert environments.home("onnxruntime", "cuda").name == "onnxruntime-cuda"
    assert environments.home("onnxruntime", "cpu").name == "onnxruntime"
    assert environments.home("vllm", "cpu").name == "vllm-cpu"
    assert environments.home("vllm").name == "vllm", "as `bench engines install vllm` asks for it"
    assert [one.name for one in environments.homes("vllm")] == ["vllm", "vllm-cpu"]
    with pytest.raises(InputError, match="did you mean 'onnxruntime'"):
        environments.home("onnxruntim")


def test_the_verb_lists_what_is_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["engines", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    ours = next(row for row in rows if row["engine"] == "transformers")
    assert (ours["environment"], ours["state"], ours["devices"][0]) == (None, "installed", "cpu")
    onnx, cuda = [row for row in rows if row["engine"] == "onnxruntime"]
    assert (onnx["state"], onnx["version"], onnx["devices"]) == ("missing", None, ["cpu"])
    assert cuda["devices"] == ["cuda"]
    assert "int8-dynamic on cuda" in cuda["refuses"]
    assert "int8-dynamic" in onnx["schemes"]
    assert "int8-dynamic" not in cuda["schemes"], "only what runs there"
    vllm = {row["environment"]: row for row in rows if row["engine"] == "vllm"}
    online = {"fp8_per_tensor", "fp8_per_block", "mxfp8", "torchao_fp8_per_row"}
    assert vllm["vllm"]["devices"] == ["cuda"]
    assert set(vllm["vllm"]["schemes"]) == {"none", *online}
    assert (vllm["vllm-cpu"]["devices"], vllm["vllm-cpu"]["schemes"]) == (["cpu"], ["none"])
    assert set(vllm["vllm-cpu"]["checkpoints"]) < set(vllm["vllm"]["checkpoints"])
    assert main(["engines"]) == 0
    assert "bench's own" in capsys.readouterr().out


def test_the_verb_removes_and_installs(
    place: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environments, "home", lambda name: place)
    assert main(["engines", "install", "tiny"]) == 0
    assert capsys.readouterr() == ("", f"tiny is installed in {place.folder}\n")
    place.requirements.write_text("nosuchpackage==3.1\n")
    (place.folder / environments.STAMP).write_text(f'{{"fingerprint": "{place.fingerprint}"}}')
    assert main(["engines", "install", "tiny"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        err.strip()
        .splitlines()[-1]
        .startswith(
            "bench: cannot install the environment of tiny: pip: No matching distribution found"
        )
    )
    assert main(["engines", "remove", "tiny"]) == 0
    assert main(["engines", "remove", "tiny"]) == 0
    assert capsys.readouterr().err == f"removed {place.folder}\ntiny is not installed\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["engines", "install"], "name what to install"),
        (["engines", "install", "onnxruntim"], "did you mean 'onnxruntime'"),
        (["engines", "list", "onnxruntime"], "takes no name"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_the_parent_needs_no_package_to_install(tmp_path: Path) -> None:
    program = (
        "import bench.runner.venvs, sys; print([m for m in ('torch','numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "[]"
