"""One architecture of the zoo, tried: right, or refused with a reason, or wrong."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from bench.engines.graph.compiling import Compiling
from bench.engines.graph.engine import GraphEngine
from bench.engines.messages import Job
from bench.engines.transformers import loading, self_check
from bench.engines.transformers.engine import TransformersEngine
from bench.errors import BenchError
from tests.zoo import configs

N_PROMPT, N_GEN, N_BATCH = 20, 6, 2
Outcome = Literal["right", "refused", "wrong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What became of one architecture on one engine."""

    name: str
    engine: str
    outcome: Outcome
    why: str = ""
    cache_bytes: int = 0
    """What the model's cache holds after the last step, where it is right."""


def job(name: str, mode: str) -> Job:
    """Random weights, wide enough for attention to matter in the logits."""
    return Job(
        architecture=configs.tiny(name),
        folder=None,
        random_seed=0,
        initializer_range=0.1,
        quant="none",
        mode=mode,
        dtype="float32",
        device="cpu",
        threads=1,
        seed=3,
        replicate=0,
    )


def attempt(name: str, engine: str) -> Trial:
    """Load, start and step it; its tokens against `generate()`'s, and against full passes."""
    runs = GraphEngine() if engine == "graph" else TransformersEngine()
    mode = "compiled" if engine == "graph" else "eager"
    try:
        if why := no_tiny_form(name):
            return Trial(name=name, engine=engine, outcome="refused", why=why)
        wanted = job(name, mode)
        with uncompiled() if engine == "graph" else contextlib.nullcontext():
            runs.load(wanted)
            shake(runs._model)
            if not remembers(runs):
                return Trial(name=name, engine=engine, outcome="refused", why=FORGETS)
            runs.start(N_PROMPT, N_GEN, N_BATCH)
            runs.reset()
            runs.prefill()
            for _ in range(N_GEN - 1):
                runs.step()
            made = runs.tokens()
            held = int(runs.notes()["cache_bytes"])
    except BenchError as error:
        return Trial(name=name, engine=engine, outcome="refused", why=str(error).splitlines()[0])
    except Exception as error:
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
        return Trial(name=name, engine=engine, outcome="wrong", why=why)
    finally:
        gc.collect()
    with runs._inference(), runs._decoder.plain():
        if made != recomputed(runs):
            return Trial(name=name, engine=engine, outcome="wrong", why="tokens of a full pass")
        theirs = generated(runs)
    if theirs is not None and made != theirs:
        return Trial(name=name, engine=engine, outcome="wrong", why="tokens of generate()")
    return Trial(name=name, engine=engine, outcome="right", cache_bytes=held)


FORGETS = "no tiny form: what comes before a token does not show in its logits"


def shake(model: Any) -> None:
    """Weights so wide that whatever a layer does shows: some are made as if it did nothing."""
    import torch

    draw = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.1, generator=draw)


def remembers(runs: Any) -> bool:
    """Whether the logits of a prompt's last token are other than those of that token alone: else
    a cache that is lost would not be seen."""
    import torch

    prompt = torch.arange(3, 3 + N_PROMPT)[None]
    with runs._inference(), loading.refusing(type(runs._model).__name__):
        alone, whole = runs._full(prompt[:, -1:], 1), runs._full(prompt, 1)
    return float(self_check.difference(alone, whole).min()) > 0.02


def no_tiny_form(name: str) -> str | None:
    """Why an architecture cannot be tried here: the library's words, or its size."""
    try:
        config = loading.config_of(None, configs.tiny(name))
        shape = loading.on_meta(config, loading.auto_class(config, None))
    except BenchError:
        return None  # the engine says so itself
    except Exception as error:
        return f"no tiny form: {type(error).__name__}: {loading.first_line(error)}"
    size = sum(parameter.numel() for parameter in shape.parameters())
    return f"no tiny form: {size / 1e6:.0f}M parameters" if size > configs.LARGE else None


def recomputed(runs: Any) -> list[list[int]]:
    """Greedy tokens, each by a pass over all before it."""
    import torch

    tokens = runs._prompt
    for _ in range(N_GEN):
        logits = runs._model(input_ids=tokens, use_cache=False).logits[:, -1]
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    found: list[list[int]] = tokens[:, N_PROMPT:].tolist()
    return found


def generated(runs: Any) -> list[list[int]] | None:
    """Greedy tokens of transformers' own `generate()`; None where it fails."""
    import torch

    prompt = runs._prompt
    try:
        whole = runs._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=N_GEN,
            min_new_tokens=N_GEN,
            eos_token_id=None,
            pad_token_id=0,
        )
    except Exception:  # of its own making: what a full pass gives is the reference then
        return None
    found: list[list[int]] = whole[:, N_PROMPT:].tolist()
    return found


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Meanwhile steps are traced whole, as for the compiler, and then run as they were traced:
    what inductor writes is the business of other tests, and takes minutes here."""
    import torch

    real = Compiling.__call__

    def traced(self: Compiling, function: Any, *, prompt: bool = False) -> Any:
        return torch.compile(function, fullgraph=True, dynamic=False, backend="eager")

    Compiling.__call__ = traced  # type: ignore[method-assign]
    try:
        yield
    finally:
        Compiling.__call__ = real  # type: ignore[method-assign]
        torch._dynamo.reset()
