"""Check results: every problem of every line is listed."""

from __future__ import annotations

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
        at = f"{path}: record {record.key}"
        if record.environment not in results.environments:
            problems.append(f"{at}: environment: no line describes '{record.environment}'")
        problems += [
            f"{at}: reasons: unknown code {reason}"
            for reason in record.reasons
            if not known(reason)
        ]
        if record.status == "failed" and not record.message:
            problems.append(f"{at}: message: a failure must say why")
    n = len(results.records) + len(results.qualities)
    name = path / FILE if path.is_dir() else path
    return ResultsCheck(what=f"results {name}", n_checked=n, problems=tuple(problems))
