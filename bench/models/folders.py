"""A folder of weights, looked at before anything is loaded: what is wrong with it, in one line.

Reads config.json, the index and the first bytes of each file of weights; standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bench.errors import InputError
from bench.fields import read_json

POINTER: Final = b"version https://git-lfs"
HEADER_LIMIT: Final = 100_000_000
"""Bytes that the header of a safetensors file may have: the format's own limit."""


def check(folder: Path) -> None:
    """Raises InputError that names the first fault of a model's folder, its files' headers read."""
    for fault in (*faults(folder), *weight_faults(folder)):
        raise InputError(fault)


def check_form(folder: Path) -> None:
    """As `check`, without looking into the files of weights."""
    for fault in faults(folder):
        raise InputError(fault)


def faults(folder: Path) -> Iterator[str]:
    """What is wrong with a folder, one line each, the plainest first."""
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        yield f"{folder}: no such folder, so no config.json there"
        return
    except (OSError, ValueError) as error:  # ValueError: a name that this locale cannot encode
        yield f"{folder}: {getattr(error, 'strerror', None) or error}"
        return
    if "config.json" not in names:
        yield _without_config(folder, names)
        return
    try:
        config(folder)
    except InputError as error:
        yield str(error)
        return
    if "adapter_config.json" in names:
        yield (
            f"{folder}: holds an adapter beside the model (adapter_config.json), which would not "
            "be applied: merge it into the weights, or move it away"
        )
    if not any(name.endswith(".safetensors") for name in names):
        yield f"{folder}: no *.safetensors there; other weight formats are not loaded"


def _without_config(folder: Path, names: set[str]) -> str:
    if "adapter_config.json" in names:
        return f"{folder}: an adapter alone, without its model: merge it into the model's weights"
    if "snapshots" in names:
        return (
            f"{folder}: the hub's cache of a model; give the folder of one revision in it: "
            f"{folder}/snapshots/..."
        )
    return f"{folder}: no config.json there; a model folder needs one"


def config(folder: Path) -> Mapping[str, Any]:
    """The folder's config.json. Raises InputError."""
    path = folder / "config.json"
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: a broken link ({path.readlink()})")
    table = read_json(path)
    if not isinstance(table, dict):
        raise InputError(f"{path}: not a JSON object")
    if not isinstance(table.get("model_type"), str):
        raise InputError(f"{path}: model_type: missing")
    return table


def weight_faults(folder: Path) -> Iterator[str]:
    """What is wrong with its files of weights, one line each."""
    names = {path.name for path in folder.iterdir()}
    files = sorted(name for name in names if name.endswith(".safetensors"))
    index = "model.safetensors.index.json"
    if index in names:
        try:
            told = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
            files = sorted(set(told.values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            yield f"{folder / index}: no index of weights"
            return
    for name in files:
        if fault := file_fault(folder / name):
            yield f"{folder / name}: {fault}"


def file_fault(path: Path) -> str | None:
    """What is wrong with a safetensors file, by its length and header; None if nothing is."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            begin = stream.read(len(POINTER))
            if begin == POINTER:
                return "a Git LFS pointer, not the weights: `git lfs pull` fetches them"
            if size == 0:
                return "an empty file"
            length = int.from_bytes(begin[:8], "little")
            if length > min(size - 8, HEADER_LIMIT):
                return f"no safetensors file, or cut short ({size} bytes)"
            stream.seek(8)
            header = json.loads(stream.read(length))
    except FileNotFoundError:
        return f"a broken link ({path.readlink()})" if path.is_symlink() else "missing"
    except OSError as error:
        return str(error.strerror or error)
    except ValueError:
        return "no safetensors file: its header is not valid"
    ends = [
        tensor["data_offsets"][1]
        for name, tensor in header.items()
        if name != "__metadata__" and isinstance(tensor, dict) and "data_offsets" in tensor
    ]
    if ends and 8 + length + max(ends) > size:
        return f"cut short: {size} bytes of {8 + length + max(ends)}"
    return None
