"""Real quantized folders, loaded as published: bytes, counts, operations, the same figures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bench import quality, quantization
from bench.engines.messages import Job
from bench.engines.registry import engine
from bench.errors import UnsupportedError
from bench.models import resolve_model
from bench.models.shapes import shape
from bench.quantization import ready
from bench.schemes.bytes import held
from tests import checkpoints
from tests.conftest import TINY

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # raised on import inside torchao
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:You passed `quantization_config`"),  # transformers' own
    pytest.mark.filterwarnings("ignore:Dynamo detected a call"),
    pytest.mark.filterwarnings("ignore:.*_stable_hash_for_caching"),
]

SCHEMES = {
    "FP8_DYNAMIC": "compressed-tensors/fp8-dynamic",
    "W8A8": "compressed-tensors/w8a8-dynamic",
    "W4A16": "compressed-tensors/w4a16-g128",
    "nf4": "bnb-nf4",
    "bnb-int8": "bnb-int8",
    "torchao-int8": "torchao/int8-weight-only",
}
N_LINEAR = 2 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 256)
N_PARAMS = N_LINEAR + 2 * 256 * 128 + 5 * 128


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A llama of 2 layers whose rows are whole groups of 128."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("ready") / "base"
    torch.manual_seed(0)
    keys = TINY | {"hidden_size": 128, "intermediate_size": 256}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**keys)).save_pretrained(folder)
    for path in tiny_folder.glob("*token*"):
        shutil.copy(path, folder / path.name)
    return folder


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each kind of folder, made when it is first asked for."""

    class Made(dict[str, Path]):
        def __missing__(self, kind: str) -> Path:
            need = {"nf4": "bitsandbytes", "bnb-int8": "bitsandbytes"}
            pytest.importorskip(need.get(kind, "torch"))
            if kind in checkpoints.COMPRESSED:
                pytest.importorskip("compressed_tensors")
            self[kind] = checkpoints.make(kind, base, tmp_path_factory.mktemp("ready") / kind)
            return self[kind]

    return Made()


def job(folder: Path, scheme: str, mode: str = "eager") -> Job:
    return Job(
        architecture={},
        folder=folder,
        random_seed=0,
        initializer_range=0.02,
        quant=scheme,
        mode=mode,
        dtype="auto",
        device="cpu",
        threads=1,
        seed=0,
        replicate=0,
    )


def log_probs(folder: Path, window: list[int]) -> Any:
    """As plain transformers has it."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, device_map={"": "cpu"}
    )
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([window]), use_cache=False).logits
    return torch.log_softmax(logits[0, :-1].float(), -1)


def near(kind: str) -> float:
    """On CPUs with bfloat16 units bitsandbytes holds the scales of 4 bits in fewer bytes."""
    return 0.03 if kind == "nf4" else 0.01


@pytest.mark.parametrize("kind", SCHEMES)
def test_a_folder_is_what_it_says(kind: str, made: dict[str, Path]) -> None:
    folder, scheme = made[kind], SCHEMES[kind]
    stated = ready.stated_in(folder)
    assert stated is not None
    assert stated.scheme == scheme
    runs: Any = engine("transformers")
    found = runs.load(job(folder, scheme))
    assert found.n_params == N_PARAMS
    assert found.weights_bytes == pytest.approx(checkpoints.bytes_of(folder), rel=near(kind))
    assert found.quantized_fraction == pytest.approx(N_LINEAR / N_PARAMS)
    assert found.dynamic == ("activations" if kind in ("FP8_DYNAMIC", "W8A8", "bnb-int8") else None)
    assert found.details["layers"]["quantized"] == 14
    assert found.details["layers"]["skipped"][0]["layers"] == ["lm_head"]
    assert found.kernel != "float matmul"
    window = list(range(3, 99))
    ours, theirs = runs.log_probs(window), log_probs(folder, window)
    assert float((ours - theirs).abs().max()) < 1e-4
    counted = quantization.held(runs._model)  # also after it has computed
    assert counted.weights_bytes == found.weights_bytes
    assert counted.n_params == found.n_params


@pytest.mark.parametrize("kind", [*SCHEMES, "fp8-block"])
def test_bytes_are_known_before_loading(kind: str, made: dict[str, Path]) -> None:
    stated = ready.stated_in(made[kind])
    assert stated is not None
    card = resolve_model(str(made[kind])).card
    size = held(shape(card), stated.scheme, dtype="float32")
    # Scales of this folder are in 32 bits, those of published ones in 16.
    assert size.weights_bytes == pytest.approx(checkpoints.bytes_of(made[kind]), rel=0.02)
    assert size.quantized_fraction == pytest.approx(N_LINEAR / N_PARAMS)


def test_a_loader_that_makes_floats_is_not_called_by_the_scheme(made: dict[str, Path]) -> None:
    folder = made["fp8-block"]
    with pytest.raises(UnsupportedError, match="runs on cuda, not on cpu; -q fp8-block128-deq"):
        engine("transformers").load(job(folder, "fp8-block128"))
    found = engine("transformers").load(job(folder, "fp8-block128-dequantized"))
    assert found.n_params == N_PARAMS
    assert found.weights_bytes == 4 * N_PARAMS
    assert (found.quantized_fraction, found.dynamic, found.kernel) == (0.0, None, "float matmul")


def test_nothing_is_laid_on_top(made: dict[str, Path]) -> None:
    with pytest.raises(UnsupportedError, match="quantized already, in 'bnb-nf4'"):
        engine("transformers").load(job(made["nf4"], "int8-weight-only"))
    with pytest.raises(UnsupportedError, match="quantized already"):
        engine("transformers").load(job(made["W8A8"], "none"))


def test_a_mode_works_or_is_refused_before_loading(made: dict[str, Path]) -> None:
    with pytest.raises(UnsupportedError, match="cannot run in mode compiled"):
        engine("graph").load(job(made["bnb-int8"], "bnb-int8", "compiled"))
    tokens = []
    for name, mode in (("transformers", "eager"), ("graph", "compiled")):
        runs = engine(name)
        runs.load(job(made["W8A8"], SCHEMES["W8A8"], mode))
        runs.start(8, 5, 1)
        runs.prefill()
        for _ in range(4):
            runs.step()  # type: ignore[attr-defined]
        tokens.append(runs.tokens())  # type: ignore[attr-defined]
    assert tokens[0] == tokens[1]


N_LAYERS = 8


@pytest.fixture(scope="module")
def first_layers(embedded_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 8 of the embedded model's 30 layers."""
    import shutil

    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("ready") / "first"
    model = AutoModelForCausalLM.from_pretrained(embedded_folder, num_hidden_layers=N_LAYERS)
    model.save_pretrained(folder)
    for path in embedded_folder.glob("*token*"):
        shutil.copy(path, folder / path.name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["FP8_DYNAMIC", "W8A8", "W4A16", "nf4", "torchao-int8"])
def test_the_embedded_model(kind: str, first_layers: Path, tmp_path: Path) -> None:
    """Perplexity is that of plain transformers on the same folder, within half a percent."""
    import torch

    if kind in checkpoints.COMPRESSED:
        pytest.importorskip("compressed_tensors")
    folder = checkpoints.make(kind, first_layers, tmp_path / kind)
    stated = ready.stated_in(folder)
    assert stated is not None
    runs: Any = engine("transformers")
    found = runs.load(job(folder, stated.scheme))
    assert found.weights_bytes == pytest.approx(checkpoints.bytes_of(folder), rel=near(kind))
    assert found.n_params == shape(resolve_model(str(first_layers)).card).n_params
    text = Path("bench/data/text/english.txt").read_text(encoding="utf-8")
    scored = quality.evaluate(runs, text, max_tokens=128, window=128)
    window = runs.tokenize(text)[:128]
    theirs = log_probs(folder, window)
    nll = -theirs[torch.arange(127), torch.tensor(window[1:])].mean()
    ours = sum(scored["nll"]) / len(scored["nll"])
    assert math.exp(ours - float(nll)) == pytest.approx(1, abs=0.005)
