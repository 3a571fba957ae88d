"""A plan carried out by a real Ray cluster of three nodes, in processes on this machine."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main, parser
from bench.errors import InputError, UnsupportedError
from bench.experiment import load_experiment
from bench.records import FILE
from bench.records.file import read
from bench.runner import fleet
from bench.runner.nodes import FleetMachine, Node, connect, matches, selection

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow]
NAMES = ("left", "middle", "right")

SCRIPTED = """
name = "scripted"
question = "Which is faster?"
[grid]
engine = ["synthetic"]
quant = ["none", "fast"]
n_prompt = [16]
n_gen = [8]
[grid.options]
noise = 0.01
"speedup.fast" = 1.5
[quality]
max_tokens = 64
[measure]
pairs = {pairs}
iterations = 4
window_s = 0.0
"""


def node(name: str) -> dict[str, Any]:
    """A machine of one CPU; the right one says that it has three GPUs, which nothing here uses."""
    gpus = {"num_gpus": 3} if name == "right" else {}
    return {"num_cpus": 1, **gpus, "labels": {"machine": name, "side": name[0]}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    head = node(NAMES[0]) | {"include_dashboard": False}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    for name in NAMES[1:]:
        made.add_node(**node(name))
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = made.address
    yield made
    os.environ.pop("RAY_ADDRESS")
    if before is not None:
        os.environ["RAY_ADDRESS"] = before
    made.shutdown()


@pytest.fixture(autouse=True)
def _leave() -> Iterator[None]:
    """The driver leaves its cluster after each test."""
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def experiment(folder: Path, pairs: int) -> Path:
    path = folder / "experiment.toml"
    path.write_text(SCRIPTED.format(pairs=pairs))
    return path


def driver(*arguments: str) -> subprocess.Popen[str]:
    """`bench` in a process of its own, which can be killed."""
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def n_records(folder: Path) -> int:
    return len(read(folder).records) if (folder / FILE).is_file() else 0


def wait_for(folder: Path, n: int) -> None:
    deadline = time.monotonic() + 240
    while n_records(folder) < n:
        assert time.monotonic() < deadline, f"{folder} has {n_records(folder)} records, not {n}"
        time.sleep(0.2)


def check_each_once(into: Path, pairs: int, names: tuple[str, ...] = NAMES) -> None:
    """Every replicate of both variants, on every machine, exactly once on disk, in ABBA order."""
    for name in names:
        lines = (into / name / FILE).read_text(encoding="utf-8").splitlines()
        kept = [row for row in map(json.loads, lines) if row["kind"] == "measurement"]
        done = Counter(row["key"] for row in kept if row["status"] == "ok")
        assert set(done.values()) == {1}, name
        assert len(done) == 2 * pairs, name
        order = [(row["position"], row["replicate"]) for row in kept if row["status"] == "ok"]
        assert order == sorted(order), name
    ids = {name: {r.environment for r in read(into / name).records} for name in names}
    assert all(len(found) == 1 for found in ids.values())


def test_the_plan_shows_machines_and_hours(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = experiment(tmp_path, 2)
    assert main(["plan", str(path), "--on", "ray", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sorted(row["machine"] for row in rows) == sorted(NAMES)
    assert {row["replicates"] for row in rows} == {4}
    assert all(row["hours"] >= 0 and row["gpu"] is None for row in rows)


def test_chosen_machines_each_do_the_whole_experiment(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, into = experiment(tmp_path, 2), tmp_path / "out"
    chosen = ["--on", "ray", "--select", "side=l,r", "--into", str(into), "-o", "json"]
    assert main(["run", str(path), *chosen]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["machine"], row["quant"]) for row in rows} == {
        (name, quant) for name in ("left", "right") for quant in ("none", "fast")
    }
    assert {row["n_replicates"] for row in rows} == {2}
    assert not (into / "middle").exists()
    check_each_once(into, 2, ("left", "right"))
    assert main(["run", str(path), *chosen]) == 0
    check_each_once(into, 2, ("left", "right"))


CARDS = ("right-gpu0", "right-gpu1")


def check_neighbours(into: Path) -> None:
    """Each card has every replicate once, in its own order, and says that the other ran beside."""
    check_each_once(into, 3, CARDS)
    for name in CARDS:
        assert {record.reasons for record in read(into / name).records} == {("NEIGHBOURS",)}


def test_two_cards_of_a_machine_each_do_the_whole_experiment(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, into = experiment(tmp_path, 3), tmp_path / "out"
    cards = ("--on", "ray", "--per-machine", "2", "-o", "json")
    assert main(["plan", str(path), *cards]) == 0
    rows = {row["machine"]: row for row in json.loads(capsys.readouterr().out)}
    assert sorted(rows) == sorted(["left", "middle", *CARDS])
    assert {rows[name]["beside"] for name in CARDS} == {1}
    assert {rows[name]["beside"] for name in ("left", "middle")} == {0}
    assert len({row["hours"] for row in rows.values()}) == 1
    assert {row["replicates"] for row in rows.values()} == {6}
    assert main(["run", str(path), *cards, "--into", str(into), "--select", "machine=right"]) == 0
    assert {row["machine"] for row in json.loads(capsys.readouterr().out)} == set(CARDS)
    assert sorted(folder.name for folder in into.iterdir()) == list(CARDS)
    check_neighbours(into)


def test_two_cards_at_once_measure_at_once_and_go_on_where_they_were(
    cluster: Any, tmp_path: Path
) -> None:
    path, into = experiment(tmp_path, 3), tmp_path / "out"
    run = ("run", str(path), "--on", "ray", "--per-machine", "2", "--into", str(into))
    run += ("--select", "machine=right")
    with driver(*run) as first:
        for name in CARDS:  # the other has begun before either ends
            wait_for(into / name, 1)
        began = {name: n_records(into / name) for name in CARDS}
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert max(began.values()) < 6
    with driver(*run) as again:
        _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    check_neighbours(into)


def test_one_chosen_card_of_a_machine_has_no_neighbour(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, into = experiment(tmp_path, 1), tmp_path / "out"
    cards = ("--on", "ray", "--per-machine", "3", "--select", "machine=right-gpu2")
    assert main(["run", str(path), *cards, "--into", str(into)]) == 0
    assert {record.reasons for record in read(into / "right-gpu2").records} == {()}


def test_an_experiment_on_several_cards_reserves_as_many(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = experiment(tmp_path, 1)
    cards = ["--on", "ray", "--per-machine", "2", "--select", "machine=right", "-o", "json"]
    assert main(["plan", str(path), *cards, "-d", "cuda:0-1"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["machine"], row["beside"]) == ("right", 0), "two of its three cards are one seat"


def test_per_machine_is_a_number_of_a_clusters_cards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--per-machine", "2"]) == 2
    assert "--per-machine: needs a cluster" in capsys.readouterr().err
    assert main(["plan", "--on", "ray", "--per-machine", "0"]) == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_a_killed_driver_goes_on_where_it_was(cluster: Any, tmp_path: Path) -> None:
    path, into = experiment(tmp_path, 4), tmp_path / "out"
    run = ("run", str(path), "--on", "ray", "--into", str(into))
    with driver(*run) as first:
        wait_for(into / "left", 2)
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert any(n_records(into / name) < 8 for name in NAMES)
    with driver(*run) as again:
        out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "## right" in out
    check_each_once(into, 4)


def test_a_machine_that_dies_costs_only_its_own_replicates(cluster: Any, tmp_path: Path) -> None:
    path, into = experiment(tmp_path, 4), tmp_path / "out"
    run = ("run", str(path), "--on", "ray", "--into", str(into))
    (dies,) = [n for n in cluster.worker_nodes if n._ray_params.labels.get("machine") == "right"]
    with driver(*run) as first:
        wait_for(into / "right", 2)
        cluster.remove_node(dies, allow_graceful=False)
        _, err = first.communicate(timeout=300)
    assert first.returncode == 3, err
    assert "right: lost" in err
    assert "run the same command again" in err
    check_each_once(into, 4, ("left", "middle"))
    assert n_records(into / "right") < 8
    cluster.add_node(**node("right"))
    with driver(*run) as again:
        _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    check_each_once(into, 4)


@pytest.mark.model
def test_the_embedded_model_is_measured_on_a_machine(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "out"
    flags = "-q none -p 16 -n 4 --pairs 1 --level quick --on ray --select machine=middle -o json"
    assert main(["run", *flags.split(), "--into", str(into)]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["machine"], row["model"]) == ("middle", "smollm2-135m-instruct")
    assert row["decode_tok_s"] > 0
    assert row["ppl"] > 1


def test_no_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(InputError, match="expected `ray` or"):
        connect("http://127.0.0.1:1")


def test_without_the_package_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnsupportedError, match=r"gpu-cost-bench\[ray\]"):
        connect("ray")


def test_commands_of_the_page_are_understood() -> None:
    page = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    commands = [line for line in page.splitlines() if line.startswith("bench ")]
    assert len(commands) >= 4
    for command in commands:
        parser().parse_args(shlex.split(command, comments=True)[1:])


def test_selection() -> None:
    wanted = selection("gpu=rtx-4080, rtx-3080 ;zone=a")
    assert wanted == {"gpu": ("rtx-4080", "rtx-3080"), "zone": ("a",)}
    assert selection(None) == {}
    for wrong in ("gpu", "=a", "gpu=", "gpu=a,,b"):
        with pytest.raises(InputError, match="KEY=VALUE"):
            selection(wrong)
    there = Node(id="1", cpus=8, gpus=1, labels={"zone": "a"})
    machine = FleetMachine(
        node=there,
        name="m",
        environment="e",
        gpu="rtx-3080",
        reported_gpu="NVIDIA GeForce RTX 3080",
    )
    assert matches(machine, wanted)
    assert matches(machine, {"machine": ("m",)})
    assert not matches(machine, {"zone": ("b",)})
    assert not matches(machine, {"rack": ("1",)})
    card = replace(machine, name="m-gpu1", node=replace(there, labels={"machine": "m"}))
    assert matches(card, {"machine": ("m",)})
    assert matches(card, {"machine": ("m-gpu1",)})
    assert not matches(card, {"machine": ("m-gpu0",)})


def test_what_ray_prints_is_not_in_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prints(*_: Any) -> list[Any]:
        sys.stdout.write("(raylet) Task describe failed. It will be retried.\n")
        return []

    monkeypatch.setattr(fleet, "_machines", prints)
    assert fleet.machines(load_experiment(str(experiment(tmp_path, 1))), None) == []
    out, err = capsys.readouterr()
    assert (out, "(raylet)" in err) == ("", True)
