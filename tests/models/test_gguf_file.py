"""GGUF headers, held against the package that writes such files."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from bench.errors import InputError, UnsupportedError
from bench.experiment import Variant
from bench.models import gguf as gguf_file
from bench.models import resolve_model
from bench.models.weights import identity
from bench.runner.arms import check_weights
from bench.schemes import scheme as scheme_of
from bench.schemes.gguf import FILE_TYPES, TENSOR_TYPES


def write(path: Path, file_type: gguf.LlamaFileType = gguf.LlamaFileType.MOSTLY_Q8_0) -> Path:
    """A file with every kind of key, a matrix in 8 bits and a vector in 32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_file_type(file_type)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_context_length(512)
    writer.add_bool("a.bool", True)
    writer.add_float64("a.float", 0.5)
    writer.add_array("an.array", [[1, 2], [3, 4]])
    writer.add_token_list(["a", "b", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
    matrix = gguf.quants.quantize(np.ones((4, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.weight", matrix, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("norm.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_says_what_it_holds(tmp_path: Path) -> None:
    found = gguf_file.read(write(tmp_path / "tiny.gguf"))
    assert (found.file_type, found.scheme) == ("q8_0", "q8_0")
    assert found.n_params == 4 * 64 + 64
    assert found.weights_bytes == 4 * 2 * 34 + 16 + 64 * 4  # two blocks of 34 a row, aligned to 32
    assert found.quantized_fraction == pytest.approx(256 / 320)
    assert found.tensor_types == {"q8_0": 256, "f32": 64}
    assert found.keys["general.name"] == "Tiny"
    assert (found.keys["a.bool"], found.keys["a.float"]) == (True, 0.5)
    assert (found.keys["an.array"], found.keys["tokenizer.ggml.tokens"]) == (2, 3)


def test_the_architecture_has_the_names_of_config_json(tmp_path: Path) -> None:
    assert gguf_file.read(write(tmp_path / "tiny.gguf")).architecture() == {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "max_position_embeddings": 512,
        "vocab_size": 3,
        "tie_word_embeddings": True,
    }


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        ("ALL_F32", "q8_0"),  # its matrix is in 8 bits, whatever its key says
        ("MOSTLY_F16", "q8_0"),
        ("MOSTLY_Q4_K_M", "q4_k_m"),
        ("MOSTLY_IQ2_XXS", "iq2_xxs"),
    ],
)
def test_a_file_that_says_floats_is_called_by_what_it_holds(
    tmp_path: Path, kind: str, scheme: str
) -> None:
    file = gguf_file.read(write(tmp_path / "tiny.gguf", gguf.LlamaFileType[kind]))
    assert file.scheme == scheme


def test_a_file_cut_anywhere_is_one_line_that_says_so(tmp_path: Path) -> None:
    whole = write(tmp_path / "tiny.gguf").read_bytes()
    last = len(whole) - 64 * 4  # within the last weight the header cannot tell: the engine does
    for length in range(1, last + 1):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"it ends|longer than|does not begin") as error:
            gguf_file.read(cut)
        assert "\n" not in str(error.value)


def test_values_of_an_unknown_type_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "tiny.gguf")
    whole = bytearray(file.read_bytes())
    at = whole.index(b"general.architecture") + len(b"general.architecture")
    whole[at : at + 4] = (77).to_bytes(4, "little")
    file.write_bytes(whole)
    with pytest.raises(InputError, match="a value has the unknown type 77"):
        gguf_file.read(file)


def test_types_are_those_of_the_package() -> None:
    for number, name in FILE_TYPES.items():
        theirs = gguf.LlamaFileType(number).name.lower()
        assert theirs.removeprefix("all_").removeprefix("mostly_") == name
    for number, made in TENSOR_TYPES.items():
        theirs = gguf.GGMLQuantizationType(number)
        assert theirs.name.lower() == made.name
        assert gguf.GGML_QUANT_SIZES[theirs] == (made.weights, made.block_bytes)


def test_the_embedded_file_is_what_its_card_says(embedded_gguf: Path) -> None:
    found = gguf_file.read(embedded_gguf)
    card = resolve_model("smollm2-135m-instruct").card.architecture
    assert found.file_type == "q4_1"
    assert found.n_params == 134_515_008
    assert {name: card[name] for name in found.architecture()} == found.architecture()


@pytest.mark.parametrize("cut", [0, 3, 20, 200, -300])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"tiny\.gguf: "):
        gguf_file.read(path)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(InputError, match="does not begin with GGUF"):
        gguf_file.read(path)
    with pytest.raises(InputError, match="No such file"):
        gguf_file.read(tmp_path / "none.gguf")


def test_a_users_own_file_is_a_model(tmp_path: Path) -> None:
    path = write(tmp_path / "My Tiny.Q8_0.gguf")
    model = resolve_model(str(path))
    assert (model.source, model.path, model.card.title) == ("gguf", path, "Tiny")
    assert model.card.name == "my-tiny.q8_0"
    before = identity(model)
    path.write_bytes(path.read_bytes() + b"\0" * 32)
    assert identity(model) != before


def test_a_file_goes_with_its_engine_and_its_scheme(tmp_path: Path) -> None:
    ref = str(write(tmp_path / "tiny.gguf"))
    model = resolve_model(ref)
    check_weights(Variant(model=ref, engine="llama.cpp", quant="q8_0"), model)
    with pytest.raises(InputError, match="'q8_0', not 'q4_0'; name its arm by that: -q q8_0"):
        check_weights(Variant(model=ref, engine="llama.cpp", quant="q4_0"), model)
    with pytest.raises(InputError, match=r"does not load the GGUF file .* with -e llama\.cpp"):
        check_weights(Variant(model=ref), model)
    random = resolve_model("llama-3.2-1b@random")
    with pytest.raises(InputError, match="has no GGUF file; give one as a path"):
        check_weights(Variant(model=random.ref, engine="llama.cpp", quant="q8_0"), random)


def of_types(path: Path, file_type: int | None, types: dict[str, int]) -> gguf_file.GgufFile:
    """A header with so many weights of each type; no weight is read."""
    tensors = tuple(
        gguf_file.Tensor(name=f"blk.{n}.w", n_elements=count, type=kind)
        for n, (kind, count) in enumerate(types.items())
    )
    keys = {} if file_type is None else {"general.file_type": file_type}
    return gguf_file.GgufFile(path=path, keys=keys, tensors=tensors, weights_bytes=1000)


@pytest.mark.parametrize(
    ("name", "file_type", "types", "scheme"),
    [
        ("Qwen3-8B-UD-Q4_K_XL.gguf", 15, {"q4_k": 70, "q5_k": 20, "q6_k": 10}, "ud-q4_k_xl"),
        ("Qwen3-8B-Q4_K_L.gguf", 15, {"q4_k": 80, "q8_0": 20}, "q4_k_l"),
        ("Qwen3-8B-Q4_K_M.gguf", 15, {"q4_k": 90, "q6_k": 10}, "q4_k_m"),
        ("model-UD-IQ2_XXS-00001-of-00003.gguf", 19, {"iq2_xxs": 90, "q4_k": 10}, "ud-iq2_xxs"),
        ("r1-UD-TQ1_0.gguf", 24, {"iq1_s": 90, "q4_k": 10}, "ud-tq1_0"),
        ("gpt-oss-20b-F16.gguf", 1, {"mxfp4": 90, "f16": 10}, "mxfp4"),
        ("gpt-oss-20b-mxfp4.gguf", 38, {"mxfp4": 90, "q8_0": 10}, "mxfp4"),
        ("anything.gguf", 38, {"mxfp4": 90, "q8_0": 10}, "mxfp4_moe"),
        ("anything.gguf", 15, {"q4_k": 90, "q6_k": 10}, "q4_k_m"),
        ("lies-Q8_0.gguf", 15, {"q4_k": 90, "q6_k": 10}, "q4_k_m"),
        ("no-recipe.gguf", None, {"q6_k": 100}, "q6_k"),
        ("no-recipe.gguf", None, {"iq3_s": 60, "q6_k": 40}, "iq3_s"),
        ("new.gguf", 999, {"q4_k": 100}, "q4_k"),
        ("plain-F16.gguf", 1, {"f16": 90, "f32": 10}, "none"),
        ("Qwen3-4B-Q4.gguf", 15, {"q4_k": 100}, "q4_k_m"),
        ("mistral-7b.Q3_K.gguf", 12, {"q3_k": 70, "q4_k": 30}, "q3_k_m"),
        ("Qwen3-4B-Q2_K.gguf", 10, {"q2_k": 70, "q3_k": 30}, "q2_k"),
    ],
)
def test_a_mix_has_a_name_of_its_own(name, file_type, types, scheme) -> None:
    found = of_types(Path(name), file_type, types)
    assert found.scheme == scheme
    assert scheme_of(scheme).name == scheme


@pytest.mark.parametrize("file_type", [40, 145, None])
def test_weights_of_a_fork_of_llama_cpp_are_refused(file_type: int | None) -> None:
    """BitNet's I2_S has the number that llama.cpp gave Q1_0; ik_llama.cpp's numbers are unknown."""
    found = of_types(Path("m-I2_S.gguf"), file_type, {"type 36": 90, "f16": 10})
    with pytest.raises(UnsupportedError, match=r"m-I2_S.gguf: most weights are of ggml's type 36"):
        _ = found.scheme


def test_mean_bits_are_those_of_the_tensors() -> None:
    found = of_types(Path("a.gguf"), 15, {"q4_k": 300, "q6_k": 100})
    assert found.mean_bits == pytest.approx((300 * 4.5 + 100 * 6.5625) / 400)
