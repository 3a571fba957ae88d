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
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
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


class Elsewhere(TorchFunctionMode):
    """What is asked for on a kind of device is made on the CPU, and computed there."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._name = re.compile(rf"{kind}(:\d+)?")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def here(value: Any) -> Any:
            named = isinstance(value, str | torch.device) and self._name.fullmatch(str(value))
            return torch.device("cpu") if named else value

        return func(*map(here, args), **{name: here(v) for name, v in (kwargs or {}).items()})


@dataclass
class Machine:
    """An accelerator of another kind: what its torch is asked, and what it answers."""

    kind: str
    allocated: int = 1_000_000
    reserved: int = 2_000_000
    room: int = 16_000_000
    emptied: int = 0
    card: Card = field(default_factory=Card)

    def empty(self) -> None:
        self.emptied += 1


def accelerator(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Machine:
    """`torch.accelerator` of a machine with one such device."""
    device = torch.device(machine.kind)
    for name, answer in {
        "is_available": lambda: True,
        "current_accelerator": lambda check_available=False: device,
        "device_count": lambda: 1,
        "synchronize": machine.card.synchronize,
    }.items():
        monkeypatch.setattr(torch.accelerator, name, answer)
    return machine


ACCELERATOR_MEMORY = (
    "empty_cache",
    "get_memory_info",
    "max_memory_allocated",
    "max_memory_reserved",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "reset_peak_memory_stats",
)
"""Of `torch.accelerator.memory`."""


def apple(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A Mac as torch 2.11 to 2.13 has it: `torch.mps` knows what is held and no peak, and asked for
    memory `torch.accelerator` stops within itself (pytorch#167447, #186430)."""
    machine = accelerator(monkeypatch, Machine(kind="mps"))

    def stops(*_: Any, **__: Any) -> None:
        raise RuntimeError(
            "device_allocator INTERNAL ASSERT FAILED, please report a bug to PyTorch. "
            "Allocator for mps is not a DeviceAllocator."
        )

    for name in ACCELERATOR_MEMORY:
        monkeypatch.setattr(torch.accelerator, name, stops)
    for name, answer in {
        "empty_cache": machine.empty,
        "synchronize": machine.card.synchronize,
        "current_allocated_memory": lambda: machine.allocated,
        "driver_allocated_memory": lambda: machine.reserved,
        "recommended_max_memory": lambda: machine.room,
    }.items():
        monkeypatch.setattr(torch.mps, name, answer)
    return machine


class Running(Event):
    """An event of a queue that works as fast as this machine."""

    def record(self) -> None:
        self.card.clock_ms = time.perf_counter() * 1e3
        super().record()


def with_statistics(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Machine:
    """Events, and an allocator with peaks: `torch.xpu`, and `torch.cuda` of either vendor."""
    module = getattr(torch, machine.kind)
    for name, answer in {
        "Event": type("Event", (Running,), {"card": machine.card}),
        "synchronize": machine.card.synchronize,
        "empty_cache": machine.empty,
        "memory_allocated": lambda _device: machine.allocated,
        "memory_reserved": lambda _device: machine.reserved,
        "max_memory_allocated": lambda _device: 2 * machine.allocated,
        "max_memory_reserved": lambda _device: 2 * machine.reserved,
        "reset_peak_memory_stats": lambda _device: None,
        "mem_get_info": lambda _device: (machine.room, 2 * machine.room),
    }.items():
        monkeypatch.setattr(module, name, answer)
    return machine


def intel(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with an Intel card."""
    return with_statistics(monkeypatch, accelerator(monkeypatch, Machine(kind="xpu")))


def rocm(monkeypatch: pytest.MonkeyPatch, arch: str = "gfx942:sramecc+:xnack-") -> Machine:
    """A machine with an AMD card: `cuda` to torch, whose capability is the chip's number."""
    machine = with_statistics(monkeypatch, accelerator(monkeypatch, Machine(kind="cuda")))
    properties = SimpleNamespace(
        name="AMD Instinct MI300X",
        gcnArchName=arch,
        major=9,
        minor=4,
        multi_processor_count=304,
        pci_domain_id=0,
        pci_bus_id=1,
        pci_device_id=0,
    )
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: properties)
    return machine
