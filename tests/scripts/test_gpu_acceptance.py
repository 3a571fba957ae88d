"""scripts/gpu-acceptance without a GPU: what it runs and predicts, and how steps and calls end."""

from __future__ import annotations

import importlib.util
import random
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from bench.cli import parser
from bench.experiment import load_experiment
from bench.records.file import read
from bench.schemes import scheme

ROOT = Path(__file__).parents[2]
COPY = 4.3e12
TOML = """
name = "tiny"
question = "?"
level = "quick"
[grid]
engine = ["synthetic"]
quant = ["none", "fast"]
[grid.options]
"speedup.fast" = 2.0
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    loader = SourceFileLoader("gpu_acceptance", str(ROOT / "scripts" / "gpu-acceptance"))
    spec = importlib.util.spec_from_loader("gpu_acceptance", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_acceptance", module)  # its dataclass looks itself up
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    monkeypatch.setattr(module, "PLACE", tmp_path / "wheels")
    monkeypatch.setattr(module, "SITE", tmp_path / "wheels" / "site")
    return module


def steps(script: ModuleType, folder: Path, seconds: float = 100.0) -> Any:
    folder.mkdir(exist_ok=True)
    return script.Steps(folder, folder / "results.tar.gz", seconds)


def tiny(script: ModuleType, folder: Path) -> Any:
    """A run of two scripted arms into `folder`."""
    (folder / "tiny.toml").write_text(TOML)
    return script.Run(str(folder / "tiny.toml"), "none,fast", "eager")


def test_its_runs_make_every_arm_of_both_experiments_and_no_other(script: ModuleType) -> None:
    runs = [*script.FIRST, *script.HEADLINE, *script.NEXT, *script.REST]
    for run in runs:
        command = run.command("cuda:0", Path("out"))
        parser().parse_args(command[command.index("bench") + 1 :])
    tried = [run for run in runs if run.options]
    assert {run.options for run in tried} == {
        ("inductor.triton.enable_pdl=true",),
        ("merge=norms",),
    }
    runs = [run for run in runs if not run.options]
    wanted = {v.name for name in ("gpu-limit-8b",) for v in load_experiment(name).variants}
    made = {v.name for run in runs for v, _ in script.arms_of(run, "cuda:0")}
    assert wanted <= made
    assert made <= wanted | {v.name for v in load_experiment("gpu-limit-1b").variants}


def test_what_is_foretold_is_bytes_at_the_copy_rate_and_gaps_between_kernels(
    script: ModuleType,
) -> None:
    quants = ("none", "int8-weight-only", "int8-dynamic")
    runs = [script.Run("gpu-limit-8b", quant) for quant in quants]
    runs.append(script.Run("gpu-limit-8b", "none", "eager"))
    plain, int8, dynamic, eager = script.predictions(runs, "cuda:0", COPY).values()

    def expected(n_bytes: float, quant: str) -> float:
        # 7.5e9 weights are read (the embedding is not), in 2 bytes and in 1; 32 layers.
        launches = scheme(quant).launches
        assert launches is not None
        return 1 / (n_bytes / COPY + 32 * launches * 1.5e-6)

    assert plain == pytest.approx(expected(15.0e9, "none"), rel=0.01)
    assert int8 == pytest.approx(expected(7.5e9, "int8-weight-only"), rel=0.01)
    # More launches are no miss: each scheme is held against its own.
    assert dynamic == pytest.approx(expected(7.5e9, "int8-dynamic"), rel=0.01)
    assert dynamic < int8
    assert eager == pytest.approx(1 / (32 * 0.7e-3))


def test_the_largest_question_is_answered_first(script: ModuleType) -> None:
    """Every scheme on two layers, 8B unquantized and its profile, then the others."""
    ran: list[str] = []

    class Job:
        rows: ClassVar[list[str]] = ["the first arm"]

        def __getattr__(self, name: str) -> Any:
            return lambda *what: ran.append(" ".join([name, *map(str, what)]))

    class NoSteps:
        folder = Path("out")

        def run(self, name: str, *_: Any, **__: Any) -> None:
            ran.append(name)

    script.measure_all(NoSteps(), Job(), "cuda:0")
    assert ran[0] == "warm"
    assert ran[1].startswith("measure (Run(experiment='gpu-limit-8b', quants='none'")
    assert ran[2] == "look_into ['the first arm'] 1"
    assert "int8-weight-only" in ran[3]
    assert "gpu-limit-1b" in ran[3]


def test_caches_come_home_as_far_as_they_fit_and_are_used_again(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "MOST_BYTES", 1 << 20)
    made = steps(script, tmp_path / "out")
    script.use_caches(made.folder)
    assert script.SETTINGS["TRITON_CACHE_DIR"] == str(made.folder / "caches" / "triton")
    made.run(
        "where", ["sh", "-c", 'mkdir -p "$TRITON_CACHE_DIR/a" && echo x > "$TRITON_CACHE_DIR/a/b"']
    )
    large = made.folder / "caches" / "inductor" / "large"
    large.parent.mkdir()
    large.write_bytes(random.Random(0).randbytes(2 << 20))
    made.keep_caches()
    made.write()
    with tarfile.open(made.tar) as tar:
        names = tar.getnames()
    assert "caches.tar.gz" in names
    assert not [name for name in names if name.startswith("caches/")]
    assert made.tar.stat().st_size < 1 << 20
    script.resume(made.tar, tmp_path / "again", "no machine")
    again = tmp_path / "again" / "caches"
    assert (again / "triton" / "a" / "b").read_text() == "x\n"
    assert not (again / "inductor" / "large").exists()


def test_runs_are_shown_as_they_end_and_are_not_repeated(
    script: ModuleType, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = tiny(script, tmp_path)
    job = script.Acceptance(steps(script, out), "cpu")
    job.runs = [run]
    job.predict(None, None)
    job.measure([run])
    summary = (out / "summary.md").read_text()
    assert "| smollm2-135m-instruct/synthetic/fast" in summary
    assert "tiny: none,fast, eager, pairs: 1 | ok |" in summary
    with tarfile.open(out / "results.tar.gz") as tar:
        assert "tiny/records.jsonl" in tar.getnames()
    job.measure([run])
    text = (out / "tiny" / "records.jsonl").read_text()
    assert text.count('"kind":"measurement"') == 2


def test_arms_below_their_prediction_are_looked_into_once(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = script.Acceptance(steps(script, tmp_path / "out"), "cuda:0")
    work = {
        "n_prompt": 128,
        "n_gen": 128,
        "n_batch": 1,
        "model": "m",
        "quant": "none",
        "options": {"attention": "sdpa"},
    }
    assert "attention=sdpa" in script.profile(work | {"mode": "cuda-graph"}, "cuda:0")
    job.rows = [
        work | {"variant": name, "mode": mode, "of_predicted": share}
        for name, mode, share in [
            ("e", "eager", 0.2),
            ("a", "cuda-graph", 0.84),
            ("b", "cuda-graph", 0.86),
            ("c", "cuda-graph", None),
        ]
    ]
    ran: list[str] = []
    monkeypatch.setattr(job.steps, "run", lambda name, *_, **__: ran.append(name))
    job.look_into_misses(1)
    job.look_into_misses(5)
    assert ran == ["profile a", "profile e"]


@pytest.mark.parametrize(
    ("state", "options"),
    [
        ("ok", ()),
        ("exit code 5: 1 skipped", ()),
        ("exit code 1: 2 failed", ("attention=sdpa",)),
        ("stopped after 60 s", ()),  # it compiles: eager mode's tokens are compared all the same
    ],
)
def test_a_kernel_that_fails_its_check_is_in_no_figure(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, options: Any
) -> None:
    job = script.Acceptance(steps(script, tmp_path / "out"), "cuda:0")
    monkeypatch.setattr(job.steps, "run", lambda *_, **__: state)
    job.check_kernel()
    graphs = [run for run in job.runs if run.mode != "eager"]
    assert all(set(options) <= set(run.options) for run in graphs)
    assert any(run.options == options for run in graphs)
    assert not any(run.options for run in job.runs if run.mode == "eager")
    (variant, _), *_ = script.arms_of(graphs[0], "cuda:0")
    assert dict(variant.options) == ({"attention": "sdpa"} if options else {})


def test_the_kernels_check_is_of_the_dtype_that_is_measured(script: ModuleType) -> None:
    pytest.importorskip("triton")
    command = [*script.PYTEST, *script.KERNEL, "--collect-only", "-qq"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if "::" in line]
    assert sum("bfloat16" in line for line in found) >= 6
    assert any("captured" in line for line in found)
    assert not any("torch.float" in line for line in found)


def test_a_step_that_takes_too_long_is_asked_to_end_and_then_killed(
    script: ModuleType, tmp_path: Path
) -> None:
    patient = steps(script, tmp_path / "out")
    asked = "trap 'echo asked; exit 0' INT; sleep 100 & echo $!; wait"
    patient.run("long", ["sh", "-c", asked], limit=0.5)
    pid, said = (tmp_path / "out" / "log.txt").read_text().split("\n")[1:3]
    assert said == "asked"
    for _ in range(100):  # its child was in the group that is killed
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text():
            break
        time.sleep(0.05)
    else:
        pytest.fail("what the step started is still there")
    assert "| long | stopped after 0 s: asked |" in (tmp_path / "out" / "summary.md").read_text()


def test_a_step_that_fails_says_why_and_the_next_one_runs(
    script: ModuleType, tmp_path: Path
) -> None:
    made = steps(script, tmp_path / "out")
    made.run("bad", ["sh", "-c", "echo '| a | table |'; echo no such card >&2; exit 3"])
    made.run("good", ["true"])
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "| bad | exit code 3: no such card |" in text
    assert "| good | ok |" in text


def test_a_folder_is_that_of_the_caller_and_not_of_the_checkout(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu-acceptance", "--to", "out", "-d", "cpu"])

    def accept(made: Any, *_: Any) -> None:
        made.run("where", ["touch", str(made.folder / "here")])

    monkeypatch.setattr(script, "accept", accept)
    assert script.main() == 0
    assert (tmp_path / "out" / "here").exists()


def test_without_time_nothing_more_is_started(script: ModuleType, tmp_path: Path) -> None:
    made = steps(script, tmp_path / "out", seconds=script.CLOSING_S + 5)
    made.run("late", ["touch", str(tmp_path / "ran")], need=6)
    assert not (tmp_path / "ran").exists()
    assert "| late | no time left |" in (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.parametrize("as_file", [False, True])
def test_an_earlier_call_goes_on_only_on_the_same_machine(
    script: ModuleType, tmp_path: Path, *, as_file: bool
) -> None:
    job = script.Acceptance(steps(script, tmp_path / "one"), "cpu")
    job.runs = [tiny(script, tmp_path)]
    job.measure(job.runs)
    source = tmp_path / "one" / ("results.tar.gz" if as_file else "")
    (same,) = read(tmp_path / "one" / "tiny").environments
    for environment, name in ((same, "tiny"), ("another", "before-tiny")):
        into = tmp_path / environment
        into.mkdir()
        script.resume(source, into, environment)
        assert [path.name for path in into.iterdir()] == [name]
        assert len(read(into / name).records) == 2


def test_wheels_that_are_missing_and_fit_are_unpacked(script: ModuleType) -> None:
    script.PLACE.mkdir()
    names = (
        "made_up-1.0-py3-none-any.whl",
        "other-1.0-cp27-cp27m-win32.whl",
        f"pytest-{pytest.__version__}-py3-none-any.whl",
    )
    for name in names:
        with zipfile.ZipFile(script.PLACE / name, "w") as wheel:
            wheel.writestr(f"{name.partition('-')[0]}.py", "")
    assert script.unpack_wheels() == ["other-1.0-cp27-cp27m-win32.whl"]
    assert [path.name for path in script.SITE.iterdir()] == ["made_up.py"]
    assert script.PATHS[-1] == script.SITE
    shutil.rmtree(script.PLACE)


def test_every_wheel_that_is_carried_has_a_tested_version(script: ModuleType) -> None:
    pins = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert set(script.WHEELS) <= pins
