"""Why is mine so slow: what may make a measured rate lower than predicted, most likely first.

Each cause is a question to the predictor itself ("what if a part lay in the host's memory?"), so
that a cause is named only where it would give about the rate that was measured, with the command
that tells it from the others. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from bench.models import ModelCard
from bench.models.shapes import shape
from bench.predict import Prediction, Predictor
from bench.predict.placement import PlacedWorkload, memory_of, place
from bench.predict.published import sized
from bench.predict.terms import CURRENT, Build, Point, seconds
from bench.roofline import mean_context
from bench.roofline.gpus import Gpu, gpus
from bench.roofline.memory import HOST, HostMemory
from bench.schemes.bytes import held
from bench.schemes.cache import type_of

NEAR: Final = 0.35
"""Log distance within which a cause explains a rate."""
DEEP: Final = 32_768
"""Context that the question about a long conversation is asked at."""
CONTEXTS: Final = (16_384, 32_768, 65_536, 131_072, 262_144)
"""What Ollama may have been told to reserve the cache for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One thing that would slow a model down to about the measured rate."""

    cause: str
    expected_tok_s: float | None
    """What it would give; None where it may give any rate below the expected one."""
    check: str
    """The command, or the place to look, that tells it from the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A measured rate, and what was expected of it."""

    predictor: Predictor
    model: ModelCard
    gpu: Gpu
    found: Prediction
    measured_tok_s: float
    host: HostMemory = HOST
    build: Build = CURRENT
    reserved: int | None = None
    """Tokens that Ollama is said to reserve the cache for."""

    @property
    def quant(self) -> str:
        return sized(self.found.quant)

    def point(self, n_prompt: int | None = None, reserved: int | None = None) -> Point:
        """The question as the formula sees it, at another length of the prompt, or of what Ollama
        reserves, if given."""
        at, length = self.found, n_prompt or self.found.n_prompt
        kv = at.kv_cache_dtype
        memory = memory_of(self.model, self.quant, at.engine, length, at.n_gen, at.n_batch, kv)
        work = PlacedWorkload(
            context=mean_context(length, at.n_gen),
            positions=length + at.n_gen,
            n_batch=at.n_batch,
            kv=type_of(kv),
            build=self.build,
            reserved=reserved or self.reserved,
        )
        return place(self.model, self.gpu, self.quant, at.engine, work, memory, self.host).point

    def rate(self, point: Point) -> float:
        """Tokens a second."""
        return point.n_batch / seconds(point, self.predictor.model.parameters)


def causes(q: Question) -> list[Cause]:
    """Causes that fit, most likely first; empty where the rate is within the interval."""
    if q.found.low is None or q.measured_tok_s >= q.found.low:
        return []
    first = (_eager, _weights_out) if q.found.engine in PYTORCH else (_reserved, _host)
    asked = (*first, _old_build, _other_card, _depth, _limit, _link)
    return [cause for ask in asked for cause in ask(q)]


def _fits(expected: float, measured: float) -> bool:
    return abs(math.log(expected / measured)) <= NEAR


LLAMA: Final = "llama.cpp"
PYTORCH: Final = frozenset({"gpt-fast", "transformers"})
"""Engines in which a compiler, or its absence, decides most; they leave nothing to the host."""


OLLAMA_PS: Final = "ollama ps while it runs: PROCESSOR must be 100% GPU; CONTEXT is reserved"
"""What tells from Ollama's side whether the host computes a part."""


def _reserved(q: Question) -> Iterator[Cause]:
    """A cache that Ollama reserves for so many tokens that layers make room for it."""
    if not q.build.ollama or q.gpu.unified:
        return
    usual = q.point()
    for tokens in CONTEXTS:
        point = q.point(reserved=tokens)
        expected = q.rate(point)
        if point.host_bytes > usual.host_bytes and _fits(expected, q.measured_tok_s):
            yield Cause(
                cause=f"Ollama reserves the cache of {tokens} tokens, so that the host computes "
                f"{point.host_share:.0%} of the layers",
                expected_tok_s=expected,
                check=f"{OLLAMA_PS}; a smaller num_ctx or OLLAMA_CONTEXT_LENGTH, or "
                "OLLAMA_FLASH_ATTENTION=1 with OLLAMA_KV_CACHE_TYPE=q8_0",
            )
            return


def _host(q: Question) -> Iterator[Cause]:
    """A part of the weights in the host's memory: too few layers on the card, or spilled memory."""
    if q.gpu.unified or q.found.decode_tok_s is None or q.found.fit == "offload":
        return
    weights = held(shape(q.model), q.quant, "float16", q.found.engine)
    whole = weights.step_bytes / q.host.bandwidth
    late = q.found.n_batch / q.measured_tok_s - q.found.n_batch / q.found.decode_tok_s
    share = late / whole
    if not 0.02 <= share <= 1.6:
        return
    if q.found.engine == LLAMA:
        what = "layers run on the host" if share < 0.85 else "the whole model runs on the host"
        yield Cause(
            cause=f"about {min(share, 1):.0%} of the {what}"
            if share < 0.85
            else f"{what}: a build without the card's backend, or "
            f"{'num_gpu 0' if q.build.ollama else '-ngl 0'}",
            expected_tok_s=q.measured_tok_s,
            check=f"{OLLAMA_PS}; num_gpu must not be set, in the Modelfile or the request"
            if q.build.ollama
            else "in the log: 'offloaded N/N layers to GPU' and 'CUDA0 model buffer size'; "
            "llama-bench -ngl 99",
        )
    if q.found.fit == "tight" or share > 0.05:
        yield Cause(
            cause=f"memory spilled to the host (Windows, WSL2): about {min(share, 1):.0%} of the "
            "weights",
            expected_tok_s=q.measured_tok_s,
            check="nvidia-smi while it runs: memory near the limit; set CUDA sysmem fallback to "
            "'prefer no fallback', or use a smaller context",
        )


def _eager(q: Question) -> Iterator[Cause]:
    """PyTorch that waits for launches."""
    point = replace(q.point(), engine="transformers")
    expected = q.rate(point)
    if q.found.engine == "gpt-fast":
        yield Cause(
            cause="not compiled, or compiled again at each step",
            expected_tok_s=expected,
            check="run with --compile; TORCH_LOGS=recompiles,graph_breaks must stay silent; "
            "here: bench run --mode eager,compiled",
        )
    if q.found.engine == "transformers":
        yield Cause(
            cause="eager execution waits for the host to launch kernels",
            expected_tok_s=None,
            check="bench run --mode eager,compiled",
        )


def _weights_out(q: Question) -> Iterator[Cause]:
    """Weight-only schemes in eager PyTorch write the float weights out and read them again."""
    if q.found.quant in ("none", "f16"):
        return
    point = q.point()
    moved = point.dense_bytes + 4 * point.n_weights
    expected = q.rate(replace(point, dense_bytes=moved))
    if _fits(expected, q.measured_tok_s):
        yield Cause(
            cause="weights are dequantized to memory and read again at every step",
            expected_tok_s=expected,
            check="profile one step: a dequantize kernel beside each matmul; compile it "
            "(bench run --mode compiled)",
        )


def _old_build(q: Question) -> Iterator[Cause]:
    """A build of 2024 or older; of Ollama one before 0.30."""
    point = q.point()
    if q.build.ollama == "server":
        own = replace(point.build, ollama="own", fused=False)
        expected = q.rate(replace(point, build=own))
        if _fits(expected, q.measured_tok_s):
            yield Cause(
                cause="an Ollama before 0.30, whose own engine ran experts and delta nets slower",
                expected_tok_s=expected,
                check="ollama --version",
            )
        return
    expected = q.rate(replace(point, build=replace(point.build, new=False, fused=False)))
    if q.found.engine == LLAMA and _fits(expected, q.measured_tok_s):
        yield Cause(
            cause="an old build, or flash attention or CUDA graphs are off",
            expected_tok_s=expected,
            check="llama-bench --version; llama-bench -fa 0,1; GGML_CUDA_DISABLE_GRAPHS unset",
        )


def _other_card(q: Question) -> Iterator[Cause]:
    """The laptop version, or the integrated card."""
    for name in (f"{q.gpu.name}-laptop", f"{q.gpu.name}-max-q"):
        other = gpus().get(name)
        if other is None:
            continue
        expected = q.rate(replace(q.point(), gpu=other))
        if _fits(expected, q.measured_tok_s):
            yield Cause(
                cause=f"the card is an {other.title}",
                expected_tok_s=expected,
                check="nvidia-smi -L; llama-bench --list-devices (another card may be used)",
            )


def _depth(q: Question) -> Iterator[Cause]:
    """A long conversation: the cache is read at every step."""
    if q.found.n_prompt >= DEEP:
        return
    expected = q.rate(q.point(DEEP))
    if _fits(expected, q.measured_tok_s):
        yield Cause(
            cause=f"measured deep in a context, not at {q.found.n_prompt} tokens",
            expected_tok_s=expected,
            check=f"llama-bench -d 0,{DEEP}; here: -p {DEEP}",
        )


def _limit(q: Question) -> Iterator[Cause]:
    """A low power limit, or heat."""
    assert q.found.decode_tok_s is not None
    if q.gpu.kind in ("apple", "cpu"):
        return
    ratio = q.measured_tok_s / q.found.decode_tok_s
    if ratio < 0.35:
        return
    spread = q.gpu.power_range_w
    limit = f" (this card is sold with {spread[0]:.0f} to {spread[1]:.0f} W)" if spread else ""
    yield Cause(
        cause=f"a low power limit, heat or a memory clock that stays low{limit}",
        expected_tok_s=None,
        check="nvidia-smi -q -d POWER,CLOCK,PERFORMANCE while it runs; bench doctor",
    )


def _link(q: Question) -> Iterator[Cause]:
    """A slow bus matters where data crosses it at every step."""
    if q.found.n_gpus > 1 or q.found.host_bytes > 0:
        yield Cause(
            cause="a slow PCIe link between the cards or to the host",
            expected_tok_s=None,
            check="nvidia-smi --query-gpu=pcie.link.gen.current,pcie.link.width.current "
            "--format=csv while it runs",
        )
    if q.found.fit == "offload":
        yield Cause(
            cause="the host's memory is slower than assumed "
            f"({q.host.bandwidth / 1e9:.0f} GB/s), or one channel of it is empty",
            expected_tok_s=None,
            check="sudo dmidecode -t memory: speed and slots; state it with --host-bandwidth",
        )
