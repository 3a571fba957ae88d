"""Files that the user names: whole or not at all, and never over what is no file."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from bench.errors import InputError, UnsupportedError
from bench.saving import save


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_and_its_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.csv"
    save(b"one", path)
    save(b"two", path)
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["out.csv"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    save(b"x", link)
    assert link.is_symlink()
    assert target.read_bytes() == b"x"


def test_a_device_is_written_to_and_not_replaced() -> None:
    """As root, a file once took the place of /dev/null."""
    before = Path("/dev/null").stat()
    save(b"x", Path("/dev/null"))
    after = Path("/dev/null").stat()
    assert stat.S_ISCHR(after.st_mode)
    assert (before.st_ino, before.st_rdev) == (after.st_ino, after.st_rdev)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    told: list[bytes] = []
    reader = threading.Thread(target=lambda: told.append(pipe.read_bytes()), daemon=True)
    reader.start()
    save(b"x" * 200_000, pipe)
    reader.join(timeout=20)
    assert told == [b"x" * 200_000]
    assert pipe.is_fifo()


def test_a_pipe_that_nobody_reads_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.saving.WAIT_S", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is a pipe that nobody reads"):
        save(b"x", tmp_path / "pipe")


@pytest.mark.parametrize("name", ["folder", "loop", "file/below", "n" * 300])
def test_a_path_that_cannot_be_right_is_bad_input(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match=r"choose another$") as told:
        save(b"x", tmp_path / name, "choose another")
    assert len(str(told.value).splitlines()) == 1
    assert names(tmp_path) == ["file", "folder", "loop"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def full(_held: int, _mode: str) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.saving.os.fdopen", full)
    with pytest.raises(UnsupportedError, match="No space left"):
        save(b"x", path)
    assert names(tmp_path) == ["out"]
    assert path.read_text() == "old"
