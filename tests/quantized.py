"""A module with a scheme applied to it, on whatever device it is: what is refused there as well."""

from __future__ import annotations

from typing import Any

from bench.quantization import layers
from bench.schemes import scheme


def quantize(name: str, model: Any) -> Any:
    """The layers that fit converted, in place where the scheme can."""
    wanted = scheme(name)
    return layers.convert(wanted, model, layers.choose(wanted, model).names)
