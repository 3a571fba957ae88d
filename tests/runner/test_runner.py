"""Runs with real workers on a tiny real model: what is kept when things go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench import runner
from bench.cli import main
from bench.devices.figures import Unreadable
from bench.errors import InputError, UnsupportedError
from bench.experiment import ArmEntry, Experiment, Grid, Quality
from bench.records import FILE, Environment
from bench.records.file import Writer, read
from bench.runner import qualities as quality_run
from bench.runner import replicates
from bench.worker.messages import Event, Failed, Told
from tests.fakes import Quiet

ROOT = Path(__file__).parents[2]


ONE_PAIR = {"pairs": 1, "window_s": 0.0, "warmup_max_s": 5.0}
"""A process for each arm; several pairs are tested on the engine `synthetic`."""


def tiny(
    folder: Path, quant: tuple[str, ...] = ("none", "torch-dynamic-int8"), **changes: object
) -> Experiment:
    """Two arms, two replicates, milliseconds to measure."""
    grid = Grid(
        model=(str(folder),),
        quant=quant,
        device="cpu",
        n_prompt=(16,),
        n_gen=(4,),
        threads=1,
    )
    experiment = Experiment(
        name="tiny",
        question="does it run?",
        level="quick",
        grid=grid,
        measure={"pairs": 2, "window_s": 0.0, "warmup_max_s": 5.0},
        quality=Quality(text=None),
    )
    return replace(experiment, **changes)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def rates(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Rates as if they had been measured here, which takes seconds and a machine at rest."""
    found: dict[str, object] = {
        "device": "cpu",
        "threads": 2,
        "copy_bytes_s": 1e10,
        "matmul_flop_s": {"float32": 1e11},
    }
    monkeypatch.setattr(runner.peaks, "undisturbed", lambda *_: found)
    return found


class Killer(Quiet):
    """Kills the worker the first time it measures."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self._number: signal.Signals | None = number

    def phase(self, text: str) -> None:
        if text == "measure" and self._number is not None:
            for child in psutil.Process().children(recursive=True):
                child.send_signal(self._number)
            self._number = None


def test_measured_rates_are_in_the_environment_or_why_not(
    rates: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Environment(id="e", identity={"cpu": "x"}, state={"absent": {"turbo": "hidden"}})
    assert runner.with_peaks(bare, "cpu", Quiet()).state["peaks"] == rates
    assert runner.with_peaks(bare, "synthetic", Quiet()) is bare

    def busy(*_: object) -> None:
        raise Unreadable("others used 1.5 cores meanwhile")

    monkeypatch.setattr(runner.peaks, "undisturbed", busy)
    without = runner.with_peaks(bare, "cpu", Quiet())
    assert without.state["absent"] == {
        "turbo": "hidden",
        "peaks": "others used 1.5 cores meanwhile",
    }
    with Writer(tmp_path) as writer:  # equal identities: the state that has the rates is kept
        for state in ({}, {"peaks": rates}, {}):
            writer.append(replace(bare, state=state))
    assert read(tmp_path).environments["e"].state == {"peaks": rates}


def test_a_run_measures_every_arm_and_resumes(tiny_folder: Path, tmp_path: Path) -> None:
    experiment = tiny(tiny_folder, measure=ONE_PAIR)
    first = runner.run(experiment, tmp_path, Quiet())
    assert (first.measured, first.failed) == (2, 0)
    written = (tmp_path / FILE).read_bytes()
    for record in first.results.records:
        assert record.status == "ok"
        assert [len(gaps) for gaps in record.samples["itl_s"]] == [3, 3, 3]
        assert record.variant["device"] == "cpu"
        assert record.variant["dtype"] == "float32"
        peak, cache = record.memory["peak_host_bytes"], record.memory["cache_bytes"]
        assert peak > 50e6
        assert cache == 2 * 2 * 2 * (16 + 4 - 1) * 8 * 4
        rest = peak - cache - record.model["weights_bytes"]
        assert record.memory["host_other_bytes"] == rest
    by_quant = {record.variant["quant"]: record for record in first.results.records}
    assert by_quant["none"].model["quantized_fraction"] == 0
    assert by_quant["none"].model["dynamic"] is None
    quantized = by_quant["torch-dynamic-int8"].model
    assert quantized["dynamic"] == "activations"
    assert 0 < quantized["quantized_fraction"] < 1
    assert quantized["weights_bytes"] < by_quant["none"].model["weights_bytes"]
    assert "quantized::linear_dynamic" in quantized["kernel"]

    again = runner.run(experiment, tmp_path, Quiet())
    assert (again.measured, again.failed) == (0, 0)
    assert len(again.results.records) == 2
    assert (tmp_path / FILE).read_bytes().startswith(written)  # only an environment line is new

    wider = replace(experiment, grid=replace(experiment.grid, n_gen=(4, 5)))
    more = runner.run(wider, tmp_path, Quiet())
    assert (more.measured, len(more.results.records)) == (2, 4)


def test_a_killed_worker_costs_one_record(tiny_folder: Path, tmp_path: Path) -> None:
    experiment = tiny(tiny_folder, measure=ONE_PAIR)
    outcome = runner.run(experiment, tmp_path, Killer(signal.SIGSEGV))
    assert (outcome.measured, outcome.failed) == (1, 1)
    (failed,) = [record for record in outcome.results.records if record.status == "failed"]
    assert failed.reasons == ("CRASH",)
    assert "SIGSEGV" in str(failed.message)
    # The same command again measures just that one.
    mended = runner.run(experiment, tmp_path, Quiet())
    assert (mended.measured, mended.failed) == (1, 0)
    assert {record.status for record in mended.results.records} == {"ok"}


def test_a_workload_that_dies_does_not_take_the_next_along(
    tiny_folder: Path, tmp_path: Path
) -> None:
    experiment = tiny(tiny_folder, measure={"pairs": 1, "window_s": 0.0})
    experiment = replace(experiment, grid=replace(experiment.grid, n_gen=(4, 5), quant=("none",)))
    outcome = runner.run(experiment, tmp_path, Killer(signal.SIGKILL))
    assert [(r.workload["n_gen"], r.status) for r in outcome.results.records] == [
        (4, "failed"),
        (5, "ok"),
    ]
    assert "SIGKILL" in str(outcome.results.records[0].message)


def test_a_worker_out_of_time_is_a_record(tiny_folder: Path, tmp_path: Path) -> None:
    experiment = tiny(tiny_folder, measure={"pairs": 1, "time_limit_s": 0.5})
    outcome = runner.run(experiment, tmp_path, Quiet())
    assert {record.reasons for record in outcome.results.records} == {("TIMEOUT",)}


def test_a_prompt_beyond_the_context_is_a_record(tiny_folder: Path, tmp_path: Path) -> None:
    experiment = tiny(tiny_folder, measure={"pairs": 2, "window_s": 0.0})
    grid = replace(experiment.grid, quant=("none",), n_prompt=(16, 600))
    outcome = runner.run(replace(experiment, grid=grid), tmp_path, Quiet())
    failed = [record for record in outcome.results.records if record.status == "failed"]
    assert (outcome.measured, len(failed)) == (2, 1)  # told once: a fresh process would repeat it
    assert "context of 512" in str(failed[0].message)


def test_records_of_another_machine_are_not_mixed(tiny_folder: Path, tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        writer.append(Environment(id="other", identity={"cpu": "another"}, state={}))
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(InputError, match="another machine or other versions"):
        runner.run(tiny(tiny_folder), tmp_path, Quiet())
    assert (tmp_path / FILE).read_bytes() == before


def test_no_arm_that_can_run_is_an_error_before_anything_is_written(
    tiny_folder: Path, tmp_path: Path
) -> None:
    experiment = tiny(tiny_folder)
    grid = replace(experiment.grid, device="cuda:7", quant=("none",))
    with pytest.raises(UnsupportedError, match="no device 'cuda:7' on this machine"):
        runner.run(replace(experiment, grid=grid), tmp_path / "new", Quiet())
    assert not (tmp_path / "new").exists()


def command(model: Path | str, into: Path, *flags: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "bench",
        "run",
        "-m",
        str(model),
        "-q",
        "none",
        "-d",
        "cpu",
        "-p",
        "16",
        "-n",
        "4",
        "--into",
        str(into),
        "-o",
        "json",
        *flags,
    ]


def started(process: subprocess.Popen[str], into: Path) -> None:
    """Wait until the run has its folder and a worker."""
    for _ in range(1200):
        if (into / FILE).exists() and psutil.Process(process.pid).children():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError("the run did not start")


@pytest.mark.parametrize(
    ("number", "engine"), [(signal.SIGINT, "transformers"), (signal.SIGTERM, "synthetic")]
)
def test_ctrl_c_keeps_what_is_done(
    number: signal.Signals, engine: str, tiny_folder: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command(tiny_folder, tmp_path, "-e", engine, "--pairs", "500"),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    started(process, tmp_path)
    for _ in range(1200):
        if read(tmp_path).records:
            break
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.strip().splitlines()[-1] == "bench: interrupted; everything finished is kept"
    results = read(tmp_path)
    assert results.problems == []
    assert {record.status for record in results.records} == {"ok"}
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


def test_a_second_run_into_the_same_folder_is_refused(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Writer(tmp_path):
        code = main(command(tiny_folder, tmp_path)[3:])
    assert code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"bench: {tmp_path}: another run is writing there; wait for it or use --into DIR"
    )


def test_a_full_disk_is_one_line_and_exit_3(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    # Room for the environment and not for a record, in a file system that only this test sees.
    script = f'mount -t tmpfs -o size=12k none "{small}" && exec "$@"'
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system lets no user mount a tmpfs of its own")
    done = subprocess.run(
        [
            *inside,
            *command("llama-3.2-1b@random", small, "-e", "synthetic", "-n", "300", "--pairs", "3"),
        ],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"bench: {small}")
    assert "No space left on device" in last


def test_the_parent_imports_neither_torch_nor_pandas_while_it_measures(
    tiny_folder: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; from bench import runner\n"
        "from tests.runner.test_runner import tiny, Quiet, Path\n"
        "work = tiny(Path(sys.argv[1]), ('none',), measure={'pairs': 1, 'window_s': 0.0})\n"
        "runner.run(work, Path(sys.argv[2]), Quiet())\n"
        "print(sorted(sys.modules.keys() & {'torch', 'pandas', 'transformers', 'numpy'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_folder), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ,
    )
    assert done.stdout.strip() == "[]"


def test_the_experiment_as_run_stands_beside_its_records(tiny_folder: Path, tmp_path: Path) -> None:
    experiment = tiny(tiny_folder, measure={"pairs": 1, "window_s": 0.0})
    runner.keep_experiment(experiment, tmp_path)
    runner.keep_experiment(experiment, tmp_path)
    (line,) = (tmp_path / "experiments.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "tiny"


def test_a_divergence_is_made_once_its_baseline_can_be_measured(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    work = tiny(
        tiny_folder,
        quality=Quality(max_tokens=64, window=32),
        measure={"pairs": 1, "window_s": 0.0, "warmup_max_s": 1.0},
    )
    real, asked = quality_run.events, []

    def events(job: Told, **more: Any) -> Iterator[Event]:
        assert job.load is not None
        asked.append(job.load.quant)
        if asked == ["none"]:
            return iter([Failed(code="CRASH", message="once")])
        return iter(real(job, **more))

    monkeypatch.setattr(quality_run, "events", events)
    for expected in (0, 62, 62):
        runner.run(work, tmp_path / "results", Quiet())
        results = read(tmp_path / "results")
        assert results.problems == []
        quality = {q.variant["quant"]: q for q in results.qualities}
        assert len(quality["torch-dynamic-int8"].kld) == expected
    assert quality["none"].status == "ok"
    assert asked == ["none", "torch-dynamic-int8"] * 2  # and nothing the third time


def test_what_cannot_be_built_is_tried_once(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a compiler one arm says so; no other that is compiled is loaded to fail again."""
    real, started = replicates.events, []

    def events(job: Told, **rest: Any) -> Iterator[Event]:
        assert job.load is not None
        started.append((job.load.quant, job.load.mode))
        if job.load.mode == "eager":
            yield from real(job, **rest)
        else:
            yield Failed(code="NO_COMPILER", message="no gcc; sudo apt install gcc")

    monkeypatch.setattr(replicates, "events", events)
    experiment = tiny(tiny_folder, measure=ONE_PAIR)
    arms = tuple(
        ArmEntry(engine=engine, quant=quant, mode=mode)
        for engine, mode in (("graph", "compiled"), ("transformers", "eager"))
        for quant in ("none", "int8-weight-only")
    )
    outcome = runner.run(replace(experiment, arm=arms), tmp_path / "out", Quiet())
    assert len([mode for _, mode in started if mode == "compiled"]) == 1
    assert len([mode for _, mode in started if mode == "eager"]) == 2
    failed = [one for one in outcome.results.records if one.status == "failed"]
    assert {one.reasons for one in failed} == {("NO_COMPILER",)}
    assert {one.message for one in failed} == {"no gcc; sudo apt install gcc"}
    assert {one.variant["quant"] for one in failed} == {"none", "int8-weight-only"}
