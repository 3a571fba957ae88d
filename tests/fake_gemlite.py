"""Stands in for the package gemlite where there is no card, by what its 0.6.0 documents and does.

Of `GemLiteLinear`: packing over the input, eight codes in an int32, the lowest bits first, outputs
contiguous; scales and zeros [groups, outputs], zeros as -zeros * scales; and over them, in torch,
`gemlite::forward_functional`: `code * scale + zero` in the weight's dtype, then a product. It has
no kernels, so it shows nothing of those.
"""

from __future__ import annotations

import json
import sys
import types
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch

VERSION = "0.6.0"
FORWARD = (
    "forward_functional(Tensor x, Tensor? bias, Tensor[] tensor_args, SymInt[] meta_args, "
    "SymInt matmul_type=-1) -> Tensor"
)
CALLS: list[int] = []
"""Rows of each product."""


class DType(Enum):
    FP16 = 1
    BF16 = 2


class GemLiteLinear(torch.nn.Module):
    """One layer, packed."""

    def __init__(
        self,
        W_nbits: int,  # noqa: N803  # gemlite's names
        group_size: int,
        in_features: int,
        out_features: int,
        input_dtype: DType,
        output_dtype: DType,
    ) -> None:
        super().__init__()
        assert W_nbits == 4
        assert in_features % 32 == 0
        assert in_features % group_size == 0
        assert input_dtype == output_dtype
        self.group_size, self.kind = group_size, input_dtype
        self.shape = (out_features, in_features)

    def pack(self, W_q: Any, scales: Any, zeros: Any, bias: Any = None) -> GemLiteLinear:  # noqa: N803
        assert W_q.dtype == torch.uint8
        assert bias is None
        n_out, n_in = self.shape
        shifts = torch.arange(0, 32, 4, dtype=torch.int32)
        words = (W_q.view(n_out, n_in // 8, 8).to(torch.int32) << shifts).sum(-1, dtype=torch.int32)
        self.words = words.t().contiguous()
        self.scales = scales.view(n_out, -1).t().contiguous()
        offsets = (-zeros.float() * scales.float()).to(zeros.dtype)
        self.zeros = offsets.view(n_out, -1).t().contiguous()
        return self

    def get_tensor_args(self) -> list[torch.Tensor]:
        return [self.words, self.scales, self.zeros, torch.tensor(0.0)]

    def get_meta_args(self) -> list[int]:
        kind = self.kind.value
        return [0, 4, self.group_size, 15, 8, kind, kind, 0, kind, 0, 4, 1]


def forward(x: Any, bias: Any, tensors: Any, how: Any, _: int = -1) -> Any:
    words, scales, lows = tensors[:3]
    CALLS.append(x.numel() // x.shape[-1])
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    codes = ((words[:, None] >> shifts[None, :, None]) & 15).flatten(0, 1)
    wide = [one.repeat_interleave(how[2], dim=0) for one in (scales, lows)]
    weight = codes.to(scales.dtype) * wide[0] + wide[1]
    y = (x.float() @ weight.float()).to(x.dtype)
    return y if bias is None else y + bias


def shape_of(x: Any, _bias: Any, tensors: Any, _how: Any, _: int = -1) -> Any:
    return x.new_empty((*x.shape[:-1], tensors[0].shape[1]))


def install(patch: pytest.MonkeyPatch, version: str = VERSION) -> types.ModuleType:
    """Let `import gemlite` find this, and the package's version be known."""
    from importlib import metadata

    made: Any = types.ModuleType("gemlite")
    made.DType, made.GemLiteLinear = DType, GemLiteLinear
    made.atomics = []
    made.set_native_atomic_bfp16 = made.atomics.append
    made.load_config = lambda file, print_error=True: Path(file).exists()
    made.cache_config = lambda file: Path(file).write_text(json.dumps({}))
    real = metadata.version
    patch.setattr(metadata, "version", lambda name: version if name == "gemlite" else real(name))
    patch.setitem(sys.modules, "gemlite", made)
    registry: Any = torch.library
    if not hasattr(torch.ops.gemlite, "forward_functional"):
        library = registry.Library("gemlite", "DEF")
        library.define(FORWARD)
        library.impl("forward_functional", forward, "CPU")
        library.impl("forward_functional", shape_of, "Meta")
        _KEPT.append(library)
    return made


_KEPT: list[Any] = []
