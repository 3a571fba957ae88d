"""Which arms flags mean where no experiment is named."""

from __future__ import annotations

import json

import pytest

from bench.cli import main

MODEL = "smollm2-135m-instruct"
QUICKSTART = ["none", "torch-dynamic-int8", "int8-dynamic-fused"]


def planned(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[list[tuple[str, str]], str]:
    """Engine and scheme of each arm, and what was said beside."""
    assert main(["plan", *flags, "-o", "json"]) == 0
    told = capsys.readouterr()
    return [(row["engine"], row["quant"]) for row in json.loads(told.out)], told.err


@pytest.mark.parametrize(
    ("engines", "arms"),
    [
        ("transformers", [("transformers", quant) for quant in QUICKSTART]),
        ("vllm", [("vllm", "none")]),
        ("onnxruntime", [("onnxruntime", "none"), ("onnxruntime", "int8-dynamic")]),
        ("llama.cpp", [("llama.cpp", "q4_1")]),
        (
            "transformers,llama.cpp",
            [*(("transformers", quant) for quant in QUICKSTART), ("llama.cpp", "q4_1")],
        ),
        ("synthetic", [("synthetic", quant) for quant in QUICKSTART]),
    ],
)
def test_schemes_that_nobody_named_are_those_that_an_engine_runs(
    engines: str, arms: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    found, said = planned(capsys, "-m", MODEL, "-e", engines)
    assert found == arms
    assert "left out" not in said


def test_a_scheme_that_is_named_runs_where_an_engine_has_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found, said = planned(capsys, "-m", MODEL, "-e", "transformers,llama.cpp", "-q", "none,q4_1")
    assert found == [("transformers", "none"), ("llama.cpp", "q4_1")]
    assert said == "left out, because the engine does not run the scheme: transformers q4_1\n"


@pytest.mark.parametrize("engines", ["vllm", "transformers,vllm"])
def test_a_scheme_that_no_engine_runs_is_an_error(
    engines: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-m", MODEL, "-e", engines, "-q", "none,q4_1"]) == 2
    assert "unknown scheme of " in capsys.readouterr().err


def test_the_file_of_a_gguf_engine_is_known_by_name_before_it_is_fetched(
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    assert planned(capsys, "-m", MODEL, "-e", "llama.cpp")[0] == [("llama.cpp", "q4_1")]
