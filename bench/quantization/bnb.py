"""Schemes of bitsandbytes, put into the loaded model in the place of its linear layers.

The same parameters as transformers' `BitsAndBytesConfig` has by default (outlier threshold 6.0, no
nested quantization), except that 4-bit layers compute in the model's own dtype, not in float32.
Facts were read in bitsandbytes 0.50.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.quantization.layers import dims, replace

if TYPE_CHECKING:
    from torch import nn

OUTLIER_THRESHOLD = 6.0
"""Columns of the activations with a value above it are computed in 16 bits (LLM.int8())."""


NF4_BLOCK = 64
"""Weights that share a scale: bitsandbytes' default."""


def int8(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """LLM.int8(): weights and activations in int8 by row, outlier columns in 16 bits."""
    be_quiet()
    return replace(model, names, _int8_layer)


def be_quiet() -> None:
    """It says at each call that inputs are cast to float16, which would be timed."""
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def nf4(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """Weights as 4-bit normal floats in blocks of 64, activations as they are."""
    return replace(model, names, _nf4_layer)


def _int8_layer(old: nn.Linear) -> nn.Module:
    import torch
    from bitsandbytes import functional
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    new: Any = Linear8bitLt(
        old.in_features,
        old.out_features,
        old.bias is not None,
        has_fp16_weights=False,
        threshold=OUTLIER_THRESHOLD,
        device="meta",
    )
    rows, scales, _ = functional.int8_vectorwise_quant(old.weight.detach().to(torch.float16))
    new.weight = Int8Params(rows, requires_grad=False, has_fp16_weights=False, CB=rows, SCB=scales)
    new.bias = old.bias
    return new  # type: ignore[no-any-return]  # bitsandbytes is followed without types


def _nf4_layer(old: nn.Linear) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    new: Any = Linear4bit(
        old.in_features,
        old.out_features,
        old.bias is not None,
        compute_dtype=old.weight.dtype,
        compress_statistics=False,
        quant_type="nf4",
        device="meta",
    )
    weight: Any = Params4bit(
        old.weight.detach(),
        requires_grad=False,
        compress_statistics=False,
        quant_type="nf4",
        blocksize=NF4_BLOCK,
        module=new,
    )
    new.weight = weight.to(old.weight.device)  # quantizes
    new.bias = old.bias
    return new  # type: ignore[no-any-return]  # bitsandbytes is followed without types


def fits_nf4(layer: nn.Linear) -> str | None:
    """On CPUs with bfloat16 units it packs rows anew, which blocks must fill."""
    if layer.weight.device.type != "cpu":
        return None
    return dims(layer, n_in=NF4_BLOCK, who="bitsandbytes on a CPU")
