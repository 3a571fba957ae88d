"""What vLLM holds of a model that is in this process: bytes, parameters, kernels.

Read from its layers as they are after loading. vLLM packs weights into forms of its own (on a CPU
the packed copy stands beside an emptied parameter), so that sizes come from what each layer says it
computes, and bytes from tensors where those are whole. vLLM is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bench.quantization.holding import tensor_parts

PLAIN: Final = "Unquantized"
"""Begins the name of vLLM's method for a layer in floats."""
PACKED: Final[Mapping[str, int]] = {"CompressedTensorsW8A8Int8": 1}
"""vLLM's scheme -> bytes of a weight, where a kernel holds it in a form that torch does not see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmWeights:
    """None where it is not known; `absent` says why."""

    n_params: int | None = None
    weights_bytes: int | None = None
    quantized_fraction: float | None = None
    kernel: str | None = None
    absent: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def unknown(why: str) -> VllmWeights:
        """Of a model that cannot be looked at."""
        return VllmWeights(
            absent=dict.fromkeys(("n_params", "weights_bytes", "quantized_fraction"), why)
        )


def vllm_weights(model: Any) -> VllmWeights:
    """Of one `torch.nn.Module` that vLLM has loaded; called in its worker by `apply_model`."""
    layers = list(_layers(model))
    of_layers = {id(tensor) for layer in layers for tensor in _tensors(layer)}
    others = {
        id(tensor): tensor
        for module in model.modules()
        for tensor in module.parameters(recurse=False)
        if not of_layers.intersection(map(id, tensor_parts(tensor)))
    }
    quantized = sum(map(_size, filter(_is_quantized, layers)))
    n_params = sum(map(_size, layers)) + sum(_bias(layer) for layer in layers)
    n_params += sum(tensor.numel() for tensor in others.values())
    each = [_bytes(layer) for layer in layers]
    held = sum(tensor.numel() * tensor.element_size() for tensor in others.values())
    unseen = {"weights_bytes": "vLLM's kernel holds packed weights that cannot be read"}
    return VllmWeights(
        n_params=n_params,
        weights_bytes=None if None in each else held + sum(filter(None, each)),
        absent=unseen if None in each else {},
        quantized_fraction=quantized / n_params,
        kernel=", ".join(sorted({_kernel(layer) for layer in layers if _is_quantized(layer)}))
        or None,
    )


def _layers(model: Any) -> Iterator[Any]:
    """Its linear layers; experts of a mixture are other modules, counted by their tensors."""
    from vllm.model_executor.layers.linear import LinearBase

    for module in model.modules():
        if isinstance(module, LinearBase):
            yield module


def _tensors(layer: Any) -> list[Any]:
    """The plain tensors that it holds: torchao's weight is made of numbers and scales."""
    held = (*layer.parameters(recurse=False), *layer.buffers(recurse=False))
    return [part for tensor in held for part in tensor_parts(tensor)]


def _size(layer: Any) -> int:
    """Weights that it multiplies by, whatever they are packed into."""
    n_in = getattr(layer, "input_size_per_partition", layer.input_size)
    n_out = getattr(layer, "output_size_per_partition", layer.output_size)
    return int(n_in) * int(n_out)


def _bias(layer: Any) -> int:
    bias: Any = getattr(layer, "bias", None)
    return 0 if bias is None else int(bias.numel())


def _is_quantized(layer: Any) -> bool:
    return not type(layer.quant_method).__name__.startswith(PLAIN)


def _bytes(layer: Any) -> int | None:
    """Of its tensors; of weights that were packed away, of what it multiplies by."""
    tensors = _tensors(layer)
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if any(tensor.numel() * tensor.element_size() * 4 >= _size(layer) for tensor in tensors):
        return int(held)  # a weight of 2 bits or more is among them
    each = PACKED.get(_scheme(layer)) if _is_quantized(layer) else layer.params_dtype.itemsize
    return None if each is None else int(held) + _size(layer) * int(each)


def _scheme(layer: Any) -> str:
    return type(getattr(layer, "scheme", None) or layer.quant_method).__name__


def _kernel(layer: Any) -> str:
    """vLLM's own names: the scheme of the layer's method, and what computes it."""
    kernel = getattr(getattr(layer, "scheme", None), "kernel", None)
    return f"vLLM: {_scheme(layer)}" + (f" by {type(kernel).__name__}" if kernel else "")
