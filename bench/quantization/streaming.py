"""Loading that fits: each module is made, filled and quantized before the next one is made.

A model in floats is never there whole, so 8B in int8 loads on a card of 16 GB. The peak is the
quantized model, one layer in floats, and what quantizing that one needs. Weights come from
safetensors, read tensor by tensor without mapping the file, or are drawn as transformers draws
them: same modules, same order, same generator, so the numbers are those of quantizing at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.errors import InputError
from bench.quantization import layers
from bench.schemes import allocation
from bench.schemes.row import Scheme

if TYPE_CHECKING:
    import torch
    from torch import nn

DTYPES: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Of a safetensors header; others are left to transformers."""


GIVE_BACK_BYTES: Final = 8 * 2**20
"""Floats that were freed since allocators last gave them back."""


def streams(scheme: Scheme) -> bool:
    """Whether the scheme is applied layer by layer; some measure the whole model first."""
    return (
        scheme.source == "float"
        and scheme.name != "none"
        and not scheme.name.startswith(allocation.PREFIX)
    )


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a tensor stands in a file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Made:
    """A model that was loaded so, and what of it was quantized."""

    model: nn.Module
    choice: layers.Choice
    shapes: Mapping[str, tuple[int, int]]
    """Quantized layer -> (n_in, n_out)."""


def pieces(folder: Path) -> dict[str, Piece]:
    """Every tensor of a folder's safetensors. Raises InputError for a file that is none."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        table = json.loads(index.read_text(encoding="utf-8"))
        names = sorted({str(name) for name in table["weight_map"].values()})
    else:
        names = ["model.safetensors"]
    found: dict[str, Piece] = {}
    for name in names:
        found |= _header(folder / name)
    return found


def _header(file: Path) -> dict[str, Piece]:
    """The format: 8 bytes of length, a JSON header, then the tensors."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError("its header is longer than the file")
            table = json.loads(stream.read(length))
        return {
            name: Piece(
                file=file,
                dtype=str(entry["dtype"]),
                shape=tuple(entry["shape"]),
                first=8 + length + entry["data_offsets"][0],
                last=8 + length + entry["data_offsets"][1],
            )
            for name, entry in table.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, struct.error, KeyError, TypeError) as error:
        raise InputError(f"{file}: not a file of safetensors: {error}") from error


CHUNK: Final = 1 << 20
"""Numbers that are read at once."""


def read(piece: Piece, into: torch.Tensor) -> None:
    """Fill a tensor of the piece's shape, by and by: a mapped file would count as held until it is
    closed, and a whole copy beside the tensor would double the peak."""
    import torch

    kind = getattr(torch, DTYPES[piece.dtype])
    flat = into.view(-1)
    with piece.file.open("rb", buffering=0) as stream:
        stream.seek(piece.first)
        for begin in range(0, flat.numel(), CHUNK):
            part = torch.empty(min(CHUNK, flat.numel() - begin), dtype=kind)
            memory: Any = part.view(torch.uint8).numpy()
            done = 0
            while done < memory.nbytes:
                n = stream.readinto(memoryview(memory)[done:])
                if not n:
                    raise InputError(f"{piece.file}: ends before its last tensor")
                done += n
            flat[begin : begin + part.numel()].copy_(part)


def matches(model: nn.Module, found: Mapping[str, Piece]) -> bool:
    """Whether the files hold exactly the tensors of the model, under its own names and shapes.

    What is renamed or fused on the way in (experts, other heads) is left to transformers.
    """
    import torch

    held = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers())
    own = {name for name in model.state_dict() if name in held or name in buffers}
    tied = {name for name in held if name not in dict(model.named_parameters())}
    if not (own - tied) <= found.keys() <= own:
        return False
    return all(
        piece.dtype in DTYPES
        and (tensor := held.get(name, buffers.get(name))) is not None
        and piece.shape == tuple(tensor.shape)
        and piece.last - piece.first == tensor.numel() * torch.empty(
            0, dtype=getattr(torch, DTYPES[piece.dtype])
        ).element_size()
        for name, piece in found.items()
    )  # fmt: skip


def load(model: nn.Module, device: str, scheme: Scheme, found: Mapping[str, Piece] | None) -> Made:
    """A model brought to the device module by module, and quantized as it goes.

    What of it is `meta` is filled with `found`, its tensors as `matches` them, or, where that is
    None, drawn from torch's generator; what is on the host is moved.
    """
    import torch

    head, freed = _head(model), 0
    names: list[str] = []
    skipped: dict[str, list[str]] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for name, module in placed(model, device, found):
        if type(module) is not torch.nn.Linear:
            continue
        keeps = scheme.keeps_head and module is head
        if (reason := layers.HEAD if keeps else layers.fits(scheme, module)) is not None:
            skipped.setdefault(reason, []).append(name)
            continue
        names.append(name)
        shapes[name] = (module.in_features, module.out_features)
        freed += module.weight.numel() * module.weight.element_size()
        _quantize(model, name, module, scheme)
        if freed >= GIVE_BACK_BYTES:
            freed = give_back(device)
    give_back(device)
    return Made(model, layers.chosen(scheme, names, skipped), shapes)


def placed(
    model: nn.Module, device: str, found: Mapping[str, Piece] | None
) -> Iterator[tuple[str, Any]]:
    """Each module, when its own tensors are on the device and filled, and no later one's are.

    The embedding and the head come first: quantizing the largest matrix takes several times its
    size for a moment, which is best while little else is there.
    """
    import torch
    from transformers import initialization

    shared = _shared(model)
    made: dict[int, nn.Parameter] = {}
    first = [model.get_input_embeddings(), _head(model)]  # type: ignore[operator]
    walk = list(_walk(model, "", model))
    walk.sort(key=lambda one: one[1] not in first)  # stable: else the order of transformers
    while walk:
        name, module, owner = walk.pop(0)
        with torch.no_grad(), initialization.guard_torch_init_functions():
            _materialize(module, device, shared, made)
            if found is not None:
                _fill(module, name, found)
            owner._initialize_weights(module)
        yield name, module


def _walk(module: Any, name: str, owner: Any) -> Iterator[tuple[str, Any, Any]]:
    """Children first, as transformers initializes, with the model that a module belongs to."""
    from transformers import PreTrainedModel

    for key, child in module.named_children():
        inner = child if isinstance(child, PreTrainedModel) else owner
        yield from _walk(child, f"{name}.{key}" if name else key, inner)
    yield name, module, owner


def give_back(device: str) -> int:
    """Return freed memory to the system: allocators keep it, and the peak grows by what they keep.

    0, the bytes that are kept from now on. By the module of the device's kind: what
    `torch.accelerator` has of memory stops on MPS with an internal error (pytorch#186430).
    """
    import torch

    kind = device.partition(":")[0]
    if kind != "cpu":
        getattr(torch, kind).empty_cache()
    elif sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a libc that is not glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    return 0


def give_back_all() -> None:
    """As `give_back`, on the accelerator that torch has here, if it has one."""
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    if found is not None:
        give_back(found.type)


def _shared(model: nn.Module) -> set[int]:
    """Weights that several modules have: a head that is the embedding."""
    seen: Counter[int] = Counter()
    for module in model.modules():
        seen.update(id(one) for one in module._parameters.values() if one is not None)
    return {one for one, n in seen.items() if n > 1}


def _materialize(module: Any, device: str, shared: set[int], made: dict[int, nn.Parameter]) -> None:
    """Memory for a module's own tensors; what shares a weight gets the same one."""
    import torch

    for key, parameter in list(module._parameters.items()):
        if parameter is None:
            continue
        if (known := made.get(id(parameter))) is not None:
            known._is_hf_initialized = True  # type: ignore[attr-defined]  # drawn once
            module._parameters[key] = known
            continue
        data = torch.empty_like(parameter, device=device)
        if not parameter.is_meta:
            data.copy_(parameter)
        new: Any = torch.nn.Parameter(data, requires_grad=False)
        new._is_hf_initialized = not parameter.is_meta
        if id(parameter) in shared:  # any other would be kept after it is quantized
            made[id(parameter)] = new
        module._parameters[key] = new
    for key, buffer in list(module._buffers.items()):
        if buffer is not None:
            moved: Any = torch.empty_like(buffer, device=device)
            if not buffer.is_meta:
                moved.copy_(buffer)
                moved._is_hf_initialized = True
            module._buffers[key] = moved


def _fill(module: Any, name: str, found: Mapping[str, Piece]) -> None:
    """A module's own tensors from the files; those that were filled are not drawn again."""
    for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
        piece = found.get(f"{name}.{key}" if name else key)
        if tensor is None or piece is None or getattr(tensor, "_is_hf_initialized", False):
            continue
        read(piece, tensor)
        tensor._is_hf_initialized = True


def _head(model: Any) -> Any:
    return getattr(model, "get_output_embeddings", lambda: None)()


def _quantize(model: Any, name: str, module: nn.Linear, scheme: Scheme) -> None:
    """One linear layer by itself, as the scheme does it with a whole model."""
    import torch

    holder: Any = torch.nn.Module()
    holder.add_module("layer", module)
    holder.train(False)
    holder = layers.convert(scheme, holder, ["layer"])
    for tensor in holder.layer.parameters():
        tensor._is_hf_initialized = True  # a parent's initializer leaves it as it is
    model.set_submodule(name, holder.layer)
    if module is not holder.layer:
        module.weight = None  # type: ignore[assignment]  # the caller's reference must not keep it
