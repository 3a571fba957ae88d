"""What torch itself offers: nothing at all, and its old dynamic quantization."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.quantization.layers import dtype_of

if TYPE_CHECKING:
    from torch import nn


def nothing(model: nn.Module, _: Sequence[str]) -> nn.Module:
    return model


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


def fused_int8(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """int8 weights and dynamic activations with the product read once (`int8_layer`)."""
    from bench.quantization import int8_layer

    return int8_layer.convert(model, names)


def fits_fused_int8(layer: nn.Linear) -> str | None:
    """torch._int_mm, which serves more than 64 rows on a GPU."""
    from bench.quantization.ao import fits_int8

    return fits_int8(layer)
