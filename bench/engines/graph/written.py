"""What the compiler wrote for a step: what it calls, and whether it copies weights.

A scheme's name does not tell: the same int8 weight is read once as it is at one row, and written
out in floats before each product at two. The code of inductor says so.
"""

from __future__ import annotations

import ast
import contextlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

CALL: Final = re.compile(
    r"^\s*(?:buf\d+ = )?(triton_\w+\.run|cpp_\w+|extern_kernels\.\w+|torch\.ops\.[\w.]+)\(", re.M
)
MADE: Final = re.compile(r"(?:empty_strided_\w+|assert_size_stride)\((?:buf\d+, )?(\([^()]*\))")
"""Tensors that inductor makes, and those that an operation of a library returns."""
OPEN: Final = frozenset(
    (
        "triton",
        "triton template",
        "cpp",
        "extern_kernels.mm",
        "extern_kernels.addmm",
        "extern_kernels.bmm",
        "extern_kernels._int_mm",
        "extern_kernels._scaled_mm",
        "torch.ops.aten._weight_int4pack_mm",
        "torch.ops.gpu_cost_bench.int8_matmul",
        "torch.ops.gemlite.forward_functional",
        "torch.ops.gpu_cost_bench.attend",
        "torch.ops.gpu_cost_bench.attend_narrow",
        "torch.ops.gpu_cost_bench.attend_new",
        "torch.ops.aten._scaled_dot_product_flash_attention",
        "torch.ops.aten._scaled_dot_product_efficient_attention",
        "torch.ops.aten._scaled_dot_product_cudnn_attention",
        "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu",
    )
)
"""What is known to read its operands as they are; others may copy a weight within themselves."""


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """Code of each graph that inductor compiles meanwhile, or takes from its cache."""
    from torch._inductor.graph import GraphLowering

    codes: list[str] = []
    before = GraphLowering.save_output_code
    GraphLowering.save_output_code = codes.append
    try:
        yield codes
    finally:
        GraphLowering.save_output_code = before


def told(code: str) -> dict[str, Any] | None:
    """What one graph's code calls, by name, and the numbers of the largest tensor that is made.

    Kernels that inductor wrote itself count together, by their language; others have their names.
    None for code of another form (a wrapper in C++).
    """
    _, here, call = code.partition("def call(")
    if not here:
        return None
    names = [re.sub(r"\.(run|default)$", "", name) for name in CALL.findall(call)]
    own = {"triton_tem": "triton template", "triton": "triton", "cpp": "cpp"}
    kinds = [next((own[o] for o in own if name.startswith(f"{o}_")), name) for name in names]
    try:
        made = [math.prod(ast.literal_eval(shape)) for shape in MADE.findall(call)]
    except (ValueError, SyntaxError):  # a size that is known only as it runs
        return None
    return {
        "calls": len(names),
        "by": dict(Counter(kinds)),
        "largest_made": max(made, default=0),
    }


def of_step(codes: Sequence[str], matrix: int) -> dict[str, Any] | None:
    """What the pieces of a step call, the one of most calls for all; None if one cannot be read.

    `copies_weights`: whether any of them makes what is as large as `matrix`, the largest weight;
    None where an operation of a library may do so within itself, or `matrix` is 0.
    """
    pieces = [piece for code in codes if (piece := told(code)) is not None]
    if not pieces or len(pieces) < len(codes):
        return None
    copies: bool | None = any(piece["largest_made"] >= matrix for piece in pieces)
    if matrix == 0 or not (copies or all(set(piece["by"]) <= OPEN for piece in pieces)):
        copies = None
    return max(pieces, key=lambda piece: int(piece["calls"])) | {"copies_weights": copies}


def largest_matrix(layers: Iterable[Any]) -> int:
    """Numbers in the largest weight of the decoder layers' linear parts."""
    sizes = [
        module.in_features * module.out_features
        for layer in layers
        for module in layer.modules()
        if hasattr(module, "in_features") and hasattr(module, "out_features")
    ]
    return max(sizes, default=0)
