"""Why is it slow: one line on what a measured decode rate is limited by.

A pure function of figures that are already there: the measured rate, the bound, the same arm with
and without a graph, the unquantized arm, memory, and the kernel that ran. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from bench.roofline import above_bound

Code = Literal[
    "above-bound",
    "capacity-spilled",
    "fallback-kernel",
    "compute-bound",
    "bandwidth-bound",
    "launch-bound",
    "unexplained",
]

NEAR_BOUND: Final = 0.6
"""Share of the bound from which a step is called bound by it: llama.cpp reaches 0.8 to 0.9 with
16-bit weights on GeForce cards, compiled PyTorch 0.7 on an A100."""

GRAPH_GAIN: Final = 1.15
"""A graph that runs this much faster than eager shows that launches were what it waited for."""

SPILL: Final = 0.5
"""Below this share of the bound a model larger than the memory is taken to be read over the bus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Symptoms:
    """What is known about a measured row. Rates are tok/s over the batch; None where not known."""

    decode_tok_s: float
    bound_decode_tok_s: float
    limited_by: Literal["memory", "compute"] = "memory"
    """What binds in the bound."""
    mode: str = "eager"
    eager_tok_s: float | None = None
    """The same arm without a graph."""
    graph_tok_s: float | None = None
    """The same arm with a graph, or compiled."""
    quantized: bool = False
    unquantized_tok_s: float | None = None
    """The unquantized arm in the same mode."""
    needed_bytes: int | None = None
    memory_bytes: int | None = None
    kernel: str | None = None
    """What computes a quantized layer, as the record says."""
    layers: int | None = None
    n_batch: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What limits a row, and the line that says so."""

    code: Code
    line: str


def diagnose(e: Symptoms) -> Diagnosis:
    """The first cause that the evidence supports, strongest first."""
    share = e.decode_tok_s / e.bound_decode_tok_s
    of_bound = f"{share:.0%} of the bound"
    if above_bound(e.decode_tok_s, e.bound_decode_tok_s):
        return Diagnosis(
            code="above-bound",
            line=f"{of_bound}: faster than the memory allows, so the figure is a measurement error",
        )
    if line := _spilled(e, share):
        return Diagnosis(code="capacity-spilled", line=f"{of_bound}: {line}")
    if share >= NEAR_BOUND:
        binds = "compute" if e.limited_by == "compute" else "bandwidth"
        what = "the arithmetic units" if binds == "compute" else "reading weights and cache"
        code: Code = "compute-bound" if binds == "compute" else "bandwidth-bound"
        return Diagnosis(code=code, line=f"{of_bound}: limited by {what}")
    if line := _fallback(e):
        return Diagnosis(code="fallback-kernel", line=f"{of_bound}: {line}")
    if line := _launches(e):
        return Diagnosis(code="launch-bound", line=f"{of_bound}: {line}")
    return Diagnosis(code="unexplained", line=f"{of_bound}: {_unexplained(e)}")


def _spilled(e: Symptoms, share: float) -> str | None:
    if e.needed_bytes is None or e.memory_bytes is None or e.needed_bytes <= e.memory_bytes:
        return None
    if share >= SPILL:
        return None
    over = (e.needed_bytes - e.memory_bytes) / 2**30
    return f"{over:.1f} GiB more than the device has, so part of it is read over the bus"


def _fallback(e: Symptoms) -> str | None:
    if not e.quantized:
        return None
    text = (e.kernel or "").lower()
    if "float matmul" in text or "fallback" in text or "fall back" in text:
        return f"the quantized layers do not run in low precision here ({e.kernel})"
    slower = e.unquantized_tok_s is not None and e.decode_tok_s < 0.8 * e.unquantized_tok_s
    # With a graph no launch can explain that fewer bytes take longer: the kernel itself is slow.
    if slower and e.mode != "eager":
        ratio = e.decode_tok_s / (e.unquantized_tok_s or 1)
        return f"{ratio:.2f}x the unquantized arm despite fewer bytes: the kernel is slow"
    return None


def _launches(e: Symptoms) -> str | None:
    if e.mode == "eager" and e.graph_tok_s is not None:
        gain = e.graph_tok_s / e.decode_tok_s
        if gain >= GRAPH_GAIN:
            return f"the same arm with a graph is {gain:.2f}x as fast: it waits for kernel launches"
        return None
    if e.mode != "eager":
        return None
    lost_s = e.n_batch / e.decode_tok_s - e.n_batch / e.bound_decode_tok_s
    each = f", {lost_s / e.layers * 1e6:.0f} us a layer" if e.layers else ""
    if e.quantized and e.unquantized_tok_s is not None:
        ratio = e.decode_tok_s / e.unquantized_tok_s
        if ratio < 1.1:
            return (
                f"{lost_s * 1e3:.1f} ms a step beyond the bound{each}, and {ratio:.2f}x the "
                "unquantized arm: likely launches, which quantization does not shorten; "
                "measure with a graph"
            )
    return f"{lost_s * 1e3:.1f} ms a step beyond the bound{each}: likely launches; measure a graph"


def _unexplained(e: Symptoms) -> str:
    if e.mode == "eager" and e.graph_tok_s is not None:
        return "a graph is no faster, so it is the kernels themselves that are slow"
    return "no launches to wait for, so it is the kernels themselves that are slow"
