"""How a program of ours is started: never from the folder that the user stands in.

`python -m` puts that folder first, so that a `json/` or `torch.py` in it would be run. Standard
library only.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

BOOT: Final = Path(__file__).parent / "runner" / "boot.py"
"""Makes this package known by its place and runs one of its modules."""

PYTHON: Final = (sys.executable, "-P")
"""This interpreter, its own packages, nothing from the current folder."""


def own(module: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs a module of ours with the packages that this process has."""
    return (*PYTHON, str(BOOT), module, *arguments)
