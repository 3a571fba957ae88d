"""What a token really costs on this card, and whether a change makes it faster and cheaper.

The names of `__all__` are the Python API (docs/python.md). Each is imported when it is first used,
so that `import bench` costs nothing.
"""

from __future__ import annotations

from bench._version import __version__

TYPE_CHECKING = False  # as type checkers read it: `typing` itself takes longer than all of this
if TYPE_CHECKING:
    from typing import Any

    from bench.api import compare, judge, price, run, summarise
    from bench.errors import BenchError, InputError, UnsupportedError
    from bench.exchange.copied import read_results
    from bench.experiment import (
        ArmEntry,
        CostAssumption,
        Experiment,
        Gate,
        Grid,
        Quality,
        load_experiment,
    )
    from bench.records import Environment, QualityRecord, Record
    from bench.records.file import Results, read

__all__ = [
    "ArmEntry",
    "BenchError",
    "CostAssumption",
    "Environment",
    "Experiment",
    "Gate",
    "Grid",
    "InputError",
    "Quality",
    "QualityRecord",
    "Record",
    "Results",
    "UnsupportedError",
    "__version__",
    "compare",
    "judge",
    "load_experiment",
    "price",
    "read",
    "read_results",
    "run",
    "summarise",
]

_ROOMS = {
    "api": ("compare", "judge", "price", "run", "summarise"),
    "errors": ("BenchError", "InputError", "UnsupportedError"),
    "exchange.copied": ("read_results",),
    "experiment": (
        "ArmEntry",
        "CostAssumption",
        "Experiment",
        "Gate",
        "Grid",
        "Quality",
        "load_experiment",
    ),
    "records": ("Environment", "QualityRecord", "Record"),
    "records.file": ("Results", "read"),
}
"""Module -> the public names that live there. No name is a room's own: `bench.cost` is a module."""

_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'bench' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"bench.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
