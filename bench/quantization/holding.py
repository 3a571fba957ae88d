"""What a model really holds in memory, counted by the tensors that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightCount:
    """What a model really holds in memory."""

    n_params: int
    """Distinct weights: those that share memory count once."""
    weights_bytes: int
    quantized_fraction: float
    """Share of the weights, by number, that is held in a quantized form."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight of the model: how many numbers, in which tensors."""

    n_params: int
    parts: list[torch.Tensor]
    quantized: bool


def held(model: torch.nn.Module) -> WeightCount:
    """Count the weights of a model by what is in memory, not by what its config says.

    `get_memory_footprint` of transformers reports the unquantized size for tensor subclasses, so
    the parts of each tensor are counted instead.
    """
    # The tensors are kept while counting: an unpacked weight is a copy, and if it were freed the
    # next one could have its address.
    weights: dict[int, Weight] = {}
    for module in model.modules():
        for weight in weights_of(module):
            weights.setdefault(weight.parts[0].data_ptr(), weight)
    count = sum(weight.n_params for weight in weights.values())
    quantized = sum(weight.n_params for weight in weights.values() if weight.quantized)
    return WeightCount(
        n_params=count,
        weights_bytes=sum(_bytes(part) for weight in weights.values() for part in weight.parts),
        quantized_fraction=quantized / count,
    )


def weights_of(module: torch.nn.Module) -> Iterator[Weight]:
    """The module's own weights, not those of its children."""
    own: Any = getattr(module, "quantized_parts", None)
    if own is not None:
        n_params, parts = own()
        yield Weight(n_params, parts, quantized=True)
    packed = getattr(module, "_packed_params", None)
    if packed is not None and callable(getattr(module, "weight", None)):
        # torch's dynamic linear keeps its weight packed, outside `parameters()`.
        weight, bias = packed._weight_bias()
        yield Weight(weight.numel(), [weight], weight.is_quantized)
        if bias is not None:
            yield Weight(bias.numel(), [bias], quantized=False)
    stored, names = _stored(module)
    yield from stored
    others = own is not None or packed is not None or bool(stored)
    yield from _buffers(module, counted=others)
    for name, parameter in module.named_parameters(recurse=False):
        if name in names:
            continue
        if hasattr(parameter, "quant_state"):
            yield _of_bitsandbytes_4bit(parameter)
        elif hasattr(parameter, "has_fp16_weights"):
            yield _of_bitsandbytes_int8(parameter, module)
        else:
            parts = list(tensor_parts(parameter))
            yield Weight(parameter.numel(), parts, len(parts) > 1 or parts[0].is_quantized)


LOW: Final = ("float8", "int8", "uint8", "int32", "float4")
"""Beginnings of dtypes that hold codes of weights, several in one number perhaps."""
BESIDE: Final = re.compile(r"_?(scale|scales|zero_point|zeros|global_scale|shape|g_idx)(_inv|_2)?")
"""What stands beside codes: `weight_scale` of `weight`, and of `qweight` `scales` and `qzeros`."""


def _stored(module: torch.nn.Module) -> tuple[list[Weight], set[str]]:
    """Weights that a loader left as codes with scales beside them, and the names of all of these.

    FP8Linear and FP8Experts of transformers, QuantLinear of gptqmodel, and others like them.
    """
    if getattr(module, "quantized_parts", None) is not None:
        return [], set()
    own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    codes = [name for name, tensor in own.items() if _is_codes(tensor)]
    found, names = [], set()
    for name in codes:
        stem = name.removesuffix("_packed").removesuffix("_blocks").removeprefix("q")
        beside = [
            other
            for other in own
            if other not in codes
            and (BESIDE.fullmatch(other.removeprefix(stem)) or BESIDE.fullmatch(other[1:]))
            and (other.startswith(stem) or name == "qweight")
        ]
        scaled = beside or [o for o in own if o != name and o.startswith(stem + "_scale")]
        if not scaled:
            continue  # a table of positions or the like: no weight
        parts = [own[name]] + [own[other] for other in dict.fromkeys(scaled)]
        found.append(Weight(_numbers(module, own[name]), parts, quantized=True))
        names |= {name, *scaled}
    return found, names


def _is_codes(tensor: Any) -> bool:
    plain = not hasattr(tensor, "quant_state") and not hasattr(tensor, "has_fp16_weights")
    kind = str(getattr(tensor, "dtype", "")).removeprefix("torch.")
    return (
        plain and kind.startswith(LOW) and tensor.ndim >= 2 and len(list(tensor_parts(tensor))) == 1
    )


def _numbers(module: Any, codes: torch.Tensor) -> int:
    """How many weights the codes stand for: by the layer's shape, where several are in one."""
    inner, outer = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(inner, int) and isinstance(outer, int):
        return inner * outer
    return codes.numel()


def _buffers(module: torch.nn.Module, *, counted: bool) -> Iterator[Weight]:
    """Weights that a library keeps as buffers: integers or bytes, packed (bitnet, GPTQ)."""
    import torch

    if counted or any(p.dim() > 1 for p in module.parameters(recurse=False)):
        return
    low = (torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn)
    buffers = [b for b in module.buffers(recurse=False) if b.dim() > 1]
    packed = [b for b in buffers if b.dtype in low]
    if not packed:
        return
    n_in, n_out = getattr(module, "in_features", 0), getattr(module, "out_features", 0)
    largest = max(packed, key=torch.Tensor.numel)
    rest = [b for b in buffers if b is not largest]
    yield Weight(int(n_in) * int(n_out) or largest.numel(), [largest, *rest], quantized=True)


def weight_parts(module: torch.nn.Module) -> list[torch.Tensor]:
    """The tensors that the module's own weights are made of."""
    return [part for weight in weights_of(module) for part in weight.parts]


def _of_bitsandbytes_4bit(parameter: Any) -> Weight:
    """Two numbers a byte, and the largest value of each block, itself quantized if nested."""
    parts, state = [parameter.data], parameter.quant_state
    n_params = state.shape.numel()
    while state is not None:
        parts += [part for part in (state.absmax, state.code) if part is not None]
        state = state.state2
    return Weight(n_params, parts, quantized=True)


def _of_bitsandbytes_int8(parameter: Any, module: Any) -> Weight:
    """Rows in int8; the layer takes their scales from the parameter when it first computes."""
    scales = parameter.SCB if parameter.SCB is not None else module.state.SCB
    return Weight(parameter.numel(), [parameter.data, scales], quantized=True)


def tensor_parts(tensor: Any) -> Iterator[torch.Tensor]:
    """The plain tensors that a tensor subclass is made of; of a distributed one, its part here."""
    if hasattr(tensor, "__tensor_flatten__"):
        inner = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
        for part in inner:
            if hasattr(part, "element_size"):  # a distributed tensor names its mesh too
                yield from tensor_parts(part)
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
