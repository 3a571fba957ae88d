"""Schemes: what they need, said before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from bench.errors import InputError
from bench.quantization import refusal
from bench.schemes import SCHEMES, Device, Package, of_engine, scheme

CPU = Device(name="cpu", kind="cpu")
ADA = Device(name="cuda:0", kind="cuda", capability=(8, 9))
AMPERE = Device(name="cuda:0", kind="cuda", capability=(8, 0))
TURING = Device(name="cuda:0", kind="cuda", capability=(7, 5))
PASCAL = Device(name="cuda:0", kind="cuda", capability=(6, 1))

APPLIED = [name for name in of_engine("transformers") if scheme(name).source == "float"]

VERSIONS = {
    "torchao": "0.18.0+cpu",
    "bitsandbytes": "0.50.2",
    "optimum-quanto": "0.2.7",
    "triton": "3.9.0",
    "gemlite": "0.6.0.post2",
}


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Installed packages, to be changed by a test."""
    there = dict(VERSIONS)

    def version(name: str) -> str:
        if name not in there:
            raise metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(metadata, "version", version)
    return there


def test_names_are_the_keys() -> None:
    assert all(name == made.name for name, made in SCHEMES.items())


def test_every_applied_scheme_has_a_size_to_predict_with() -> None:
    assert [name for name in APPLIED if scheme(name).layout is None] == []


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(InputError, match="unknown scheme 'int8dynamic'; did you mean"):
        scheme("int8dynamic")


def test_a_scheme_that_a_device_cannot_run_says_so(packages: dict[str, str]) -> None:
    assert refusal("torch-dynamic-int8", CPU) is None
    assert refusal("torch-dynamic-int8", ADA) == (
        "scheme 'torch-dynamic-int8' runs on cpu, not on cuda:0"
    )
    for name in ("fp8-dynamic", "fp8-dynamic-tensor", "int4-weight-only", "gemlite-int4"):
        assert refusal(name, CPU) == f"scheme '{name}' runs on cuda, not on cpu"


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("fp8-dynamic", ADA),
        ("fp8-dynamic-tensor", ADA),
        ("int4-weight-only", AMPERE),
        ("gemlite-int4", AMPERE),
        ("int8-dynamic-fused", AMPERE),
        ("bnb-int8", TURING),
    ],
)
def test_the_least_capability(packages: dict[str, str], name: str, least: Device) -> None:
    cards = [PASCAL, TURING, AMPERE, ADA]
    assert [card for card in cards if refusal(name, card) is None] == cards[cards.index(least) :]


@pytest.mark.parametrize(
    ("name", "card", "mode", "why"),
    [
        ("int8-dynamic", {"n_sm": 66}, "cuda-graph", "needs 68 SMs"),  # RTX 4070 Ti SUPER
        ("int8-dynamic", {"n_sm": 58}, "compiled", "int8-dynamic-fused"),  # 4080 Laptop
        ("int8-dynamic", {"n_sm": 58}, "eager", None),
        ("int8-dynamic", {"n_sm": 76}, "cuda-graph", None),  # RTX 4080
        ("int8-dynamic-fused", {"n_sm": 58}, "cuda-graph", None),
        ("fp8-weight-only", {"capability": (8, 6)}, "compiled", "needs compute capability 8.9"),
        ("fp8-weight-only", {"capability": (8, 6)}, "eager", None),
        ("fp8-weight-only", {"capability": (12, 0)}, "compiled", None),
        ("none", {"capability": (6, 1)}, "compiled", "needs compute capability 7.0"),
        ("none", {"capability": (6, 1)}, "eager", None),
        ("none", {"capability": (7, 5), "n_sm": 40}, "cuda-graph", None),
        ("int8-dynamic", {}, "cuda-graph", None),  # what is not known is not held against it
    ],
)
def test_what_a_card_lacks_is_said_before_anything_is_loaded(
    packages: dict[str, str], name: str, card: dict[str, Any], mode: str, why: str | None
) -> None:
    found = scheme(name).refusal(replace(ADA, **({"capability": (8, 9)} | card)), mode)
    assert found is None if why is None else why in str(found)


def test_cards_without_bfloat16_compute_in_float16() -> None:
    assert [one.dtype for one in (TURING, AMPERE, Device(name="cpu", kind="cpu"))] == [
        "float16",
        "bfloat16",
        "float32",
    ]


def test_a_capability_that_is_too_low_is_stated_with_the_reason(packages: dict[str, str]) -> None:
    assert refusal("fp8-dynamic", AMPERE) == (
        "scheme 'fp8-dynamic' needs compute capability 8.9 (fp8 tensor cores: Ada, Hopper and "
        "newer), cuda:0 has 8.0"
    )


@pytest.mark.parametrize(
    ("name", "device", "package"),
    [
        *(
            (name, ADA, "torchao")
            for name in (
                "int8-dynamic",
                "int8-weight-only",
                "fp8-dynamic",
                "fp8-dynamic-tensor",
                "fp8-weight-only",
                "int4-weight-only",
                "mixed:5.0bit",
            )
        ),
        ("bnb-int8", CPU, "bitsandbytes"),
        ("bnb-nf4", CPU, "bitsandbytes"),
        ("quanto-int8", CPU, "optimum-quanto"),
        ("int8-dynamic-fused", ADA, "triton"),
        ("gemlite-int4", ADA, "gemlite"),
    ],
)
def test_a_missing_package_is_named(
    packages: dict[str, str], name: str, device: Device, package: str
) -> None:
    assert refusal(name, device) is None
    del packages[package]
    assert refusal(name, device) == (
        f"scheme '{name}' needs the package {package}: pip install {package}"
    )


def test_nothing_is_needed_without_a_scheme_or_for_integers_on_a_cpu(
    packages: dict[str, str],
) -> None:
    packages.clear()
    packages["torch"] = "2.13.0"
    assert refusal("none", CPU) is None
    assert refusal("int8-dynamic-fused", CPU) is None


def test_integers_on_a_cpu_need_a_torch_that_takes_unsigned_ones(packages: dict[str, str]) -> None:
    packages["torch"] = "2.11.0"
    assert "needs torch >= 2.12, here is 2.11.0" in str(refusal("int8-dynamic-fused", CPU))
    assert refusal("int8-dynamic-fused", ADA) is None


def test_a_package_that_is_too_old_is_named_with_what_is_there(packages: dict[str, str]) -> None:
    packages["torchao"] = "0.16.0"
    assert "needs torchao >= 0.17, here is 0.16.0" in str(refusal("int8-dynamic", CPU))


def test_versions_are_compared_as_numbers(packages: dict[str, str]) -> None:
    packages["torchao"] = "0.100"
    assert Package(name="torchao", least="0.17").missing(CPU) is None


def test_a_dtype_that_a_scheme_cannot_start_from(packages: dict[str, str]) -> None:
    assert refusal("int4-weight-only", ADA, dtype="bfloat16") is None
    assert refusal("int4-weight-only", ADA, dtype="float16") == (
        "scheme 'int4-weight-only' starts from bfloat16, not from float16"
    )
    assert "starts from float32" in str(refusal("torch-dynamic-int8", CPU, dtype="bfloat16"))
    assert refusal("fp8-dynamic-tensor", ADA, dtype="float16") is None


def test_modes_that_a_scheme_cannot_take(packages: dict[str, str]) -> None:
    assert "cannot run in mode compiled: torch's packed weights" in str(
        refusal("torch-dynamic-int8", CPU, "compiled")
    )
    assert "the host waits" in str(refusal("bnb-int8", ADA, "cuda-graph"))
    assert refusal("bnb-int8", ADA, "compiled") is None
    graphs = {name for name in APPLIED if refusal(name, ADA, "cuda-graph") is None}
    assert graphs == set(APPLIED) - {"torch-dynamic-int8", "bnb-int8"}


def test_a_graph_needs_a_cuda_device() -> None:
    assert refusal("none", CPU, "cuda-graph") == "mode cuda-graph needs a CUDA device, not cpu"


def test_the_parent_imports_no_torch_for_any_of_this() -> None:
    code = (
        "import sys; from bench import quantization as q, schemes; "
        "d = q.Device(name='cpu', kind='cpu'); [q.refusal(name, d) for name in schemes.SCHEMES]; "
        "print(sorted({'torch', 'torchao', 'bitsandbytes', 'triton'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_page_lists_every_scheme_with_what_it_needs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "quantization.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for name, row in ((name, SCHEMES[name]) for name in APPLIED):
        needs = ".".join(map(str, row.least.capability)) if row.least else ""
        listed = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert needs in listed
        assert (row.dynamic or "|") in listed
        assert ("CPU" in listed) == ("cpu" in row.kinds) or name == "none"
        for package in row.packages:
            assert package.name == "triton" or f"{package.name} >= {package.least}" in page
    assert set(APPLIED) <= set(rows)
