"""Schemes that torchao carries out: `quantize_` with a configuration, layer by layer in place.

Facts were read in torchao 0.18. `quantize_` replaces one module's weight after another, so no more
than one layer is held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import UnsupportedError
from bench.quantization.layers import dims, dtype_of

if TYPE_CHECKING:
    from torch import nn

INT4_GROUP = 64
Convert = Callable[["nn.Module", Sequence[str]], "nn.Module"]


def converter(make: Callable[[], Any]) -> Convert:
    """A scheme's `convert` from a function that makes its configuration."""

    def convert(model: nn.Module, names: Sequence[str]) -> nn.Module:
        from torchao.quantization import quantize_

        wanted = set(names)
        quantize_(model, make(), filter_fn=lambda _, name: name in wanted)
        left = [name for name in names if not _is_quantized(model.get_submodule(name))]
        if left:
            raise UnsupportedError(
                f"torchao left {len(left)} layers unquantized that it was asked to quantize, "
                f"{left[0]} first"
            )
        return model

    return convert


def _is_quantized(module: nn.Module) -> bool:
    return hasattr(module.weight, "__tensor_flatten__")


@converter
def int8_dynamic() -> Any:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig

    return Int8DynamicActivationInt8WeightConfig()


@converter
def int8_weight_only() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return Int8WeightOnlyConfig()


def fp8_row_config() -> Any:
    """torchao's configuration of fp8 weights per row, and of activations scaled per row."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow

    return Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())


fp8_dynamic_row = converter(fp8_row_config)


@converter
def fp8_dynamic_tensor() -> Any:
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerTensor

    return Float8DynamicActivationFloat8WeightConfig(granularity=PerTensor())


@converter
def fp8_weight_only() -> Any:
    from torchao.quantization import Float8WeightOnlyConfig

    return Float8WeightOnlyConfig()


@converter
def int4_weight_only() -> Any:
    from torchao.quantization import Int4WeightOnlyConfig

    return Int4WeightOnlyConfig(group_size=INT4_GROUP, int4_packing_format="tile_packed_to_4d")


def fits_int8(layer: nn.Linear) -> str | None:
    """torchao's `safe_int_mm` computes other shapes on the host: a copy of the weight each call."""
    if layer.weight.device.type == "cpu":
        return None
    return dims(layer, n_in=8, n_out=8, who="torch._int_mm")


def fits_fp8_row(layer: nn.Linear) -> str | None:
    """torchao skips other shapes, and stops at another dtype."""
    return fits_fp8(layer) or dtype_of(layer, "bfloat16", "fp8 by row")


def fits_fp8(layer: nn.Linear) -> str | None:
    """torchao skips other shapes without a word."""
    return dims(layer, n_in=16, n_out=16, who="torch._scaled_mm")


def fits_int4(layer: nn.Linear) -> str | None:
    """torchao skips a row that groups do not fill, and stops at another dtype than bfloat16."""
    return dims(layer, n_in=INT4_GROUP, who="a row of groups") or dtype_of(
        layer, "bfloat16", "int4 tile-packed"
    )
