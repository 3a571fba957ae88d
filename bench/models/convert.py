"""Make a folder of safetensors out of what a model card names. Run as a process of its own.

python -m bench.models.convert gguf FILE FOLDER
python -m bench.models.convert expected FOLDER FILE.npz
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from bench.models.prompts import random_tokens


def from_gguf(file: Path, folder: Path) -> None:
    """Dequantize a GGUF file to float32 safetensors, with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _read_once()
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(**where, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(**where, local_files_only=True)
    # A model read from GGUF counts as quantized, and save_pretrained refuses it until told so.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read_once() -> None:
    """Keep what transformers makes anew: it reads the file three times, and makes the table of
    names for each module."""
    import gguf

    gguf.GGUFReader = cache(gguf.GGUFReader)
    gguf.get_tensor_name_map = cache(gguf.get_tensor_name_map)


def expected(folder: Path, file: Path) -> None:
    """What the model makes of a fixed prompt: `tokens` [1, 32], `logits` [32, vocabulary].

    For engines that load the weights through another program, which this holds to the same model.
    """
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
    ).eval()
    vocabulary = model.config.get_text_config().vocab_size
    tokens = random_tokens(0, vocabulary, n_prompt=32, n_batch=1)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor(tokens), use_cache=False).logits[0]
    np.savez(file, tokens=np.array(tokens), logits=logits.numpy())


def main(arguments: list[str]) -> None:
    kind, *rest = arguments
    if kind == "gguf":
        from_gguf(Path(rest[0]), Path(rest[1]))
    else:
        expected(Path(rest[0]), Path(rest[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
