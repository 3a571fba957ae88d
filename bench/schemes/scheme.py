"""What a scheme is, and what it needs: said before anything is loaded. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Dynamic = Literal["activations", "online", "bit-allocation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device as a scheme sees it."""

    name: str
    """`cpu`, `cuda:0`, ..."""
    kind: str
    """`cpu`, `cuda`, `mps`, `xpu`, ..."""
    capability: tuple[int, int] | None = None
    """CUDA compute capability."""
    elsewhere: bool = False
    """Whether it is planned for and not here: then what is installed here says nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A distribution that a scheme needs beyond torch."""

    name: str
    least: str
    """Oldest version that has what the scheme calls."""
    kinds: tuple[str, ...] | None = None
    """Device kinds on which it is needed; None: all."""

    def missing(self, device: Device) -> str | None:
        """What to do about it, or None if it is there or not needed."""
        if self.kinds is not None and device.kind not in self.kinds:
            return None
        try:
            found = metadata.version(self.name)
        except metadata.PackageNotFoundError:
            return f"needs the package {self.name}: pip install {self.name}"
        if _release(found) < _release(self.least):
            return f"needs {self.name} >= {self.least}, here is {found}: pip install -U {self.name}"
        return None


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version: 0.18.0+cpu -> (0, 18, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


Fits = Callable[["torch.nn.Linear"], str | None]


def fits_any(_: torch.nn.Linear) -> str | None:
    """Every linear layer fits."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """One way to quantize a model."""

    name: str
    summary: str
    dynamic: Dynamic | None
    kinds: tuple[str, ...]
    """Device kinds it runs on."""
    convert: Callable[[torch.nn.Module, Sequence[str]], torch.nn.Module]
    """Quantize the linear layers of these names, in place."""
    kernel: Callable[[Device], str]
    """What is expected to compute a quantized layer; `Applied.computed_by` is what was seen."""
    packages: tuple[Package, ...] = ()
    capability: tuple[int, int] | None = None
    """Least CUDA compute capability."""
    why_capability: str = ""
    dtypes: tuple[str, ...] | None = None
    """Float dtypes of the weights that it can start from; None: any."""
    fits: Fits = fits_any
    """Why a layer is left as it is, or None."""
    keeps_head: bool = False
    """The output head stays unquantized, as where this scheme's published numbers were made."""
    refused_modes: Mapping[str, str] = field(default_factory=dict)
    """Execution mode -> why the scheme cannot take it."""
    inductor: Mapping[str, Any] = field(default_factory=dict)
    """Options of torch.compile that it cannot do without on CUDA."""


def refusal_of(wanted: Scheme, device: Device, mode: str, dtype: str) -> str | None:
    """Why this scheme cannot run so, or None. Loads nothing."""
    if device.kind not in wanted.kinds:
        where = " or ".join(wanted.kinds)
        return f"scheme '{wanted.name}' runs on {where}, not on {device.name}"
    if wanted.capability and device.capability and device.capability < wanted.capability:
        least, here = (".".join(map(str, c)) for c in (wanted.capability, device.capability))
        return (
            f"scheme '{wanted.name}' needs compute capability {least} ({wanted.why_capability}), "
            f"{device.name} has {here}"
        )
    for package in () if device.elsewhere else wanted.packages:
        if reason := package.missing(device):
            return f"scheme '{wanted.name}' {reason}"
    if wanted.dtypes is not None and dtype not in ("auto", *wanted.dtypes):
        return f"scheme '{wanted.name}' starts from {' or '.join(wanted.dtypes)}, not from {dtype}"
    if mode in wanted.refused_modes:
        return f"scheme '{wanted.name}' cannot run in mode {mode}: {wanted.refused_modes[mode]}"
    if mode == "cuda-graph" and device.kind != "cuda":
        return f"mode cuda-graph needs a CUDA device, not {device.name}"
    return None
