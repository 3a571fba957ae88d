"""The pytest plugin in suites of its own: what it saves, compares, skips and fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import scipy.special  # noqa: F401  # pytester unloads what a suite imports; this loads but once

import bench.runner.process  # noqa: F401  # its messages' types look up their own module
from bench.cli import main
from bench.errors import InputError
from bench.pytest_plugin import run as pytest_run
from bench.records.file import read
from bench.summary.replicate import speeds

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
SUITE = """
import pytest

OPTIONS = {"noise": 0.01, "speedup.fast": 1.5, "speedup.slow": 0.9}
SHORT = {"window_s": 0.2, "pairs": 2}
PAIRED = {"window_s": 0.2, "pairs": 6}

@pytest.mark.benchmark(group="arms")
@pytest.mark.inference(engine="synthetic", n_prompt=16, n_gen=8, measure=SHORT)
@pytest.mark.parametrize("quant", ["none", "fast"])
def test_speed(inference_benchmark, quant):
    found = inference_benchmark(quant=quant, options=OPTIONS, usd_per_hour=0.1)
    assert found["decode_tok_s"] == pytest.approx(150 if quant == "fast" else 100, rel=0.05)
    assert found.valid

@pytest.mark.inference(engine="synthetic", n_prompt=16, n_gen=8, measure=PAIRED, baseline="none")
@pytest.mark.parametrize("quant", ["fast", "slow"])
def test_gate(inference_benchmark, quant):
    inference_benchmark(quant=quant, options=OPTIONS, fail_below=0.97)

def test_other(benchmark):
    benchmark.pedantic(lambda: 1, rounds=3)
"""
PLUGIN = (
    "-p",
    "bench.pytest_plugin",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:hypothesispytest",
    "-p",
    "no:anyio",
    "-W",
    "error",
)
Run = Callable[..., pytest.RunResult]


@pytest.fixture(autouse=True)
def _no_other_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file may itself be run by a worker of pytest-xdist; the suites below are run by none."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """pytest on a suite in a folder of its own, where every warning is an error."""

    def run(*arguments: str, suite: str = SUITE) -> pytest.RunResult:
        pytester.makepyfile(test_suite=suite)
        return pytester.runpytest_inprocess(*PLUGIN, *arguments)

    return run


def test_measures_saves_and_fails_by_the_interval(run: Run, pytester: pytest.Pytester) -> None:
    done = run("--benchmark-json=out.json", "--inference-into=kept")

    done.assert_outcomes(passed=4, failed=1)
    done.stdout.re_match_lines_random(
        [
            r"decode of .*/slow/.*: interval 0\.\d+ \.\. 0\.\d+ reaches below 0\.97",
            r".*/fast/.*: 1[45]\d\.\d tok/s; decode 1\.\d+x of .*/none/.* \(1\.\d+ .*\): higher",
        ]
    )
    saved = json.loads((pytester.path / "out.json").read_text())
    assert saved["machine_info"]["inference"]["devices"] == ["synthetic"]
    benchmarks = {one["name"]: one for one in saved["benchmarks"]}
    assert set(benchmarks) == {
        "test_speed[none]",
        "test_speed[fast]",
        "test_gate[fast]",
        "test_gate[slow]",
        "test_other",
    }
    assert benchmarks["test_other"]["extra_info"] == {}
    assert benchmarks["test_speed[fast]"]["group"] == "arms"

    info = benchmarks["test_speed[fast]"]["extra_info"]
    assert info["total_tok_s_low"] < info["total_tok_s"] < info["total_tok_s_high"]
    assert info["usd_per_mtok"] == pytest.approx(0.1 / 3600 / info["total_tok_s"] * 1e6)
    assert info["usd_per_mtok_low"] < info["usd_per_mtok"] < info["usd_per_mtok_high"]
    assert info["energy_per_output_token_j"] is None
    assert info["absent"]["energy_per_output_token_j"]
    assert (info["valid"], info["reasons"], info["comparison"]) == (True, [], None)
    gate = benchmarks["test_gate[slow]"]["extra_info"]["comparison"]
    assert gate["ci_low"] < gate["ratio"] < gate["ci_high"] < 0.97
    assert (gate["verdict"], gate["n_pairs"]) == ("lower", 6)


def test_the_durations_are_the_records_to_the_last_bit(run: Run, pytester: pytest.Pytester) -> None:
    run("--benchmark-json=out.json", "--inference-into=kept", "-k", "test_speed and fast")

    (one,) = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    (folder,) = pytester.path.glob("kept/*/*")
    records = read(folder).records
    assert one["stats"]["data"] == [median(r.samples["e2e_s"]) for r in records]
    assert one["extra_info"]["n_requests"] == [len(r.samples["e2e_s"]) for r in records]
    assert one["stats"]["rounds"] == one["extra_info"]["n_replicates"] == 2
    assert one["options"]["timer"] == "measured_by_gpu_cost_bench"
    assert one["extra_info"]["records"] == str(Path("kept") / folder.parent.name / folder.name)


def test_bench_import_makes_records_of_what_it_saved(
    run: Run, pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--benchmark-json=out.json", "--inference-into=kept", "-k", "test_speed")
    assert main(["import", "pytest-benchmark", "out.json", "--into", "back"]) == 0
    back = {(r.variant["quant"], r.replicate): r for r in read(Path("back")).records}
    kept = [r for folder in pytester.path.glob("kept/*/*") for r in read(folder).records]
    assert len(back) == len(kept) == 4
    for record in kept:
        found = speeds(back[record.variant["quant"], record.replicate])
        assert found == pytest.approx(speeds(record))


def test_a_part_of_the_request_may_be_what_is_timed(run: Run, pytester: pytest.Pytester) -> None:
    run(
        "--benchmark-json=out.json",
        "--inference-into=kept",
        suite="""
def test_one(inference_benchmark):
    inference_benchmark(engine="synthetic", seconds="decode", options={"noise": 0.1}, n_gen=8)
""",
    )

    (one,) = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    (folder,) = pytester.path.glob("kept/*/*")
    records = read(folder).records
    each = [median(sum(gaps) for gaps in record.samples["itl_s"]) for record in records]
    assert one["stats"]["data"] == each
    assert "gpu_cost_bench" not in one["extra_info"]


def test_compares_with_what_it_saved(run: Run, pytester: pytest.Pytester) -> None:
    only = ("-k", "test_speed and fast")
    run("--benchmark-autosave", "--benchmark-save-data", *only)
    again = run("--benchmark-compare", "--benchmark-compare-fail=median:10%", *only)

    again.assert_outcomes(passed=1, deselected=4)
    again.stdout.re_match_lines_random(
        [r"test_speed\[fast\] \(0001_.*\)", r"test_speed\[fast\] \(NOW\)"]
    )
    assert "machine_info is different" not in again.stderr.str()
    slower = SUITE.replace('"speedup.fast": 1.5', '"speedup.fast": 1.2')
    regressed = run(
        "--benchmark-compare",
        "--benchmark-compare-fail=median:10%",
        *only,
        suite=slower.replace("150 if", "120 if"),
    )
    assert regressed.ret != 0
    assert "Performance has regressed" in regressed.stderr.str()
    assert (
        subprocess.run(
            [sys.executable, "-m", "pytest_benchmark", "compare", "--columns=median"],
            capture_output=True,
            text=True,
            check=True,
            cwd=pytester.path,
        ).stdout.count("test_speed[fast]")
        == 1
    )


def test_devices_are_not_compared_with_each_other(run: Run, pytester: pytest.Pytester) -> None:
    run("--benchmark-save=one", "-k", "test_speed and fast")
    (file,) = pytester.path.glob(".benchmarks/*/0001_one.json")
    saved = json.loads(file.read_text())

    def compare(devices: list[str], **changes: str) -> pytest.RunResult:
        info = saved["machine_info"]["inference"] | {"devices": devices} | changes
        machine = saved["machine_info"] | {"inference": info}
        file.write_text(json.dumps(saved | {"machine_info": machine}))
        return pytester.runpytest_inprocess(
            *PLUGIN, "--benchmark-compare", "--collect-only", "-W", "ignore"
        )

    for done in (
        compare(["cuda:0"], gpu="NVIDIA GeForce RTX 4080 SUPER"),
        compare(["cpu"], cpu="NVIDIA GeForce RTX 4080 SUPER"),
    ):
        assert done.ret == pytest.ExitCode.USAGE_ERROR
        said = done.stderr.str()
        assert "measured on NVIDIA GeForce RTX 4080 SUPER, this machine has" in said
        assert "times of different devices are not compared" in said
    assert compare(["cpu"], gpu="one that was not used").ret == 0
    assert compare(["synthetic"], cpu="another").ret == 0


def test_files_of_other_projects_are_left_alone(run: Run, pytester: pytest.Pytester) -> None:
    arguments = ("--benchmark-save=plain", "-k", "test_other")
    run(*arguments)
    (file,) = pytester.path.glob(".benchmarks/*/0001_plain.json")
    assert "inference" not in json.loads(file.read_text())["machine_info"]
    assert "inference" not in run(*arguments, "--benchmark-compare").stdout.str()


def test_disabled_it_runs_each_arm_once_and_holds_no_gate(
    run: Run, pytester: pytest.Pytester
) -> None:
    done = run("--benchmark-disable", "--inference-into=kept", "-k", "test_gate")

    done.assert_outcomes(passed=2, deselected=3)
    for folder in pytester.path.glob("kept/*/*"):
        records = read(folder).records
        assert len(records) == 2
        assert [len(record.samples["e2e_s"]) for record in records] == [1, 1]


def test_skip_and_only_know_the_fixture(run: Run) -> None:
    run("--benchmark-skip").assert_outcomes(skipped=5)
    plain = SUITE + "\ndef test_plain():\n    pass\n"
    run(
        "--benchmark-only", "-k", "other or plain or (speed and fast)", suite=plain
    ).assert_outcomes(passed=2, skipped=1, deselected=3)


def test_beside_other_workers_it_says_why_it_does_not_measure(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")  # what pytest-xdist sets in its workers
    done = run("-rs", "-k", "test_gate", "-W", "ignore")
    done.assert_outcomes(skipped=2, deselected=3)
    done.stdout.re_match_lines_random([r".*not beside other workers of pytest-xdist"])


def test_without_pytest_benchmark_other_tests_run(run: Run) -> None:
    suite = SUITE.partition("def test_other")[0] + "def test_plain():\n    pass\n"
    suite = suite.replace('@pytest.mark.benchmark(group="arms")', "")
    done = run("-p", "no:benchmark", suite=suite)
    done.assert_outcomes(passed=1, errors=4)
    assert "needs pytest-benchmark: pip install" in done.stdout.str()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("quantt='fast'", "quantt: unknown key; did you mean 'quant'"),
        ("engine='syntetic'", "did you mean 'synthetic'"),
        ("n_gen=0", "n_gen: 0 must be at least 1"),
        ("fail_below=0.9", "a gate needs a baseline"),
        ("baseline='none'", "is repeated"),
        ("quant='a', baseline={'n_gen': 3}", "baseline.n_gen: a baseline differs in one of"),
        ("quant='a', baseline='none', fail_below=0.9, level='quick'", "needs 6 pairs"),
        ("quant='a', baseline='none', metric='speed', fail_below=1", "unknown metric 'speed'"),
        ("options={'fail': 'crash'}, measure={'pairs': 1}", "CRASH: "),
    ],
)
def test_what_cannot_be_measured_fails_in_one_line(settings: str, words: str, run: Run) -> None:
    done = run(
        suite=f"""
def test_one(inference_benchmark):
    inference_benchmark(**dict(dict(engine="synthetic", n_gen=4), {settings}))
"""
    )
    done.assert_outcomes(failed=1)
    assert words in done.stdout.str()
    assert "Traceback" not in done.stdout.str()
    assert "During handling" not in done.stdout.str()


def test_what_this_machine_cannot_run_is_skipped(run: Run) -> None:
    done = run(
        "-rs",
        suite="""
def test_one(inference_benchmark):
    inference_benchmark(engine="synthetic", options={"fail": "nonfinite"}, measure={"pairs": 1})

def test_two(inference_benchmark):
    inference_benchmark(device="cuda:99")
""",
    )
    done.assert_outcomes(failed=1, skipped=1)
    assert "no device 'cuda:99'" in done.stdout.str()


def test_once_a_test(run: Run) -> None:
    done = run(
        suite="""
def test_one(inference_benchmark):
    inference_benchmark(engine="synthetic", measure={"pairs": 1})
    inference_benchmark(engine="synthetic", measure={"pairs": 1})

def test_two(inference_benchmark, benchmark):
    benchmark(lambda: 1)
"""
    )
    done.assert_outcomes(failed=2)
    assert "once a test; use pytest.mark.parametrize" in done.stdout.str()
    assert "benchmark other code in a separate test" in done.stdout.str()


def test_the_command_line_sets_level_and_gate() -> None:
    def want(*tables: dict[str, Any], **line: Any) -> pytest_run.Wanted:
        return pytest_run.wanted(tables, **({"level": None, "fail_below": None} | line))

    marked = {"quant": "a", "n_gen": 8, "level": "strict"}
    assert want(marked, {"n_gen": 9}).n_gen == 9
    assert want(marked, level="quick").level == "quick"
    assert want(marked, fail_below=0.9).fail_below is None  # there is nothing to compare with
    paired = {"baseline": "none", "fail_below": 0.5}
    assert want(marked, paired, fail_below=0.9).fail_below == 0.9
    with pytest.raises(InputError, match="usd_per_hour: must be above 0"):
        want({"usd_per_hour": 0.0})


def test_slugs_name_folders_and_experiments_one_to_one() -> None:
    tests = ["test_a.py::test[x/y]", "test_a.py::test[x-y]", "test_a.py::" + "long" * 90]
    slugs = [pytest_run.slug(test) for test in tests]
    assert len(set(slugs)) == 3
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{1,99}", slug) for slug in slugs)


def test_the_plugin_is_light_and_has_its_module_for_its_name() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import bench.pytest_plugin"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    ours = {name for name in imported if name == "bench" or name.startswith("bench.")}
    assert ours == {"bench", "bench._version", "bench.pytest_plugin"}
    assert imported & {"torch", "pandas", "numpy", "scipy", "rich", "pytest_benchmark"} == set()
    # Installed, the entry point and `-p bench.pytest_plugin` must be one plugin, not two.
    declared = (ROOT / "pyproject.toml").read_text()
    assert '"bench.pytest_plugin" = "bench.pytest_plugin"' in declared
    for entry in entry_points(group="pytest11"):
        if entry.value.startswith("bench."):
            assert entry.name == entry.value


@pytest.mark.model
@pytest.mark.slow
def test_the_example_measures_the_embedded_model(
    embedded_folder: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saves, compares with what was saved, and does not let a regression pass; that one with
    scripted timings, as a gate needs 12 processes."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(embedded_folder.parents[2]))
    suite = (ROOT / "docs/examples/test_inference.py").read_text()
    rules = {"iterations": 1, "window_s": 0.0, "idle_s": 0.0}
    # Of the test that only measures, and of the one with the gate, whose pairs must be valid.
    for more in ({"pairs": 1, "warmup_max_s": 0.0}, {"pairs": 6}):
        short = f"n_prompt=8, n_gen=3, device='cpu', measure={rules | more}"
        suite = suite.replace("n_prompt=64, n_gen=16", short, 1)
    # The injected regression.
    rule = 'baseline="none", fail_below=0.97'
    assert suite.count(rule) == 1
    script = {"speedup.torch-dynamic-int8": 0.5, "noise": 0.01}
    suite = suite.replace(rule, f"{rule}, engine='synthetic', options={script}")
    pytester.makepyfile(test_inference=suite)
    gate = pytester.runpytest_subprocess(*PLUGIN, "-k", "no_slower")
    gate.assert_outcomes(failed=1, deselected=2)
    gate.stdout.re_match_lines_random(
        [r"decode of .*torch-dynamic-int8.*: interval .* reaches below 0.97 ?.*"]
    )
    first = pytester.runpytest_subprocess(*PLUGIN, "--benchmark-save=one", "-k", "speed and int8")
    first.assert_outcomes(passed=1, deselected=2)
    (file,) = pytester.path.glob(".benchmarks/*/0001_one.json")
    (speed,) = json.loads(file.read_text())["benchmarks"]
    info = speed["extra_info"]
    assert (info["model"], info["quant"]) == ("smollm2-135m-instruct", "torch-dynamic-int8")
    assert info["device"] == "cpu"
    assert 220e6 < info["weights_bytes"] < 270e6
    assert info["decode_tok_s"] > 0
    assert info["usd_per_mtok"] > 0
    assert json.loads(file.read_text())["machine_info"]["inference"]["devices"] == ["cpu"]

    second = pytester.runpytest_subprocess(*PLUGIN, "--benchmark-compare", "-k", "speed and int8")
    second.assert_outcomes(passed=1, deselected=2)
    second.stdout.re_match_lines_random([r"test_speed.* \(0001_one\).*", r"test_speed.* \(NOW\).*"])
