"""The formula that predictions are made with: seconds of one decode step, as a sum of terms.

    t = sum over terms of base x exp(sum of its parameters)

Bases are physics: bytes over bandwidth, layers over the clock, weights over the processors'
clocks. Parameters are logs of how far an engine, a family of schemes, a kind of layer or a kind of
card strays from that; they are fitted (`bench.predict.fitting`) and shipped
(`bench.predict.artefact`). The same terms serve fitting and prediction. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bench import schemes
from bench.roofline.gpus import Gpu

CLOCK: Final = 2e9
"""The clock, in Hz, that fixed times are stated at."""

PROCESSORS: Final = 64
"""Streaming multiprocessors taken where a card's are not known."""

NEW: Final = 2025
"""Builds from this year on are newer ones: CUDA graphs, flash attention by default, fused
kernels."""


HOST_LAUNCHED: Final = frozenset({"transformers"})
"""Engines whose fixed time is the host's launches."""


def kernel(quant: str) -> str:
    """The kernel family of a scheme: what unpacks alike; a scheme without one is its own."""
    row = schemes.find(quant.lower())
    return quant.lower() if row is None else row.family or row.name


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
    """Cached keys, values and constant state on the device, over the whole batch."""
    kv_width: float = 1.0
    """Bytes of a cached number over those of a 16-bit one."""
    n_weights: float
    """Parameters that one token is multiplied with on the device."""
    host_bytes: float = 0.0
    """Weights that a step reads in the host's memory."""
    host_kv_bytes: float = 0.0
    """Cache that a step reads there."""
    host_bandwidth: float = 35e9
    host_share: float = 0.0
    """Share of the layers that the host computes."""
    new: bool = True
    """Whether the engine's build is of NEW or later."""
    latent: bool = False
    """Multi-head latent attention, which older builds of llama.cpp compute on full heads."""

    @property
    def step_bytes(self) -> float:
        """Weights read by a step, wherever they are."""
        return self.dense_bytes + self.expert_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """base x exp(sum of parameters x factors); a parameter that was not fitted is 0."""

    base: float
    names: tuple[str, ...]


def terms(p: Point) -> list[Term]:
    """The summands of a step's seconds."""
    e, card = p.engine, vendor(p.gpu)
    new = ("new",) if p.new else ()
    clock = (p.gpu.boost_mhz or CLOCK / 1e6) * 1e6
    # Eager PyTorch waits for launches of the host, whose clock is not the card's.
    slow = 1.0 if e in HOST_LAUNCHED else CLOCK / clock
    rate = clock * (p.gpu.sms or PROCESSORS)
    bandwidth = p.gpu.bandwidth
    fixed = ("tau", f"tau:{e}", f"tau/{card}", f"launch:{p.kernel}", *(f"tau+{n}" for n in new))
    here = 1 - p.host_share
    stacked = (f"stacked:{e}", "stacked") if p.gpu.hbm else ()
    lost = (
        *("lost", f"lost:{e}", f"lost/{card}", f"lost/{p.gpu.arch}"),
        *(f"lost+{n}" for n in new),
        *stacked,
    )
    attend = ("attend", f"attend:{e}", f"attend/{card}", *(f"attend+{n}" for n in new))
    if p.kv_width < 1:
        attend = (*attend, "narrow")
    unpack = (f"unpack:{p.kernel}", "unpack", f"unpack/{card}", *(f"unpack+{n}" for n in new))
    found = [
        Term(base=slow, names=("step", f"step:{e}")),
        Term(base=slow * p.layers.full * here, names=fixed),
        Term(base=slow * p.layers.linear * here, names=(*fixed, "linear")),
        Term(base=slow * p.layers.conv * here, names=(*fixed, "conv")),
        Term(
            base=slow * p.layers.experts * here,
            names=(*fixed, "experts" if p.new or not p.latent else "latent", f"experts:{e}"),
        ),
        Term(base=slow * p.layers.sandwich * here, names=(*fixed, "sandwich")),
        Term(base=(p.step_bytes + p.kv_bytes) / bandwidth, names=()),
        Term(base=p.dense_bytes / bandwidth, names=lost),
        Term(base=p.expert_bytes / bandwidth, names=(*lost, "gather")),
        Term(base=p.kv_bytes / p.kv_width / rate, names=attend),
        Term(base=(p.n_batch - 1) * p.layers.total * slow, names=("sequence", f"sequence:{e}")),
    ]
    if p.kernel != "float":
        found.append(Term(base=p.n_batch * p.n_weights / rate, names=unpack))
    if p.host_bytes:
        found.append(Term(base=p.host_bytes / p.host_bandwidth, names=("host",)))
        found.append(Term(base=p.host_kv_bytes / p.host_bandwidth, names=("host", "hostattend")))
        found.append(Term(base=p.host_share * p.layers.total * 1e-4, names=("visit",)))
    return [term for term in found if term.base > 0]


def seconds(p: Point, fitted: Mapping[str, float]) -> float:
    """Predicted seconds of a step."""
    return sum(
        term.base * math.exp(sum(fitted.get(name, 0.0) for name in term.names)) for term in terms(p)
    )


PRIORS: Final[Mapping[str, tuple[float, float]]] = {
    "tau": (math.log(15e-6), 1.0),
    "tau:": (0.0, 0.7),
    "tau/": (0.0, 0.5),
    "tau+": (-0.3, 0.4),
    "launch:": (0.0, 0.5),
    "step": (math.log(200e-6), 1.0),
    "step:": (0.0, 0.5),
    "linear": (0.0, 0.5),
    "conv": (-0.5, 0.5),
    "experts": (0.0, 0.7),
    "experts:": (0.0, 0.5),
    "sandwich": (-1.0, 0.5),
    "latent": (1.5, 1.5),
    "lost": (-1.5, 1.0),
    "lost:": (0.0, 0.7),
    "lost/": (0.0, 0.5),
    "lost+": (-0.3, 0.4),
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
    "unpack/": (0.0, 0.5),
    "unpack+": (-0.2, 0.4),
    "sequence": (math.log(1e-6), 1.5),
    "sequence:": (0.0, 0.7),
    "host": (0.0, 0.1),
    "hostattend": (1.0, 0.3),
    "visit": (0.0, 1.0),
}
"""Mean and spread of each kind of parameter, by its name up to the sign that qualifies it: `:`
engine or family, `/` device, `+` build. What is not measured keeps the mean."""


def prior(name: str) -> tuple[float, float]:
    """Mean and spread of one parameter."""
    for sign in ":/+":
        head, found, _ = name.partition(sign)
        if found:
            return PRIORS[head + sign]
    return PRIORS[name]
