"""What must be known of engines where none is at hand: modes, and how several devices share work.

Standard library only: experiments and records are read without any engine.
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

PARALLEL: Final = frozenset({"vllm"})
"""Engines of which several devices work on each layer at once, where options do not say how they
share the model; of others one waits for the other."""


def engine_and_mode(engine: str, mode: str | None) -> tuple[str, str]:
    """What an arm of this engine and mode runs: its default mode, or the engine of a moved one."""
    mode = mode or DEFAULT.get(engine, PLAIN)
    return MOVED.get((engine, mode), engine), mode


def moved(engine: str, mode: str | None) -> str | None:
    """One line for an engine and mode that are taken as another engine's; None if they are not."""
    if (now := MOVED.get((engine, mode or ""))) is None:
        return None
    return (
        f"engine {engine} in mode {mode} runs as engine {now}, this project's own inference code "
        f"(-e {now} --mode {mode})"
    )
