"""What a scheme is: one way to hold and multiply a model's weights, and what it needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Final, Literal

Dynamic = Literal["activations", "online", "bit-allocation"]
"""The three meanings of "dynamic quantization" (docs/quantization.md)."""

Source = Literal["float", "file", "checkpoint"]
"""What a model must be: floats that the scheme is applied to, a GGUF file that holds it, or a
folder that was quantized before it was published."""

Part = Literal["embedding", "head", "attention", "mlp", "expert", "router", "small"]
"""`mlp` holds dense layers and shared experts; `small` holds norms, biases and attention sinks;
`embedding` also per-layer embeddings: tables of which a step reads single rows."""

Compute = Literal["float", "fp16", "fp8", "int8"]
"""Fastest arithmetic that a scheme's matmul may use; `float` is the weights' own dtype."""

HEAD: Final[frozenset[Part]] = frozenset({"head"})
FUSED: Final[frozenset[Part]] = frozenset({"expert", "router"})
"""transformers 5 holds the experts of a layer as one parameter, which schemes that look for
`nn.Linear` never see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device as a scheme sees it."""

    name: str
    """`cpu`, `cuda:0`, ..."""
    kind: str
    """`cpu`, `cuda`, `mps`, `xpu`, ..."""
    capability: tuple[int, int] | None = None
    """NVIDIA's compute capability; None on other cards, also those that torch calls `cuda`."""
    n_sm: int | None = None
    """Streaming multiprocessors of an NVIDIA card."""
    arch: str | None = None
    """LLVM's name of an AMD chip, such as `gfx942`; None on other cards."""
    elsewhere: bool = False
    """Whether it is planned for and not here: then what is installed here says nothing of it."""

    @property
    def dtype(self) -> str:
        """The float dtype that `auto` means there; torch's compiler refuses bfloat16 before 8.0."""
        if self.kind == "cpu":
            return "float32"
        older = self.capability is not None and self.capability < (8, 0)
        return "float16" if older else "bfloat16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A distribution that a scheme needs beyond torch."""

    name: str
    least: str
    """Oldest version that has what the scheme calls."""
    kinds: tuple[str, ...] | None = None
    """Device kinds on which it is needed; None: all."""
    also: tuple[str, ...] = ()
    """Distributions that hold the same modules under another name; versions count alike."""

    def missing(self, device: Device) -> str | None:
        """What to do about it, or None if it is there or not needed."""
        if self.kinds is not None and device.kind not in self.kinds:
            return None
        found = next(filter(None, map(installed, (self.name, *self.also))), None)
        if found is None:
            return f"needs the package {self.name}: pip install {self.name}"
        if _release(found) < _release(self.least):
            return f"needs {self.name} >= {self.least}, here is {found}: pip install -U {self.name}"
        return None


TRITONS: Final = (
    "triton",
    "triton-rocm",
    "pytorch-triton-rocm",
    "triton-xpu",
    "pytorch-triton-xpu",
    "pytorch-triton",
    "triton-windows",
)
"""Distributions of the module `triton`: NVIDIA's, and those that builds of torch for AMD, Intel,
every night and Windows need in its place (their metadata, torch 2.0 to 2.13)."""


def installed(name: str) -> str | None:
    """The version of a distribution; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Least:
    """The cards on which something runs: the least of NVIDIA's, and which of AMD's."""

    why: str
    capability: tuple[int, int] = (0, 0)
    n_sm: int = 0
    amd: tuple[str, ...] | None = None
    """Beginnings of the names of AMD chips; None: any."""
    amd_why: str = ""

    def refusal(self, device: Device) -> str | None:
        """What the device lacks, or None; what is not known of it is not held against it."""
        if device.capability is not None and device.capability < self.capability:
            least, here = (".".join(map(str, c)) for c in (self.capability, device.capability))
            return f"needs compute capability {least} ({self.why}), {device.name} has {here}"
        if device.n_sm is not None and device.n_sm < self.n_sm:
            return f"needs {self.n_sm} SMs ({self.why}), {device.name} has {device.n_sm}"
        if None not in (device.arch, self.amd) and not str(device.arch).startswith(self.amd or ()):
            chips = " or ".join(self.amd or ())
            return f"needs an AMD {chips} ({self.amd_why}), {device.name} is {device.arch}"
        return None


COMPILED: Final = ("compiled", "cuda-graph")
"""Modes whose kernels the compiler writes."""
BY_TRITON: Final = Least(capability=(7, 0), why="Triton, in which the compiler writes")


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version: 0.18.0+cpu -> (0, 18, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Bytes of a quantized matrix; what is left keeps the model's float dtype."""

    bits: float | None
    """Bits of one weight without scales; None leaves everything as it is."""
    row_bytes: int = 0
    """Scales and zero points of each output row."""
    matrix_bytes: int = 0
    """Scale and zero point of a whole matrix."""
    group: int | None = None
    """Weights that share a scale."""
    group_bytes: float = 0
    """Its scale, and its zero point where there is one."""
    block: int | None = None
    """Side of the squares of a matrix that share a scale."""
    block_bytes: int = 0
    pad_in: int = 1
    """Rows are padded to a multiple of this."""
    pad_out: int = 1
    leaves: frozenset[Part] = frozenset()
    """Parts that are not touched, beyond embeddings, norms and biases."""
    compute: Compute = "float"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """One way to hold and multiply a model's weights."""

    name: str
    summary: str
    dynamic: Dynamic | None = None
    source: Source = "float"
    engines: Mapping[str, str] = field(default_factory=dict)
    """Engine that can run it -> what that engine calls it; empty: it is told nothing."""
    aliases: tuple[str, ...] = ()
    """Other words for it, in lower case, that `bench predict` and imported files use."""
    family: str = ""
    """Schemes that unpack alike share one in predictions; empty: it is alone."""

    layout: Layout | None = None
    """Bytes of its matrices, where they follow from their shapes."""
    bits: float | None = None
    """Mean bits a weight of a whole GGUF file, of an 8B Llama 3.1; scales included."""
    expert_bits: float | None = None
    """The same of its routed experts, where the recipe treats them apart."""
    file_type: int | None = None
    """llama.cpp's number for the recipe of a GGUF file."""

    kinds: tuple[str, ...] = ("cpu", "cuda")
    """Device kinds it runs on."""
    packages: tuple[Package, ...] = ()
    least: Least | None = None
    """The card that it needs."""
    least_compiled: Least | None = None
    """The card that it needs where it is compiled."""
    dtypes: tuple[str, ...] | None = None
    """Float dtypes of the weights that it can start from; None: any."""
    refused_modes: Mapping[str, str] = field(default_factory=dict)
    """Execution mode, or `mode@kind` of device -> why the scheme cannot take it."""
    inductor: Mapping[str, Any] = field(default_factory=dict)
    """Options of torch.compile that it cannot do without on CUDA."""

    convert: str = ""
    """`module:function` that quantizes the linear layers of given names, in place."""
    fits: str = ""
    """`module:function` that says why a layer is left as it is, or None; empty: all fit."""
    launches: int | None = None
    """Of a decoder layer of a plain model, compiled on a card at one row, by the code that the
    compiler writes (tests/engines/test_cuda_code.py)."""
    kernel: str = ""
    """What is expected to compute a quantized layer; the record holds what was seen."""

    @property
    def keeps_head(self) -> bool:
        """The output head stays unquantized, as where this scheme's published numbers were made."""
        return self.layout is not None and "head" in self.layout.leaves

    def refusal(self, device: Device, mode: str = "eager", dtype: str = "auto") -> str | None:
        """Why it cannot run so, or None. Loads nothing."""
        if device.kind not in self.kinds:
            where = " or ".join(self.kinds)
            return f"scheme '{self.name}' runs on {where}, not on {device.name}"
        compiled = (BY_TRITON, self.least_compiled) if mode in COMPILED else ()
        for least in (self.least, *compiled):
            if least is not None and (reason := least.refusal(device)):
                return f"scheme '{self.name}' {reason}"
        for package in () if device.elsewhere else self.packages:
            if reason := package.missing(device):
                return f"scheme '{self.name}' {reason}"
        if self.dtypes is not None and dtype not in ("auto", *self.dtypes):
            return f"scheme '{self.name}' starts from {' or '.join(self.dtypes)}, not from {dtype}"
        for refused in (mode, f"{mode}@{device.kind}"):
            if why := self.refused_modes.get(refused):
                return f"scheme '{self.name}' cannot run in mode {mode}: {why}"
        if mode == "cuda-graph" and device.kind != "cuda":
            return f"mode cuda-graph needs a CUDA device, not {device.name}"
        return None
