"""Counts from cards against the models that transformers builds from the same cards."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from bench.errors import InputError, UnsupportedError
from bench.models import load_card, model_cards
from bench.models.shapes import Matrix, Shape, shape, validate_models
from bench.schemes import SCHEMES, find
from bench.schemes import scheme as scheme_of
from bench.schemes.bytes import held, layout, sized
from tests.quantized import quantize

PUBLISHED = {
    # Billions of parameters, all and active, as the model's makers state them.
    "llama-3.1-8b": (8.03, 8.03),
    "qwen3-30b-a3b": (30.5, 3.3),
    "gpt-oss-20b": (20.9, 3.6),
    "deepseek-r1": (671, 37),
    "mixtral-8x7b": (46.7, 12.9),
    "mixtral-8x22b": (141, 39),
    "qwen3-coder-480b-a35b": (480, 35),
}


@pytest.fixture(scope="module")
def meta_counts() -> dict[str, tuple[int, int]]:
    """Parameters, and distinct embedding/head matrices, of each card on the meta device."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    counts = {}
    for name, path in model_cards().items():
        architecture = dict(load_card(path).architecture)
        kind = architecture.pop("model_type")
        config = transformers.AutoConfig.for_model(kind, **architecture)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        head = model.get_output_embeddings().weight
        tied = head is model.get_input_embeddings().weight
        counts[name] = (sum(p.numel() for p in model.parameters()), int(tied))
    return counts


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised on import inside torchao
def test_other_models_of_a_shape_are_of_one_card_and_have_none_of_their_own() -> None:
    cards = [load_card(path) for path in model_cards().values()]
    others = [name for card in cards for name in card.same_shape]
    assert len(others) == len(set(others)) > 10
    assert not set(others) & set(model_cards())
    assert all(find(card.published_in) for card in cards if card.published_in)


@pytest.mark.parametrize("name", sorted(model_cards()))
def test_parameters_are_those_of_the_transformers_model(name, meta_counts) -> None:
    counted = shape(load_card(model_cards()[name]))

    assert meta_counts[name] == (counted.n_params, int(counted.tied))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_active_parameters_are_those_published(name) -> None:
    counted = shape(load_card(model_cards()[name]))
    embedding = next(m.n_params for m in counted.matrices if m.part == "embedding")
    total, active = PUBLISHED[name]

    assert counted.n_params / 1e9 == pytest.approx(total, rel=0.005)
    # Makers count the input embedding among the active parameters, or leave it out (gpt-oss).
    with_embedding = (counted.n_active_params + embedding) / 1e9
    assert min(
        abs(with_embedding / active - 1), abs(counted.n_active_params / 1e9 / active - 1)
    ) == pytest.approx(0, abs=0.03)


def test_an_unknown_model_type_is_refused_by_name() -> None:
    card = load_card(model_cards()["llama-3.1-8b"])
    strange = replace(card, architecture={**card.architecture, "model_type": "lama"})

    with pytest.raises(UnsupportedError, match="did you mean 'llama'"):
        shape(strange)


def test_experts_read_grow_with_the_batch_up_to_all() -> None:
    moe = shape(load_card(model_cards()["qwen3-30b-a3b"]))

    assert moe.experts_read(1) == pytest.approx(8 / 128)
    assert moe.experts_read(2) == pytest.approx(1 - (120 / 128) ** 2)
    assert moe.experts_read(10_000) == pytest.approx(1)


def test_every_shipped_card_is_in_order() -> None:
    assert validate_models() == []


def test_problems_of_cards_name_their_file(monkeypatch, tmp_path) -> None:
    good = model_cards()["llama-3.1-8b"].read_text(encoding="utf-8")
    strange = tmp_path / "llama-3.1-8b.toml"
    strange.write_text(good.replace('model_type = "llama"', 'model_type = "mamba"'), "utf-8")
    renamed = tmp_path / "other.toml"
    renamed.write_text(good, encoding="utf-8")
    monkeypatch.setattr("bench.models.shapes.model_cards", lambda: {"a": strange, "b": renamed})
    problems = validate_models()

    assert len(problems) == 2
    assert problems[0].startswith(f"{strange}: ")
    assert "unknown model type 'mamba'" in problems[0]
    assert problems[1].startswith(f"{renamed}: name:")


def one_matrix(tied: bool = False) -> Shape:
    return Shape(
        matrices=(
            Matrix(part="embedding", n_out=1000, n_in=128),
            Matrix(part="head", n_out=1000, n_in=128),
            Matrix(part="mlp", n_out=256, n_in=128),
            Matrix(part="small", n_out=128),
        ),
        attention=(),
        tied=tied,
        hidden_size=128,
        n_layers=1,
    )


def test_a_tied_head_counts_once_until_it_is_quantized() -> None:
    plain, low = held(one_matrix(tied=True), "none"), held(one_matrix(tied=True), "int8-dynamic")

    assert plain.weights_bytes == 2 * (1000 * 128 + 256 * 128 + 128)
    assert plain.step_bytes == plain.weights_bytes
    assert low.weights_bytes == 2 * (1000 * 128 + 128) + 1256 * 128 + 5 * 1256
    assert low.step_bytes == 1256 * 128 + 5 * 1256 + 2 * 128


def test_groups_are_padded_to_the_tiles_of_the_kernel() -> None:
    # 128 columns become 1024, each group of 64 with four bytes of scale and zero point.
    low = held(one_matrix(), "int4-weight-only")
    quantized_rows = 1000 + 256

    assert low.step_bytes == quantized_rows * (512 + 16 * 4) + 2 * 128


@pytest.mark.parametrize(
    "scheme", [name for name in sized() if name != "none" and SCHEMES[name].source == "float"]
)
def test_transformers_experts_are_left_alone_other_engines_quantize_them(scheme) -> None:
    moe = shape(load_card(model_cards()["qwen3-30b-a3b"]))
    here, elsewhere = held(moe, scheme), held(moe, scheme, engine="vllm")

    assert here.expert_bytes == held(moe, "none").expert_bytes
    assert elsewhere.expert_bytes < 0.6 * here.expert_bytes
    assert here.quantized_fraction < 0.1 < elsewhere.quantized_fraction


def test_a_gguf_type_sets_the_mean_bits() -> None:
    llama = shape(load_card(model_cards()["llama-3.1-8b"]))

    # 4.58 GiB in llama.cpp's own table.
    assert held(llama, "Q4_K_M").weights_bytes / 2**30 == pytest.approx(4.58, abs=0.01)
    assert layout("q4_k_m", "llama.cpp").compute == "int8"


def test_unknown_names_are_input_errors() -> None:
    with pytest.raises(InputError, match="did you mean 'int8-dynamic'"):
        held(one_matrix(), "int8-dynamik")
    with pytest.raises(InputError, match="unknown dtype"):
        held(one_matrix(), "none", dtype="bf15")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised on import inside torchao
@pytest.mark.parametrize(
    ("scheme", "config"),
    [
        ("int8-dynamic", "Int8DynamicActivationInt8WeightConfig"),
        ("int8-weight-only", "Int8WeightOnlyConfig"),
        ("fp8-weight-only", "Float8WeightOnlyConfig"),
    ],
)
def test_layouts_are_what_torchao_holds(scheme, config) -> None:
    torch = pytest.importorskip("torch")
    quantization = pytest.importorskip("torchao.quantization")
    linear = torch.nn.Sequential(torch.nn.Linear(128, 256, bias=False, dtype=torch.bfloat16))
    quantization.quantize_(linear, getattr(quantization, config)())

    def size(tensor) -> int:
        if hasattr(tensor, "__tensor_flatten__"):
            return sum(size(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
        return tensor.numel() * tensor.element_size()

    how = scheme_of(scheme).layout
    assert how is not None
    assert how.bits is not None
    assert size(linear[0].weight) == 128 * 256 * how.bits / 8 + 256 * how.row_bytes


TINY = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised on import inside torchao
@pytest.mark.parametrize("scheme", ["none", "torch-dynamic-int8", "int8-dynamic"])
@pytest.mark.parametrize(
    "architecture",
    [
        {"model_type": "llama", "tie_word_embeddings": True},
        {"model_type": "qwen2", "tie_word_embeddings": False},
        {"model_type": "qwen3_moe", "tie_word_embeddings": False, **EXPERTS},
    ],
    ids=lambda a: a["model_type"],
)
def test_bytes_of_a_whole_model_are_those_held(architecture, scheme) -> None:
    quantization = pytest.importorskip("bench.quantization")
    transformers = pytest.importorskip("transformers")
    keys = {**TINY, **architecture}
    kind = keys.pop("model_type")
    config = transformers.AutoConfig.for_model(kind, **keys)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    real = quantization.held(quantize(scheme, model))
    base = load_card(model_cards()["llama-3.1-8b"])
    counted = held(
        shape(replace(base, name="tiny", architecture={"model_type": kind, **keys})),
        scheme,
        dtype="float32",
    )

    assert counted.weights_bytes == real.weights_bytes
    assert counted.quantized_fraction == pytest.approx(real.quantized_fraction)
