"""scripts/rtx4080: what it runs, in which order, and how it goes on; `bench` is a stand-in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.cli import parser
from bench.experiment import load_experiment
from bench.models import resolve_model
from bench.models.shapes import shape
from bench.roofline.gpus import resolve_gpu
from bench.schemes.bytes import held

SCRIPT = Path(__file__).parents[2] / "scripts" / "rtx4080"


def run(folder: Path, codes: dict[str, int]) -> tuple[int, list[str], str]:
    """Exit code, the calls of `bench`, and what was said; `codes`: word of a call -> its code."""
    log = folder / "calls"
    cases = "\n".join(
        f'case "$*" in *"{word}"*) exit {code};; esac' for word, code in codes.items()
    )
    bench = folder / "bench"
    bench.write_text(
        f'#!/bin/sh\necho "$@" >> "{log}"\n{cases}\nmkdir -p "{folder}/out/rtx-4080"\n'
    )
    bench.chmod(0o755)
    done = subprocess.run(
        [str(SCRIPT), str(folder / "out")],
        env={"BENCH": str(bench), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, log.read_text().splitlines(), done.stderr


def test_it_runs_the_doctor_the_experiments_and_the_claims(tmp_path: Path) -> None:
    code, calls, said = run(tmp_path, {})
    assert code == 0
    assert [call.split()[0] for call in calls] == [
        "--version",
        "doctor",
        "plan",
        "run",
        "plan",
        "run",
        "plan",
        "run",
        "plan",
        "run",
        "compare",
        "claims",
        "export",
    ]
    assert f"send {tmp_path}/out/rtx4080.tar.gz" in said
    assert (tmp_path / "out" / "doctor.txt").exists()


def test_every_call_is_one_that_bench_understands(tmp_path: Path) -> None:
    _, calls, _ = run(tmp_path, {})
    for call in calls[1:]:
        parser().parse_args(call.split())
    for call in calls:
        if call.startswith(("run ", "plan ")):
            load_experiment(call.split()[1])


def test_an_interruption_ends_it_and_says_how_to_go_on(tmp_path: Path) -> None:
    code, calls, said = run(tmp_path, {"run": 130})
    assert code == 130
    assert len(calls) == 4
    assert "run the same command to resume" in said


def test_a_failed_experiment_does_not_take_the_others_along(tmp_path: Path) -> None:
    code, calls, _ = run(tmp_path, {"run rtx-4080-super-quantized": 3, "doctor": 1})
    assert code == 3
    assert sum(call.startswith("run ") for call in calls) == 4
    assert calls[-2].startswith("claims ")
    assert "--share" in calls[-1]


def test_8b_fits_in_every_scheme_of_its_experiment() -> None:
    card = resolve_gpu("rtx-4080")
    experiment = load_experiment("rtx-4080-8b")
    for variant in experiment.variants:
        found = held(shape(resolve_model(variant.model).card), variant.quant, "bfloat16")
        assert found.weights_bytes < 0.75 * card.vram_bytes


@pytest.mark.parametrize("name", ["rtx-4080", "rtx-4080-super-quantized"])
def test_every_model_fits_16_gb_before_it_is_quantized(name: str) -> None:
    for ref in load_experiment(name).grid.model:
        found = held(shape(resolve_model(ref).card), "none", "bfloat16")
        assert found.weights_bytes < 12e9


def test_every_quantized_arm_has_an_unquantized_one_in_its_mode() -> None:
    variants = load_experiment("rtx-4080").variants
    plain = {(v.model, v.mode) for v in variants if v.quant == "none"}
    assert {(v.model, v.mode) for v in variants} == plain
