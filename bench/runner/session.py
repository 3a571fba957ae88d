"""One run into one folder: what those who carry out its parts share.

The parent imports neither torch nor pandas, and sleeps while a worker measures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from bench.experiment import Experiment, Workload
from bench.records import Record
from bench.records.codes import NEIGHBOURS
from bench.records.file import Results, Writer
from bench.runner.arms import Arm
from bench.runner.search import Searches
from bench.worker.messages import Failed, Ready


class Progress(Protocol):
    """Told what is going on; `bench.cli.run` shows it."""

    def say(self, text: str) -> None:
        """Something worth a line: a slow step, a failure."""

    def step(self, done: int, total: int, title: str) -> None:
        """A worker starts; `done` of `total` have ended."""

    def phase(self, text: str) -> None:
        """What the worker is doing."""


@dataclass(slots=True)
class Outcome:
    """What a run did."""

    results: Results = field(default_factory=Results)
    """What the experiment asks for, measured now or before."""
    keys: set[str] = field(default_factory=set)
    measured: int = 0
    failed: int = 0
    refused: int = 0
    """Of those that failed: for what was asked, which no machine could do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What of an experiment one process does; by default all that is missing."""

    positions: frozenset[int] | None = None
    """Replicates by their place in the order of measuring; None: all."""
    quality: bool = True
    done: frozenset[str] = frozenset()
    """Keys of measurements that are done and kept elsewhere."""
    hopeless: frozenset[tuple[str, Workload]] = frozenset()
    """What failed elsewhere in a way that would only repeat."""
    neighbours: int = 0
    """Other cards of this machine that measure meanwhile."""


@dataclass(slots=True)
class Session:
    """One run into one folder."""

    experiment: Experiment
    writer: Writer
    environment: str
    progress: Progress
    outcome: Outcome
    part: Part = field(default_factory=Part)
    hopeless: set[tuple[str, Workload]] = field(default_factory=set)
    """Variant and workload that failed in a way that a fresh process would only repeat."""

    no_compiler: Failed | None = None
    """Said once that nothing can be built here: no arm that is compiled is tried after that."""
    searches: Searches = field(default_factory=Searches)

    def keep(self, record: Record) -> None:
        """Append a record, which says whether others ran beside; a search goes by it."""
        if self.part.neighbours and record.status == "ok":
            record = replace(record, reasons=(*record.reasons, NEIGHBOURS))
        self.writer.append(record)
        self.searches.add(record)

    def unloadable(self, arm: Arm) -> bool:
        """Whether none of the workloads could be measured on this arm."""
        return all((arm.variant.name, w) in self.hopeless for w in self.experiment.workloads)

    def common(self, arm: Arm, loaded: Ready | None) -> dict[str, Any]:
        """What every line about an arm holds."""
        variant = asdict(arm.variant) | {"name": arm.variant.name, "weights": arm.identity}
        variant["source"] = arm.model.source
        if (commit := arm.model.snapshot) is not None:
            variant |= {
                "repo": commit.repo,
                "revision": commit.revision,
                "license": commit.license,
            }
        if arm.home:
            variant["packages"] = arm.home.fingerprint
        for name in ("device", "dtype"):
            variant[name] = getattr(loaded, name, variant[name])
        return {
            "environment": self.environment,
            "experiment": self.experiment.name,
            "variant": variant,
            "origin": arm.origin,
        }
