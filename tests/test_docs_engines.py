"""docs/engines.md names every engine, and every setting that an engine takes."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from bench.engines import ENGINES, llama_cpp, vllm

PAGE = (Path(__file__).parent.parent / "docs/engines.md").read_text(encoding="utf-8")


def test_every_engine_has_a_row() -> None:
    named = re.findall(r"^\| `([^`]+)`", PAGE.partition("## What each one times")[0], re.MULTILINE)
    assert set(ENGINES) <= set(named)
    assert len(named) == len(set(named))


@pytest.mark.parametrize("settings", [llama_cpp.Settings, vllm.Settings])
def test_every_setting_is_named(settings: type) -> None:
    assert [field.name for field in fields(settings) if f"`{field.name}`" not in PAGE] == []


@pytest.mark.parametrize("engine", ["llama.cpp", "vllm"])
def test_a_section_says_more_of_it(engine: str) -> None:
    assert f"\n## {engine}\n" in PAGE


def test_schemes_of_vllm_are_those_of_the_table() -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| `vllm` | safetensors"))
    assert [name for name in ENGINES["vllm"].schemes or () if f"`{name}`" not in row] == []
