"""Where a model's bytes lie: on the device, and what the host keeps of them. Standard library only.

llama.cpp leaves routed experts on the host first (`--n-cpu-moe`), because a token reads few of
them; beyond that, whole layers with their part of the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from bench.models import ModelCard
from bench.models.families import settings
from bench.models.layers import delta_net_matrices
from bench.models.shapes import Shape, shape
from bench.predict.terms import CURRENT, Build, Layers, Point, kernel
from bench.roofline import decode_work
from bench.roofline.gpus import Gpu
from bench.roofline.memory import (
    HOST,
    OFFLOADING,
    STATE_BYTES,
    Fit,
    HostMemory,
    Memory,
    cache_bytes,
    fit,
    place_bytes,
    running,
)
from bench.schemes.bytes import Held, held
from bench.schemes.cache import AUTO, SIXTEEN, TYPES, CacheType

EMBEDDING_ON_HOST: Final = "llama.cpp"
"""The engine that looks the input embedding up in the host's memory; tied ones are held twice."""

PIECE: Final = 512
"""llama.cpp's physical batch (`-ub`)."""

TAKEN: Final = 640 * 2**20
"""What the driver and CUDA's context hold before llama.cpp loads a model: an RTX 5060 Ti of 16 GiB
has 15,751 MiB free then (mauriziofonte.it, qwen3-6-35b-a3b-rtx-5060-ti-llama-cpp-benchmark)."""

MARGIN: Final = 2**30
"""What llama.cpp leaves free of a card that a model does not fit (`--fit-target`, 1024 MiB)."""

OLLAMA_CONTEXT: Final = ((47 * 2**30, 262_144), (23 * 2**30, 32_768), (0, 4096))
"""Memory of the card from which Ollama reserves a cache of that many tokens, if nobody sets
`num_ctx` (docs/context-length.mdx and server/routes.go of ollama/ollama at 948f69330acf)."""

PROJECTOR: Final = 930_000_000
"""Bytes that Ollama keeps free for the vision tower of a model (llm/llama_server.go at
00f6d6204325): 928 MB of Qwen3.8-27B (MiaAI-Lab/Qwen3.8-Flash-Next-Dual-DGX-Sparks issue 57)."""

SEES: Final = frozenset(
    {"qwen3_5_text", "qwen3_5_moe_text", "gemma3_text", "gemma4_text", "ministral3"}
)
"""Types of language models whose files in Ollama's library hold a vision tower too."""

LEFT: Final = "compressed-tensors/nvfp4a16"
"""Checkpoints of this scheme leave delta nets in 16 bits beside the head: 22.07 GiB of Qwen3.6-27B
(source `hugflare-nvfp4`)."""

HOST_SHARE: Final = {"DDR4": 0.75, "DDR5": 0.60}
"""Share of the data sheet's bandwidth at which the host's processor reads weights, by the kind of
memory. DDR4: a 14B Q4_K_M wholly on the host makes 2.89 tok/s with two channels of DDR4-2400
(source `inventivehq`: 68%) and 3.03 with DDR4-2133 (`insiderllm-3060`: 80%). DDR5 outruns what the
fabric of a desktop's processor carries (`reddit-1rei65v`)."""

MORE_CHANNELS: Final = 0.5
"""The same with more than two channels, which outrun the processor's cores: an i9-10900X with four
of DDR4-3200 reads experts at 41 of 102 GB/s (source `llmfit-755`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spilled:
    """What an engine leaves on the host, where it is not as few experts as possible."""

    part: Literal["experts", "layers"]
    """`experts`: `--n-cpu-moe`. `layers`: whole ones, by `-ngl` or as Ollama splits."""
    share: float | None = None
    """Of that part; None: as little as possible."""


def host_of(cpu: Gpu) -> HostMemory:
    """The host with a processor of the catalog (`cpu-ddr5-6000-2ch`)."""
    share = HOST_SHARE.get((cpu.memory or "")[:4], HOST_SHARE["DDR5"])
    if not cpu.name.endswith("-2ch"):
        share = MORE_CHANNELS
    return HostMemory(bandwidth=share * cpu.bandwidth, stated=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedWorkload:
    """What is asked of a model: context of a step, length of a sequence, sequences at once."""

    context: float
    positions: int
    n_batch: int = 1
    kv: CacheType = SIXTEEN
    build: Build = CURRENT
    reserved: int | None = None
    """Tokens that the cache is reserved for, where somebody said so (Ollama's `num_ctx`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedBytes:
    """A workload as the formula sees it, with whether it fits."""

    point: Point
    fit: Fit
    memory: Memory


def published_cache(name: str) -> CacheType:
    """The cache of a row by what its source calls it; what nothing else is called has 16 bits."""
    return TYPES.get(name, SIXTEEN)


def memory_of(
    model: ModelCard,
    quant: str,
    engine: str,
    n_prompt: int,
    n_gen: int,
    n_batch: int,
    kv_dtype: str = AUTO,
) -> Memory:
    """Memory on the device while it runs; llama.cpp keeps the input embedding on the host."""
    found = running(
        model,
        quant,
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_batch=n_batch,
        engine=engine,
        dtype="float16",
        kv_dtype=kv_dtype,
    )
    if engine != EMBEDDING_ON_HOST:
        more = round(left_bytes(model, quant))
        return replace(found, weights_bytes=found.weights_bytes + more)
    return on_device(shape(model), quant, engine, found, n_prompt)


def left_bytes(model: ModelCard, quant: str) -> float:
    """Bytes beyond a scheme's own that a checkpoint takes for delta nets which it leaves."""
    n = shape(model).n_delta_nets
    if quant != LEFT or not n:
        return 0.0
    weights = sum(m.n_params for m in delta_net_matrices(settings(model.architecture), n))
    return weights * (2 - 4.5 / 8)


def on_device(s: Shape, quant: str, engine: str, memory: Memory, n_prompt: int) -> Memory:
    """The same without the input embedding; prompts are worked off in pieces of PIECE tokens.

    Its compute buffer is reserved at load for the logits of a whole piece in 32 bits.
    """
    weights = held(s, quant, "float16", engine)
    pieces = min(1.0, PIECE / max(n_prompt, 1))
    vocab = next(m.n_out for m in s.matrices if m.part == "head")
    return Memory(
        weights_bytes=round(weights.step_bytes + weights.expert_bytes),
        cache_bytes=memory.cache_bytes,
        activations_bytes=max(round(memory.activations_bytes * pieces), PIECE * vocab * 4),
        reserve_bytes=min(memory.reserve_bytes, TAKEN),
    )


def layers_of(s: Shape) -> Layers:
    """Layers by what they launch; a layer with two mixers counts both."""
    linear = sum(a.layers for a in s.attention if a.state_macs > a.state_width)
    conv = sum(a.layers for a in s.attention if 0 < a.state_macs <= a.state_width)
    attends = max(s.n_mixers - linear - conv, 0)
    return Layers(
        full=(attends + s.n_ffns) / 2,
        linear=linear / 2,
        conv=conv / 2,
        experts=sum(m.count for m in s.matrices if m.part == "router"),
        sandwich=s.n_layers if s.sandwich else 0,
    )


def place(
    model: ModelCard,
    gpu: Gpu,
    quant: str,
    engine: str,
    work: PlacedWorkload,
    memory: Memory,
    host: HostMemory = HOST,
    n_gpus: int = 1,
    spilled: Spilled | None = None,
) -> PlacedBytes:
    """Split a model between device and host, as little to the host as possible or as `spilled`."""
    s = shape(model)
    beside = None if gpu.unified else host
    if work.build.ollama and beside is not None:
        memory = by_ollama(model, gpu, memory, work)
    word = fit(memory, gpu.usable_bytes, n_devices=n_gpus, engine=engine, host=beside)
    over = memory.needed_bytes(n_gpus) + (MARGIN - gpu.usable_bytes) * n_gpus
    if word == "tight" and over > 0 and work.build.ollama == "server" and beside is not None:
        word = "offload"  # the server that Ollama starts keeps the margin free of any model
    share = None if spilled is None else spilled.share
    whole = spilled is not None and spilled.part == "layers"
    if share is not None and beside is not None and engine in OFFLOADING:
        word = "offload"
        out = share, share if whole else 0.0
    else:
        weights = held(s, quant, "float16", engine)
        out = _shares(weights, memory.cache_bytes, over if word == "offload" else 0.0, whole)
    point = _split(model, s, gpu, quant, engine, work, out, host)
    return PlacedBytes(point=point, fit=word, memory=memory)


def by_ollama(model: ModelCard, gpu: Gpu, memory: Memory, work: PlacedWorkload) -> Memory:
    """The same with the cache that Ollama reserves, and room for a vision tower."""
    most = int(model.architecture.get("max_position_embeddings") or 2**31)
    usual = next(n for least, n in OLLAMA_CONTEXT if gpu.usable_bytes >= least)
    if work.build.ollama == "own":
        usual = OLLAMA_CONTEXT[-1][1]
    tokens = max(work.positions, min(work.reserved or usual, most))
    sees = model.architecture.get("model_type") in SEES and work.build.ollama == "server"
    return replace(
        memory,
        cache_bytes=round(work.n_batch * cache_bytes(shape(model), tokens, work.kv)),
        reserve_bytes=memory.reserve_bytes + PROJECTOR * sees,
    )


def _shares(weights: Held, reserved_bytes: float, over: float, whole: bool) -> tuple[float, float]:
    """Shares of the experts and of the rest, with its cache, that leave `over` bytes out."""
    others = weights.step_bytes + reserved_bytes
    if whole:
        share = min(1.0, over / (weights.expert_bytes + others))
        return share, share
    experts = min(1.0, over / weights.expert_bytes) if weights.expert_bytes else 0.0
    rest = max(0.0, over - weights.expert_bytes)
    return experts, min(1.0, rest / others)


def narrowed(s: Shape, kv: CacheType) -> float:
    """Bytes of a cache over those of one in 16 bits."""
    if not kv.head_bytes:
        return kv.number_bytes / SIXTEEN.number_bytes
    whole = sum(a.keeps * place_bytes(a, SIXTEEN) for a in s.attention)
    return sum(a.keeps * place_bytes(a, kv) for a in s.attention) / whole if whole else 1.0


def _split(
    model: ModelCard,
    s: Shape,
    gpu: Gpu,
    quant: str,
    engine: str,
    work: PlacedWorkload,
    out: tuple[float, float],
    host: HostMemory,
) -> Point:
    weights = held(s, quant, "float16", engine)
    expert_read = weights.expert_bytes * s.experts_read(work.n_batch)
    step = decode_work(
        model,
        quant,
        context=work.context,
        n_batch=work.n_batch,
        engine=engine,
        dtype="float16",
        kv_dtype="float16",
    )
    narrow = narrowed(s, work.kv)
    state = 2.0 * STATE_BYTES * work.n_batch * sum(a.layers * a.state_width for a in s.attention)
    kv = (step.n_bytes - weights.step_bytes - expert_read - state) * narrow
    experts_out, share = out
    routed = sum(m.n_params for m in s.matrices if m.part == "expert")
    chosen = routed * s.n_active_experts / max(s.n_experts, 1)
    away = experts_out * chosen + share * (s.n_active_params - chosen)
    return Point(
        engine=engine,
        kernel=kernel(quant),
        gpu=gpu,
        layers=layers_of(s),
        n_batch=work.n_batch,
        dense_bytes=(weights.step_bytes + left_bytes(model, quant)) * (1 - share),
        expert_bytes=expert_read * (1 - experts_out),
        kv_bytes=kv * (1 - share),
        state_bytes=state * (1 - share),
        n_weights=s.n_active_params - away,
        kv_width=narrow,
        host_bytes=expert_read * experts_out + share * weights.step_bytes,
        host_kv_bytes=(kv + state) * share,
        host_bandwidth=host.bandwidth,
        host_share=max(share, experts_out / 2),
        host_weights=away,
        host_stated=host.stated,
        build=work.build,
        delta_nets=s.n_delta_nets > 0,
        latent=s.latent,
    )
