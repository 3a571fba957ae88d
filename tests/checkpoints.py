"""Real quantized folders made from a small one in floats, by the libraries that others use.

Weights are rounded to the nearest value (no data is needed). `scripts/make-checkpoints` makes the
compressed-tensors ones with llm-compressor instead, which needs an environment of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COMPRESSED = ("FP8_DYNAMIC", "W8A8", "W4A16", "NVFP4A16")
KINDS = (*COMPRESSED, "nf4", "bnb-int8", "torchao-int8", "fp8-block")


def make(kind: str, source: Path, target: Path) -> Path:
    """The folder `source` in one of KINDS, tokenizer and all."""
    if kind in COMPRESSED:
        _compressed(kind, source, target)
    elif kind == "fp8-block":
        _fp8_block(source, target)
    else:
        _by_transformers(kind, source, target)
    for path in source.glob("*token*"):
        shutil.copy(path, target / path.name)
    return target


def _model(source: Path, **settings: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(source, **{"dtype": torch.float32} | settings)


def _by_transformers(kind: str, source: Path, target: Path) -> None:
    import torch
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if kind == "torchao-int8":
        from torchao.quantization import Int8WeightOnlyConfig

        config: Any = TorchAoConfig(Int8WeightOnlyConfig())
    elif kind == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    else:
        config = BitsAndBytesConfig(load_in_8bit=True)
    model = _model(source, quantization_config=config, device_map={"": "cpu"})
    model.save_pretrained(target)


def _compressed(preset: str, source: Path, target: Path) -> None:
    """As llm-compressor does without data: scales from each weight's largest value."""
    import torch
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationStatus,
        apply_quantization_config,
        preset_name_to_scheme,
    )
    from compressed_tensors.quantization.utils import (
        calculate_qparams,
        generate_gparam,
        is_module_quantized,
    )

    model = _model(source)
    scheme = preset_name_to_scheme(preset, ["Linear"])
    if preset == "W4A16" and model.config.hidden_size % 128:
        assert scheme.weights is not None
        scheme.weights.group_size = 64  # groups have to fill a row
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        ignore=["lm_head"],
        quantization_status=QuantizationStatus.INITIALIZED,
    )
    apply_quantization_config(model, config)
    for module in model.modules():
        if not is_module_quantized(module):
            continue
        args, weight = module.quantization_scheme.weights, module.weight.data
        rows = weight
        if args.group_size:
            rows = weight.reshape(weight.shape[0], -1, args.group_size)
        low, high = torch.aminmax(rows, dim=-1, keepdim=not args.group_size)
        if hasattr(module, "weight_global_scale"):
            module.weight_global_scale.data.copy_(generate_gparam(weight.amin(), weight.amax()))
            scales, _ = calculate_qparams(low, high, args, module.weight_global_scale.data)
        else:
            scales, _ = calculate_qparams(low, high, args)
        module.weight_scale.data.copy_(scales.reshape(module.weight_scale.shape))
        module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    state = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    _save(state, model.config.to_dict(), target)
    compressor.update_config(str(target))


def _fp8_block(source: Path, target: Path) -> None:
    """As Qwen and DeepSeek publish it: codes in e4m3, `weight_scale_inv` each 128 x 128."""
    import torch

    model = _model(source)
    state: dict[str, Any] = {}
    for name, weight in model.state_dict().items():
        if "proj" not in name:
            state[name] = weight
            continue
        n_out, n_in = weight.shape
        tall, wide = -(-n_out // 128), -(-n_in // 128)
        whole = torch.nn.functional.pad(weight, (0, wide * 128 - n_in, 0, tall * 128 - n_out))
        blocks = whole.view(tall, 128, wide, 128)
        scales = blocks.abs().amax((1, 3)).clamp(min=1e-12) / 448
        low = (blocks / scales[:, None, :, None]).view(tall * 128, wide * 128)[:n_out, :n_in]
        state[name] = low.to(torch.float8_e4m3fn)
        state[name + "_scale_inv"] = scales
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    quantization = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": ["lm_head"],
    }
    _save(state, model.config.to_dict() | {"quantization_config": quantization}, target)


def _save(state: Mapping[str, Any], config: Mapping[str, Any], target: Path) -> None:
    from safetensors.torch import save_file

    target.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(dict(config), default=str), encoding="utf-8")


def bytes_of(folder: Path) -> int:
    """Bytes of every tensor in the folder's safetensors."""
    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as stream:
            for name in stream.keys():  # noqa: SIM118 - it is no mapping
                tensor = stream.get_tensor(name)
                total += tensor.numel() * tensor.element_size()
    return total
