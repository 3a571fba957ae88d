"""How a model is spread over several devices: the words for it. Standard library only.

`layer`: each device holds some of the layers, and they work one after the other, so that what adds
up is memory alone. `tensor`: each device holds a part of every layer, and they work at once. (The
words are llama.cpp's.) Either way a model is never spread to the host's memory: what does not fit
is out of memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from bench.errors import InputError, unknown
from bench.experiment.devices import kind_of, members
from bench.schemes import cache

if TYPE_CHECKING:
    from bench.experiment import Variant

How = Literal["one", "layer", "tensor"]
HOW: Final = ("layer", "tensor")
NAMES: Final = ("split", "ranks")
"""Of options."""
NO_CACHE_TYPE: Final = (
    f"option {cache.OPTION} is for -e graph: of transformers' 8-bit caches, hqq rounds only every "
    "128 tokens; fp8 clips at the prompt's largest number and cannot be rewound"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which device holds what."""

    how: How
    devices: tuple[str, ...]
    """In the order of the layers, or of the processes (ranks) that hold a part each."""


def split_of(options: Mapping[str, Any], device: str) -> tuple[Split, dict[str, Any]]:
    """From an arm's options on a device or a group; and the options that are left.

    `split` is for groups, `layer` by default. On a CPU `split = "tensor"` with `ranks = N` makes N
    processes, for trying it out. Raises InputError for what does not go together.
    """
    left = dict(options)
    how, ranks, devices = left.pop("split", None), left.pop("ranks", None), members(device)
    if how is not None and how not in HOW:
        raise InputError(unknown("option split", str(how), HOW))
    if kind_of(device) == "cpu" and how == "tensor":
        if not isinstance(ranks, int) or isinstance(ranks, bool) or ranks < 2:
            raise InputError("option split = 'tensor' on a CPU needs ranks = 2 or more processes")
        return Split(how="tensor", devices=devices * ranks), left
    if ranks is not None:
        raise InputError("option ranks is for split = 'tensor' on a CPU: cards have one rank each")
    if len(devices) == 1:
        if how is not None:
            raise InputError(
                f"option split = '{how}' needs several devices, such as -d cuda:0+cuda:1"
            )
        return Split(how="one", devices=devices), left
    return Split(how="tensor" if how == "tensor" else "layer", devices=devices), left


def check(options: Mapping[str, Any]) -> None:
    """Refuse an option that mode eager does not have. Raises InputError."""
    if cache.OPTION in options:
        raise InputError(NO_CACHE_TYPE)
    for name in options:
        if name not in NAMES:
            raise InputError(unknown("option of mode eager", name, NAMES))


def refusal(variant: Variant, device: str) -> str | None:
    """Why an arm of transformers cannot be spread as its options say, or None."""
    split, _ = split_of(variant.options, device)
    random = variant.model.endswith("@random")
    return refusal_of(split, quant=variant.quant, mode=variant.mode, random=random)


def refusal_of(split: Split, *, quant: str, mode: str, random: bool) -> str | None:
    """What cannot be spread so, and why; None if it can."""
    if split.how == "layer" and mode != "eager":
        return (
            f"mode {mode} is for one device or split = 'tensor': a graph belongs to one device's "
            "memory"
        )
    if split.how == "tensor" and quant != "none":
        return (
            f"scheme '{quant}' cannot run with split = 'tensor': transformers splits a weight as "
            "it is in the file, before it is quantized; use split = 'layer'"
        )
    if split.how == "tensor" and random:
        return (
            "random weights cannot run with split = 'tensor': transformers splits weights while it "
            "reads them from a file; use split = 'layer'"
        )
    return None
