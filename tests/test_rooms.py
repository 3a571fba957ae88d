"""The house: docs/architecture.md draws it, and the imports keep to the drawing."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path

from bench.engines.registry import ENGINES

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"
FILES = sorted(BENCH.rglob("*.py"))
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
}

MEASURING = {"engines", "devices", "worker", "quantization", "quality"}
"""Rooms that may import torch, inside functions; they run in the worker's process."""

TORCH_FILES = {"models/convert.py", "doctor/triton_line.py"}
"""Run as a program of their own by the parent, which has no torch."""

KERNELS = {
    "engines/graph/attention.py",
    "engines/graph/attention_kernels.py",
    "engines/graph/merging.py",
    "engines/graph/new_token.py",
    "quantization/compressed.py",
    "quantization/gemlite_layer.py",
    "quantization/int8_layer.py",
    "quantization/int8_kernels.py",
}
"""Define torch modules and Triton kernels, which need both while they are read; hence others import
them only inside functions."""

READING = {"summary", "comparison", "cost", "roofline", "predict", "claims", "report", "exchange"}
"""Never import torch, nor a measuring room."""

BARE = {
    "errors",
    "data",
    "identity",
    "fields",
    "demand",
    "records",
    "models",
    "schemes",
    "experiment",
}
"""Need the standard library only, whenever they are called."""

LIGHT = MEASURING | BARE | {"__init__", "__main__", "_version", "cli", "runner", "api"}
"""Need the standard library only to be imported: a bare GPU machine has torch and no pandas."""

ENGINE_PACKAGES = {
    "torch",
    "torchao",
    "bitsandbytes",
    "gemlite",
    *(name for engine in ENGINES.values() for name in engine.imports),
}
BORROWED = {"safetensors", "filelock", "huggingface_hub", "msgspec"}
"""Packages that come with torch or transformers, or that only quicken (msgspec): imported inside
functions."""


def room(path: Path) -> str:
    return path.relative_to(BENCH).with_suffix("").parts[0]


@cache
def imports(path: Path, *, top_only: bool = False) -> frozenset[str]:
    """Dotted names of what a file imports, in functions too; type-only imports do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in tree.body if top_only else ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in whole}
    return frozenset(found)


def packages(path: Path, *, top_only: bool = False) -> set[str]:
    return {name.split(".")[0] for name in imports(path, top_only=top_only)} - {"bench"}


def rooms_of(path: Path) -> set[str]:
    return {
        name.split(".")[1] if "." in name else "__init__"
        for name in imports(path)
        if name.split(".")[0] == "bench"
    }


def floors() -> dict[str, int]:
    """Room -> floor, as the page draws them: lines like `3   models` from the top floor down."""
    drawn = re.findall(r"^    (\d+) +(\S.*)$", PAGE, re.MULTILINE)
    return {name: int(number) for number, names in drawn for name in names.split()}


def test_imports_run_down_the_floors_that_the_page_draws() -> None:
    drawn = floors()
    assert set(drawn) == {room(path) for path in FILES}
    up = [
        f"{path.relative_to(BENCH)} imports {other}"
        for path in FILES
        for other in rooms_of(path) - {room(path)}
        if drawn[other] >= drawn[room(path)]
    ]
    assert up == []


def test_the_towers_meet_in_the_record_format_alone() -> None:
    wrong = []
    for path in FILES:
        here, name = room(path), str(path.relative_to(BENCH))
        outside = packages(path)
        if here in READING and (there := rooms_of(path) & MEASURING):
            wrong.append(f"{name} imports {there}")
        if here not in MEASURING and name not in TORCH_FILES and outside & ENGINE_PACKAGES:
            wrong.append(f"{name} imports {outside & ENGINE_PACKAGES}")
        needed = outside if here in BARE and name not in TORCH_FILES else set()
        if here in LIGHT and name not in KERNELS:
            needed = needed | packages(path, top_only=True)
        if extra := needed - sys.stdlib_module_names - BORROWED:
            wrong.append(f"{name} needs {extra}")
        kernels = {f"bench.{file[:-3].replace('/', '.')}" for file in KERNELS}
        if name not in KERNELS and kernels & imports(path, top_only=True):
            wrong.append(f"{name} imports kernels while it is read")
    assert wrong == []


def test_files_are_short_and_a_class_name_means_one_thing() -> None:
    long = {str(path): n for path in FILES if (n := len(path.read_text().splitlines())) > 450}
    assert long == {}
    classes = Counter(
        node.name
        for path in FILES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, n in classes.items() if n > 1] == []
