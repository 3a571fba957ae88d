"""How steps over a static cache are compiled: what an arm asks for, and what its device needs.

Imports torch only inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bench.engines.transformers import splitting
from bench.errors import InputError, unknown
from bench.schemes import cache

Compiled = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Compiling:
    """How the step is compiled: engine options `compile` and `inductor.NAME`."""

    region: str
    """`layer`: the decoder layer, once for all of them; `model`: the whole; `none`."""
    inductor: Mapping[str, Any]
    for_prompts: Mapping[str, Any] = field(default_factory=dict)
    """What differs for a prompt."""

    def __call__(self, function: Callable[..., Any], *, prompt: bool = False) -> Compiled:
        import torch

        options = {**self.inductor, **(self.for_prompts if prompt else {})}
        try:
            compiled: Compiled = torch.compile(
                function, fullgraph=True, dynamic=False, options=options or None
            )
        except RuntimeError as error:  # of a name or a type that inductor does not know
            first = str(error).partition(", known options")[0]
            raise InputError(f"option inductor.NAME: {first}") from error
        return compiled

    def by_length(self, function: Callable[..., Any], tokens_of: Callable[..., Any]) -> Compiled:
        """Compiled for a step and for prompts; `tokens_of` gives what is [batch, length, ...]."""
        step, prompt = self(function), self(function, prompt=True)

        def call(*args: Any, **options: Any) -> Any:
            several = tokens_of(*args, **options).shape[1] > 1
            return (prompt if several else step)(*args, **options)

        return call


REGIONS: Final = ("layer", "model", "none")
OWN: Final = ("compile", "attention", "merge", cache.OPTION)
"""Options of these modes, beside those handed to the compiler."""

MERGES: Final = ("rotation", "norms", "products", "none")
"""What becomes one launch: products of the same vector, the norm before them, and attention with
the rotation before it. Each includes those after it."""


def merging_of(options: Mapping[str, Any], kind: str) -> str:
    """How far layers are merged on a kind of device. InputError for another word.

    The norm's factor is computed beside each row of a product, which costs nothing where the
    compiler writes the product itself: at one row on a GPU, where our kernel also attends.
    """
    asked = str(options.get("merge", "rotation" if kind == "cuda" else "products"))
    if asked not in MERGES:
        raise InputError(unknown("option merge", asked, MERGES))
    return asked


ON_CUDA: Final[Mapping[str, Any]] = {
    "coordinate_descent_tuning": True,
    "coordinate_descent_check_all_directions": False,
    "score_fusion_memory_threshold": 1,
}
"""For every arm alike. With tuning inductor writes products of one row itself and dequantizes while
it reads; without, a weight-only scheme writes the whole weight in float first and reads it again.
torchao's schemes set both for the whole process, so arms would differ if others did not; looking in
all directions, which they set too, compiles some dozens of kernels more for each that is needed.
What inductor merges must share 10 bytes by default; new keys and values share one number (the
norm's factor), and are written by one kernel if a byte is enough."""

PROMPTS_ON_CUDA: Final[Mapping[str, Any]] = {"coordinate_descent_tuning": False}
"""A prompt's time is that of cuBLAS' products; to tune what stands between them, anew for each
length, takes longer than it could save."""

NOTHING: Final[Mapping[str, Any]] = {}


def compiling(
    options: Mapping[str, Any],
    *,
    graph: bool,
    kind: str = "cpu",
    needs: Mapping[str, Any] = NOTHING,
) -> Compiling:
    """From the arm's options on a kind of device, with what its scheme needs there.

    InputError for an option that is not known here.
    """
    for name in options:
        if name not in OWN and not name.startswith("inductor."):
            raise InputError(unknown("option of compiled modes", name, [*OWN, "inductor.NAME"]))
    region = str(options.get("compile", "layer"))
    if region not in REGIONS:
        raise InputError(unknown("option compile", region, REGIONS))
    if region == "none" and not graph:
        raise InputError("option compile = 'none' is for mode cuda-graph; use mode eager")
    prefix = "inductor."
    asked = {k.removeprefix(prefix): v for k, v in options.items() if k.startswith(prefix)}
    if kind != "cuda":
        return Compiling(region, asked)
    prompts = {name: value for name, value in PROMPTS_ON_CUDA.items() if name not in asked}
    return Compiling(region, {**ON_CUDA, **needs, **asked}, prompts)


def check(options: Mapping[str, Any]) -> None:
    """Refuse options that the engine does not have, before anything is loaded: but for `attention`,
    whose ways need torch to be listed. Raises InputError."""
    own = {name: value for name, value in options.items() if name not in splitting.NAMES}
    compiling(own, graph=True)
    merging_of(own, "cpu")
    cache.check(own)


def leave_out_slow_products() -> None:
    """Keep the compiler from taking a product with int8 weights for `_weight_int8pack_mm`.

    CUDA has that with one thread an output (torch's int8mm.cu), which reads the weight again for
    each row: far slower than to convert the weight and multiply. The compiler's pattern for it
    comes with those for CPUs, all of which it leaves out where oneDNN is off. To be called before
    anything is compiled in this process.
    """
    import torch

    torch.compiler.config.cache_key_tag = "without oneDNN"  # graphs cached with it stay apart
    torch.backends.mkldnn.set_flags(False)  # type: ignore[no-untyped-call]  # it has no types
