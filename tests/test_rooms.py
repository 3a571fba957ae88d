"""The house: what each tower may import. docs/architecture.md draws it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from bench.engines.registry import ENGINES

BENCH = Path(__file__).parent.parent / "bench"
FILES = sorted(BENCH.rglob("*.py"))

GROUND = {
    "errors",
    "validity",
    "fields",
    "catalog",
    "experiment",
    "records",
    "gguf_file",
    "device_names",
}
"""Standard library only; import nothing but one another."""

MEASURING = {
    "engines",
    "devices",
    "worker",
    "quantization",
    "quality",
    "quality_store",
    "mixed",
    "fitting",
    "serving",
    "rank",
}
"""May import torch; the only rooms that run in the worker."""

READING = {
    "analysis",
    "comparison",
    "summary",
    "quality_figures",
    "served",
    "cost",
    "roofline",
    "predict",
    "claims",
    "report",
    "exchange",
}
"""Never import torch, nor a measuring room."""

ENGINE_PACKAGES = {
    "torch",
    "torchao",
    "bitsandbytes",
    *(name for engine in ENGINES.values() for name in engine.imports),
}
LAZY = ENGINE_PACKAGES | {
    "pandas",
    "numpy",
    "scipy",
    "rich",
    "pynvml",
    "psutil",
    "h11",
    "altair",
    "jinja2",
    "vl_convert",
}

REGISTRY = "bench.engines.registry"
"""What is known of each engine: data, which everyone may read."""

KERNELS = {
    "engines/graph/attention.py",
    "engines/graph/attention_kernels.py",
    "quantization/int8_layer.py",
    "quantization/int8_kernels.py",
}
"""Define modules of torch and kernels of triton, which need both while they are read; hence they
are imported only inside functions."""


def room(path: Path) -> str:
    return path.relative_to(BENCH).with_suffix("").parts[0]


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Dotted names of the modules that a file imports; type-only imports do not count."""
    tree = ast.parse(path.read_text())
    body: list[ast.AST] = list(tree.body) if top_only else list(ast.walk(tree))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in body:
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_of(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("bench.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(BENCH)))
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    here, names = room(path), imports(path)
    outside = {name.split(".")[0] for name in names} - {"bench", "__future__"}
    if here in GROUND:
        assert rooms_of(names) <= GROUND
        assert outside <= sys.stdlib_module_names
    if here in READING:
        assert outside & ENGINE_PACKAGES == set()
        assert rooms_of({n for n in names if not n.startswith(REGISTRY)}) & MEASURING == set()
    if here == "engines":
        assert "devices" not in rooms_of(names)
    if here == "devices":
        assert "engines" not in rooms_of(names)
    if here not in MEASURING:
        assert outside & ENGINE_PACKAGES == set(), "torch outside the measuring tower"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(BENCH)))
def test_the_measuring_tower_needs_only_the_standard_library_to_import(path: Path) -> None:
    if room(path) not in MEASURING | {
        "cli",
        "__init__",
        "__main__",
        "runner",
        "session",
        "measure_run",
        "quality_run",
        "fit_run",
        "arms",
        "process",
        "environments",
        "boot",
        "api",
        "pytest_plugin",
        "pytest_run",
    }:
        return
    if str(path.relative_to(BENCH)) in KERNELS:
        return
    top = {name.split(".")[0] for name in imports(path, top_only=True)}
    assert top & LAZY == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(BENCH)))
def test_kernels_are_imported_only_inside_functions(path: Path) -> None:
    modules = {"bench." + name.removesuffix(".py").replace("/", ".") for name in KERNELS}
    assert imports(path, top_only=True) & modules == set()


def test_no_file_is_too_long_to_read_in_one_sitting() -> None:
    long = {str(path): n for path in FILES if (n := len(path.read_text().splitlines())) > 450}
    assert long == {}
