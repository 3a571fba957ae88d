"""Check large results by their columnar copy: the same problems as `bench.records.check` lists."""

from __future__ import annotations

from pathlib import Path

from bench.records.check import ResultsCheck, check_results, checked, let_pass
from bench.records.codes import known
from bench.records.file import results_file
from bench.summary.copies import Say
from bench.summary.loading import LARGE, by_copy


def check(path: Path, large: int = LARGE, say: Say | None = None) -> ResultsCheck:
    """Every line of a results file: what readers refuse, and what they let pass.

    Raises InputError where it cannot be read.
    """
    file = results_file(path)
    return _by_copy(path, file, say) if by_copy([file], large) else check_results(path)


def _by_copy(path: Path, file: Path, say: Say | None) -> ResultsCheck:
    import numpy as np

    from bench.summary.gathered import gather

    columns, results = gather([file], say)
    environments, ids = columns.coded("environment")
    reasons, messages = columns.coded("codes")[0], columns.coded("message")
    said = columns.parsed("codes")
    no_line = np.array([id_ not in results.environments for id_ in ids], dtype=bool)
    unknown = np.array([not all(map(known, each)) for each in said], dtype=bool)
    no_word = np.array([not text for text in messages[1]], dtype=bool)
    silent = ~columns.array("ok").astype(bool) & no_word[messages[0]]
    problems = list(results.problems)
    for number in (no_line[environments] | unknown[reasons] | silent).nonzero()[0].tolist():
        environment = environments[number]
        problems += let_pass(
            f"{path}: record {columns.plain('key')[number]}",
            ids[environment] if no_line[environment] else None,
            said[reasons[number]],
            silent=bool(silent[number]),
        )
    return checked(path, len(columns) + len(results.qualities), problems)
