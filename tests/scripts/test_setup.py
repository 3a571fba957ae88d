"""scripts/setup on a Python whose `venv` cannot bring pip, as Debian and Ubuntu ship it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

WITHOUT_PIP = """
import runpy, subprocess, sys, venv

def fails(*_, **__):
    raise subprocess.CalledProcessError(1, ["python", "-m", "ensurepip"])

venv.EnvBuilder._setup_pip = fails
sys.argv = [sys.argv[1], "run"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_python_without_ensurepip_names_the_package_each_time(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/setup", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    for _ in range(2):  # the second call must not find half an environment
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_PIP, str(tmp_path / "scripts" / "setup")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 3, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        assert last.endswith(f"sudo apt install python{version}-venv")
        assert "Traceback" not in done.stderr
        assert not (tmp_path / ".venv").exists()
