"""Scheme of optimum-quanto: int8 weights by row, activations as they are. In maintenance only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.quantization.layers import replace

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
