"""Scheme of optimum-quanto: int8 weights by row, activations as they are. In maintenance only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.quantization.layers import replace
from bench.schemes.scheme import Device

if TYPE_CHECKING:
    from torch import nn


def int8(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """quanto's `quantize` and `freeze`, a layer at a time so that no two are held twice."""
    return replace(model, names, _layer)


def _layer(old: nn.Linear) -> nn.Module:
    from optimum.quanto import QLinear, qint8

    new: Any = QLinear.from_module(old, weights=qint8)
    new.freeze()
    return new  # type: ignore[no-any-return]  # optimum-quanto has no types


def kernel(device: Device) -> str:
    """library/qbytes_mm.py: only bfloat16 on a CPU has a kernel that reads int8."""
    if device.kind == "cpu":
        return "bfloat16: torch._weight_int8pack_mm; else converted to float whole"
    return "converted to float whole, then a float matmul"
