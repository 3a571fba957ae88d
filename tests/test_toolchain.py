"""What cannot be built, and what to install: on errors that torch and Triton really raise."""

from __future__ import annotations

import importlib.util
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bench import toolchain

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def build(monkeypatch: pytest.MonkeyPatch, cache: Path, source: str = "int x;") -> BaseException:
    """What Triton raises when it builds its module for a card (`cuda_utils`)."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed (it is for Linux)")
    from triton.runtime.build import compile_module_from_src

    monkeypatch.setenv("TRITON_CACHE_DIR", str(cache))
    with pytest.raises((RuntimeError, subprocess.CalledProcessError)) as caught:
        compile_module_from_src(source, "cuda_utils")
    return caught.value


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "gcc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(stat.S_IRWXU)
    monkeypatch.setenv("CC", str(broken))
    said = toolchain.explained(build(monkeypatch, tmp_path / "cache"))
    assert said is not None
    assert said.startswith("a kernel could not be built: ")
    assert said.endswith(f"sudo apt install gcc g++ python{VERSION}-dev")


def test_no_compiler_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    error = build(monkeypatch, tmp_path / "cache")
    assert "a C compiler" in toolchain.lacking()
    said = toolchain.explained(error)
    assert said == f"a kernel could not be built: no C compiler; {toolchain.advice()}"


def test_headers_that_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """gcc is there and Python.h is not: the failed command says neither."""
    monkeypatch.setattr(toolchain, "headers", lambda: tmp_path)
    assert toolchain.lacking()[-1] == "Python's headers (Python.h)"
    error = build(monkeypatch, tmp_path / "cache", "#include <no_such_python.h>")
    assert isinstance(error, subprocess.CalledProcessError)
    assert "missing: Python's headers (Python.h)" in str(toolchain.explained(error))


def test_the_error_is_found_within_those_that_torch_wraps_it_in() -> None:
    inner = subprocess.CalledProcessError(1, ["/usr/bin/gcc", "/tmp/x/cuda_utils.c", "-O3"])

    class WrappedError(RuntimeError):
        inner_exception = inner

    outer = ValueError("torch._inductor failed")
    outer.__cause__ = WrappedError("backend failed")
    assert toolchain.explained(outer) is not None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        subprocess.CalledProcessError(1, ["git", "rev-parse"]),
        AssertionError("no reason"),
    ],
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert toolchain.explained(error) is None


def test_a_driver_that_cannot_be_linked_is_no_want_of_packages() -> None:
    said = toolchain.explained(AssertionError("libcuda.so cannot found!\nPlease make sure"))
    assert said is not None
    assert "apt" not in said
    assert "ldconfig" in said
