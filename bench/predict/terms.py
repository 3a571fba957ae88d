"""The formula that predictions are made with: seconds of one decode step, as a sum of terms.

    t = sum over terms of base x exp(sum of its parameters)

An eager engine launches ahead of the device, so the longer of the two decides (`overlapped`).

Bases are physics: bytes over bandwidth, layers over the clock, weights over the processors'
clocks. Parameters are logs of how far an engine, a family of schemes, a kind of layer or a kind of
card strays from that; they are fitted (`bench.predict.fitting`) and shipped
(`bench.predict.artefact`). The same terms serve fitting and prediction. Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from bench import schemes
from bench.roofline.gpus import Gpu

CLOCK: Final = 2e9
"""The clock, in Hz, that fixed times are stated at."""

PROCESSORS: Final = 64
"""Streaming multiprocessors taken where a card's are not known."""

NEW: Final = 2025
"""Builds from this year on are newer ones: CUDA graphs, flash attention by default, fused kernels.
Eager PyTorch launches as before."""


HOST_LAUNCHED: Final = frozenset({"transformers"})
"""Engines whose fixed time is the host's launches: eager PyTorch."""

OVERLAP: Final = 4.0
"""Power of the mean of launches and work of the device: 4 adds 19% where both take equally long,
and nothing where one is twice the other."""

LIKE: Final[Mapping[str, str]] = {"sglang": "vllm", "ik_llama.cpp": "llama.cpp"}
"""Engines without rows -> the engine whose parameters they take: the same kind of kernels."""

DDR5: Final = 2025
"""Cards released from this year on sit beside DDR5, where the host's memory is not stated."""

CODEBOOK: Final = "i-quant"
"""The family of schemes that below CODEBOOK_BITS look weights up in a codebook: unpacking, not its
bytes, takes a processor's time."""
CODEBOOK_BITS: Final = 4.0

UNPACKED: Final = 4e10
"""Weights of that family that eight cores multiply in a second, before fitting."""

PYTHON_LOOP: Final = frozenset({"vllm"})
"""Engines that schedule each step in Python, on the host."""

DEQUANTIZED: Final = "bnb-nf4"
"""The family that has a kernel for one row only: in a batch each layer is first written to memory
in 16 bits, and read again (bitsandbytes `gemv_4bit`, `dequantize_4bit`)."""


def kernel(quant: str) -> str:
    """The kernel family of a scheme: what unpacks alike; a scheme without one is its own."""
    row = schemes.find(quant.lower())
    return quant.lower() if row is None else row.family or row.name


def generation(gpu: Gpu) -> int:
    """Of Apple's processors: 5 of an M5 Max; 0 of others. Each launches faster than the last."""
    found = re.match(r"apple-m(\d+)", gpu.name)
    return int(found[1]) if found else 0


def foreign(card: str, backend: str) -> str:
    """The backend of llama.cpp, where it is not the one that most rows of that vendor ran."""
    return backend if (card, backend) in (("nvidia", "vulkan"), ("amd", "rocm")) else ""


def vendor(gpu: Gpu) -> str:
    """Whose kernels and memory a device has: nvidia, amd, intel, apple or cpu."""
    if gpu.kind in ("apple", "cpu"):
        return gpu.kind
    if gpu.arch.startswith(("RDNA", "CDNA", "Vega")):
        return "amd"
    return "intel" if gpu.arch.startswith("Xe") else "nvidia"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """What a step launches, in whole layers: a mixer and a feed-forward part are half of one."""

    full: float
    """Halves with attention, over all or over a window, and halves with a feed-forward part."""
    linear: float = 0
    """Halves with delta nets and state spaces."""
    conv: float = 0
    """Halves with short convolutions."""
    experts: float = 0
    """Layers with routed experts, on top of the rest."""
    sandwich: float = 0
    """Layers with two more norms, on top of the rest."""

    @property
    def total(self) -> float:
        return self.full + self.linear + self.conv


Ollama = Literal["", "own", "server"]
"""Who runs llama.cpp's kernels: not Ollama, the engine that it had before 0.30, or llama.cpp's own
server, which it starts since (Ollama's pull request 16031 of June 2026)."""


Backend = Literal["", "vulkan", "rocm"]
"""What llama.cpp was built for; empty: the vendor's own, or not stated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What is known of an engine's build."""

    new: bool = True
    """Whether it is of NEW or later."""
    fused: bool = True
    """Whether a delta net is one operation. In llama.cpp before March 2026, and in Ollama's own
    engine, it is a dozen (llama.cpp's pull requests 19504, 20091 and 20334)."""
    backend: Backend = ""
    ollama: Ollama = ""


CURRENT: Final = Build()
"""What predictions are made for, where nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One workload on one device, as the formula sees it."""

    engine: str
    kernel: str
    gpu: Gpu
    layers: Layers
    n_batch: int
    dense_bytes: float
    """Weights read by every step on the device, experts left out."""
    expert_bytes: float
    """Routed experts read by a step on the device."""
    kv_bytes: float
    """Cached keys and values on the device, over the whole batch."""
    state_bytes: float = 0.0
    """Constant state on the device, which a step reads and writes."""
    kv_width: float = 1.0
    """Bytes of a cached number over those of a 16-bit one."""
    n_weights: float
    """Parameters that one token is multiplied with on the device."""
    host_bytes: float = 0.0
    """Weights that a step reads in the host's memory."""
    host_kv_bytes: float = 0.0
    """Cache and state that a step reads there."""
    host_bandwidth: float = 35e9
    host_share: float = 0.0
    """Share of the layers that the host computes."""
    host_weights: float = 0.0
    """Weights of a token that the host multiplies."""
    host_stated: bool = True
    """Whether the host's memory is known, rather than assumed."""
    build: Build = CURRENT
    delta_nets: bool = False
    """Whether the linear layers are delta nets, rather than state spaces."""
    latent: bool = False
    """Multi-head latent attention, which older builds of llama.cpp compute on full heads."""

    @property
    def step_bytes(self) -> float:
        """Weights read by a step, wherever they are."""
        return self.dense_bytes + self.expert_bytes

    @property
    def new(self) -> bool:
        return self.build.new

    @property
    def own_engine(self) -> bool:
        """Whether Ollama's own engine runs the kernels."""
        return self.build.ollama == "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """base x exp(sum of parameters x factors); a parameter that was not fitted is 0."""

    base: float
    names: tuple[str, ...]
    ahead: bool = False
    """Launches of the host, which overlap with the device's work."""


def terms(p: Point) -> list[Term]:
    """The summands of a step's seconds."""
    e, card = LIKE.get(p.engine, p.engine), vendor(p.gpu)
    new = ("new",) if p.new else ()
    eager = e in HOST_LAUNCHED
    clock = (p.gpu.boost_mhz or CLOCK / 1e6) * 1e6
    # Eager PyTorch waits for launches of the host, whose clock is not the card's.
    slow = 1.0 if eager else CLOCK / clock
    rate = clock * (p.gpu.sms or PROCESSORS)
    bandwidth = p.gpu.bandwidth
    port = foreign(card, p.build.backend) if e == "llama.cpp" else ""
    fixed: tuple[str, ...] = ("tau", f"tau:{e}", f"tau/{card}", f"launch:{p.kernel}")
    if not eager:
        fixed = (*fixed, *(f"tau+{n}" for n in new))
    elif p.gpu.kind == "datacenter":
        fixed = (*fixed, "server")
    if port:
        fixed = (*fixed, f"tau+{port}")
    fixed = (*fixed, *(f"tau/m{n}" for n in range(2, generation(p.gpu) + 1)))
    here = 1 - p.host_share
    stacked = (f"stacked:{e}", "stacked") if p.gpu.hbm else ()
    lost = (
        *("lost", f"lost:{e}", f"lost/{card}", f"lost/{p.gpu.arch}"),
        *(f"lost+{n}" for n in new),
        *((f"lost+{port}",) if port else ()),
        *stacked,
    )
    attend = ("attend", f"attend:{e}", f"attend/{card}", *(f"attend+{n}" for n in new))
    if p.kv_width < 1 and e == "llama.cpp":
        attend = (*attend, "narrow")
    unpack = (f"unpack:{p.kernel}", "unpack", f"unpack/{card}", *(f"unpack+{n}" for n in new))
    found = [
        Term(base=slow, names=("step", f"step:{e}"), ahead=eager),
        Term(base=slow * p.layers.full * here, names=fixed, ahead=eager),
        Term(
            base=slow * p.layers.linear * here,
            names=(*fixed, "linear", *(("pieces",) if p.delta_nets and not p.build.fused else ())),
            ahead=eager,
        ),
        Term(base=slow * p.layers.conv * here, names=(*fixed, "conv"), ahead=eager),
        Term(
            base=slow * p.layers.experts * here,
            names=(
                *(*fixed, "experts" if p.new or not p.latent else "latent", f"experts:{e}"),
                *(f"experts/{card}", *(("experts+ollama",) if p.own_engine else ())),
                *(("experts+triton",) if e in PYTHON_LOOP and card != "nvidia" else ()),
            ),
            ahead=eager,
        ),
        Term(base=slow * p.layers.sandwich * here, names=(*fixed, "sandwich"), ahead=eager),
        Term(base=1e-3 * p.own_engine, names=("ollama",)),
        Term(base=1e-3 * (e in PYTHON_LOOP), names=("loop", *(f"loop+{n}" for n in new))),
        Term(base=(p.step_bytes + p.kv_bytes + p.state_bytes) / bandwidth, names=()),
        Term(base=(p.dense_bytes + p.state_bytes) / bandwidth, names=lost),
        Term(base=p.expert_bytes / bandwidth, names=(*lost, "gather")),
        Term(base=p.kv_bytes / p.kv_width / rate, names=attend),
        Term(base=(p.n_batch - 1) * p.layers.total * slow, names=("sequence", f"sequence:{e}")),
    ]
    if p.kernel != "float":
        found.append(Term(base=p.n_batch * p.n_weights / rate, names=unpack))
    if p.kernel == DEQUANTIZED and p.n_batch > 1:
        found.append(Term(base=4 * p.n_weights / bandwidth, names=("dequantize",)))
    if p.host_bytes:
        found.extend(_on_host(p))
    return [term for term in found if term.base > 0]


def _on_host(p: Point) -> list[Term]:
    """What the host reads, unpacks and hands over."""
    reads: tuple[str, ...] = ("host",)
    if not p.host_stated:
        late = p.gpu.released is not None and p.gpu.released.year >= DDR5
        reads = (*reads, "unstated", *(("unstated+ddr5",) if late else ()))
    if p.own_engine:
        reads = (*reads, "host+ollama")
    looked_up = p.kernel == CODEBOOK and 8 * p.host_bytes < CODEBOOK_BITS * p.host_weights
    return [
        Term(base=p.host_bytes / p.host_bandwidth, names=reads),
        Term(base=p.host_kv_bytes / p.host_bandwidth, names=(*reads, "hostattend")),
        Term(base=p.host_share * p.layers.total * 1e-4, names=("visit",)),
        Term(base=looked_up * p.host_weights / UNPACKED, names=("hostunpack",)),
    ]


def overlapped(ahead: float, device: float) -> float:
    """Seconds of a step whose launches run ahead of the device: a soft maximum."""
    if not ahead:
        return device
    return float((ahead**OVERLAP + device**OVERLAP) ** (1 / OVERLAP))


def seconds(p: Point, fitted: Mapping[str, float]) -> float:
    """Predicted seconds of a step."""
    sums = {True: 0.0, False: 0.0}
    for term in terms(p):
        scale = math.exp(sum(fitted.get(name, 0.0) for name in term.names))
        sums[term.ahead] += term.base * scale
    return overlapped(sums[True], sums[False])


def fixed_share(p: Point, fitted: Mapping[str, float]) -> float:
    """Share of a step that is fixed time: launches and what the host does for each token.

    0 for eager engines, whose launches are a term of their own.
    """
    if LIKE.get(p.engine, p.engine) in HOST_LAUNCHED:
        return 0.0
    fixed = whole = 0.0
    for term in terms(p):
        part = term.base * math.exp(sum(fitted.get(name, 0.0) for name in term.names))
        whole += part
        fixed += part * (not FIXED.isdisjoint(term.names))
    return fixed / whole


FIXED: Final = frozenset({"tau", "step", "loop", "ollama"})
"""Parameters of terms that neither bytes nor products make."""


PRIORS: Final[Mapping[str, tuple[float, float]]] = {
    "tau": (math.log(15e-6), 1.0),
    "tau:": (0.0, 0.7),
    "tau/": (0.0, 0.5),
    **{f"tau/m{n}": (-0.1, 0.2) for n in range(2, 10)},
    "tau+": (-0.3, 0.4),
    "tau+vulkan": (0.0, 0.3),
    "tau+rocm": (0.0, 0.3),
    "launch:": (0.0, 0.5),
    "step": (math.log(200e-6), 1.0),
    "step:": (0.0, 0.5),
    "linear": (0.0, 0.5),
    "pieces": (0.4, 0.4),
    "conv": (-0.5, 0.5),
    "experts": (0.0, 0.7),
    "experts:": (0.0, 0.5),
    "experts/": (0.0, 0.5),
    "experts+ollama": (0.3, 0.5),
    "experts+triton": (0.7, 0.7),
    "ollama": (math.log(0.5), 0.7),
    "server": (0.4, 0.4),
    "sandwich": (-1.0, 0.5),
    "latent": (1.5, 1.5),
    "lost": (-1.5, 1.0),
    "lost:": (0.0, 0.7),
    "lost/": (0.0, 0.5),
    "lost+": (-0.3, 0.4),
    "lost+vulkan": (0.0, 0.3),
    "lost+rocm": (0.0, 0.3),
    "stacked": (0.5, 1.0),
    "stacked:": (0.0, 0.5),
    "gather": (0.5, 0.7),
    "attend": (math.log(0.3), 2.0),
    "attend:": (0.0, 0.7),
    "attend/": (0.0, 0.5),
    "attend+": (-0.5, 0.7),
    "narrow": (0.0, 0.7),
    "unpack": (math.log(0.02), 1.0),
    "unpack:": (0.0, 1.0),
    "unpack:i-quant": (0.0, 0.4),
    "unpack:fp8-dynamic": (-2.0, 0.5),
    "unpack/": (0.0, 0.5),
    "unpack+": (-0.2, 0.4),
    "sequence": (math.log(1e-6), 1.5),
    "sequence:": (0.0, 0.7),
    "dequantize": (0.0, 0.3),
    "host": (0.0, 0.1),
    "host+ollama": (0.2, 0.3),
    "unstated": (0.0, 0.3),
    "unstated+ddr5": (-0.3, 0.3),
    "hostattend": (1.0, 0.3),
    "hostunpack": (0.0, 0.5),
    "visit": (-1.2, 0.5),
    "loop": (0.0, 0.5),
    "loop+": (-0.7, 0.5),
}
"""Mean and spread of each kind of parameter, by its name up to the sign that qualifies it: `:`
engine or family, `/` device, `+` build or host. What is not measured keeps the mean. Tensor
cores multiply 8-bit floats as they are. `experts+triton`: vLLM's kernels for other cards than
NVIDIA's."""


def prior(name: str) -> tuple[float, float]:
    """Mean and spread of one parameter."""
    if name in PRIORS:
        return PRIORS[name]
    for sign in ":/+":
        head, found, _ = name.partition(sign)
        if found:
            return PRIORS[head + sign]
    raise KeyError(name)
