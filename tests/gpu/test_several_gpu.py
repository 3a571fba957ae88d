"""One model on several devices, where there are GPUs: copies between them, and NCCL.

With one GPU the layers are spread over it and the host, which `bench run` refuses, but which moves
tensors between devices all the same; with two, by layer and by tensor.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.devices.clock import EventClock, clock_for
from bench.engines.messages import Job
from bench.engines.transformers import splitting
from bench.engines.transformers.engine import TransformersEngine
from bench.worker import request
from tests.conversing import conversation
from tests.generating import generate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")

SHAPE = {
    "model_type": "llama",
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM

    architecture = dict(SHAPE)
    config = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("model")
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(place)
    return place


def a_job(folder: Path | None, **changed: object) -> Job:
    plain = Job(
        architecture=SHAPE,
        folder=folder,
        random_seed=0,
        initializer_range=0.02,
        quant="none",
        mode="eager",
        dtype="float32",
        device="cuda:0",
        threads=None,
        seed=7,
        replicate=0,
    )
    return replace(plain, **changed)  # type: ignore[arg-type]  # names of its fields


def expected(folder: Path) -> list[list[int]]:
    runs = TransformersEngine()
    runs.load(a_job(folder))
    runs.start(40, 16, 2)
    return generate(runs, 16)


def test_layers_on_a_card_and_the_host_agree_with_the_card(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = expected(folder)
    split = splitting.Split(how="layer", devices=("cuda:0", "cpu"))
    monkeypatch.setattr(splitting, "split_of", lambda options, _: (split, dict(options)))
    runs = TransformersEngine()
    runs.load(a_job(folder))
    runs.start(40, 16, 2)
    assert generate(runs, 16) == whole
    assert {str(p.device) for p in runs._model.parameters()} == {"cuda:0", "cpu"}
    timed = request(runs, clock_for("cuda:0"), 16)
    # Events of the first device see what the other does: a step ends with its token back here.
    assert timed.prefill_s + sum(timed.itl_s) == pytest.approx(timed.host_s, rel=0.2)


@two
def test_layers_on_two_cards_agree_with_one(folder: Path) -> None:
    runs = TransformersEngine()
    runs.load(a_job(folder, device="cuda:0+cuda:1"))
    runs.start(40, 16, 2)
    assert generate(runs, 16) == expected(folder)
    clock = clock_for("cuda:0+cuda:1")
    assert isinstance(clock, EventClock)
    timed = request(runs, clock, 16)
    assert timed.prefill_s + sum(timed.itl_s) == pytest.approx(timed.host_s, rel=0.2)


@two
@pytest.mark.parametrize("quant", ["int8-dynamic", "int8-dynamic-fused", "int8-weight-only"])
def test_schemes_run_on_two_cards(quant: str) -> None:
    runs = TransformersEngine()
    runs.load(a_job(None, quant=quant, dtype="bfloat16", device="cuda:0+cuda:1"))
    runs.start(40, 8, 1)
    assert len(generate(runs, 8)[0]) == 8


@two
@pytest.mark.parametrize("mode", ["eager", "compiled", "cuda-graph"])
def test_ranks_on_two_cards_agree_with_one(folder: Path, mode: str) -> None:
    job = a_job(folder, device="cuda:0+cuda:1", mode=mode, options={"split": "tensor"})
    events = conversation(job, workloads=[{"n_prompt": 40, "n_gen": 16, "n_batch": 2}])
    found = [event["first_tokens"] for event in events if event["event"] == "measured"]
    assert found == [expected(folder)[:1]], events[-1]


@two
def test_the_second_card_is_timed_on_its_own_queue(folder: Path) -> None:
    runs = TransformersEngine()
    runs.load(a_job(folder, device="cuda:1"))
    runs.start(40, 16, 2)
    assert torch.accelerator.current_device_index() == 1
    timed = request(runs, clock_for("cuda:1"), 16)
    assert timed.prefill_s + sum(timed.itl_s) == pytest.approx(timed.host_s, rel=0.2)
