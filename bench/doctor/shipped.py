"""Check what ships and what users bring: every problem of every file is listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from bench import fields
from bench.claims import ClaimFile
from bench.claims.files import claim_files, load_claims
from bench.cost.books import book, validate_prices
from bench.cost.scenario import scenarios, validate_scenarios
from bench.errors import BenchError, InputError
from bench.experiment import Experiment, experiments, load_experiment
from bench.models import load_card, model_cards
from bench.models.shapes import Shape, shape, validate_models
from bench.predict import published
from bench.predict.board_power import power_rows, validate_power
from bench.predict.published import validate_published
from bench.records.check import ResultsCheck
from bench.roofline.gpus import gpus, validate_gpus
from bench.runner.arms import unknown_names
from bench.summary import checking
from bench.summary.copies import Say


def check_shipped() -> list[ResultsCheck]:
    """Everything that ships with the project."""
    cards, asked = model_cards(), experiments()
    return [
        ResultsCheck(what="model cards", n_checked=len(cards), problems=tuple(validate_models())),
        _each("experiments", asked.values(), _experiment),
        _each("claims", claim_files().values(), _claims),
        ResultsCheck(what="GPUs", n_checked=_count(gpus), problems=tuple(validate_gpus())),
        ResultsCheck(
            what="prices",
            n_checked=sum(len(book(kind)) for kind in ("rent", "purchase", "api", "electricity")),
            problems=tuple(validate_prices()),
        ),
        ResultsCheck(
            what="published measurements",
            n_checked=_count(published.rows),
            problems=tuple(validate_published()),
        ),
        ResultsCheck(
            what="published power", n_checked=_count(power_rows), problems=tuple(validate_power())
        ),
        ResultsCheck(
            what="scenarios", n_checked=len(scenarios()), problems=tuple(validate_scenarios())
        ),
    ]


def check_path(path: Path, say: Say | None = None) -> ResultsCheck:
    """A results folder or file, a card, a claim or an experiment, told apart by what is in it.

    `say` is told how far the reading of large results is.
    """
    if path.is_dir() or path.suffix == ".jsonl":
        return checking.check(path, say=say)
    table = fields.read_toml(path)
    kind = "experiment"
    load: Callable[[Path], object] = _experiment
    if "architecture" in table or "weights" in table:
        kind, load = "model card", _card
    elif "claims" in table or "source" in table:
        kind, load = "claim", _claims
    return _each(f"{kind} {path}", [path], load)


def _card(path: Path) -> Shape:
    """A card whose arithmetic works too."""
    return shape(load_card(path))


def _experiment(path: Path) -> Experiment:
    """An experiment whose names are known too."""
    found = load_experiment(str(path))
    problems = unknown_names(found)
    if not problems and not found.baselines:
        problems = [f"baseline: {found.baseline!r} is none of the arms"]
    if problems:
        raise InputError(*(f"{path}: {problem}" for problem in problems))
    return found


def _claims(path: Path) -> ClaimFile:
    return load_claims(str(path))


def _each(what: str, paths: Iterable[Path], load: Callable[[Path], object]) -> ResultsCheck:
    problems: list[str] = []
    paths = list(paths)
    for path in paths:
        try:
            load(path)
        except InputError as error:
            problems += error.problems
        except BenchError as error:
            problems.append(f"{path}: {error}")
    return ResultsCheck(what=what, n_checked=len(paths), problems=tuple(problems))


def _count(load: Callable[[], Iterable[object]]) -> int:
    """How many there are; 0 if they cannot be read, which the check itself reports."""
    try:
        return len(list(load()))
    except InputError:
        return 0
