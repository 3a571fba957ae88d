"""`-b max` through real workers: the arm that needs most memory decides, and is asked once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cli import main
from bench.errors import UnsupportedError
from bench.experiment import Experiment, Grid
from bench.runner.largest_batch import KEPT, with_largest_batch
from bench.worker import fit
from bench.worker.messages import FitTask
from tests.fakes import FakeEngine


def wanted(folder: Path) -> Experiment:
    return Experiment(
        name="x",
        question="?",
        grid=Grid(model=(str(folder),), n_prompt=(4, 300), n_gen=(1, 3), device="cpu"),
    )


def test_the_answer_is_kept_and_not_asked_again(tiny_folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    found = with_largest_batch(wanted(tiny_folder), tmp_path, said.append, most=2)
    (n_batch,) = found.grid.n_batch
    assert n_batch == 2
    assert any("trying 2 sequences" in line for line in said)
    assert list(json.loads((tmp_path / KEPT).read_text()).values()) == [n_batch]
    said.clear()
    assert with_largest_batch(wanted(tiny_folder), tmp_path, said.append) == found
    assert not any("trying" in line for line in said)


class Full(FakeEngine):
    """Runs out of memory above so many sequences."""

    def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
        self.asked = (n_prompt, n_gen)
        if n_batch > 3:
            raise MemoryError
        super().start(n_prompt, n_gen, n_batch)


def test_running_out_is_an_answer_and_the_whole_length_is_tried() -> None:
    runs = Full()
    found = fit(runs, "cpu", lambda _: None, FitTask(n_prompt=10, n_gen=5, most=64))
    assert found.n_batch == 3
    assert runs.asked == (13, 2)


def test_other_errors_are_not_taken_for_a_full_memory() -> None:
    class Broken(FakeEngine):
        def start(self, n_prompt: int, n_gen: int, n_batch: int) -> None:
            raise UnsupportedError("15 tokens are more than the model's context of 8")

    with pytest.raises(UnsupportedError, match="context of 8"):
        fit(Broken(), "cpu", lambda _: None, FitTask(n_prompt=10, n_gen=5, most=64))


def test_a_plan_cannot_know_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-b", "max"]) == 2
    assert "-b max: only `bench run` can find it" in capsys.readouterr().err
