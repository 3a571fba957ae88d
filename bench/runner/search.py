"""The search for the highest rate of arrivals within an experiment's limits, probe by probe.

Each probe is a workload of its own in a fresh process, and a record. What to try next follows from
the records alone, so a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from bench.demand.limits import shares
from bench.demand.search import Probe, crossing, next_rate
from bench.experiment import Workload
from bench.experiment.plan import PlannedReplicate
from bench.records import Record
from bench.runner.arms import Arm
from bench.statistics import middle
from bench.summary.service import probe_of

FIRST: Final = 2.0
"""Rate that a search begins at, in requests that are served one at a time: a server of many at
once takes more, one of one at a time less."""
LEAST: Final = 0.05
"""Below this share of that rate nothing waits for another: what is beyond the limits there stays
so."""

ProbeOnce = Callable[[Arm, PlannedReplicate, Workload], None]
"""Measures one workload of one replicate in a fresh process, unless it was measured before."""


@dataclass(slots=True)
class Searches:
    """What is known of each arm and workload, from records made now or before."""

    probes: dict[tuple[str, Workload], dict[int, list[Probe]]] = field(default_factory=dict)
    alone_s: dict[tuple[str, Workload], float] = field(default_factory=dict)
    """Seconds of a request that is served by itself."""

    def add(self, record: Record) -> None:
        """Take in a record; of one that is no part of a search nothing."""
        work = record.workload
        if not work.get("slo"):
            return
        name = (record.variant["name"], replace(Workload(**work), rate=None))
        if "rate" not in work:
            if (seconds := middle(record.samples.get("e2e_s", ()))) is not None:
                self.alone_s.setdefault(name, seconds)
        elif (probe := probe_of(record, work["slo"])) is not None:
            of_arm = self.probes.setdefault(name, {})
            of_arm.setdefault(record.replicate, []).append(probe)

    def known(self, records: Iterable[Record], keys: set[str]) -> None:
        """Take in what was measured before."""
        for record in records:
            if record.key in keys:
                self.add(record)


def search(
    searches: Searches, arm: Arm, step: PlannedReplicate, base: Workload, measured: ProbeOnce
) -> None:
    """Probe one arm in one replicate until its highest rate is held between neighbours."""
    name = (arm.variant.name, base)
    if name not in searches.alone_s:
        measured(arm, step, base)  # one request at a time: how fast, and the curve's first point
    if name not in searches.alone_s:
        return  # it failed, and its record says why
    asked = shares(base.slo)
    alone = 1 / searches.alone_s[name]
    of_arm = searches.probes.setdefault(name, {})
    others = [probes for index, probes in of_arm.items() if index != step.index]
    before = crossing(others, asked) if others else None
    while True:
        probes = of_arm.setdefault(step.index, [])
        rate = next_rate(probes, asked, first=before or FIRST * alone, near=before is not None)
        if rate is None or rate < LEAST * alone:
            break
        measured(arm, step, replace(base, rate=rate))
        if not any(probe.rate == rate for probe in probes):
            break  # it failed for another reason than its rate, and its record says why
