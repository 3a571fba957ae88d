"""What a card allows at most: bytes over bandwidth, FLOPs over peak, and which of the two binds.

A decode step reads every weight it uses and every cached key and value once; prefill multiplies
every weight with every token. Nothing can be faster than the larger of the two times, so a figure
above the bound is a measuring error (`ABOVE_BOUND`). docs/metrics.md has the formulas. Standard
library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from bench.models import ModelCard
from bench.models.shapes import Shape, shape
from bench.roofline.gpus import GIB, Gpu, Precision
from bench.roofline.memory import RESERVE_BYTES as RESERVE_BYTES
from bench.roofline.memory import STATE_BYTES, place_bytes, running
from bench.schemes.bytes import Held, float_bytes, held, layout
from bench.schemes.cache import CacheType, type_of
from bench.schemes.row import Compute

Limit = Literal["memory", "compute"]

TOLERANCE = 0.02
"""Share by which a figure may pass the bound before it is flagged: memory clocks vary a little."""


class BoundMachine(Protocol):
    """What the arithmetic needs to know about a device; `Gpu` and `Measured` are ones."""

    @property
    def name(self) -> str: ...
    @property
    def bandwidth(self) -> float: ...
    @property
    def vram_bytes(self) -> int: ...
    def peak(self, precision: Precision) -> float | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRates:
    """A device by rates that were measured on it."""

    name: str
    bandwidth: float
    """Bytes per second of a large copy, read and write both counted."""
    vram_bytes: int
    rates: Mapping[str, float] = field(default_factory=dict)
    """Operations per second of a large matmul of each dtype, as torch names it."""

    def peak(self, precision: Precision) -> float | None:
        return self.rates.get("bfloat16") if precision == "bf16" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one decode step, or one prefill, moves and computes; both for the whole batch."""

    n_bytes: float
    flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The most that a device allows. A rate that cannot be bounded is None; `absent` says why."""

    decode_tok_s: float
    """New tokens per second over the whole batch."""
    prefill_tok_s: float | None
    limited_by: Limit
    """What binds decode."""
    prefill_limited_by: Limit | None
    decode_bytes: float
    """Read by one step, at the mean context of the generation."""
    decode_flops: float
    prefill_flops: float
    weights_bytes: int
    memory_bytes: int
    """Needed for weights, cache, logits and activations, reserve included."""
    fits: bool
    absent: Mapping[str, str] = field(default_factory=dict)


def n_params(card: ModelCard) -> int:
    """Parameters of a model; a tied head counts once."""
    return shape(card).n_params


def active_params(card: ModelCard) -> int:
    """Parameters that one token is multiplied with."""
    return shape(card).n_active_params


def weights_bytes(
    card: ModelCard, quant: str = "none", dtype: str = "auto", engine: str = "transformers"
) -> int:
    """Bytes of all weights as a scheme holds them, scales included."""
    return held(shape(card), quant, dtype, engine).weights_bytes


def kv_bytes_per_token(card: ModelCard, kv_dtype: str = "auto") -> int:
    """Cached bytes for each token that no window has dropped: 2 l n_kv d_h, MLA l (r_kv + d_rope).

    Layers that read another layer's keys and values add nothing, nor do layers with a constant
    state. transformers' own DeepSeek code caches full keys and values instead of MLA's latent.
    `kv_dtype`: a type of `bench.schemes.cache`.
    """
    kv = type_of(kv_dtype)
    return round(sum(place_bytes(a, kv) * a.keeps for a in shape(card).attention))


def decode_work(
    card: ModelCard,
    quant: str = "none",
    *,
    context: float,
    n_batch: int = 1,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    static_cache: int | None = None,
    engine: str = "transformers",
) -> Work:
    """One step at a context of `context` tokens (its mean over a generation).

    Bytes: weights without the input embedding, experts by the share that the batch touches, and
    B x cached positions. A static cache of `static_cache` positions is read whole.
    """
    s = shape(card)
    weights = held(s, quant, dtype, engine)
    return _decode(s, weights, context, n_batch, type_of(kv_dtype), static_cache)


def _decode(
    s: Shape, weights: Held, context: float, n_batch: int, kv: CacheType, static: int | None
) -> Work:
    cached = macs = state = 0.0
    for a in s.attention:
        stored = a.read(context if static is None else static)
        cached += a.layers * place_bytes(a, kv) * max(stored, a.read(context))
        macs += a.layers * (a.decode_macs * a.read(context) + a.state_macs)
        state += a.layers * a.state_width
    # Constant state is read and written.
    per_sequence = cached + 2 * STATE_BYTES * state
    return Work(
        n_bytes=weights.step_bytes
        + weights.expert_bytes * s.experts_read(n_batch)
        + n_batch * per_sequence,
        flops=n_batch * 2 * (s.n_active_params + macs),
    )


def prefill_work(
    card: ModelCard,
    quant: str = "none",
    *,
    n_prompt: int,
    n_batch: int = 1,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    engine: str = "transformers",
) -> Work:
    """One prefill: B (2 N_active,no head S + attention over a causal triangle + 2 V d).

    The head is applied to the last position only. Each weight is read once, the cache written.
    """
    s = shape(card)
    weights = held(s, quant, dtype, engine)
    return _prefill(s, weights, n_prompt, n_batch, type_of(kv_dtype))


def _prefill(s: Shape, weights: Held, n_prompt: int, n_batch: int, kv: CacheType) -> Work:
    head = sum(m.n_params for m in s.matrices if m.part == "head")
    cached = macs = 0.0
    for a in s.attention:
        seen = a.read(n_prompt)
        # Positions attended to, summed over the prompt: a triangle, then a band.
        pairs = seen * (seen + 1) / 2 + (n_prompt - seen) * seen
        macs += a.layers * (a.prefill_macs * pairs + a.state_macs * n_prompt)
        cached += a.keeps * place_bytes(a, kv) * a.kept(n_prompt)
    matmul = (s.n_active_params - head) * n_prompt + head
    return Work(
        n_bytes=weights.step_bytes
        + weights.expert_bytes * s.experts_read(n_prompt * n_batch)
        + n_batch * cached,
        flops=n_batch * 2 * (matmul + macs),
    )


def mean_context(n_prompt: int, n_gen: int) -> float:
    """Tokens that a decode step attends to, on average over the n_gen - 1 steps of a generation."""
    return n_prompt + max(n_gen, 2) / 2


def memory_bytes(
    card: ModelCard,
    quant: str = "none",
    *,
    n_prompt: int,
    n_gen: int,
    n_batch: int = 1,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    engine: str = "transformers",
) -> int:
    """Memory that a workload needs while it runs, reserve included; `bench.roofline.memory`."""
    return running(
        card,
        quant,
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_batch=n_batch,
        dtype=dtype,
        kv_dtype=kv_dtype,
        engine=engine,
    ).running_bytes


def fits(needed_bytes: int, machine: BoundMachine) -> bool:
    """Whether that much memory is there."""
    return needed_bytes <= capacity(machine)


def capacity(machine: BoundMachine) -> int:
    """Bytes that a model may take on a device."""
    return machine.usable_bytes if isinstance(machine, Gpu) else machine.vram_bytes


def bound(
    card: ModelCard,
    gpu: BoundMachine,
    quant: str = "none",
    n_prompt: int = 128,
    n_gen: int = 128,
    n_batch: int = 1,
    *,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    static_cache: int | None = None,
    engine: str = "transformers",
    n_devices: int = 1,
) -> Bound:
    """The most that `gpu` allows for a workload; `n_devices` of them share work perfectly."""
    s, kv = shape(card), type_of(kv_dtype)
    weights = held(s, quant, dtype, engine)
    step = _decode(s, weights, mean_context(n_prompt, n_gen), n_batch, kv, static_cache)
    first = _prefill(s, weights, n_prompt, n_batch, kv)
    needed = memory_bytes(
        card,
        quant,
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_batch=n_batch,
        dtype=dtype,
        kv_dtype=kv_dtype,
        engine=engine,
    )
    peak = peak_flops(gpu, layout(quant, engine).compute, dtype)
    memory_s = step.n_bytes / (gpu.bandwidth * n_devices)
    compute_s = step.flops / (peak * n_devices) if peak else 0.0
    prefill_s, prefill_limit = _slower(first, gpu.bandwidth, peak, n_devices)
    absent = {} if peak else {"prefill_tok_s": f"no matmul peak is known for {gpu.name}"}
    return Bound(
        decode_tok_s=n_batch / max(memory_s, compute_s),
        prefill_tok_s=None if prefill_s is None else n_batch * n_prompt / prefill_s,
        limited_by="compute" if compute_s > memory_s else "memory",
        prefill_limited_by=prefill_limit,
        decode_bytes=step.n_bytes,
        decode_flops=step.flops,
        prefill_flops=first.flops,
        weights_bytes=weights.weights_bytes,
        memory_bytes=needed,
        fits=needed + (n_devices - 1) * RESERVE_BYTES <= capacity(gpu) * n_devices,
        absent=absent,
    )


def _slower(
    work: Work, bandwidth: float, peak: float | None, n_devices: int
) -> tuple[float | None, Limit | None]:
    if peak is None:
        return None, None
    memory_s = work.n_bytes / (bandwidth * n_devices)
    compute_s = work.flops / (peak * n_devices)
    return max(memory_s, compute_s), "compute" if compute_s >= memory_s else "memory"


def peak_flops(gpu: BoundMachine, compute: Compute, dtype: str = "auto") -> float | None:
    """The fastest dense rate that a scheme's arithmetic may reach on this device.

    A card without FP8 units falls back to the 16-bit rate. 16-bit products may be summed in 16
    bits, which GeForce cards do at twice the catalogued rate, so `fp16` allows for that. 32-bit
    arithmetic has no sourced peak here. A measured rate stands for its own dtype alone.
    """
    if isinstance(gpu, MeasuredRates):
        return gpu.rates.get({"fp16": "float16", "float": dtype}.get(compute, compute))
    if compute == "float" and float_bytes(dtype) == 4:
        return None
    sixteen = gpu.peak("bf16")
    if compute in ("fp16", "float") and isinstance(gpu, Gpu) and sixteen is not None:
        narrow = compute == "fp16" or dtype in ("fp16", "float16")
        return sixteen * 2 if narrow and gpu.geforce else sixteen
    if compute in ("fp8", "int8"):
        eight = gpu.peak("fp8" if compute == "fp8" else "int8")
        return eight if eight is not None else sixteen
    return sixteen


def mbu(step_bytes: float, tpot_s: float, bandwidth: float) -> float:
    """Model bandwidth utilization: bytes a step must read over what the memory could deliver."""
    return step_bytes / (tpot_s * bandwidth)


def mfu(flops: float, seconds: float, peak: float | None) -> float | None:
    """Model FLOP utilization: operations that had to be done over what the device could do."""
    return None if peak is None else flops / (seconds * peak)


def above_bound(measured: float | None, limit: float | None) -> bool:
    """Whether a rate is beyond the bound by more than clocks vary: a measuring error."""
    return measured is not None and limit is not None and measured > limit * (1 + TOLERANCE)


def gib(n_bytes: float) -> float:
    """Bytes as GiB, for messages."""
    return n_bytes / GIB
