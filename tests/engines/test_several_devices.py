"""One model on several devices: names, layers, ranks, readings, cost and bound.

There is one device here, so layers are spread over `cpu` and `meta` (which keeps shapes and devices
and no numbers), and ranks are processes of this CPU.
"""

from __future__ import annotations

import gc
import json
import os
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import worker
from bench.cli import main
from bench.cost import usd_per_mtok
from bench.cost.pricing import Pricer, Terms
from bench.cost.scenario import SourcedFigure, adapt
from bench.cost.throughput import throughputs
from bench.devices import Reading, environment, peaks, several
from bench.devices.gpu import nvidia, parts
from bench.devices.opening import reader_for
from bench.devices.several import GroupReader, WithOthers, combined, group_identity, room_of
from bench.engines.endpoint.settings import settings
from bench.engines.messages import Job
from bench.engines.registry import refusal
from bench.engines.transformers import placement, ranks, splitting
from bench.engines.transformers.engine import TransformersEngine
from bench.engines.transformers.ranks import Ranks, Seat
from bench.engines.transformers.resolving import make_current, resolve_device
from bench.engines.transformers.splitting import split_of
from bench.errors import InputError, UnsupportedError
from bench.exchange.tabular import markdown
from bench.experiment import CostAssumption, Variant
from bench.experiment.devices import cards, count, kind_of, members, spelled_out
from bench.records import Environment
from bench.records.file import Results, Writer, read
from bench.report.page import PageOptions, assemble
from bench.report.page.webpage import to_html
from bench.report.tables.row import shown, table
from bench.runner.process import converse
from bench.schemes import Device
from bench.summary import summarise
from bench.summary.limits import at_once
from bench.worker import rank
from bench.worker.messages import FitTask
from tests.conftest import TINY
from tests.conversing import WORKLOADS, conversation
from tests.fake_nvml import FakeNvml
from tests.generating import generate

THREE_WAYS = TINY | {
    "num_hidden_layers": 1,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "hidden_size": 48,
    "intermediate_size": 96,
    "vocab_size": 258,
}
"""A shape that divides by three ranks."""


# --- names ------------------------------------------------------------------------------------


def test_names_of_groups() -> None:
    assert members("cuda:0+cuda:1") == ("cuda:0", "cuda:1")
    assert (count("cpu"), count("cuda:2+cuda:3")) == (1, 2)
    assert (kind_of("cuda:0+cuda:1"), kind_of("cpu"), kind_of("remote:cuda:0")) == (
        "cuda",
        "cpu",
        "remote",
    )
    assert spelled_out("cuda:1-3") == "cuda:1+cuda:2+cuda:3"
    assert spelled_out("cuda") == "cuda"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cuda:0+cuda:0", "names a device twice"),
        ("cuda:0+cuda:00", "names a device twice"),
        ("cuda:3-3", "last must be above"),
        ("cuda:0+cpu", "each of several has a number"),
        ("cuda:0+xpu:1", "mixes kinds"),
        ("cuda+cuda:1", "each of several has a number"),
    ],
)
def test_a_group_that_cannot_be_is_refused(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        resolve_device(name)


def test_a_group_that_is_not_here_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.device_count() > 1:
        pytest.skip("it is here")
    with pytest.raises(UnsupportedError, match="no device 'cuda:1' on this machine"):
        resolve_device("cuda:1+cuda:2")
    assert main(["run", "-d", "cuda:0+cuda:0"]) == 2
    assert "names a device twice" in capsys.readouterr().err
    assert main(["doctor", "-d", "cuda:0+cuda:1"]) == 2


# --- how it is split --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "device", "how", "devices"),
    [
        ({}, "cpu", "one", ("cpu",)),
        ({}, "cuda:1", "one", ("cuda:1",)),
        ({}, "cuda:0+cuda:1", "layer", ("cuda:0", "cuda:1")),
        ({"split": "tensor"}, "cuda:0+cuda:1", "tensor", ("cuda:0", "cuda:1")),
        ({"split": "tensor", "ranks": 3}, "cpu", "tensor", ("cpu", "cpu", "cpu")),
    ],
)
def test_ways_to_split(
    options: Mapping[str, Any], device: str, how: str, devices: tuple[str, ...]
) -> None:
    split, left = split_of({**options, "compile": "layer"}, device)
    assert (split.how, split.devices, left) == (how, devices, {"compile": "layer"})


@pytest.mark.parametrize(
    ("options", "device", "said"),
    [
        ({"split": "row"}, "cuda:0+cuda:1", "layer, tensor"),
        ({"split": "layer"}, "cuda:0", "needs several devices"),
        ({"split": "layer"}, "cpu", "needs several devices"),
        ({"split": "tensor"}, "cpu", "needs ranks = 2 or more"),
        ({"split": "tensor", "ranks": True}, "cpu", "needs ranks"),
        ({"ranks": 2}, "cpu", "for split = 'tensor'"),
        ({"split": "tensor", "ranks": 2}, "cuda:0+cuda:1", "one rank each"),
    ],
)
def test_what_does_not_go_together_is_refused(
    options: Mapping[str, Any], device: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        split_of(options, device)


@pytest.mark.parametrize(
    ("how", "given", "said"),
    [
        ("layer", {"mode": "compiled"}, "one device or split = 'tensor'"),
        ("layer", {"mode": "cuda-graph"}, "one device or split = 'tensor'"),
        ("tensor", {"quant": "int8-dynamic"}, "use split = 'layer'"),
        ("tensor", {"random": True}, "random weights cannot"),
    ],
)
def test_what_cannot_be_spread_is_refused(how: Any, given: dict[str, Any], said: str) -> None:
    split = splitting.Split(how=how, devices=("cuda:0", "cuda:1"))
    plain: dict[str, Any] = {"quant": "none", "mode": "eager", "random": False}
    assert splitting.refusal_of(split, **plain) is None
    assert said in str(splitting.refusal_of(split, **(plain | given)))


def test_an_engine_that_holds_a_model_on_one_device_says_so() -> None:
    two = Device(name="cuda:0+cuda:1", kind="cuda")
    assert "runs on one device" in str(refusal(Variant(model="m", engine="onnxruntime"), two))
    assert refusal(Variant(model="m", engine="vllm"), two) is None


# --- layers -----------------------------------------------------------------------------------


def tiny(**changed: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    architecture = TINY | changed
    config = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def test_layers_are_cut_by_bytes() -> None:
    assert placement.cut([10] * 4, [1, 1], 0, 40) == [0, 0, 1, 1]
    assert placement.cut([10] * 4, [3, 1], 0, 40) == [0, 0, 0, 1]
    # An embedding takes the first device's share, a head the last's.
    assert placement.cut([10] * 4, [1, 1], 20, 60) == [0, 1, 1, 1]
    assert placement.cut([10] * 4, [1, 1], 0, 60) == [0, 0, 0, 1]
    # Every device gets one, however unlike the shares are.
    assert placement.cut([10] * 4, [1, 1000, 1], 0, 40) == [0, 1, 1, 2]
    assert placement.cut([10] * 3, [1, 1, 1000], 0, 30) == [0, 1, 2]


@pytest.mark.parametrize("tied", [True, False])
def test_a_map_names_every_weight_once(tied: bool) -> None:
    model = tiny(num_hidden_layers=4, tie_word_embeddings=tied)
    places = placement.layer_map(model, ("cuda:0", "cuda:1"), (1, 1))
    assert places["model.embed_tokens"] == "cuda:0"
    assert places["model.norm"] == "cuda:1"
    assert places["lm_head"] == ("cuda:0" if tied else "cuda:1")
    layers = [places[f"model.layers.{i}"] for i in range(4)]
    assert layers == sorted(layers)
    assert set(layers) == {"cuda:0", "cuda:1"}
    for name, _ in model.named_parameters():
        assert sum(name.startswith(f"{place}.") for place in places) == 1
    with pytest.raises(UnsupportedError, match="4 layers cannot be spread over 5"):
        placement.layer_map(model, [f"cuda:{i}" for i in range(5)], (1,) * 5)


@pytest.mark.parametrize("tied", [True, False])
def test_layers_on_two_devices_are_given_what_they_need_there(tied: bool) -> None:
    model = tiny(num_hidden_layers=4, tie_word_embeddings=tied)
    places = placement.layer_map(model, ("cpu", "meta"), (1, 1))
    for name, device in places.items():
        if device == "meta":
            model.get_submodule(name).to("meta")
    placement.check_places(model, ("cpu", "meta"))
    placement.place(model, places, ("cpu", "meta"))
    placement.place(model, places, ("cpu", "meta"))  # as after quantizing: not wrapped twice
    seen: list[tuple[str, str]] = []
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.register_forward_pre_hook(
            lambda _module, _args, given, index=index: seen.append(
                (f"{index}", {str(t.device) for t in given["position_embeddings"]}.pop())
            ),
            with_kwargs=True,
        )
    tokens = torch.arange(6)[None]
    mask = torch.ones(1, 6, dtype=torch.long)
    if tied:  # the head is back on the first device, where `meta` has no numbers to give
        with pytest.raises(NotImplementedError, match="meta"):
            model(input_ids=tokens, attention_mask=mask)
    else:
        found = model(input_ids=tokens, attention_mask=mask, use_cache=True)
        assert found.logits.device.type == "meta"
        cached = [str(layer.keys.device) for layer in found.past_key_values.layers]
        assert cached == [places[f"model.layers.{i}"] for i in range(4)]
    assert seen == [(f"{i}", places[f"model.layers.{i}"]) for i in range(4)]


def test_masks_and_rotations_are_brought_once_a_pass() -> None:
    kept = placement.Kept("meta")
    mask, rotation = torch.zeros(2), (torch.ones(2), torch.ones(2))
    first = kept.bring({"not": "a tensor"}), kept.bring(mask), kept.bring(rotation)
    assert first[0] == {"not": "a tensor"}
    assert kept.bring(mask) is first[1]
    assert kept.bring(rotation)[1] is first[2][1]
    assert kept.bring(first[1]) is first[1]  # there already
    kept.forget()
    assert kept.bring(mask) is not first[1]


def test_what_layers_hand_on_is_not_held_beyond_its_layer() -> None:
    seen: list[Any] = []
    kept = placement.Kept("meta")
    layer = placement.on_device(lambda x, mask: seen.append(weakref.ref(x)), kept, begins=True)
    layer(torch.zeros(2), mask=torch.zeros(2))
    assert seen[0]() is None


def test_a_model_that_is_half_on_the_host_is_refused() -> None:
    model = tiny()
    model.model.layers[1].mlp.to("meta")
    with pytest.raises(UnsupportedError, match=r"3 tensors .* are not on cpu .*half on the host"):
        placement.check_places(model, ("cpu",))


def layered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers over two names of the one device that is here."""
    split = splitting.Split(how="layer", devices=("cpu", "cpu"))
    monkeypatch.setattr(splitting, "split_of", lambda options, _: (split, dict(options)))


def a_job(folder: Path | None, **changed: Any) -> Job:
    return replace(
        Job(
            architecture=TINY,
            folder=folder,
            random_seed=0,
            initializer_range=0.02,
            quant="none",
            mode="eager",
            dtype="auto",
            device="cpu",
            threads=None,
            seed=7,
            replicate=0,
        ),
        **changed,
    )


@pytest.mark.parametrize("quant", ["none", "int8-dynamic", "int8-dynamic-fused"])
def test_layers_that_are_spread_make_the_tokens_of_those_that_are_not(
    quant: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TransformersEngine()
    whole.load(a_job(tiny_folder, quant=quant))
    whole.start(12, 6, 2)
    layered(monkeypatch)
    spread = TransformersEngine()
    loaded = spread.load(a_job(tiny_folder, quant=quant))
    spread.start(12, 6, 2)
    assert generate(spread, 6) == generate(whole, 6)
    assert loaded.details["split"] == "layer"
    assert not any(hasattr(module, "_hf_hook") for module in spread._model.modules())
    assert spread.log_probs(range(8)).tolist() == whole.log_probs(range(8)).tolist()


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_random_weights_are_made_where_they_will_be(
    tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layered(monkeypatch)
    runs = TransformersEngine()
    runs.load(a_job(None, architecture=TINY | {"tie_word_embeddings": tied}))
    plain = tiny(tie_word_embeddings=tied)
    own = dict(runs._model.named_buffers())
    for name, buffer in plain.named_buffers():  # not only weights: rotations too
        assert torch.equal(own[name], buffer), name
    for name, weight in runs._model.named_parameters():
        expected = dict(plain.named_parameters())[name]
        assert float(weight.std()) == pytest.approx(float(expected.std()), abs=0.002), name
    assert (runs._model.lm_head.weight is runs._model.model.embed_tokens.weight) == tied
    runs.start(12, 4, 1)
    assert len(generate(runs, 4)[0]) == 4


# --- ranks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three_ways(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    tiny(**THREE_WAYS).save_pretrained(folder)
    return folder


ONE, TWO = WORKLOADS
RANKS = {"split": "tensor", "ranks": 3}


@pytest.fixture(scope="module")
def alone(three_ways: Path) -> list[dict[str, Any]]:
    """What one process says."""
    return conversation(a_job(three_ways))


def test_ranks_make_the_tokens_of_one_process(
    three_ways: Path, alone: list[dict[str, Any]]
) -> None:
    spread = conversation(a_job(three_ways, options=RANKS))
    one, many = ([e for e in events if e["event"] == "measured"] for events in (alone, spread))
    assert len(many) == 2, spread[-1]
    assert spread[-1]["event"] == "done"
    assert [e["first_tokens"] for e in many] == [e["first_tokens"] for e in one]
    loaded_one, loaded = (
        next(e for e in events if e["event"] == "loaded") for events in (alone, spread)
    )
    assert loaded["n_params"] == loaded_one["n_params"]
    assert loaded["details"]["split"] == "tensor"
    # Norms are held by each rank, everything else is held once.
    norms = sum(
        p.numel() * 4 for name, p in tiny(**THREE_WAYS).named_parameters() if "norm" in name
    )
    assert loaded["weights_bytes"] == loaded_one["weights_bytes"] + 2 * norms
    for few, all_of in zip(one, many, strict=True):
        assert all_of["notes"]["cache_bytes"] == few["notes"]["cache_bytes"]
        assert all_of["memory"]["peak_host_bytes"] > 2 * few["memory"]["peak_host_bytes"]


@pytest.mark.slow
def test_compiled_ranks_make_them_too(three_ways: Path, alone: list[dict[str, Any]]) -> None:
    job = a_job(three_ways, options=RANKS, mode="compiled")
    spread = conversation(job, workloads=[ONE])
    expected, found = (
        [e["first_tokens"] for e in events if e["event"] == "measured"]
        for events in (alone, spread)
    )
    assert found == expected[:1], spread[-1]
    (measured,) = (e for e in spread if e["event"] == "measured")
    assert measured["notes"]["tokens_as_eager"] == 6


def test_heads_that_do_not_divide_are_refused(three_ways: Path) -> None:
    runs = TransformersEngine()
    with pytest.raises(UnsupportedError, match="num_key_value_heads = 3 does not divide by 2"):
        runs.load(a_job(three_ways, options=RANKS | {"ranks": 2}))
    assert runs.others is None  # before any process was started


def test_parts_of_unlike_sizes_are_told() -> None:
    from torch.distributed.tensor import Replicate, Shard

    def weight(name: str, shape: tuple[int, ...], place: Any) -> tuple[str, Any]:
        return name, SimpleNamespace(shape=shape, placements=(place,))

    weights = [weight("norm", (5,), Replicate()), weight("up", (64, 48), Shard(0))]
    model = SimpleNamespace(named_parameters=lambda: weights)
    assert placement.uneven(model, 2) is None
    assert placement.uneven(model, 3) == "up"
    assert placement.uneven(tiny(), 3) is None  # nothing is split
    weights += [weight("gate_up", (66, 48), SimpleNamespace(dim=0, split_factor=2))]
    assert placement.uneven(model, 2) == "gate_up"


def test_a_model_that_is_held_whole_by_every_rank_is_refused(
    three_ways: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: (tiny(), {}))
    split = splitting.Split(how="tensor", devices=("cuda:0", "cuda:1"))
    with pytest.raises(UnsupportedError, match="there is no plan for it"):
        TransformersEngine()._tensor_parallel(three_ways, split, {})


def test_a_cache_that_cannot_go_back_does_not_end_the_ranks() -> None:
    def refuse() -> None:
        raise UnsupportedError("this model's cache cannot go back")

    told: list[str] = []
    runs: Any = TransformersEngine()
    runs.others, runs._inference = SimpleNamespace(tell=told.append), torch.inference_mode
    runs._decoder = SimpleNamespace(rewind=refuse)
    with pytest.raises(UnsupportedError, match="cannot go back"):
        runs.rewind()
    assert told == []
    runs._decoder = SimpleNamespace(rewind=lambda: None)
    runs.rewind()
    assert told == ["rewind"]


def test_a_rank_that_dies_ends_the_worker_and_says_so(
    three_ways: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(ranks.os, "_exit", lambda code: ended.append(code))
    monkeypatch.setattr(ranks.threading, "Thread", lambda **_: SimpleNamespace(start=lambda: None))
    monkeypatch.setattr(ranks, "GRACE_S", 0.1)
    runs = Ranks(a_job(three_ways, quant="nonsense"), ("cpu", "cpu"), "transformers")
    process, answers = runs._processes[0], runs._answers[0]
    runs._listen(process, answers)
    assert ended == [os.EX_SOFTWARE]
    runs.close()
    with pytest.raises(UnsupportedError, match="ranks were ended"):
        runs.together(lambda _: None, None)


def test_ranks_on_the_cpu_are_for_machines_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with pytest.raises(UnsupportedError, match="a machine without accelerators"):
        Seat(rank=0, devices=("cpu", "cpu"), port=1).take()


def test_the_largest_batch_is_not_looked_for_beyond_ranks_that_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(*_: int) -> None:
        gone.broken = True
        raise MemoryError

    gone = SimpleNamespace(broken=False, own=("cpu",), room=lambda: [1 << 40])
    runs: Any = SimpleNamespace(others=gone, start=start)
    reader = SimpleNamespace(begin=lambda: None, end=lambda: None, close=lambda: None)
    monkeypatch.setattr(worker, "reader_of", lambda *_: reader)
    with pytest.raises(UnsupportedError, match="memory ran out at 1 sequences"):
        worker.fit(runs, "cpu", lambda _: None, FitTask(n_prompt=8, n_gen=4, most=8))


@pytest.mark.parametrize("broken", [True, False])
def test_memory_is_not_given_back_by_a_device_that_may_wait_for_a_rank(
    broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []
    monkeypatch.setattr(worker, "give_back_all", lambda: given.append(True))
    runs: Any = SimpleNamespace(others=SimpleNamespace(broken=broken))
    worker.release(runs)
    assert given == ([] if broken else [True])


def test_a_rank_ends_without_taking_down_what_others_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(ranks.atexit, "_run_exitfuncs", lambda: done.append("tidied"))
    monkeypatch.setattr(ranks.os, "_exit", done.append)
    with pytest.raises(SystemExit):
        ranks.leave(0)
    assert done == []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(SystemExit):  # as `_exit` does not end this one
        ranks.leave(1)
    assert done == ["tidied", 1]


def test_nothing_is_collected_on_a_rank_within_a_window() -> None:
    window = rank.RankMemory("cpu")
    window.begin()
    try:
        assert not gc.isenabled()
    finally:
        found = window.end()
    assert gc.isenabled()
    assert found["peak_host_bytes"] > 0


def test_running_out_of_memory_on_a_rank_is_told_as_that() -> None:
    code = "import sys; sys.stderr.write('out of memory: of cuda:1\\n'); sys.exit(70)"
    found = list(converse({}, limit_s=20.0, command=("python3", "-c", code)))[-1]
    assert (found["code"], found["message"]) == ("OOM", "out of memory: of cuda:1")


@pytest.mark.slow
def test_after_a_failure_the_other_workloads_get_a_fresh_process(three_ways: Path) -> None:
    workloads = [ONE | {"n_prompt": 100_000}, ONE]
    events = conversation(a_job(three_ways, options=RANKS), workloads=workloads)
    kinds = [event["event"] for event in events]
    assert kinds.count("failed") == 1
    assert "measured" not in kinds
    assert kinds[-1] == "done"  # and the parent starts again with what is left


# --- readings ---------------------------------------------------------------------------------


def a_reading(joules: float, **device: Any) -> Reading:
    return Reading(
        energy={
            "energy_j": joules,
            "window_s": 10.0,
            "mean_power_w": joules / 10,
            "idle_power_w": 50.0,
            "scope": "gpu-board",
            "systematic_error": 0.05,
            "edge_error": 0.001,
            "tick_s": 0.1,
            "cross_check_j": joules,
            "short_window": False,
        },
        memory={"peak_device_bytes": int(joules), "peak_host_bytes": 7},
        device={
            "temperature_start_c": 40.0,
            "sm_mhz": 2000.0,
            "power_w": joules / 10,
            "events": ["a"],
            "held_share": {"x": 0.0},
            "governor": "performance",
            "host_foreign_cores": 0.1,
        }
        | device,
        absent={"memory_mhz": "not shown"},
    )


def test_a_group_adds_up_what_adds_up() -> None:
    second = replace(
        a_reading(1000, temperature_start_c=50.0, sm_mhz=1500.0, events=["b"], held_share={"x": 1}),
        reasons=("THERMAL_THROTTLE",),
    )
    found = combined(("cuda:0", "cuda:1"), (a_reading(3000), second))
    assert found.energy["energy_j"] == 4000
    assert found.energy["mean_power_w"] == pytest.approx(400)
    assert found.energy["idle_power_w"] == 100
    assert found.energy["cross_check_agrees"] is True
    assert found.memory == {"peak_device_bytes": 4000, "peak_host_bytes": 7}
    assert (found.device["temperature_start_c"], found.device["sm_mhz"]) == (50.0, 1500.0)
    assert found.device["power_w"] == pytest.approx(400)
    assert found.device["events"] == ["a", "b"]
    assert found.device["held_share"] == {"x": 1}
    assert [one["sm_mhz"] for one in found.device["each"]] == [2000.0, 1500.0]
    assert found.reasons == ("THERMAL_THROTTLE",)
    assert found.absent == {"memory_mhz": "cuda:0: not shown"}


def test_energy_of_a_group_needs_every_device() -> None:
    without = replace(a_reading(1), energy={}, absent={"energy_j": "no counter"})
    found = combined(("cuda:0", "cuda:1"), (a_reading(3000), without))
    assert found.energy == {}
    assert found.absent["energy_j"] == "no counter"


def test_a_sum_over_some_of_the_devices_is_no_figure() -> None:
    first, second = a_reading(3000), a_reading(1000)
    less = replace(
        second,
        memory={},
        device={n: v for n, v in second.device.items() if n != "power_w"},
        absent={"peak_device_bytes": "not told", "power_w": "not shown"},
    )
    found = combined(("cuda:0", "cuda:1"), (first, less))
    assert "peak_device_bytes" not in found.memory
    assert "power_w" not in found.device
    assert found.absent["peak_device_bytes"] == "cuda:1: not told"
    assert found.absent["power_w"] == "cuda:1: not shown"
    # A device of which another process tells the memory is none that is missing.
    elsewhere = combined(("cuda:0", "cuda:1"), (first, replace(second, memory={})))
    assert elsewhere.memory["peak_device_bytes"] == 3000


def test_two_cards_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake = FakeNvml(cards=2)
    plain = nvidia.NvidiaCard
    monkeypatch.setattr(
        "bench.devices.gpu.card.NvidiaCard", lambda device: plain(device, library=fake)
    )
    reader = reader_for("cuda:0+cuda:1")
    assert isinstance(reader, GroupReader)
    assert reader.has_energy
    assert reader.identity()["gpus"] == 2
    assert reader.identity()["gpu"] == "Invented 100"
    reader.begin()
    time.sleep(0.6)
    reading = reader.end()
    reader.close()
    assert [one["device"] for one in reading.device["each"]] == ["cuda:0", "cuda:1"]
    assert reading.device["power_w"] == 500.0
    assert reading.memory["device_used_bytes"] == 2 * (17 << 30)
    assert reading.energy["scope"] == "gpu-board"
    assert reading.energy["window_s"] == pytest.approx(0.6, abs=0.4)
    now = environment.capture("cuda:0+cuda:1")
    assert now.identity["gpus"] == 2
    assert " + " in now.identity["gpu_id"]
    assert now.id != environment.capture("cuda:0").id


def test_cards_of_two_models_are_named_both() -> None:
    found = group_identity([{"gpu": "A", "gpu_driver": "1"}, {"gpu": "B", "gpu_driver": "1"}])
    assert found == {"gpus": 2, "gpu": "A + B", "gpu_driver": "1"}


class Told:
    """Other processes that say this."""

    own = ("cuda:0",)

    def __init__(self, *peaks: Mapping[str, int]) -> None:
        self.peaks = peaks

    def begin(self) -> None: ...

    def end(self) -> tuple[Mapping[str, int], ...]:
        return self.peaks

    def room(self) -> tuple[int, ...]:
        return (70,)


def test_memory_of_other_processes_is_added_or_absent() -> None:
    inner: Any = SimpleNamespace(
        has_energy=False,
        begin=lambda: None,
        end=lambda: a_reading(100),
        identity=dict,
    )
    full = {"peak_device_bytes": 30, "peak_host_bytes": 3}
    reader = WithOthers(inner, Told(full, full))
    reader.begin()
    assert reader.end().memory == {"peak_device_bytes": 160, "peak_host_bytes": 13}
    short = WithOthers(inner, Told(full, {"peak_host_bytes": 3})).end()
    assert short.memory == {"peak_host_bytes": 13}
    assert "does not report" in short.absent["peak_device_bytes"]


def test_memory_of_a_group_is_that_of_its_members(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(
        memory_allocated=lambda device: {"cuda:0": 3, "cuda:1": 4}[device],
        memory_reserved=lambda _: 5,
        mem_get_info=lambda device: ({"cuda:0": 10, "cuda:1": 20}[device], 100),
    )
    monkeypatch.setattr(torch, "cuda", fake)
    assert parts.after_loading("cuda:0+cuda:1").values == {"device_loaded_bytes": 7}
    assert room_of("cuda:0+cuda:1", None) == 40
    assert room_of("cuda:0+cuda:1", Told()) == 10 + 5 + 70  # what each process says of its own
    monkeypatch.setattr(several, "room_bytes", lambda _: 60)
    assert room_of("cpu", Told()) == 70
    assert placement.memory_of("cuda:1") == 100


# --- cost and bound ---------------------------------------------------------------------------


def on_two_cards(tmp_path: Path, **options: Any) -> Any:
    """Records of the scripted engine, as if of two cards."""
    place = tmp_path / "results"
    assert (
        main(
            [
                "run",
                "-m",
                "llama-3.1-8b",
                "-e",
                "synthetic",
                "-q",
                "none",
                "-d",
                "cpu",
                "--level",
                "quick",
                "--into",
                str(place),
            ]
        )
        == 0
    )
    results = read(place)
    identity = {"gpu": "NVIDIA GeForce RTX 4090", "gpus": 2, "gpu_power_limit_w": 450.0}
    variant = results.records[0].variant | {
        "device": "cuda:0+cuda:1",
        "options": options,
        "engine": "transformers",
        "dtype": "bfloat16",
    }
    records = [
        replace(record, variant=variant, origin="measured", environment="two")
        for record in results.records
    ]
    rates = {"bfloat16": 150e12}
    peaks = {"device": "cuda:0", "copy_bytes_s": 900e9, "matmul_flop_s": rates, "threads": None}
    known = Environment(id="two", identity=identity, state={"peaks": peaks})
    return replace(results, records=records, environments={"two": known})


def stored(results: Results, folder: Path) -> Path:
    with Writer(folder) as writer:
        for line in (*results.environments.values(), *results.records):
            writer.append(line)
    return folder


def test_two_cards_are_priced_as_two(tmp_path: Path) -> None:
    (one,) = throughputs(on_two_cards(tmp_path))
    assert one.gpus == 2
    price = SourcedFigure(value=0.5, source="this test", date=date(2026, 11, 23))
    always = replace(price, value=1.0)
    rent = adapt(None, "rent", {"rent_per_hour": price, "utilization": always})
    (two,) = Pricer(rent, Terms()).rows(one, None)
    (single,) = Pricer(rent, Terms()).rows(replace(one, gpus=1), None)
    assert two.usd_per_mtok == pytest.approx(2 * single.usd_per_mtok)
    assert (two.gpus, two.usd_per_busy_hour) == (2, pytest.approx(1.0))
    assert "2 of that machine" in two.assumptions
    with pytest.raises(InputError, match=r"prices 3 cards, but .* was measured on 2"):
        Pricer(replace(rent, gpus=3), Terms()).rows(one, None)


def test_every_table_prices_two_cards_as_two(tmp_path: Path) -> None:
    results = on_two_cards(tmp_path)
    cost = CostAssumption(usd_per_hour=1.8, source="this test", utilization=0.5)
    (run,) = shown(summarise(results), cost)
    expected = 2 * usd_per_mtok(run.value("total_tok_s"), 1.8, 0.5)
    assert run.usd_per_mtok == pytest.approx(expected)
    assert f"{expected:.3f}" in markdown(results, cost).data.decode()
    folder = stored(results, tmp_path / "two")
    page = to_html(assemble([folder], PageOptions(cost=cost, claims=())))
    assert "at $1.8 an hour of each card" in page
    assert '"gpus": 2' in page or '"gpus":2' in page  # for the browser's own sums


def test_cards_of_a_server_are_those_that_it_is_said_to_have() -> None:
    assert cards({"device": "remote", "options": {"n_devices": 4}}) == 4
    assert cards({"device": "remote:cuda:0+cuda:1", "options": {"n_devices": 2}}) == 2
    assert cards({"device": "cuda:0+cuda:1", "options": {}}) == 2
    assert cards({"device": "cpu"}) == 1


def test_only_cards_that_work_at_once_raise_the_bound(tmp_path: Path) -> None:
    layers = on_two_cards(tmp_path / "a")
    tensor = on_two_cards(tmp_path / "b", split="tensor")
    (one,), (two,) = (map(table, shown(summarise(r))) for r in (layers, tensor))
    assert two["bound_decode_tok_s"] == pytest.approx(2 * one["bound_decode_tok_s"])
    for name in ("mbu", "mfu", "mbu_measured", "mfu_measured"):
        assert two[name] == pytest.approx(one[name] / 2), name


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ({"engine": "transformers", "device": "cuda:0+cuda:1"}, 1),
        ({"engine": "transformers", "device": "cuda:0+cuda:1", "options": {"split": "tensor"}}, 2),
        ({"engine": "llama.cpp", "device": "cuda:0+cuda:1", "options": {"split": "row"}}, 2),
        ({"engine": "llama.cpp", "device": "cuda:0+cuda:1"}, 1),
        ({"engine": "vllm", "device": "cuda:0+cuda:1+cuda:2"}, 3),
        ({"engine": "transformers", "device": "cpu", "options": {"split": "tensor"}}, 1),
    ],
)
def test_who_works_at_once(variant: Mapping[str, Any], expected: int) -> None:
    assert at_once(variant) == expected


def test_a_plan_counts_the_memory_of_every_card(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = {"gpu": "NVIDIA GeForce RTX 4090", "gpu_memory_bytes": 24 << 30}
    monkeypatch.setattr("bench.runner.here.drivers.describe", lambda _: (card, {}))

    def planned(device: str, *more: str) -> dict[str, Any]:
        args = ["-m", "deepseek-r1-distill-qwen-14b", "-q", "none", "--mode", "eager"]
        assert main(["plan", *args, "-d", device, "-o", "json", *more]) == 0
        row: dict[str, Any] = json.loads(capsys.readouterr().out)[0]
        return row

    one, layers = planned("cuda:0"), planned("cuda:0-1")
    tensor = planned("cuda:0+cuda:1", "--option", "split=tensor")
    assert [row["fits"] for row in (one, layers, tensor)] == [False, True, True]
    assert layers["bound_decode_tok_s"] == pytest.approx(one["bound_decode_tok_s"])
    assert tensor["bound_decode_tok_s"] == pytest.approx(2 * one["bound_decode_tok_s"])
    assert "2 x NVIDIA GeForce RTX 4090" in layers["device"]
    elsewhere = planned("cuda:0+cuda:1", "--gpu", "rtx-4090")
    assert (elsewhere["fits"], elsewhere["device"]) == (True, "2 x RTX 4090")
    assert elsewhere["bound_decode_tok_s"] == pytest.approx(one["bound_decode_tok_s"])
    refused = planned(
        "cuda:0-1", "--gpu", "rtx-4090", "-q", "fp8-dynamic", "--option", "split=tensor"
    )
    assert "use split = 'layer'" in refused["refusal"]
    assert main(["plan", "-d", "cuda:0", "--option", "split=tensor", "--gpu", "rtx-4090"]) == 2
    assert "needs several devices" in capsys.readouterr().err


def test_the_device_that_is_named_is_torchs_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events and kernels go to torch's current device: `cuda:1` by name alone would not be it."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.accelerator, "set_device_index", chosen.append)
    for device in ("cpu", "cuda:0", "cuda:1"):
        make_current(device)
    assert chosen == [1]
    monkeypatch.setattr(peaks, "copy_rate", lambda *_: {})
    monkeypatch.setattr(peaks, "matmul_rate", lambda *_: 1.0)
    assert peaks.main("cuda:2") == 0
    assert chosen == [1, 2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"local": "cuda:0+cuda:1", "n_devices": 2}, None),
        ({"local": "cuda:0+cuda:1"}, "n_devices: 1, and local names 2"),
        ({"local": "cuda:0+cpu"}, "is not a device such as"),
    ],
)
def test_a_server_on_several_cards(options: dict[str, Any], said: str | None) -> None:
    asked = {"url": "http://127.0.0.1:1", **options}
    if said is None:
        assert settings(asked).n_devices == 2
    else:
        with pytest.raises(InputError, match=said):
            settings(asked)


def test_the_reader_of_a_server_on_two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake, plain = FakeNvml(cards=2), nvidia.NvidiaCard
    monkeypatch.setattr("bench.devices.gpu.card.NvidiaCard", lambda name: plain(name, library=fake))
    reader = reader_for("remote:cuda:0+cuda:1")
    assert reader.identity()["gpus"] == 2
    reader.close()


def test_a_page_says_how_many_cards_worked(tmp_path: Path) -> None:
    folder = stored(on_two_cards(tmp_path), tmp_path / "two")
    html = to_html(assemble([folder], PageOptions(claims=())))
    assert "2 x NVIDIA GeForce RTX 4090" in html
    assert "the roof is of one card" in html
