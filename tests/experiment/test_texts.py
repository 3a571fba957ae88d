from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bench.errors import InputError
from bench.experiment.texts import FOLDER, read_text, texts


def test_every_shipped_text_has_its_licence_stated() -> None:
    licence = (FOLDER / "LICENSE.md").read_text(encoding="utf-8")
    assert set(texts()) == {"english", "code", "japanese"}
    for path in texts().values():
        assert f"`{path.name}`" in licence


def test_shipped_text_is_known_by_its_sum() -> None:
    found = read_text("english")
    assert found.name == "english"
    assert found.sha256 == hashlib.sha256(found.text.encode()).hexdigest()


def test_a_path_is_the_users_own_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Grüße\n", encoding="utf-8")
    assert read_text(str(file)).text == "Grüße\n"
    assert read_text(str(file)).name == "mine.txt"


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown text 'englsh'; did you mean 'english'"):
        read_text("englsh")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "not UTF-8 at byte 0"), (b" \n", "is empty"), (None, "No such file")],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "own.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_text(str(file))
