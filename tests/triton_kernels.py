"""Triton kernels run or built without a GPU, in a process of their own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "interpret_kernels.py"
BUILD = pytest.param("build", marks=pytest.mark.slow)
BUILD_ALL = pytest.param("build-all", marks=pytest.mark.zoo)


def kernels(which: str, task: str, cache: Path) -> None:
    """`interpret` on the CPU against the reference, or `build` for the cards that are aimed at:
    every pair of properties; every combination with `build-all`."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed (it is for Linux)")
    env = {**os.environ, "TRITON_CACHE_DIR": str(cache), "TRITON_DEFAULT_FP_FUSION": "1"}
    if task == "interpret":
        env["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), which, task],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
