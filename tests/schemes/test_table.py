"""The one table of schemes: names, aliases, and a scheme that is added by one entry."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench import schemes
from bench.cli import main
from bench.errors import InputError
from bench.experiment import Experiment, Grid
from bench.predict.terms import kernel
from bench.runner.arms import check_names
from bench.schemes import SCHEMES, Layout, Scheme, find, meant, scheme
from bench.schemes.bytes import check_quant, has_layout, layout


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert main([*arguments, "-o", "json"]) == 0
    rows: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return rows


def test_a_scheme_is_added_by_one_entry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = Scheme(
        name="toy-int2",
        summary="two bits a weight, for this test",
        engines={"transformers": "", "vllm": "toy"},
        aliases=("two-bit",),
        layout=Layout(bits=2, row_bytes=2),
        convert="bench.quantization.own:nothing",
        family="float",
    )
    monkeypatch.setitem(SCHEMES, toy.name, toy)
    check_names(
        Experiment(name="a", question="?", baseline="toy-int2", grid=Grid(quant=("toy-int2",)))
    )
    planned = shown(capsys, "plan", "-m", "llama-3.1-8b", "-q", "toy-int2", "--gpu", "h200-sxm")
    assert [row["quant"] for row in planned] == ["toy-int2"]
    assert 2.8e9 < float(str(planned[0]["memory_bytes"])) < 4.5e9
    sizes = {row["model"]: row["weights_bytes"] for row in shown(capsys, "models")}
    size = sizes["llama-3.1-8b"]
    assert size["toy-int2"] < size["bnb-nf4"]  # type: ignore[index]
    (predicted,) = shown(
        capsys, "predict", "-m", "llama-3.1-8b", "-q", "two-bit", "-e", "vllm", "--gpu", "rtx-4080"
    )
    assert predicted["quant"] == "toy-int2"
    engines = {row["engine"]: row["schemes"] for row in shown(capsys, "engines")}
    assert "toy-int2" in engines["vllm"]  # type: ignore[operator]
    assert "toy-int2" in engines["transformers"]  # type: ignore[operator]
    assert "toy-int2" not in engines["llama.cpp"]  # type: ignore[operator]


def test_names_are_the_keys_and_aliases_are_of_one_scheme() -> None:
    assert [name for name, row in SCHEMES.items() if row.name != name] == []
    aliases = [alias for row in SCHEMES.values() for alias in row.aliases]
    assert len(aliases) == len(set(aliases))
    assert set(aliases) & set(SCHEMES) == set()
    assert all(alias == alias.lower() for alias in aliases)


@pytest.mark.parametrize(
    ("word", "engine", "name"),
    [
        ("FP16", "llama.cpp", "f16"),
        ("bf16", "vllm", "none"),
        ("nf4", "transformers", "bnb-nf4"),
        ("AWQ", "vllm", "awq-int4"),
        ("gptq", "vllm", "gptq-int4"),
        ("fp8-block", "vllm", "fp8-block128"),
        ("w4a16", "vllm", "compressed-tensors/w4a16"),
        ("1.58-bit", "llama.cpp", "ud-iq1_s"),
        ("Q4_K_M", "llama.cpp", "q4_k_m"),
    ],
)
def test_words_that_people_use(word: str, engine: str, name: str) -> None:
    assert meant(word, engine) == name
    check_quant(name)


@pytest.mark.parametrize(
    ("name", "family"),
    [("UD-Q4_K_XL", "k-quant"), ("ud-iq2_xxs", "i-quant"), ("q4_k_l", "k-quant"), ("tq2_0", None)],
)
def test_mixes_of_gguf_are_schemes_of_llama_cpp(name: str, family: str | None) -> None:
    found = scheme(name)
    assert found.engines == {"llama.cpp": name.lower()}
    assert (found.dynamic == "bit-allocation") == name.lower().startswith("ud-")
    assert kernel(name) == (family or name)


@pytest.mark.parametrize("name", ["ud-q9_k_xl", "q4_k_xxl", "ud-", "q4", "nonsense", "int8-g64"])
def test_a_name_of_nothing_is_refused(name: str) -> None:
    assert find(name) is None
    with pytest.raises(InputError, match="unknown scheme"):
        scheme(name)


def test_bytes_of_a_mix_by_layer_are_not_guessed() -> None:
    assert not has_layout("ud-q4_k_xl")
    with pytest.raises(InputError, match="its bytes depend on the file; state its mean bits"):
        check_quant("ud-q4_k_xl")


def test_a_name_may_state_its_group() -> None:
    assert layout("gptq-int4-g32").group == 32
    assert scheme("gptq-int4-g128").layout == scheme("gptq-int4").layout
    assert layout("fp8-block64").block == 64
    # torch applies groups of 64: others are known for predictions only.
    assert scheme("int4-weight-only-g64").convert
    assert scheme("int4-weight-only-g32").engines == {}


def test_the_table_needs_only_the_standard_library_and_nothing_above_it() -> None:
    code = (
        "import sys; before = set(sys.modules); import bench.schemes.bytes; "
        "print(sorted({name.split('.')[1] for name in set(sys.modules) - before "
        "if name.startswith('bench.')}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ground = {"schemes", "errors", "_version", "fields", "api", "data"}
    rooms, torch = done.stdout.strip().rsplit(" ", 1)
    assert set(json.loads(rooms.replace("'", '"'))) <= ground
    assert torch == "False"


def test_every_function_that_a_row_names_is_there() -> None:
    pytest.importorskip("torch")
    from bench.quantization import layers

    for row in schemes.SCHEMES.values():
        for where in filter(None, (row.convert, row.fits)):
            assert callable(layers.named(where))
