"""The experiments that a results folder answers: as they were run, and as its file says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench import fields
from bench.errors import InputError
from bench.experiment import Experiment, load_experiment

AS_RUN: Final = "experiments.jsonl"
"""A line for each experiment that was run into a folder."""
BY_HAND: Final = "experiment.toml"
"""Put there by hand, it says more than what was run."""


def kept(paths: Sequence[Path]) -> tuple[dict[str, Experiment], list[str]]:
    """Experiments of results folders, by name, and what could not be read. Of a name the folder's
    last counts, and of several folders the first."""
    found: dict[str, Experiment] = {}
    problems: list[str] = []
    for folder in dict.fromkeys(path if path.is_dir() else path.parent for path in paths):
        of_folder = _as_run(folder / AS_RUN, problems)
        if (file := folder / BY_HAND).is_file():
            try:
                one = load_experiment(str(file))
            except InputError as error:
                problems += error.problems
            else:
                of_folder[one.name] = one
        found |= {name: one for name, one in of_folder.items() if name not in found}
    return found, problems


def asked_baseline(experiments: Mapping[str, Experiment], names: Collection[str]) -> str | None:
    """The baseline of the experiments of these names; None where they differ or are not known."""
    asked = {one.baseline for name, one in experiments.items() if name in names}
    return asked.pop() if len(asked) == 1 else None


def _as_run(file: Path, problems: list[str]) -> dict[str, Experiment]:
    found: dict[str, Experiment] = {}
    try:
        lines = file.read_bytes().splitlines() if file.is_file() else []
    except OSError as error:
        problems.append(f"{file}: {error.strerror or error}")
        return found
    for number, line in enumerate(lines, 1):
        wrong: list[str] = []
        try:
            table = fields.parse_json(line)
            one = fields.build(Experiment, table, "", wrong) if isinstance(table, dict) else None
        except InputError as error:
            one, wrong = None, list(error.problems)
        if one is not None:
            found[one.name] = one
        else:
            why = wrong[0] if wrong else "not an experiment"
            problems.append(f"{file}:{number}: {why}")
    return found
