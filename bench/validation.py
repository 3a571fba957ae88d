"""Check what ships and what users bring: every problem of every file is listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bench import fields
from bench.catalog import load_card, model_cards
from bench.claims import ClaimFile, claim_files, load_claims
from bench.cost.prices import book, validate_prices
from bench.cost.scenario import scenarios, validate_scenarios
from bench.errors import BenchError, InputError
from bench.experiment import Experiment, experiments, load_experiment
from bench.predict import published
from bench.predict.board_power import power_rows, validate_power
from bench.predict.published import validate_published
from bench.records import FILE, OWN, Record, read
from bench.roofline.gpus import gpus, validate_gpus
from bench.roofline.shapes import Shape, shape, validate_models
from bench.validity import REASONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One kind of thing that was checked."""

    what: str
    n_checked: int
    problems: tuple[str, ...]


def check_shipped() -> list[Check]:
    """Everything that ships with the project."""
    cards, asked = model_cards(), experiments()
    return [
        Check(what="model cards", n_checked=len(cards), problems=tuple(validate_models())),
        _each("experiments", asked.values(), _experiment),
        _each("claims", claim_files().values(), _claims),
        Check(what="GPUs", n_checked=_count(gpus), problems=tuple(validate_gpus())),
        Check(
            what="prices",
            n_checked=sum(len(book(kind)) for kind in ("rent", "purchase", "api", "electricity")),
            problems=tuple(validate_prices()),
        ),
        Check(
            what="published measurements",
            n_checked=_count(published.rows),
            problems=tuple(validate_published()),
        ),
        Check(
            what="published power", n_checked=_count(power_rows), problems=tuple(validate_power())
        ),
        Check(what="scenarios", n_checked=len(scenarios()), problems=tuple(validate_scenarios())),
    ]


def check_path(path: Path) -> Check:
    """A results folder or file, a card, a claim or an experiment, told apart by what is in it."""
    if path.is_dir() or path.suffix == ".jsonl":
        return check_results(path)
    table = fields.read_toml(path)
    kind = "experiment"
    load: Callable[[Path], object] = _experiment
    if "architecture" in table or "weights" in table:
        kind, load = "model card", _card
    elif "claims" in table or "source" in table:
        kind, load = "claim", _claims
    return _each(f"{kind} {path}", [path], load)


def check_results(path: Path) -> Check:
    """Every line of a results file: readable, whole, with known reasons and a known machine."""
    results = read(path)
    problems = list(results.problems)
    for record in results.records:
        at = f"{path}: record {record.key}"
        if record.environment not in results.environments:
            problems.append(f"{at}: environment: no line describes '{record.environment}'")
        problems += [f"{at}: {problem}" for problem in _record(record)]
    for quality in results.qualities:
        if len(quality.kld) not in (0, len(quality.nll)):
            problems.append(f"{path}: quality {quality.key}: kld, nll: not of one length")
    n = len(results.records) + len(results.qualities)
    name = path / FILE if path.is_dir() else path
    return Check(what=f"results {name}", n_checked=n, problems=tuple(problems))


def _record(record: Record) -> Iterable[str]:
    """Faults of one record, each with its key."""
    if record.origin not in OWN:
        yield from _imported(record)
        return
    for name in ("n_prompt", "n_gen", "n_batch"):
        if not isinstance(record.workload.get(name), int) or record.workload[name] < 1:
            yield f"workload.{name}: expected a whole number of at least 1"
            return
    for reason in record.reasons:
        if reason not in REASONS:
            yield f"reasons: unknown code {reason}"
    if record.status == "failed":
        if not record.message:
            yield "message: a failure must say why"
        return
    prefill, gaps = record.samples.get("prefill_s", []), record.samples.get("itl_s", [])
    if not prefill or len(prefill) != len(gaps):
        yield "samples: prefill_s and itl_s must hold one entry for each iteration"
    chunks = "wall_s" in record.samples  # a server's: several may come in one piece
    if any(not second > 0 for second in prefill) or any(
        not (s > 0 or (chunks and s == 0)) for one in gaps for s in one
    ):
        yield "samples: a duration is not above 0"
    n_gaps = record.workload["n_gen"] - 1
    if any(len(one) > n_gaps if chunks else len(one) != n_gaps for one in gaps):
        yield "samples.itl_s: an iteration does not have n_gen - 1 gaps"


def _imported(record: Record) -> Iterable[str]:
    """Another tool's record: what it holds are durations and rates, what it lacks says why."""
    for reason in record.reasons:
        if reason not in REASONS:
            yield f"reasons: unknown code {reason}"
    if not record.samples:
        yield "samples: there are none"
    for name, values in record.samples.items():
        each = [one for value in values for one in (value if isinstance(value, list) else [value])]
        if not each or any(not one > 0 for one in each):
            yield f"samples.{name}: a figure is not above 0"


def _card(path: Path) -> Shape:
    """A card whose arithmetic works too."""
    return shape(load_card(path))


def _experiment(path: Path) -> Experiment:
    found = load_experiment(str(path))
    if not found.baselines:
        raise InputError(f"{path}: baseline: {found.baseline!r} is none of the arms")
    return found


def _claims(path: Path) -> ClaimFile:
    return load_claims(str(path))


def _each(what: str, paths: Iterable[Path], load: Callable[[Path], object]) -> Check:
    problems: list[str] = []
    paths = list(paths)
    for path in paths:
        try:
            load(path)
        except InputError as error:
            problems += error.problems
        except BenchError as error:
            problems.append(f"{path}: {error}")
    return Check(what=what, n_checked=len(paths), problems=tuple(problems))


def _count(load: Callable[[], Iterable[object]]) -> int:
    """How many there are; 0 if they cannot be read, which the check itself reports."""
    try:
        return len(list(load()))
    except InputError:
        return 0
