"""A card where there is none: graphs that record and replay, events, streams, an allocator.

Tensors stay on the CPU; what is replaced is what `torch.cuda` does around them. A graph records the
operations that run while it captures and replays them on the very same tensors, so that a step that
made its tensors anew, or took a decision in Python, gives other numbers than it should. What a
real capture refuses is refused: waiting for the device, or reading a number on the host. Memory
that is made while a graph captures belongs to its pool: the statistics forget it when the capture
ends, as torch's do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS_ON_HOST = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select")


@dataclass
class Allocator:
    """What `torch.cuda`'s statistics say; `pools` are private, by the graph that they belong to."""

    allocated: int = 0
    peak: int = 0
    pools: dict[int, int] = field(default_factory=dict)

    def take(self, n_bytes: int) -> None:
        self.allocated += n_bytes
        self.peak = max(self.peak, self.allocated)


@dataclass
class Card:
    """The state of the card that is stood in for."""

    memory: Allocator = field(default_factory=Allocator)
    capturing: Graph | None = None
    graphs: list[Graph] = field(default_factory=list)
    streams: list[Any] = field(default_factory=list)
    clock_ms: float = 0.0
    """Of the device's own queue; work moves it."""
    waits: int = 0

    def synchronize(self, *_: Any) -> None:
        if self.capturing is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        self.waits += 1


class Graph:
    """Stands for torch.cuda.CUDAGraph."""

    card: Card

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        self.alive = True
        self._pool: Any = None
        self.card.graphs.append(self)

    def pool(self) -> Any:
        return self._pool

    def replay(self) -> None:
        assert self.alive, "a graph that was given back is replayed"
        self.replays += 1
        for function, arguments, options, made in self.operations:
            again = function(*arguments, **options)
            old, new = tensors(made), tensors(again)
            given = {one.untyped_storage().data_ptr() for one in tensors((arguments, options))}
            for before, after in zip(old, new, strict=True):
                if before.untyped_storage().data_ptr() not in given:
                    before.copy_(after)

    def reset(self) -> None:
        self.alive = False
        self.operations.clear()
        shared = [g for g in self.card.graphs if g.alive and g._pool is self._pool]
        if not shared:
            self.card.memory.pools.pop(id(self._pool), None)


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Recording(TorchDispatchMode):
    """Runs each operation and keeps it for the graph."""

    def __init__(self, card: Card, graph: Graph) -> None:
        super().__init__()
        self._card, self._graph = card, graph
        self._made: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().split(".")[0] in READS_ON_HOST:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        given = {one.untyped_storage().data_ptr() for one in tensors((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for one in tensors(made):
            storage = one.untyped_storage()
            if storage.data_ptr() not in given:
                self._card.memory.take(storage.nbytes())
                self._made[storage.data_ptr()] = storage.nbytes()
        self._graph.operations.append((func, args, kwargs or {}, made))
        return made

    @property
    def n_bytes(self) -> int:
        return sum(self._made.values())


class Event:
    """Stands for torch.cuda.Event: its time is the queue's, and is known after a wait alone."""

    card: Card

    def __init__(self, *, enable_timing: bool = False) -> None:
        assert enable_timing
        self._at_ms: float | None = None
        self._wait = 0

    def record(self) -> None:
        self._at_ms, self._wait = self.card.clock_ms, self.card.waits

    def elapsed_time(self, later: Event) -> float:
        for one in (self, later):
            if one._at_ms is None or one._wait == self.card.waits:
                raise RuntimeError("Both events must be completed before calculating elapsed time.")
        assert self._at_ms is not None
        assert later._at_ms is not None
        return later._at_ms - self._at_ms


def install(monkeypatch: pytest.MonkeyPatch) -> Card:
    """Let `torch.cuda` behave like a card of tensors that are on the CPU."""
    card = Card()
    graph_class = type("Graph", (Graph,), {"card": card})
    event_class = type("Event", (Event,), {"card": card})

    class Stream:
        def __init__(self) -> None:
            card.streams.append(self)

        def wait_stream(self, _other: Any) -> None:
            assert card.capturing is None

    @contextlib.contextmanager
    def capture(graph: Graph, pool: Any = None, stream: Any = None) -> Iterator[None]:
        assert stream in card.streams
        card.synchronize()
        before = card.memory.allocated
        graph._pool = object() if pool is None else pool
        card.capturing = graph
        recording = Recording(card, graph)
        try:
            with recording:
                yield
        finally:
            card.capturing = None
            card.memory.allocated = before  # what is in the pool is forgotten
            key = id(graph._pool)
            card.memory.pools[key] = max(card.memory.pools.get(key, 0), recording.n_bytes)

    @contextlib.contextmanager
    def stream(_which: Any) -> Iterator[None]:
        yield

    def reset_peak(*_: Any) -> None:
        card.memory.peak = card.memory.allocated

    default = Stream()
    card.streams.clear()
    for name, stand_in in {
        "CUDAGraph": graph_class,
        "Event": event_class,
        "Stream": Stream,
        "current_stream": lambda *_: default,
        "current_device": lambda: 0,
        "stream": stream,
        "graph": capture,
        "synchronize": card.synchronize,
        "memory_allocated": lambda *_: card.memory.allocated,
        "max_memory_allocated": lambda *_: card.memory.peak,
        "reset_peak_memory_stats": reset_peak,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.accelerator, "synchronize", card.synchronize)
    return card
