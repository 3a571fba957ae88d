"""What is published: scripts/check-wheel looks into it and runs it in an empty environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def check(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/check-wheel", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        # The wheel's own pytest is no worker of this one.
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.wheel
def test_the_wheel_runs_the_quickstart_in_an_empty_environment(embedded_folder: Path) -> None:
    said = check()
    assert "hold what they should" in said
    assert "runs the quickstart in an empty environment" in said
