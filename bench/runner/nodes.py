"""Machines of a Ray cluster: which there are, which are chosen, what each one's seat holds.

Ray places, keeps, retries and logs; nothing of that is done here. Ray is imported inside functions.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchError, InputError, UnsupportedError
from bench.experiment import Experiment
from bench.experiment.devices import count, spelled_out
from bench.models.weights import import_root
from bench.records import FILE
from bench.runner.arms import Arm, resolve
from bench.runner.session import Part

NEEDS: Final = "`pip install 'gpu-cost-bench[ray]'` installs it"
NOT_SHIPPED: Final = (".git", ".venv", ".venv-*", "results", "tests", "docs", "dist", ".*_cache")
"""Of a checkout, what a machine does not need."""
ANSWER_S: Final = 120
"""Seconds that a free machine has to say what it is; its code is shipped in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of the cluster, as Ray sees it."""

    id: str
    cpus: float
    gpus: float
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetMachine:
    """One seat: a machine, or one GPU of it, that does a whole experiment by itself."""

    node: Node
    name: str
    """Of its results folder: the label `machine`, else card and start of its environment's id; with
    its GPU's number where the machine has several seats."""
    environment: str
    """`Environment.id`."""
    gpu: str | None
    """Catalog name of its card; None for a CPU."""
    reported_gpu: str | None
    """The card's name as its driver gives it."""
    beside: int = 0
    """Other seats of the machine that measure at the same time."""


def connect(address: str) -> None:
    """Join the cluster at `ray` (the one that is there) or `ray://HOST:PORT`.

    Raises UnsupportedError without Ray or a cluster, InputError for another address.
    """
    if address != "ray" and not address.startswith("ray://"):
        raise InputError(f"--on {address}: expected `ray` or `ray://HOST:10001`")
    try:
        import ray
    except ImportError:
        raise UnsupportedError(
            f"--on {address}: the package ray is not installed; {NEEDS}"
        ) from None
    if ray.is_initialized():
        return
    try:
        ray.init(
            address="auto" if address == "ray" else address,
            runtime_env=shipped_code(),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise UnsupportedError(
            f"--on {address}: no Ray cluster answers ({first_line(error)}); "
            "`ray start --head` starts one"
        ) from None


def first_line(error: BaseException) -> str:
    """The first line of what an error says; Ray's go on for pages."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def shipped_code() -> dict[str, Any]:
    """Ray's runtime environment: this very code, so that no machine measures with another."""
    root = import_root()
    if (root / "pyproject.toml").is_file():  # a checkout: its cards and experiments lie beside it
        return {"working_dir": str(root), "excludes": list(NOT_SHIPPED)}
    return {"py_modules": [str(root / "bench")]}


def nodes() -> list[Node]:
    """Machines that are up, in the order of their ids."""
    import ray

    found = [
        Node(
            id=row["NodeID"],
            cpus=row["Resources"].get("CPU", 0.0),
            gpus=row["Resources"].get("GPU", 0.0),
            labels=dict(row.get("Labels") or {}),
        )
        for row in ray.nodes()
        if row["Alive"]
    ]
    return sorted((node for node in found if node.cpus or node.gpus), key=lambda node: node.id)


class FleetSeat:
    """Runs on the machine, as a Ray actor that holds its GPU as long as it lives."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._arms: list[Arm] | None = None

    def describe(self) -> dict[str, Any]:
        """What this machine is: the id of its environment, its card, and Ray's number of it."""
        import ray

        from bench.devices.environment import capture
        from bench.engines.registry import packages
        from bench.roofline.gpus import match

        device = self._experiment.grid.device
        environment = capture(None if device == "auto" else spelled_out(device), packages())
        reported = environment.identity.get("gpu")
        known = match(reported) if reported else None
        return {
            "environment": environment.id,
            "gpu": known.name if known else None,
            "reported_gpu": reported,
            "numbers": ray.get_runtime_context().get_accelerator_ids().get("GPU", []),
        }

    def work(self, seed: Sequence[str], part: Part) -> dict[str, Any]:
        """Do a part of the experiment; lines for the results file, and what was said.

        `seed` are lines of this machine that the part builds on. What went wrong before anything
        could be recorded comes back as `error`.
        """
        from bench.runner import run

        said = Said()
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            file = folder / FILE
            if seed:
                file.write_text("".join(line + "\n" for line in seed), encoding="utf-8")
            failed: dict[str, Any] = {}
            try:
                self._arms = self._arms or resolve(self._experiment, said.say)
                run(self._experiment, folder, said, part, self._arms)
            except BenchError as error:
                failed = {"error": str(error)}
            text = file.read_text(encoding="utf-8") if file.exists() else ""
        return {"lines": text.splitlines()[len(seed) :], "said": said.lines, **failed}


class Said:
    """Keeps what a run says; the driver shows it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def step(self, done: int, total: int, title: str) -> None:
        """The driver knows the order itself."""

    def phase(self, text: str) -> None:
        """Too fine to send."""


def seats(node: Node, experiment: Experiment, per_machine: int) -> list[Any]:
    """Ray actors on that very machine, each with GPUs of its own where the machine has any.

    No more than `per_machine`, and than there are GPUs, so none where one seat needs more of them;
    a machine without GPUs is one seat.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    device = experiment.grid.device
    n_gpus = count(spelled_out(device)) if node.gpus >= 1 and device != "cpu" else 0
    n_seats = min(per_machine, int(node.gpus) // n_gpus) if n_gpus else 1
    cpus = node.cpus / max(n_seats, 1)  # nothing else of the cluster beside them
    make: Any = ray.remote(FleetSeat)
    placed = make.options(
        num_cpus=int(cpus) if cpus >= 1 else int(100 * cpus) / 100,
        num_gpus=n_gpus,
        max_restarts=2,
        max_task_retries=2,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node.id, soft=False),
    )
    return [placed.remote(experiment) for _ in range(n_seats)]


def described(node: Node, found: Mapping[str, Any], n_seats: int = 1) -> FleetMachine:
    """A seat of a machine, from what it says of itself."""
    kind = found["gpu"] or ("gpu" if found["reported_gpu"] else "cpu")
    name = node.labels.get("machine", f"{kind}-{found['environment'][:8]}")
    if n_seats > 1:
        name += "-gpu" + "+".join(map(str, found["numbers"]))
    return FleetMachine(
        node=node,
        name=name,
        environment=found["environment"],
        gpu=found["gpu"],
        reported_gpu=found["reported_gpu"],
    )


def selection(text: str | None) -> dict[str, tuple[str, ...]]:
    """`gpu=rtx-4080,rtx-3080;zone=a` as a table. Raises InputError."""
    wanted: dict[str, tuple[str, ...]] = {}
    for part in (text or "").split(";"):
        if not part.strip():
            continue
        key, sign, values = part.partition("=")
        each = tuple(value.strip() for value in values.split(","))
        if not (key.strip() and sign and all(each)):
            raise InputError(f"--select {part.strip()}: expected KEY=VALUE[,VALUE...]")
        wanted[key.strip()] = each
    return wanted


def matches(machine: FleetMachine, wanted: Mapping[str, Sequence[str]]) -> bool:
    """Whether a machine has one of the wanted values of each key: `gpu`, `machine` or a label."""
    own = {key: {value} for key, value in machine.node.labels.items()}
    own.setdefault("machine", set()).add(machine.name)
    if machine.gpu:
        own["gpu"] = {machine.gpu}
    return all(not own.get(key, set()).isdisjoint(values) for key, values in wanted.items())
