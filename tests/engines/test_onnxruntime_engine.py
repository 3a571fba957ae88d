"""ONNX Runtime in its real environment, made once: minutes the first time, then seconds."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import quantization
from bench.engines.messages import Job, Order
from bench.engines.onnxruntime.files import EXPORTER, FACTS, MODEL, prepare
from bench.engines.transformers.engine import TransformersEngine
from bench.errors import UnsupportedError
from bench.experiment import load_experiment
from bench.models.convert import expected
from bench.runner import venvs as environments
from bench.runner.venvs import Home
from tests.conftest import TINY
from tests.onnx_probe import generate

pytestmark = [pytest.mark.engine, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
PROBE = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.onnx_probe import main; main()"


@pytest.fixture(scope="session")
def onnx_home() -> Home:
    return environments.ensure(environments.home("onnxruntime"), print)


def order(home: Home, folder: Path, quant: str, **options: Any) -> Order:
    return Order(
        folder=folder,
        name="tiny",
        identity=str(folder),
        quant=quant,
        dtype="auto",
        device=quantization.Device(name="cpu", kind="cpu"),
        options=options,
        home=home,
        say=print,
    )


@pytest.fixture(scope="session")
def made(onnx_home: Home, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """quant -> folder of the tiny model's ONNX files, in a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return {
            "none": prepare(order(onnx_home, tiny_folder, "none")),
            "int8-dynamic": prepare(order(onnx_home, tiny_folder, "int8-dynamic")),
            "per-channel": prepare(order(onnx_home, tiny_folder, "int8-dynamic", per_channel=True)),
        }


def probe(home: Home, folder: Path, made: Path, quant: str) -> dict[str, Any]:
    asked = json.dumps({"folder": str(folder), "made": str(made), "quant": quant})
    done = subprocess.run(
        [home.python, "-I", "-c", PROBE], input=asked, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.fixture(scope="session")
def plain(onnx_home: Home, tiny_folder: Path, made: Any) -> dict[str, Any]:
    return probe(onnx_home, tiny_folder, made["none"], "none")


@pytest.fixture(scope="session")
def int8(onnx_home: Home, tiny_folder: Path, made: Any) -> dict[str, Any]:
    return probe(onnx_home, tiny_folder, made["int8-dynamic"], "int8-dynamic")


@pytest.fixture(scope="session")
def reference(tiny_folder: Path) -> TransformersEngine:
    runs = TransformersEngine()
    runs.load(
        Job(
            architecture=TINY,
            folder=tiny_folder,
            random_seed=0,
            initializer_range=0.02,
            quant="none",
            mode="eager",
            dtype="auto",
            device="cpu",
            threads=1,
            seed=7,
            replicate=0,
        )
    )
    return runs


def test_tokens_are_those_of_transformers(
    plain: dict[str, Any], reference: TransformersEngine
) -> None:
    reference.start(n_prompt=12, n_gen=8, n_batch=2)
    expected = generate(reference, 8)  # type: ignore[arg-type]  # the same steps
    assert plain["before"] == [[], []]
    assert plain["first"] == plain["again"] == plain["after_rewind"] == expected
    assert plain["rewound"] == [sequence[:1] for sequence in expected]
    assert [len(sequence) for sequence in expected] == [8, 8]


def test_log_probs_are_those_of_transformers(
    plain: dict[str, Any], reference: TransformersEngine
) -> None:
    expected = reference.log_probs([(7 * i) % 256 for i in range(300)])
    torch.testing.assert_close(torch.tensor(plain["log_probs"]), expected, rtol=1e-4, atol=1e-4)


def test_a_given_prompt_is_continued(plain: dict[str, Any], reference: TransformersEngine) -> None:
    reference.set_prompt([1, 2, 3])
    assert plain["continued"] == generate(reference, 4)  # type: ignore[arg-type]  # as above


def test_text_context_and_imports(plain: dict[str, Any]) -> None:
    assert plain["text"] == "Grüße, 東京"
    assert "context of 512" in plain["refused"]
    assert plain["torch"] is False  # the environment has it, for the export


def test_int8_makes_as_many_tokens_and_says_what_it_is(
    plain: dict[str, Any], int8: dict[str, Any]
) -> None:
    assert [len(sequence) for sequence in int8["first"]] == [8, 8]
    assert int8["first"] == int8["again"] == int8["after_rewind"]
    assert int8["log_probs"] != plain["log_probs"]
    none, eight = plain["loaded"], int8["loaded"]
    assert (none["dynamic"], eight["dynamic"]) == (None, "activations")
    assert none["n_params"] == eight["n_params"]
    # Equal norms of a model that was never trained are one constant.
    assert none["weights_bytes"] == pytest.approx(4 * none["n_params"], rel=0.01)
    assert none["quantized_fraction"] == 0
    assert eight["quantized_fraction"] > 0.99  # all but the norms
    assert none["weights_bytes"] / 4 < eight["weights_bytes"] < none["weights_bytes"] / 3
    assert "MatMulInteger" in eight["kernel"] or "DynamicQuantizeMatMul" in eight["kernel"]
    assert eight["details"]["provider"] == "CPUExecutionProvider"
    assert eight["details"]["onnx"]["instructions"] in ("avx512_vnni", "avx512", "avx2", "arm64")
    assert eight["details"]["onnx"]["weights"] == "int8 per tensor"
    assert eight["details"]["packages"]["onnxruntime"] == "1.32.0"


def test_per_channel_is_recorded_and_holds_more_scales(made: Any, int8: dict[str, Any]) -> None:
    facts = json.loads((made["per-channel"] / FACTS).read_text())
    assert facts["weights"] == "int8 per channel"
    assert facts["weights_bytes"] > int8["loaded"]["weights_bytes"]


def test_files_are_made_once_and_again_if_broken(
    made: Any, onnx_home: Home, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(made["none"].parent.parent.parent))
    said: list[str] = []
    wanted = replace(order(onnx_home, tiny_folder, "none"), say=said.append)
    assert prepare(wanted) == made["none"]
    assert said == []
    with (made["none"] / MODEL).open("r+b") as file:
        file.truncate(1000)
    assert prepare(wanted) == made["none"]
    assert said == ["exporting tiny to ONNX with Optimum (once)"]


def test_an_export_that_predicts_otherwise_is_refused(
    onnx_home: Home, tiny_folder: Path, tmp_path: Path
) -> None:
    """As where the exporter's older transformers does not know a key of the configuration."""
    import numpy as np

    file = tmp_path / "expected.npz"
    expected(tiny_folder, file)
    with np.load(file) as kept:
        np.savez(file, tokens=kept["tokens"], logits=3 * kept["logits"])
    (tmp_path / "made").mkdir()
    steps = ("export", str(tiny_folder), str(file), "float32", "cpu", str(tmp_path / "made"))
    done = subprocess.run(
        onnx_home.program(EXPORTER, *steps),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 1
    assert "predictions differ from the model's: KLD" in done.stderr.strip().splitlines()[-1]


def test_a_model_that_cannot_be_exported_is_one_line(
    onnx_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnsupportedError, match="cannot load tiny: ") as error:
        prepare(order(onnx_home, tmp_path, "none"))
    assert "\n" not in str(error.value)


def test_the_shipped_experiment_asks_for_what_exists() -> None:
    from bench.runner.arms import check_names

    check_names(load_experiment("onnx-dynamic-int8"))
