"""GGUF models in several files, written by the library that llama.cpp's own tools use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

F32 = gguf.GGMLQuantizationType.F32


def split(source: Path, folder: Path, n_tensors: int, *, empty_first: bool = False) -> list[Path]:
    """A file's keys and tensors as files of `n_tensors` each; `empty_first`: the first has none."""
    reader = gguf.GGUFReader(source)
    keys = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    writer = gguf.GGUFWriter(
        folder / source.name,
        keys.pop("general.architecture").contents(),
        split_max_tensors=n_tensors,
        small_first_shard=empty_first,
    )
    for name, field in keys.items():
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    return _written(writer, folder, source.stem)


def _written(writer: gguf.GGUFWriter, folder: Path, stem: str) -> list[Path]:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob(f"{stem}-*-of-*.gguf"))


def llama(path: Path, n_layers: int = 4) -> Path:
    """A small file of an architecture of Llama's, 64 kB a layer, in floats of 32 bits."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(n_layers)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_context_length(512)
    writer.add_token_list(["a", "b", "c"])
    for layer in range(n_layers):
        writer.add_tensor(f"blk.{layer}.weight", np.ones((64, 256), np.float32))
    _written(writer, path.parent, path.stem)
    return path


def header(path: Path, keys: Mapping[str, Any], tensors: Mapping[str, tuple[tuple[int, ...], Any]],
           first: int, count: int, total: int) -> int:  # fmt: skip
    """The header of one of several files whose weights are nowhere; the file's whole bytes.

    `tensors`: shape, slowest first, and type of each. `first`: number of the file, from 0.
    """
    writer = gguf.GGUFWriter(path, str(keys["general.architecture"]))
    for name, value in keys.items() if first == 0 else ():
        if name != "general.architecture":
            _add(writer, name, value)
    for name, value in {"no": first, "count": count}.items():
        writer.add_uint16(f"split.{name}", value)
    writer.add_int32("split.tensors.count", total)
    weights = 0
    for name, (shape, kind) in tensors.items():
        block, size = gguf.GGML_QUANT_SIZES[kind]
        n_bytes = int(np.prod(shape)) // block * size
        writer.add_tensor_info(name, list(shape), np.dtype(np.float32), n_bytes, raw_dtype=kind)
        weights += -(-n_bytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return -(-path.stat().st_size // 32) * 32 + weights


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    else:
        writer.add_uint32(name, value)
