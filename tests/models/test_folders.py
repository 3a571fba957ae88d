"""Folders as people have them: each fault is one line, before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cli import main
from bench.errors import InputError
from bench.models import folders


def _bytes(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def truncate(folder: Path) -> None:
    file = _bytes(folder)
    file.write_bytes(file.read_bytes()[:-100])


def empty(folder: Path) -> None:
    _bytes(folder).write_bytes(b"")


def pointer(folder: Path) -> None:
    _bytes(folder).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")


def other_file(folder: Path) -> None:
    _bytes(folder).write_bytes(b"PK\x03\x04" + b"\xff" * 400)


def dangling(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("../../blobs/0123")


def dangling_weights(folder: Path) -> None:
    name = _bytes(folder).name
    (folder / name).unlink()
    (folder / name).symlink_to("../../blobs/0123")


def no_object(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def adapter_beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def adapter_alone(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")


def hub_cache(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "snapshots").mkdir()


def missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": _bytes(folder).name, "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "cut short"),
    (empty, "an empty file"),
    (pointer, "a Git LFS pointer"),
    (other_file, "no safetensors file"),
    (dangling, "a broken link (../../blobs/0123)"),
    (dangling_weights, "a broken link (../../blobs/0123)"),
    (no_object, "not a JSON object"),
    (adapter_beside, "holds an adapter beside the model"),
    (adapter_alone, "an adapter alone"),
    (hub_cache, "snapshots/..."),
    (missing_shard, "model-00002-of-00002.safetensors: missing"),
]


@pytest.mark.parametrize(("damage", "words"), FAULTS, ids=lambda one: getattr(one, "__name__", ""))
def test_each_fault_is_one_line_that_names_it(
    damage: Callable[[Path], None], words: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    folders.check(folder)
    damage(folder)
    with pytest.raises(InputError) as error:
        folders.check(folder)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_ends_with_it_before_a_worker_starts(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    empty(folder)
    code = main(["run", "-m", f"{folder}", "-d", "cpu", "--into", str(tmp_path / "results")])
    assert code == 2
    assert "an empty file" in capsys.readouterr().err


def test_a_folder_without_a_slash_is_pointed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "-m", "mine"]) == 2
    assert "./mine names the folder" in capsys.readouterr().err


def test_a_name_that_no_file_can_have_is_a_fault() -> None:
    assert list(folders.faults(Path("a\0b"))) == ["a\0b: embedded null byte"]
