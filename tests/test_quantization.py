"""Schemes: what they need, said before anything is loaded."""

from __future__ import annotations

from importlib import metadata

import pytest

from bench.errors import InputError
from bench.quantization import SCHEMES, Device, refusal, scheme

CPU = Device(name="cpu", kind="cpu")
CUDA = Device(name="cuda:0", kind="cuda", capability=(8, 9))


def test_names_are_the_keys() -> None:
    assert all(name == made.name for name, made in SCHEMES.items())


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(InputError, match="unknown scheme 'int8dynamic'; did you mean"):
        scheme("int8dynamic")


def test_a_scheme_that_a_device_cannot_run_says_so() -> None:
    assert refusal("torch-dynamic-int8", CPU) is None
    assert refusal("torch-dynamic-int8", CUDA) == (
        "scheme 'torch-dynamic-int8' runs on cpu, not on cuda:0"
    )


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert refusal("none", CPU) is None
    assert "pip install torchao" in str(refusal("int8-dynamic", CPU))
