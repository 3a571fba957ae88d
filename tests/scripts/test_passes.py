"""scripts/test in a folder where `python` is a stand-in: which passes it makes, how they end."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAND_IN = """#!/bin/sh
echo "$OMP_NUM_THREADS|$*" >> {log}
case "$*" in
  *setup*) exit 0 ;;
  *"alone and not"*) code=$ALONE name=alone ;;
  *--last-failed*) code=$AGAIN name=again ;;
  *) code=$TOGETHER name=together ;;
esac
[ -z "$TEST_COUNTS" ] || echo "  counts of $name" >> "$TEST_COUNTS"
exit $code
"""


def run(
    folder: Path, *arguments: str, together: int = 0, again: int = 1, alone: int = 0
) -> tuple[int, list[str], str]:
    """Exit code, the calls of pytest, and what was said."""
    log = folder / "calls"
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "test", folder / "scripts" / "test")
    stand_in = folder / ".venv" / "bin" / "python"
    stand_in.parent.mkdir(parents=True)
    stand_in.write_text(STAND_IN.format(log=log))
    finder = folder / "scripts" / "python"
    finder.write_text(f"#!/bin/sh\necho {stand_in}\n")
    for program in (stand_in, finder):
        program.chmod(0o755)
    env = {name: text for name, text in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [folder / "scripts" / "test", *arguments],
        env=env
        | {"TOGETHER": str(together), "AGAIN": str(again), "ALONE": str(alone)}
        | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not list(folder.glob("tmp*"))  # nothing is left
    return done.returncode, log.read_text().splitlines()[1:], done.stdout


BESIDE = "1|-m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "


def test_the_quick_ones_in_one_pass(tmp_path: Path) -> None:
    code, calls, _ = run(tmp_path, together=1)
    assert code == 1
    assert calls == [BESIDE + "not (zoo or large or vllm or slow or alone)"]


def test_all_beside_each_other_and_then_alone_with_options(tmp_path: Path) -> None:
    code, calls, said = run(tmp_path, "--all", "--durations=20")
    assert code == 0
    assert calls == [
        BESIDE + "not (zoo or large or vllm or alone) --durations=20",
        "|-m pytest -m alone and not (zoo or large or vllm) --durations=20",
    ]
    assert said.endswith("  counts of together\n  counts of alone\n")


def test_other_arguments_go_to_pytest_as_they_are(tmp_path: Path) -> None:
    assert run(tmp_path, "-k", "a or b", together=4)[:2] == (4, ["|-m pytest -k a or b"])


@pytest.mark.parametrize(
    ("together", "alone", "code", "n_passes"),
    [(1, 0, 1, 3), (0, 1, 1, 2), (5, 0, 5, 2), (0, 5, 5, 2), (3, 1, 3, 2), (2, 0, 2, 1)],
)
def test_all_fails_where_a_pass_fails(
    together: int, alone: int, code: int, n_passes: int, tmp_path: Path
) -> None:
    found, calls, _ = run(tmp_path, "--all", together=together, alone=alone)
    assert (found, len(calls)) == (code, n_passes)


def test_what_fails_beside_others_must_pass_by_itself(tmp_path: Path) -> None:
    code, calls, said = run(tmp_path, "--all", together=1, again=0)
    assert code == 0
    again = "--last-failed --last-failed-no-failures none -m not (zoo or large or vllm or alone)"
    assert calls[1] == f"|-m pytest {again}"
    assert said.endswith("  counts of together\n  counts of again\n  counts of alone\n")


def test_what_is_left_out_is_what_pyproject_leaves_out() -> None:
    (left_out,) = [
        line.split("-m '")[1].split("'")[0]
        for line in (ROOT / "pyproject.toml").read_text().splitlines()
        if line.startswith("addopts")
    ]
    names = left_out.replace("not ", "").replace(" and ", " or ")
    assert f"left_out='{names}'" in (ROOT / "scripts" / "test").read_text()
