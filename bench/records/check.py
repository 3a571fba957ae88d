"""Check results: every problem of every line is listed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.records import FILE
from bench.records.codes import known
from bench.records.file import read


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsCheck:
    """One kind of thing that was checked."""

    what: str
    n_checked: int
    problems: tuple[str, ...]


def check_results(path: Path) -> ResultsCheck:
    """Every line of a results file: what readers refuse, and what they let pass (unknown reasons
    and machines, failures without a word)."""
    results = read(path)
    problems = list(results.problems)
    for record in results.records:
        problems += let_pass(
            f"{path}: record {record.key}",
            record.environment if record.environment not in results.environments else None,
            record.reasons,
            silent=record.status == "failed" and not record.message,
        )
    return checked(path, len(results.records) + len(results.qualities), problems)


def let_pass(
    at: str, environment: str | None, reasons: Iterable[str], *, silent: bool
) -> Iterator[str]:
    """What readers let pass of one record; `environment`: its id, if no line describes it."""
    if environment is not None:
        yield f"{at}: environment: no line describes '{environment}'"
    yield from (f"{at}: reasons: unknown code {name}" for name in reasons if not known(name))
    if silent:
        yield f"{at}: message: a failure must say why"


def checked(path: Path, n_checked: int, problems: Iterable[str]) -> ResultsCheck:
    """What was found in a results file."""
    name = path / FILE if path.is_dir() else path
    return ResultsCheck(what=f"results {name}", n_checked=n_checked, problems=tuple(problems))
