"""What torch itself offers: nothing at all, and its old dynamic quantization."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.quantization.layers import dtype_of
from bench.schemes.scheme import Device

if TYPE_CHECKING:
    from torch import nn


def nothing(model: nn.Module, _: Sequence[str]) -> nn.Module:
    return model


def float_kernel(_: Device) -> str:
    return "float matmul"


def dynamic_int8(model: nn.Module, names: Sequence[str]) -> nn.Module:
    import torch
    from torch.ao.quantization import default_dynamic_qconfig, quantize_dynamic

    with warnings.catch_warnings():
        # It announces its own removal; it is measured because people use it.
        warnings.simplefilter("ignore")
        quantized: nn.Module = quantize_dynamic(  # type: ignore[no-untyped-call]  # it has no types
            model, dict.fromkeys(names, default_dynamic_qconfig), dtype=torch.qint8, inplace=True
        )
        return quantized


def fits_dynamic_int8(layer: nn.Linear) -> str | None:
    return dtype_of(layer, "float32", "torch's packed weights")


def dynamic_int8_kernel(_: Device) -> str:
    import torch

    return f"quantized::linear_dynamic ({torch.backends.quantized.engine})"


def fused_int8(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """int8 weights and dynamic activations with the product read once (`int8_layer`)."""
    from bench.quantization import int8_layer

    return int8_layer.convert(model, names)


def fits_fused_int8(layer: nn.Linear) -> str | None:
    """torch._int_mm, which serves more than 64 rows on a GPU."""
    from bench.quantization.ao import fits_int8

    return fits_int8(layer)


def fused_int8_kernel(device: Device) -> str:
    if device.kind == "cpu":
        return "torch._int_mm, unsigned activations, sums of the weights taken once"
    return "int8 tensor cores through Triton to 64 rows, torch._int_mm above"
