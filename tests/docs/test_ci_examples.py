"""Workflows for CI: valid, and their commands do what they say, on the synthetic engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
REUSABLE = ROOT / ".github/workflows/inference-benchmark.yml"
BASE_HEAD = ROOT / "docs/examples/github-base-head.yml"
GITLAB = ROOT / "docs/examples/gitlab-ci.yml"
EXPERIMENT = """
name = "mine"
question = "Is the fast scheme faster?"

[grid]
engine = ["synthetic"]
quant = ["none", "fast"]
n_prompt = [16]
n_gen = [4]

[grid.options]
noise = 0.01
"speedup.fast" = {speedup}

[measure]
window_s = 0.2
"""


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("github-workflows", REUSABLE),
        ("github-workflows", ROOT / ".github/workflows/ci.yml"),
        ("github-workflows", BASE_HEAD),
        ("gitlab-ci", GITLAB),
    ],
    ids=lambda part: getattr(part, "name", part),
)
def test_it_keeps_the_schema(schema: str, path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty checkout with an experiment, and a folder of commands for PATH."""
    (tmp_path / "mine.toml").write_text(EXPERIMENT.format(speedup=1.5))
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, module in (("bench", "-m bench"), ("python", "-c pass")):  # pip installs nothing here
        command(commands / name, module)
    return tmp_path


def command(path: Path, module: str) -> None:
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" {module} "$@"\n')
    path.chmod(0o755)


def shell(script: str, place: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The script as the runner executes it."""
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "GITHUB_STEP_SUMMARY": str(place / "summary.md")} | settings
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=place,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def github(path: Path, place: Path, **inputs: str) -> dict[str, int]:
    """Run a workflow's steps; exit codes by name. A failure skips the rest, as on GitHub."""
    workflow = yaml.safe_load(path.read_text())
    on = workflow[True]  # YAML 1.1 reads the key `on` as true
    declared = (on.get("workflow_call") or {}).get("inputs", {})
    assert inputs.keys() <= declared.keys()
    values = {name: str(spec.get("default", "")) for name, spec in declared.items()} | inputs
    (job,) = workflow["jobs"].values()
    env = {name: fill(str(text), values) for name, text in job["env"].items()}
    codes: dict[str, int] = {}
    for step in job["steps"]:
        asked = re.fullmatch(r"inputs\.([\w-]+) != ''", step.get("if", ""))
        wanted = asked is None or values[asked[1]]
        if "run" not in step or not wanted or any(codes.values()):
            continue
        assert "${{" not in step["run"], "inputs must not become part of a command's text"
        codes[step["name"]] = shell(step["run"], place, env).returncode
    return codes


def fill(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda m: values[m[1]], text)


def test_the_reusable_workflow_measures_gates_and_summarises(place: Path) -> None:
    mine: dict[str, Any] = {"package": ".", "experiment": "mine.toml", "arguments": "--pairs 6"}
    codes = github(REUSABLE, place, **mine, candidate="fast")
    assert list(codes.values()) == [0, 0, 0, 0]
    summary = (place / "summary.md").read_text()
    assert "## Inference" in summary
    assert "decodes 1.50x as fast" in summary
    assert (place / "results/ci/records.jsonl").exists()

    # The same arms against what is stored: this run's own copy is refused, a slower run fails.
    (place / "results/ci").rename(place / "stored")
    codes = github(REUSABLE, place, **mine, stored="stored")
    assert codes["Each arm against the stored results"] == 0
    assert "STORED_BASELINE" in (place / "summary.md").read_text()
    codes = github(REUSABLE, place, **mine, stored="stored", **{"stored-fail-below": "1.2"})
    assert codes["Each arm against the stored results"] == 1


def test_a_gate_that_does_not_hold_fails_the_job(place: Path) -> None:
    (place / "mine.toml").write_text(EXPERIMENT.format(speedup=0.9))
    codes = github(
        REUSABLE,
        place,
        package=".",
        experiment="mine.toml",
        arguments="--pairs 6",
        candidate="fast",
    )
    assert list(codes.values()) == [0, 0, 0, 1]
    assert "decodes 0.90x as fast" in (place / "summary.md").read_text()


@pytest.mark.slow
def test_base_and_head_are_measured_in_turns(place: Path) -> None:
    names = {"base": 'speedup.fast" = 1.5', "head": 'speedup.fast" = 1.5'}
    for side in names:
        (place / side / "benchmarks").mkdir(parents=True)
        (place / side / "benchmarks/inference.toml").write_text((place / "mine.toml").read_text())
        (place / f"venv-{side}" / "bin").mkdir(parents=True)
        for name, module in (("bench", "-m bench"), ("python", "-c pass")):
            command(place / f"venv-{side}" / "bin" / name, module)
    workflow = yaml.safe_load(BASE_HEAD.read_text())
    (job,) = workflow["jobs"].values()
    env = job["env"]
    env["EXPERIMENT"] = env["EXPERIMENT"].split()[0]
    steps = [
        step["run"].replace("1 2 3 4 5 6 7 8", "1 2 3 4 5 6")
        for step in job["steps"]
        if "run" in step
    ]
    for step in steps:
        done = shell(step, place, env)
        assert done.returncode == 0, done.stdout + done.stderr
    summary = (place / "summary.md").read_text()
    assert "STORED_BASELINE" not in summary  # they took turns: these are pairs
    assert "| same" in summary


def test_the_gitlab_job_measures_and_gates(place: Path) -> None:
    job = yaml.safe_load(GITLAB.read_text())["inference-benchmark"]
    settings = {k: v for k, v in job["variables"].items() if not v.startswith("$")}
    settings |= {"EXPERIMENT": "mine.toml", "ARGUMENTS": "--pairs 6", "CANDIDATE": "fast"}
    script = "\n".join([*job["before_script"], *job["script"]])
    assert shell(script, place, settings).returncode == 0
    assert "decodes 1.50x as fast" in (place / "summary.md").read_text()
    assert shell(script, place, settings | {"FAIL_BELOW": "1.6"}).returncode == 1


def test_the_noise_that_the_page_warns_of_is_the_measured_one() -> None:
    table = (
        (ROOT / "docs/method.md").read_text().partition("<!-- table: results/a-against-a-cpu")[2]
    )
    spreads = [int(share) for share in re.findall(r"± (\d+)%", table.partition("<!-- end")[0])]
    assert f"± {min(spreads)}% to ± {max(spreads)}%" in (ROOT / "docs/ci.md").read_text()
