"""Which mode an engine runs in where none is asked for, and modes that moved to another engine.

Standard library only: an experiment is read without any engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PLAIN: Final = "eager"
DEFAULT: Final[Mapping[str, str]] = {"graph": "compiled"}
"""Engine -> its mode where none is asked for; every other engine has `PLAIN`."""

MOVED: Final[Mapping[tuple[str, str], str]] = {
    ("transformers", "compiled"): "graph",
    ("transformers", "cuda-graph"): "graph",
}
"""Engine and mode, as they were once named -> the engine that has the mode now."""


def engine_and_mode(engine: str, mode: str | None) -> tuple[str, str]:
    """What an arm of this engine and mode runs: its default mode, or the engine of a moved one."""
    mode = mode or DEFAULT.get(engine, PLAIN)
    return MOVED.get((engine, mode), engine), mode


def moved(engine: str, mode: str | None) -> str | None:
    """One line for an engine and mode that are taken as another engine's; None if they are not."""
    if (now := MOVED.get((engine, mode or ""))) is None:
        return None
    return (
        f"engine {engine} in mode {mode} is taken as engine {now}: this project's own inference "
        f"code has that name now (-e {now} --mode {mode})"
    )
