"""What an engine is told, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import fields
from bench.errors import InputError
from bench.schemes import Device

if TYPE_CHECKING:
    from bench.runner.venvs import Home


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one worker process is told to load."""

    architecture: Mapping[str, Any]
    """Keys of config.json, for seeded random weights; unused where `folder` is set."""
    folder: Path | None
    """Folder with config.json and safetensors; None makes random weights."""
    gguf: Path | None = None
    """The GGUF file, for an engine that loads one."""
    random_seed: int
    initializer_range: float
    quant: str
    mode: str
    dtype: str
    device: str
    threads: int | None
    seed: int
    """Seed of the prompt's tokens, the same for every arm."""
    replicate: int
    options: Mapping[str, Any] = field(default_factory=dict)
    made: Path | None = None
    """What the engine's `Spec.prepare` made; None for an engine without one."""
    server_pid: int | None = None
    """Process of the server that was started for this worker, which leads those of its own."""


def job_of(table: Mapping[str, Any]) -> Job:
    """From the JSON that one process sends to another. Raises InputError."""
    paths = {n: Path(table[n]) if table.get(n) else None for n in ("folder", "gguf", "made")}
    problems: list[str] = []
    job = fields.build(Job, dict(table) | paths, "load", problems)
    if job is None or problems:
        raise InputError(*problems)
    return job


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What `Spec.prepare` is given."""

    folder: Path | None
    """Folder with config.json and safetensors; None for random weights."""
    name: str
    """Of the model, for people."""
    identity: str
    """Of the weights: `bench.models.weights.identity`."""
    quant: str
    dtype: str
    device: Device
    options: Mapping[str, Any]
    home: Home | None
    """The engine's own environment, where it has one."""
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was really loaded. None where the engine cannot know; `absent` says why."""

    device: str
    """As resolved: `cpu`, `cuda:0`, ..."""
    dtype: str
    n_params: int | None
    weights_bytes: int | None
    """Bytes of all weights as held in memory, quantization scales included."""
    quantized_fraction: float | None
    """Share of the parameters that is held or computed in the scheme's low precision."""
    dynamic: str | None
    """Which meaning of dynamic quantization: `activations`, `online`, `bit-allocation`, or None."""
    kernel: str | None
    """What computes the quantized layers at decode, as far as it can be known."""
    absent: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One request by the engine's own clock, where it can only do whole requests."""

    prefill_s: float
    """Until every sequence has its first new token."""
    itl_s: list[float]
    """From when every sequence has its n-th new token until every one has its next: n_gen - 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Tokens of one request, where requests differ."""

    n_prompt: int
    """By the server's own count."""
    n_gen: int
    n_shared: int
    """Of the prompt, that an earlier request began with as well: what a cache may hold."""
    n_cached: int | None
    """That the server took from a cache; None where it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One request of a server that had others beside it."""

    prefill_s: float
    """From sending it to its first new token."""
    itl_s: tuple[float, ...]
    """Gaps between chunks; a chunk need not be one token, so there may be fewer than n_gen - 1."""
    e2e_s: float
    """From sending it to its last new token."""
    counts: TokenCounts | None = None
    """Its own, where requests differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a server did over a window of many requests."""

    requests: Sequence[Answered]
    wall_s: float
    """Seconds in which those requests were answered."""
    device: Mapping[str, Any] = field(default_factory=dict)
    """How requests ended, how late the client was, what the server says of itself."""
    reasons: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
