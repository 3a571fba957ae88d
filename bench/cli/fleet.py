"""What `bench run --on` and `bench plan --on` print: a table for each machine of a cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.experiment import Experiment
    from bench.runner.fleet import Fleet
    from bench.runner.nodes import FleetMachine


def show(experiment: Experiment, fleet: Fleet, output: str) -> str:
    """Each machine's table; as JSON one list whose rows name the machine."""
    from bench.records import FILE
    from bench.records.file import read
    from bench.report.tables import render
    from bench.report.tables import run as summary

    texts: dict[str, str] = {}
    for name, folder in fleet.folders.items():
        if (folder / FILE).is_file():
            form = "md" if output == "md" else "json"
            texts[name] = summary.show(experiment, read(folder), folder, form)
    if output == "md":
        return "\n".join(f"## {name}\n\n{text}" for name, text in texts.items())
    rows = [row | {"machine": name} for name, text in texts.items() for row in json.loads(text)]
    return render(rows, (), output)


def plan_of(experiment: Experiment, select: str | None, per_machine: int, output: str) -> str:
    """Machines, cards and hours of a plan on a cluster; machines work at the same time."""
    import ray

    from bench.report.tables import column, render
    from bench.runner.fleet import machines

    found = machines(experiment, select, per_machine)
    rows = [_about(experiment, machine) for machine, _ in found]
    for _, actor in found:
        ray.kill(actor)
    columns = [
        column("machine"),
        column("gpu"),
        column("cpus", "CPUs", ".0f"),
        column("gpus", "GPUs", ".0f"),
        column("beside", "beside it"),
        column("replicates"),
        column("hours", "about, h", ".2f"),
    ]
    return render(rows, columns, output)


def _about(experiment: Experiment, machine: FleetMachine) -> dict[str, Any]:
    from bench.records.file import Results
    from bench.runner.forecast import forecast, total_s
    from bench.runner.here import here

    place = here("cpu" if machine.gpu is None else experiment.grid.device, machine.gpu)
    rows = forecast(experiment, place, Results())
    return {
        "machine": machine.name,
        "gpu": machine.gpu or machine.reported_gpu,
        "cpus": machine.node.cpus,
        "gpus": machine.node.gpus,
        "beside": machine.beside,
        "replicates": experiment.measuring.pairs * len(experiment.variants),
        "hours": total_s(rows) / 3600,
    }
