"""docs/engines.md names every engine, and every setting that an engine takes."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from bench.cli import main
from bench.engines import vllm
from bench.engines.llama_cpp import common as llama_common
from bench.engines.registry import ENGINES
from bench.schemes import SCHEMES, of_engine

PAGE = (Path(__file__).parents[2] / "docs/engines.md").read_text(encoding="utf-8")


def test_every_engine_has_a_row() -> None:
    named = re.findall(r"^\| `([^`]+)`", PAGE.partition("## What each one times")[0], re.MULTILINE)
    assert set(ENGINES) <= set(named)
    assert len(named) == len(set(named))


@pytest.mark.parametrize("settings", [llama_common.LlamaSettings, vllm.VllmSettings])
def test_every_setting_is_named(settings: type) -> None:
    assert [field.name for field in fields(settings) if f"`{field.name}`" not in PAGE] == []


@pytest.mark.parametrize("engine", ["llama.cpp", "vllm"])
def test_a_section_says_more_of_it(engine: str) -> None:
    assert f"\n## {engine}\n" in PAGE


def test_schemes_of_vllm_are_those_of_the_table() -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| `vllm` | safetensors"))
    known = [name for name in of_engine("vllm") if SCHEMES[name].source == "float"]
    assert [name for name in known if f"`{name}`" not in row] == []


@pytest.mark.parametrize(
    ("engine", "quant", "option", "said"),
    [
        ("llama.cpp", "q4_1", "n_ubatch=0", "options.n_ubatch: must be at least 1"),
        ("llama.cpp", "q4_1", "ngl=3", "options.ngl: unknown key"),
        ("onnxruntime", "none", "per_chanel=true", "did you mean 'per_channel'"),
        ("vllm", "none", "max_num_seqs=0", "options.max_num_seqs: must be at least 1"),
        ("vllm", "none", "gpu_memory_utilization=7.0", "above 0 and at most 1"),
        ("endpoint", "none", "url=nowhere", "options.url: not an address"),
    ],
)
def test_a_wrong_option_ends_a_run_before_anything_is_loaded(
    engine: str,
    quant: str,
    option: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["run", "-e", engine, "-q", quant, "--option", option, "--into", str(tmp_path / "r")]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "r").exists()
