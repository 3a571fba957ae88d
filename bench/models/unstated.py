"""What a folder's files show of a quantization that its config.json does not state.

Only headers are read. Standard library only.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from bench.errors import UnsupportedError

OTHERS: Final[Mapping[str, str]] = {
    "hf_quant_config.json": "NVIDIA ModelOpt",
    "quantize_config.json": "AutoGPTQ",
    "quant_config.json": "AutoAWQ",
    "quanto_qmap.json": "optimum-quanto",
}
"""Files of tools that state their quantization elsewhere than in config.json."""

LOW: Final = re.compile(r"F8_.*|F4|F6_.*|U4|I4")
"""Types of safetensors that only quantized weights have."""
WHOLE: Final = re.compile(r"[IU](8|16|32|64)")
"""Types that no weight in floats has; positions and masks do."""
PARTS: Final = re.compile(
    r"(.*\.)?(qweight|qzeros|g_idx|weight_packed|weight_scale|weight_scale_inv|weight_scale_2|SCB|"
    r"input_scale|scale_weight|absmax|weight\.absmax|\w+_blocks|weight_qdata|weight__data|"
    r"_weight_\w*qdata|weight\._data(\._data)?|q_weight|trellis|codes|codebooks|W_q|Qidxs)"
)
"""Names of tensors that stand beside or for a quantized weight."""


def check_floats(folder: Path) -> None:
    """Refuse a folder whose config states no quantization and whose files hold one."""
    for name, tool in OTHERS.items():
        if (folder / name).is_file():
            raise UnsupportedError(
                f"{name} without quantization_config in config.json: a folder of {tool}, which no "
                "engine here loads"
            )
    for path in sorted(folder.glob("*.safetensors")):
        for name, kind in _tensors(path):
            packed = name.endswith("weight") and WHOLE.fullmatch(kind)
            if packed or LOW.fullmatch(kind) or PARTS.fullmatch(name):
                raise UnsupportedError(
                    f"{path.name} holds quantized weights ({name}, {kind}), but config.json has "
                    "no quantization_config that says how to read them"
                )


def _tensors(path: Path) -> Iterator[tuple[str, str]]:
    """Name and type of each tensor of a safetensors file; nothing of one that is broken."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length < 2**30 else {}
    except (OSError, ValueError, struct.error, MemoryError):
        return  # whoever loads it says what is wrong
    for name, about in header.items() if isinstance(header, dict) else ():
        if name != "__metadata__" and isinstance(about, dict):
            yield name, str(about.get("dtype"))
