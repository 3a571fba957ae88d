"""How much memory a workload takes while it runs, and whether a machine has it.

One place for both: `running` adds up what is held, `fit` turns that into a word. Peaks while a
model loads are added with `with_loading` by whoever knows how it is loaded. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from bench.models import ModelCard
from bench.models.shapes import Attention, Shape, shape
from bench.schemes import allocation
from bench.schemes.bytes import ON_MODULES, float_bytes, held, layout
from bench.schemes.cache import SIXTEEN, CacheType, type_of

Fit = Literal["yes", "tight", "offload", "no"]

RESERVE_BYTES: Final = 768 * 2**20
"""What the driver's context and the framework's libraries hold, seen with PyTorch on CUDA."""

STATE_BYTES: Final = 4
"""Bytes of one number of constant state: configs say float32 (`mamba_ssm_dtype`), llama.cpp keeps
32 bits."""

TIGHT: Final = 0.07
"""Share of the memory below which room is called tight: displays, other programs and rounding
decide then. Posts of one 14B Q4_K_M on a 10 GB card range from 10 to 77 tok/s."""

OFFLOADING: Final = frozenset({"llama.cpp", "ollama", "ik_llama.cpp", "lm-studio", "koboldcpp"})
"""Engines that leave layers, or experts, in the host's memory and compute them there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes that one workload of one model needs, by what holds them."""

    weights_bytes: int
    cache_bytes: int
    """Keys and values of every sequence at its full length, and constant state."""
    activations_bytes: int
    """An estimate from below; see `running`."""
    reserve_bytes: int = RESERVE_BYTES
    """Of one device; `needed_bytes` counts it for each."""
    loading_bytes: int | None = None
    """Peak while the model loads, reserve included; None where it is not known."""

    @property
    def running_bytes(self) -> int:
        """Needed while it generates, on one device."""
        return self.weights_bytes + self.cache_bytes + self.activations_bytes + self.reserve_bytes

    def needed_bytes(self, n_devices: int = 1) -> int:
        """The larger of running and loading, where every device keeps a reserve of its own."""
        more = (n_devices - 1) * self.reserve_bytes
        return max(self.running_bytes, self.loading_bytes or 0) + more


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """The machine around a card, where the part of a model that does not fit is read."""

    memory_bytes: int = 64 * 2**30
    bandwidth: float = 35e9
    """Bytes per second at which the processor reads weights while it computes with them."""
    stated: bool = False
    """Whether somebody said so; else a prediction takes what such machines have on average."""


HOST: Final = HostMemory()
"""A desktop with two channels, as far as nothing else is said: 64 GiB, and 35 GB/s, the rate that
posts of 2026 with partly offloaded models support."""


def running(
    card: ModelCard,
    quant: str = "none",
    *,
    n_prompt: int,
    n_gen: int,
    n_batch: int = 1,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    engine: str = "transformers",
) -> Memory:
    """Memory of a workload: weights, full cache, logits, activations and a reserve.

    An estimate from below for the activations: the widest matrix' output and four hidden states
    for each prompt token, and one set of 32-bit logits for each sequence. `kv_dtype`: a type of
    `bench.schemes.cache`.
    """
    s = shape(card)
    width = float_bytes(dtype)
    inner = max(
        (m.n_out for m in s.matrices if m.part in ("mlp", "expert", "attention")), default=0
    )
    vocab = next(m.n_out for m in s.matrices if m.part == "head")
    working = n_batch * n_prompt * width * (2 * inner + 4 * s.hidden_size)
    return Memory(
        weights_bytes=held(s, quant, dtype, engine).weights_bytes,
        cache_bytes=round(n_batch * cache_bytes(s, n_prompt + n_gen, type_of(kv_dtype))),
        activations_bytes=working + n_batch * vocab * 4,
    )


def cache_bytes(s: Shape, positions: int, kv: CacheType = SIXTEEN) -> float:
    """Cached bytes of one sequence of `positions` tokens, in a cache of that type.

    A layer with a window keeps no more than the window, one that reads another layer's keys keeps
    none, and constant state is there from the first token.
    """
    growing = sum(a.keeps * place_bytes(a, kv) * a.kept(positions) for a in s.attention)
    return growing + STATE_BYTES * sum(a.layers * a.state_width for a in s.attention)


def place_bytes(a: Attention, kv: CacheType) -> float:
    """Bytes that one layer caches for a token, scales included."""
    return a.cache_width * kv.number_bytes + 2 * a.cache_heads * kv.head_bytes


def loading_bytes(
    card: ModelCard,
    quant: str = "none",
    *,
    dtype: str = "auto",
    engine: str = "transformers",
    n_devices: int = 1,
    reserve_bytes: int = RESERVE_BYTES,
) -> int | None:
    """Peak while a model loads, reserve included; None for engines whose loading is not known.

    torch's engines load on one device a layer at a time (`bench.quantization.streaming`): the
    quantized model, one layer in floats, and the head in floats beside its quantized form. On
    several devices, and for schemes that measure the model first, it is there in floats before.
    """
    if engine not in ON_MODULES:
        return None
    s, width = shape(card), float_bytes(dtype)
    weights = held(s, quant, dtype, engine).weights_bytes
    floats = held(s, "none", dtype, engine).weights_bytes
    if weights >= floats:
        return weights + reserve_bytes
    if n_devices > 1 or quant.startswith(allocation.PREFIX):
        return floats + reserve_bytes
    parts = [m for m in s.matrices if m.part not in ("embedding", "head")]
    layer = -(-sum(m.n_params for m in parts) // s.n_layers) * width
    head = next((m.n_params for m in s.matrices if m.part == "head"), 0) * width
    keeps = "head" in layout(quant, engine).leaves
    return weights + layer + (0 if keeps else head) + reserve_bytes


def with_loading(memory: Memory, loading_bytes: int) -> Memory:
    """The same with the peak while the model loads (reserve included)."""
    return replace(memory, loading_bytes=loading_bytes)


def fit(
    memory: Memory,
    capacity_bytes: int,
    *,
    n_devices: int = 1,
    engine: str = "transformers",
    host: HostMemory | None = None,
) -> Fit:
    """Whether `n_devices` of `capacity_bytes` each hold a workload.

    `tight`: it fits with less than 7% to spare. `offload`: it does not, but `engine` can leave the
    rest to `host`, which has room for it. `host` None: there is no memory beside the device's.
    """
    needed, there = memory.needed_bytes(n_devices), capacity_bytes * n_devices
    if needed <= there * (1 - TIGHT):
        return "yes"
    if needed <= there:
        return "tight"
    if host is not None and engine in OFFLOADING and needed <= there + host.memory_bytes:
        return "offload"
    return "no"
