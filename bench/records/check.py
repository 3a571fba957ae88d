"""Check results: every problem of every line is listed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.records import FILE, OWN, Record
from bench.records.codes import known
from bench.records.file import read


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One kind of thing that was checked."""

    what: str
    n_checked: int
    problems: tuple[str, ...]


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
        if not known(reason):
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
        if not known(reason):
            yield f"reasons: unknown code {reason}"
    if not record.samples:
        yield "samples: there are none"
    for name, values in record.samples.items():
        each = [one for value in values for one in (value if isinstance(value, list) else [value])]
        if not each or any(not one > 0 for one in each):
            yield f"samples.{name}: a figure is not above 0"
