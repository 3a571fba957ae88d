"""Quantization schemes by name: what they need, which meaning of "dynamic" they have, how to apply.

Three things are called dynamic quantization (docs/metrics.md): `activations`, whose scales are
computed at run time; `online`, weights cast while loading; `bit-allocation`, each layer with its
own number of bits. A scheme says which it is. torch is imported only by `apply` and what it calls.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from bench import allocation
from bench.errors import InputError, UnsupportedError, unknown

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """One way to quantize a model."""

    name: str
    summary: str
    dynamic: Dynamic | None
    package: str | None
    """Distribution it needs beyond torch."""
    kinds: tuple[str, ...]
    """Device kinds it runs on."""
    quantize: Callable[[torch.nn.Module], torch.nn.Module]
    kernel: Callable[[Device], str]
    """What computes a quantized layer while decoding."""


def _none(model: torch.nn.Module) -> torch.nn.Module:
    return model


def _torch_dynamic_int8(model: torch.nn.Module) -> torch.nn.Module:
    import torch

    with warnings.catch_warnings():
        # It announces its own removal; it is measured because people use it.
        warnings.simplefilter("ignore")
        quantized: torch.nn.Module = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]  # it has no types
            model, {torch.nn.Linear}, dtype=torch.qint8
        )
        return quantized


def _torchao(config_name: str) -> Callable[[torch.nn.Module], torch.nn.Module]:
    def quantize(model: torch.nn.Module) -> torch.nn.Module:
        from torchao import quantization

        quantization.quantize_(model, getattr(quantization, config_name)())
        return model

    return quantize


def _float_kernel(_: Device) -> str:
    return "float matmul"


def _weight_only_kernel(_: Device) -> str:
    return "dequantized in the matmul"


def _torch_int8_kernel(_: Device) -> str:
    import torch

    return f"quantized::linear_dynamic ({torch.backends.quantized.engine})"


def _torchao_int8_kernel(device: Device) -> str:
    # Read in torchao 0.18, kernel/intmm.py: cuBLAS' integer matmul needs more than 16 rows, which
    # decoding at a small batch does not have, so a float matmul stands in.
    if device.kind == "cpu":
        return "torch._int_mm, weights summed again at each call"
    return "torch._int_mm above 16 rows, float matmul at or below"


SCHEMES: Final[Mapping[str, Scheme]] = MappingProxyType(
    {
        scheme.name: scheme
        for scheme in (
            Scheme(
                name="none",
                summary="not quantized",
                dynamic=None,
                package=None,
                kinds=("cpu", "cuda", "mps", "xpu"),
                quantize=_none,
                kernel=_float_kernel,
            ),
            Scheme(
                name="torch-dynamic-int8",
                summary="torch.ao quantize_dynamic: int8 weights per tensor, "
                "int8 activations scaled at run time",
                dynamic="activations",
                package=None,
                kinds=("cpu",),
                quantize=_torch_dynamic_int8,
                kernel=_torch_int8_kernel,
            ),
            Scheme(
                name="int8-dynamic",
                summary="torchao: int8 weights per channel, int8 activations scaled per token",
                dynamic="activations",
                package="torchao",
                kinds=("cpu", "cuda"),
                quantize=_torchao("Int8DynamicActivationInt8WeightConfig"),
                kernel=_torchao_int8_kernel,
            ),
            Scheme(
                name="int8-weight-only",
                summary="torchao: int8 weights per channel, activations as they are",
                dynamic=None,
                package="torchao",
                kinds=("cpu", "cuda"),
                quantize=_torchao("Int8WeightOnlyConfig"),
                kernel=_weight_only_kernel,
            ),
        )
    }
)


def scheme(name: str) -> Scheme:
    """The scheme of that name; InputError for an unknown one."""
    if name.startswith(allocation.PREFIX):
        allocation.parse(name)
        return _mixed(name)
    if name not in SCHEMES:
        raise InputError(unknown("scheme", name, [*SCHEMES, *MIXED]))
    return SCHEMES[name]


MIXED: Final = ("mixed:5.0bit", "mixed:kld<0.02")
"""Examples of the schemes whose names state a target (`bench.mixed`)."""


def _mixed(name: str) -> Scheme:
    return Scheme(
        name=name,
        summary="torchao: each layer in 4 to 8 bits or unquantized, by measured sensitivity",
        dynamic="bit-allocation",
        package="torchao",
        kinds=("cpu", "cuda"),
        quantize=_none,
        kernel=lambda _: "dequantize in the matmul; numbers of fewer bits held in 8",
    )


def refusal(name: str, device: Device) -> str | None:
    """Why this scheme cannot run on this device, or None. Loads nothing."""
    wanted = scheme(name)
    if device.kind not in wanted.kinds:
        where = " or ".join(wanted.kinds)
        return f"scheme '{name}' runs on {where}, not on {device.name}"
    if wanted.package is not None:
        try:
            metadata.version(wanted.package)
        except metadata.PackageNotFoundError:
            return (
                f"scheme '{name}' needs the package {wanted.package}: pip install {wanted.package}"
            )
    return None


@dataclass(frozen=True, slots=True)
class Applied:
    """A quantized model, and what the scheme has to say about it."""

    model: torch.nn.Module
    details: Mapping[str, Any]


def apply(
    name: str, model: torch.nn.Module, device: Device, tokenize: Callable[[str], list[int]]
) -> Applied:
    """Quantize the model in place where the scheme can.

    `tokenize` is asked only by schemes that measure the model before they quantize it.
    """
    if reason := refusal(name, device):
        raise UnsupportedError(reason)
    if name.startswith(allocation.PREFIX):
        from bench import mixed, weights

        cache = weights.cache_folder() / "mixed"
        chosen = mixed.quantize(allocation.parse(name), model, tokenize, cache)
        return Applied(model, {"allocation": chosen})
    return Applied(scheme(name).quantize(model), {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a model really holds in memory."""

    n_params: int
    """Distinct weights: those that share memory count once."""
    weights_bytes: int
    quantized_fraction: float
    """Share of the weights, by number, that is held in a quantized form."""


def held(model: torch.nn.Module) -> Held:
    """Count the weights of a model by what is in memory, not by what its config says.

    `get_memory_footprint` of transformers reports the unquantized size for tensor subclasses, so
    the parts of each tensor are counted instead.
    """
    # The tensors are kept while counting: an unpacked weight is a copy, and if it were freed the
    # next one could have its address.
    weights: dict[int, tuple[torch.Tensor, list[torch.Tensor]]] = {}
    for tensor in _weights(model):
        parts = list(_parts(tensor))
        weights.setdefault(parts[0].data_ptr(), (tensor, parts))
    count = size = quantized = 0
    for tensor, parts in weights.values():
        count += tensor.numel()
        size += sum(_bytes(part) for part in parts)
        if len(parts) > 1 or parts[0].is_quantized:
            quantized += tensor.numel()
    return Held(n_params=count, weights_bytes=size, quantized_fraction=quantized / count)


def _weights(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from model.parameters()
    for module in model.modules():
        # torch's dynamic linear keeps its weight packed, outside `parameters()`.
        packed = getattr(module, "_packed_params", None)
        if packed is not None and callable(getattr(module, "weight", None)):
            weight, bias = packed._weight_bias()
            yield weight
            if bias is not None:
                yield bias


def _parts(tensor: Any) -> Iterator[torch.Tensor]:
    """The plain tensors that a tensor subclass is made of."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _parts(getattr(tensor, name))
    else:
        yield tensor


def _bytes(tensor: torch.Tensor) -> int:
    scales = 0
    if tensor.is_quantized:
        import torch

        per_channel = tensor.qscheme() == torch.per_channel_affine
        # A double and a 64-bit integer for each channel, or one of each for the tensor.
        scales = 16 * (tensor.q_per_channel_scales().numel() if per_channel else 1)
    return tensor.numel() * tensor.element_size() + scales
