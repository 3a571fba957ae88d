"""The mode cuda-graph, its clock and its memory on a card that is stood in for (tests/card.py)."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import pytest
import torch

from bench import worker
from bench.devices.clock import EventClock, clock_for
from bench.devices.figures import Figures
from bench.engines.graph import graphs
from bench.engines.graph.graphs import Graphs
from bench.engines.graph.static import Static
from bench.engines.messages import Job, Loaded
from bench.errors import UnsupportedError
from bench.models import checkpoint
from tests import card as stand_in
from tests.card import Card
from tests.conftest import TINY
from tests.generating import generate, load

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning", "default::UserWarning")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    torch._dynamo.reset()
    graphs.stream_of.cache_clear()
    monkeypatch.setattr(checkpoint, "refusal", lambda *_: None)  # there is no card to be asked
    yield stand_in.install(monkeypatch)
    graphs.stream_of.cache_clear()


def job(folder: Path, **changes: Any) -> Job:
    plain = Job(
        architecture=TINY, folder=folder, random_seed=0, initializer_range=0.02, quant="none",
        mode="cuda-graph", dtype="auto", device="cpu", threads=None, seed=7, replicate=0,
        options={"compile": "none"},
    )  # fmt: skip
    return replace(plain, **changes)


@pytest.mark.parametrize("way", ["sdpa", "split"])
@pytest.mark.parametrize("n_prompt", [1, 12])
def test_captured_steps_make_the_tokens_of_eager_mode(
    card: Card, tiny_folder: Path, n_prompt: int, way: str
) -> None:
    eager = load(job(tiny_folder, mode="eager", options={}))
    eager.start(n_prompt=n_prompt, n_gen=20, n_batch=2)
    runs = load(job(tiny_folder, options={"compile": "none", "attention": way}))
    runs.start(n_prompt=n_prompt, n_gen=20, n_batch=2)
    prefill, step = card.graphs
    before = (prefill.replays, step.replays)
    assert generate(runs, 20) == generate(eager, 20)
    # One launch a step, and nothing beside it.
    assert (prefill.replays - before[0], step.replays - before[1]) == (1, 19)
    runs.rewind()
    for _ in range(19):
        runs.step()
    assert runs.tokens() == eager.tokens()
    notes = runs.notes()
    assert notes["tokens_as_eager"] == notes["tokens_checked"] == 16
    assert notes["capture_s"] > 0


def test_a_captured_step_reads_what_is_written_where_it_was_captured(
    card: Card, tiny_folder: Path
) -> None:
    """The stand-in would notice: another prompt in the same memory gives the same tokens as eager
    mode makes of it, by the old graphs."""
    runs = load(job(tiny_folder))
    runs.start(n_prompt=12, n_gen=8, n_batch=1)
    first = generate(runs, 8)
    with torch.inference_mode():
        runs._prompt.copy_(runs._prompt.flip(1))
    second = generate(runs, 8)
    eager = load(job(tiny_folder, mode="eager", options={}))
    eager.start(n_prompt=12, n_gen=8, n_batch=1)
    with torch.inference_mode():
        eager._prompt.copy_(eager._prompt.flip(1))
    assert second == generate(eager, 8)
    assert first != second


def test_one_workloads_graphs_cache_and_stream_do_not_outlive_it(
    card: Card, tiny_folder: Path
) -> None:
    runs = load(job(tiny_folder))
    runs.start(n_prompt=12, n_gen=8, n_batch=1)
    decoder: Any = runs._decoder
    assert isinstance(decoder, Static)
    memory = weakref.ref(decoder._memory)
    old, seen = list(card.graphs), []

    expected = decoder._expected

    def look(*arguments: Any) -> Any:
        gc.collect()  # the first thing that the next workload does
        seen.append((memory(), [one.alive for one in old], dict(card.memory.pools)))
        return expected(*arguments)

    decoder._expected = look  # type: ignore[method-assign]
    runs.start(n_prompt=16, n_gen=8, n_batch=2)
    assert seen == [(None, [False, False], {})]
    assert len(card.streams) == 1  # a library's workspace belongs to a stream
    assert len(generate(runs, 8)) == 2


def test_graphs_share_one_pool_and_are_counted(card: Card, tiny_folder: Path) -> None:
    runs = load(job(tiny_folder))
    runs.start(n_prompt=12, n_gen=8, n_batch=1)
    (pool_bytes,) = card.memory.pools.values()
    assert runs.notes()["graph_bytes"] == pool_bytes > 0
    assert card.memory.allocated == 0  # as torch has it: of a pool its statistics know nothing


def test_a_peak_has_the_pools_of_graphs_in_it() -> None:
    loaded = Loaded(
        device="cuda:0", dtype="bfloat16", n_params=1, weights_bytes=100,
        quantized_fraction=0.0, dynamic=None, kernel="", details={},
    )  # fmt: skip
    figures = {
        "memory": {"peak_device_bytes": 1000},
        "notes": {"cache_bytes": 300, "graph_bytes": 50},
        "absent": {},
    }
    held = Figures({"device_loaded_bytes": 600})
    memory = worker.memory_parts(figures, held, loaded)["memory"]
    assert memory["peak_device_bytes"] == 1050
    assert memory["graph_bytes"] == 50
    assert memory["device_workspace_bytes"] == 1050 - 600 - 300
    eager = {**figures, "notes": {"cache_bytes": 300}}
    assert worker.memory_parts(eager, held, loaded)["memory"]["peak_device_bytes"] == 1000


def test_a_step_that_waits_for_the_host_is_refused(card: Card) -> None:
    x = torch.ones(3)
    with pytest.raises(UnsupportedError, match="cannot be captured as a CUDA graph: CUDA error"):
        Graphs().capture(lambda: x.mul_(x.sum().item()))


def test_what_cannot_be_built_says_what_to_install(
    card: Card, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise CalledProcessError(1, ["/usr/bin/gcc", "/tmp/x/cuda_utils.c", "-O3"])

    runs = load(job(tiny_folder))
    monkeypatch.setattr(Static, "_step", fails)
    with pytest.raises(UnsupportedError, match="sudo apt install gcc") as caught:
        runs.start(n_prompt=12, n_gen=8, n_batch=1)
    assert caught.value.code == "NO_COMPILER"


def test_event_clock_waits_once_and_reuses_its_events(card: Card) -> None:
    clock = clock_for("cuda:0")
    assert isinstance(clock, EventClock)

    def request(milliseconds: list[float]) -> list[float]:
        clock.start()
        waits = card.waits
        for one in milliseconds:
            card.clock_ms += one
            clock.mark()
        assert card.waits == waits  # marking never waits for the device
        return clock.stop()

    assert request([2.0, 0.5, 4.0]) == pytest.approx([0.002, 0.0005, 0.004])
    events = list(clock._pool)
    card.clock_ms += 100.0  # between two requests
    assert request([1.0, 3.0]) == pytest.approx([0.001, 0.003])
    assert clock._pool == events
