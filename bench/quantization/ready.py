"""Models that were quantized before they were published, as transformers' own loaders hold them.

Nothing is quantized here: what is there is counted, and what computes a layer is watched. A loader
that turned the weights into floats is not called by the scheme's name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import schemes
from bench.errors import InputError, UnsupportedError
from bench.models import checkpoint
from bench.models.checkpoint import Checkpoint
from bench.quantization import bnb, layers, seen
from bench.quantization.holding import weights_of
from bench.schemes.row import Device, Scheme

if TYPE_CHECKING:
    import torch

    from bench.quantization import Applied

FP8_KERNELS = (8, 9)
"""Least CUDA compute capability of the fp8 matmuls that transformers has for compressed-tensors."""


def stated_in(folder: Path | None) -> Checkpoint | None:
    """What a folder's config.json states; None for floats or without a folder."""
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'}: {error}") from error
    return checkpoint.stated(config) if isinstance(config, dict) else None


def settings(quant: str, folder: Path | None, device: Device) -> dict[str, Any]:
    """Arguments of `from_pretrained` beyond the folder's own quantization_config."""
    found = stated_in(folder)
    if found is None:
        return {}
    import transformers

    if found.method == "bitsandbytes":
        bnb.be_quiet()
    made: dict[str, Any] = {}
    if quant.endswith(schemes.DEQUANTIZED):
        made["dequantize"] = True
    elif found.method == "compressed-tensors" and (device.capability or (0, 0)) >= FP8_KERNELS:
        made["use_optimized_inference"] = True
    if not made:
        return {}
    kinds = {
        "compressed-tensors": "CompressedTensorsConfig",
        "fp8": "FineGrainedFP8Config",
        "mxfp4": "Mxfp4Config",
    }
    return {"quantization_config": getattr(transformers, kinds[found.method])(**made)}


def keep_compressed(model: Any, quant: str) -> None:
    """Before its first call, which would decompress the whole model (`compressed`)."""
    if not quant.endswith(schemes.DEQUANTIZED) and hasattr(model, "ct_decompress_hook"):
        from bench.quantization import compressed

        compressed.hold(model)


def found(wanted: Scheme, model: torch.nn.Module) -> Applied:
    """What a loaded model holds. Raises UnsupportedError where that is not the scheme named."""
    from bench.quantization import Applied

    floats = wanted.name.endswith(schemes.DEQUANTIZED)
    low = {
        name: module
        for name, module in model.named_modules()
        if any(weight.quantized for weight in weights_of(module))
    }
    details: dict[str, Any] = {"layers": _counted(model, low)}
    if floats and not low:
        return Applied(model, details, wanted.kernel)
    if floats or not low:
        told = "left its weights quantized" if floats else "turned its weights into floats"
        also = "" if floats else f"; -q {wanted.name}{schemes.DEQUANTIZED} measures that"
        raise UnsupportedError(f"scheme '{wanted.name}': the loader {told} on this device{also}")
    details["computed_by"], kernel = _watched(model, low, wanted)
    return Applied(model, details, kernel)


def _counted(model: torch.nn.Module, low: dict[str, torch.nn.Module]) -> dict[str, Any]:
    left = [name for name in layers.linear_layers(model) if name not in low]
    reason = "the checkpoint holds them in floats"
    skipped = [{"count": len(left), "reason": reason, "layers": left[:3]}] if left else []
    return {"quantized": len(low), "skipped": skipped}


def _watched(
    model: torch.nn.Module, low: dict[str, torch.nn.Module], wanted: Scheme
) -> tuple[list[dict[str, Any]], str]:
    """The operations of the largest layer that multiplies rows, and the same in words."""
    shapes: dict[str, tuple[int, int]] = {}
    for name, module in low.items():
        n_in, n_out = (getattr(module, f"{side}_features", None) for side in ("in", "out"))
        if isinstance(n_in, int) and isinstance(n_out, int):
            shapes[name] = (n_in, n_out)
    if not shapes:
        return [], wanted.kernel
    largest = max(shapes, key=lambda name: shapes[name][0] * shapes[name][1])
    computed_by = seen.watch(model, largest, *shapes[largest])
    return computed_by, seen.in_words(computed_by)
