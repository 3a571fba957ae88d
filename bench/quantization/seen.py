"""What really computes a quantized layer: its operations are watched, at one row and at many.

Names of schemes do not tell: torchao's "int8" multiplies float32 below 17 rows on a GPU, and eager
"weight-only" schemes write the whole weight out in floats before each product. So one layer is run
while loading, and every operation that reads its weight, or what was made of it, is noted. Eager
operations only: what a compiler makes of them is another matter, and inside an operation of a
library nothing is seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROWS = (1, 32)
"""Decoding one sequence, and more rows than cuBLAS' integer matmul needs."""


def watch(model: torch.nn.Module, name: str, n_in: int, n_out: int) -> list[dict[str, Any]]:
    """For each number of rows: the operations, and the bytes they move for each weight."""
    import torch

    from bench.quantization.holding import weight_parts

    layer = model.get_submodule(name)
    plain = next(
        p for p in model.parameters() if type(p.data) is torch.Tensor and p.is_floating_point()
    )
    where = weight_parts(layer)[0].device  # of a model on several devices, not the first's
    found = []
    for rows in ROWS:
        x = torch.randn(rows, n_in, generator=torch.Generator().manual_seed(0))
        with _current(where):
            log = operations(layer, x.to(where, plain.dtype), n_in * n_out)
        found.append(
            {
                "rows": rows,
                "operations": [called for called, _ in log],
                "moved_bytes_per_weight": round(sum(size for _, size in log) / (n_in * n_out), 2),
            }
        )
    return found


def _current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Kernels of Triton are launched on torch's current device, whatever their tensors are on."""
    import torch

    if device.type == "cpu" or device.index is None:
        return contextlib.nullcontext()
    return torch.accelerator.device_index(device.index)


def operations(layer: torch.nn.Module, x: torch.Tensor, n_weights: int) -> list[tuple[str, int]]:
    """Operations of layer(x) that read the weight or a copy of it: name, and bytes of weight moved.

    The bytes are the least: what an operation of a library copies within itself is not seen.
    A quarter of a byte a weight is taken for a form of it, so that 4 bits and fewer are seen.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from bench.quantization.holding import weight_parts

    with torch.inference_mode():
        layer(x)  # bitsandbytes packs weights anew when it first computes
    log: list[tuple[str, int]] = []
    known = [part for part in weight_parts(layer) if _size([part]) >= n_weights / 4]

    def of_weight(values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        memory = {_memory(tensor) for tensor in known}
        return [tensor for tensor in values if _memory(tensor) in memory]

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base has no types
        supports_higher_order_operators = True  # else torchao's own fallback would be provoked

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if any(hasattr(kind, "__tensor_flatten__") for kind in types):
                return NotImplemented  # the subclass says which plain operations it stands for
            result = func(*args, **(kwargs or {}))  # an operation that fails is not noted
            read, made = of_weight(list(_tensors(args))), list(_tensors(result))
            if (read or _packed(args)) and made and not of_weight(made):
                # A product has a row for each row of x; anything else this large is a copy.
                copies = [t for t in made if t.numel() != x.shape[0] * t.shape[-1]]
                copies = [t for t in copies if _size([t]) >= n_weights / 4]
                known.extend(copies)
                size = _size(read + copies) + (n_weights if _packed(args) else 0)
                log.append((_named(func, args, read, copies), size))
            return result

    mode: Any = Watch
    with torch.inference_mode(), mode():
        layer(x)
    return log


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _packed(args: Any) -> bool:
    """Whether an argument is torch's packed int8 weight: an object, not a tensor."""
    import torch

    return any(isinstance(value, torch.ScriptObject) for value in args)


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _size(found: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in found)


def _named(
    func: Any, args: Any, read: Sequence[torch.Tensor], copies: Sequence[torch.Tensor]
) -> str:
    """`aten::mm float32`, `aten::to int8 -> float32`, `out_dtype(aten::mm) int8`."""
    schema, inner = (getattr(op, "_schema", None) for op in (func, args[0] if args else None))
    called = str(func) if schema is None else schema.name
    if schema is None and inner is not None:
        called = f"{called}({inner.name})"
    dtypes = dict.fromkeys(str(tensor.dtype).removeprefix("torch.") for tensor in read)
    made = [str(tensor.dtype).removeprefix("torch.") for tensor in copies]
    return " ".join([called, " and ".join(dtypes) or "packed int8"] + [f"-> {m}" for m in made[:1]])


def in_words(found: Sequence[dict[str, Any]]) -> str:
    """One line for the record's `kernel`; the number of rows only where it matters."""
    lines = [", ".join(entry["operations"]) or "nothing seen" for entry in found]
    if len(set(lines)) == 1:
        return lines[0]
    rows = [f"{entry['rows']} row{'s' if entry['rows'] > 1 else ''}" for entry in found]
    return "; ".join(f"{n}: {line}" for n, line in zip(rows, lines, strict=True))
