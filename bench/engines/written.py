"""What the compiler wrote for a step: what it launches, and whether it copies weights.

A scheme's name does not tell: the same int8 weight is read once as it is at one row, and written
out in floats before each product at two. The code of inductor says so.
"""

from __future__ import annotations

import ast
import contextlib
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

LAUNCH: Final = re.compile(
    r"^\s*(?:buf\d+ = )?(triton_\w+\.run|cpp_\w+|extern_kernels\.\w+|torch\.ops\.[\w.]+)\(", re.M
)
MADE: Final = re.compile(r"empty_strided_\w+\((\([^()]*\))")


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


def told(code: str) -> dict[str, Any]:
    """What one graph's code launches, by name, and the numbers of the largest tensor it makes.

    Kernels that inductor wrote itself count together, by their language; others have their names.
    """
    call = code[code.index("def call(") :]
    names = [re.sub(r"\.(run|default)$", "", name) for name in LAUNCH.findall(call)]
    own = {"triton_tem": "triton template", "triton": "triton", "cpp": "cpp"}
    kinds = [next((own[o] for o in own if name.startswith(f"{o}_")), name) for name in names]
    made = [math.prod(ast.literal_eval(shape)) for shape in MADE.findall(call)]
    return {
        "launches": len(names),
        "by": dict(Counter(kinds)),
        "largest_made": max(made, default=0),
    }


def largest_matrix(layer: Any) -> int:
    """Numbers in the largest weight of a decoder layer's linear parts."""
    sizes = [
        module.in_features * module.out_features
        for module in layer.modules()
        if hasattr(module, "in_features") and hasattr(module, "out_features")
    ]
    return max(sizes, default=0)
