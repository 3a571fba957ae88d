"""llama.cpp: GGUF files as they are, through whichever of its Python packages is installed.

llama-cpp-python (compiled for this machine, gives logits and single steps:
`steps`) comes first, then xllamacpp (prebuilt, whole requests of its server:
`bench.engines.llama_cpp.server`). An installed llama-server is what the engine `endpoint` measures.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from bench.engines import Engine
from bench.errors import UnsupportedError


def make() -> Engine:
    """An engine of the first package that is installed. Raises UnsupportedError."""
    if find_spec("llama_cpp"):
        from bench.engines.llama_cpp.steps import LlamaPythonEngine

        return LlamaPythonEngine()
    if find_spec("xllamacpp"):
        from bench.engines.llama_cpp.server import LlamaServerEngine

        return LlamaServerEngine()
    raise UnsupportedError(
        f"engine llama.cpp needs a package: {sys.executable} -m pip install xllamacpp (prebuilt), "
        "or llama-cpp-python (compiled for this CPU, which is faster)"
    )
