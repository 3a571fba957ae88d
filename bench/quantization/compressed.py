"""Layers of compressed-tensors that stay compressed: each is decompressed where it is multiplied.

transformers 5.23 has compressed-tensors 0.20 decompress the whole model at its first forward pass:
what is timed then holds floats, as large as the model before it was quantized. Here the same
library's functions decompress one layer at a time, in each product, and round the activations as
the scheme says: the bytes are the checkpoint's, the figures those of the library.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class CompressedLinear(nn.Module):
    """A linear layer whose weight stays as it was published."""

    def __init__(self, old: Any) -> None:
        from compressed_tensors.compressors import BaseCompressor
        from compressed_tensors.compressors.format import infer_module_format
        from compressed_tensors.quantization.lifecycle.forward import forward_quantize

        super().__init__()
        self.in_features, self.out_features = old.in_features, old.out_features
        self.scheme, self.quantization_status = old.quantization_scheme, old.quantization_status
        form = self.scheme.format or infer_module_format(nn.Linear, self.scheme)
        registered = BaseCompressor.get_value_from_registry(getattr(form, "value", form))
        self._decompress, self._round = registered.decompress, forward_quantize
        self.bias = old.bias
        self._names = []
        own = dict(old.named_parameters(recurse=False)) | dict(old.named_buffers(recurse=False))
        for name, tensor in own.items():
            if name != "bias":
                self._names.append(name)
                self.register_buffer(name, tensor.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in_features] -> [..., out_features]"""
        stored: dict[str, Any] = {name: getattr(self, name) for name in self._names}
        if "weight_shape" in stored:  # known here: to read it would wait for the device
            stored["weight_shape"] = torch.Size((self.out_features, self.in_features))
        weight = self._decompress(stored, self.scheme)["weight"].to(x.dtype)
        if self.scheme.input_activations is not None:
            x = self._round(self, x, "input", self.scheme.input_activations)
        return nn.functional.linear(x, weight, self.bias)

    def quantized_parts(self) -> tuple[int, list[torch.Tensor]]:
        """Number of weights, and every tensor that is held for them."""
        parts = [getattr(self, name) for name in self._names]
        return self.in_features * self.out_features, parts


def hold(model: Any) -> None:
    """Keep every quantized layer compressed, instead of decompressing all at the first call."""
    model.ct_decompress_hook.remove()
    del model.ct_decompress_hook
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and getattr(module, "quantization_scheme", None):
            made = CompressedLinear(module)
            made.train(module.training)
            model.set_submodule(name, made)
