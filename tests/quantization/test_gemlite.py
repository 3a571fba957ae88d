"""`gemlite-int4`: numbers against torchao's, the layer by a stand-in, the kernels interpreted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench import quantization
from bench.cli import main
from bench.engines.graph.merging import merge
from bench.errors import UnsupportedError
from bench.quantization import gemlite_layer, layers, streaming
from bench.quantization.gemlite_layer import GROUP, GemliteLinear, grouped, weight_of
from bench.quantization.holding import held
from bench.schemes import Device, scheme
from bench.schemes.bytes import layout
from tests import fake_gemlite
from tests.triton_kernels import kernels

SCHEME = scheme("gemlite-int4")


def weight(n_out: int, n_in: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    torch.manual_seed(0)
    drawn = torch.randn(n_out, n_in) * torch.logspace(-3, 1, n_out)[:, None]
    drawn[1, :GROUP] = 0.5  # a group of one number
    drawn[2] = 0
    return drawn.to(dtype)


def linear(n_in: int, n_out: int, bias: bool = False) -> nn.Linear:
    made = nn.Linear(n_in, n_out, bias=bias, dtype=torch.bfloat16)
    made.weight.data = weight(n_out, n_in)
    return made


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(gemlite_layer, "CHECKED", set())
    fake_gemlite.CALLS.clear()
    return fake_gemlite.install(monkeypatch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_codes_and_scales_are_torchaos_for_tinygemm(dtype: torch.dtype) -> None:
    """Bit for bit those of `int4-weight-only`, which needs a card to be applied."""
    from torchao.quantization.quant_primitives import (
        MappingType,
        _choose_qparams_affine_tinygemm,
        _dequantize_affine_tinygemm,
        _quantize_affine_tinygemm,
    )

    given = weight(40, 256, dtype)
    ends = {"quant_min": 0, "quant_max": 15}
    scale, zero = _choose_qparams_affine_tinygemm(
        given,
        MappingType.ASYMMETRIC,
        (1, GROUP),
        torch.int32,
        **ends,
        scale_dtype=dtype,
        zero_point_dtype=dtype,
    )
    codes = _quantize_affine_tinygemm(given, (1, GROUP), scale, zero, torch.int32, **ends)
    found = grouped(given)
    assert torch.equal(found.codes, codes.to(torch.uint8))
    assert torch.equal(found.scales, scale.view(40, -1))
    theirs = _dequantize_affine_tinygemm(
        codes, (1, GROUP), scale, zero, torch.int32, **ends, output_dtype=torch.float32
    )
    # What code 0 stands for is rounded to the dtype where theirs rounds what code 8 stands for.
    apart = (weight_of(found) - theirs).abs().view(40, -1, GROUP)
    bits = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-11
    assert (
        apart <= 1.01 * bits * (found.lows.float().abs() + 8 * scale.view(40, -1))[..., None]
    ).all()
    step = found.scales.float()[..., None]
    assert (
        (weight_of(found) - given.float()).abs().view(40, -1, GROUP) <= 0.62 * step + 1e-6
    ).all()


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_is_the_product_of_its_rounded_weight(bias: bool) -> None:
    old = linear(128, 48, bias)
    expected = nn.functional.linear(torch.eye(128), weight_of(grouped(old.weight.detach())), None)
    offset = old.bias.detach().float() if bias else torch.zeros(48)
    model = nn.Sequential(old)
    gemlite_layer.convert(model, ["0"])
    (layer,) = model
    assert isinstance(layer, GemliteLinear)
    found = layer(torch.eye(128, dtype=torch.bfloat16))
    # The weight is rounded to 8 bits of mantissa once more, by as much as a group's lowest has.
    torch.testing.assert_close(found.float(), expected + offset, rtol=1e-2, atol=0.1)
    assert layer(torch.ones(2, 3, 128, dtype=torch.bfloat16)).shape == (2, 3, 48)


def test_sums_of_a_step_are_kept_in_float32_and_each_shape_is_checked_once(fake: Any) -> None:
    model = nn.Sequential(linear(128, 48), linear(128, 48), linear(64, 48))
    gemlite_layer.convert(model, ["0", "1", "2"])
    assert fake.atomics == [False]
    assert fake_gemlite.CALLS == [1, 5, 65] * 2


@pytest.mark.usefixtures("fake")
def test_the_bytes_are_those_that_are_planned() -> None:
    model = nn.Sequential(linear(128, 48))
    gemlite_layer.convert(model, ["0"])
    count = held(model)
    how = layout("gemlite-int4")
    assert how.bits is not None
    assert how.group == GROUP
    planned = 48 * 128 * how.bits / 8 + 48 * (128 // GROUP) * how.group_bytes
    assert (count.n_params, count.quantized_fraction) == (48 * 128, 1.0)
    assert count.weights_bytes == planned


@pytest.mark.usefixtures("fake")
def test_products_of_one_vector_become_one() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn = nn.Module()
            for name, n_out in (("q_proj", 64), ("k_proj", 32), ("v_proj", 32)):
                self.self_attn.add_module(name, linear(128, n_out, bias=True))

    layer = Layer()
    names = [f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj")]
    gemlite_layer.convert(layer, names)
    x = torch.randn(1, 128).to(torch.bfloat16)
    expected = [layer.get_submodule(name)(x) for name in names]
    assert merge([layer], norms=False) == ["q_proj+k_proj+v_proj"]
    fake_gemlite.CALLS.clear()
    found = [layer.get_submodule(name)(x) for name in names]
    assert fake_gemlite.CALLS == [1]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.usefixtures("fake")
def test_a_compiled_step_calls_it_and_nothing_else() -> None:
    model = nn.Sequential(linear(128, 48))
    gemlite_layer.convert(model, ["0"])
    x = torch.randn(1, 128).to(torch.bfloat16)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), model(x))


def test_another_packing_is_refused(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(fake_gemlite.GemLiteLinear):
        def get_tensor_args(self) -> list[torch.Tensor]:
            words, *rest = super().get_tensor_args()
            return [words.flip(0), *rest]

    monkeypatch.setattr(fake, "GemLiteLinear", Other)
    with pytest.raises(UnsupportedError, match=r"packs weights in another way than 0\.6\.0"):
        gemlite_layer.convert(nn.Sequential(linear(128, 48)), ["0"])


@pytest.mark.usefixtures("fake")
def test_a_wrong_product_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = GemliteLinear.forward
    monkeypatch.setattr(GemliteLinear, "forward", lambda self, x: right(self, x) * 1.1)
    with pytest.raises(UnsupportedError, match="computes a wrong product"):
        gemlite_layer.convert(nn.Sequential(linear(128, 48)), ["0"])


def test_tiles_are_kept_and_told(
    fake: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert quantization.tiles() == {}  # no product was made in this process
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    asked: list[str] = []
    monkeypatch.setattr(fake, "load_config", lambda file, print_error: asked.append(file))
    chosen = {"GEMV_REVSPLITK": {"(1, 48, 128, 64, 8, 104)": {"BLOCK_SIZE_N": 64, "num_warps": 1}}}
    monkeypatch.setattr(
        fake, "cache_config", lambda file: Path(file).write_text(json.dumps(chosen))
    )
    gemlite_layer.convert(nn.Sequential(linear(128, 48)), ["0"])
    told = quantization.tiles()
    assert told == {"gemv_revsplitk: 48 x 128, 1 rows": "BLOCK_SIZE_N 64, num_warps 1"}
    assert asked == [str(tmp_path / "gpu-cost-bench" / "gemlite" / "nvidia-h200-0.6.0.json")]
    assert Path(asked[0]).is_file()


def test_layers_whose_rows_groups_do_not_fill_are_left() -> None:
    assert layers.fits(SCHEME, linear(128, 8)) is None
    assert layers.fits(SCHEME, linear(96, 8)) == "a row of groups needs n_in a multiple of 64"
    wide = nn.Linear(128, 8, dtype=torch.float32)
    assert "starts from bfloat16" in str(layers.fits(SCHEME, wide))


@pytest.mark.usefixtures("fake")
def test_it_is_applied_layer_by_layer_while_loading() -> None:
    """Through the loader of real models, on random weights; and what of it is held."""
    from bench.engines.transformers import loading
    from tests.conftest import TINY

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    rest = {name: value for name, value in TINY.items() if name != "model_type"}
    config = loading.config_of(None, {"model_type": "llama", **rest, **sizes})
    auto = loading.auto_class(config, None)
    with torch.device("meta"):
        model = auto.from_config(config, dtype=torch.bfloat16)
    torch.manual_seed(0)
    made = streaming.load(model.eval(), "cpu", SCHEME, None)
    assert len(made.choice.names) == 2 * 7 + 1
    assert isinstance(made.model.get_submodule("model.layers.1.mlp.down_proj"), GemliteLinear)
    with torch.inference_mode():
        logits = made.model(torch.arange(8)[None]).logits
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("device", "mode", "said"),
    [
        (Device(name="cpu", kind="cpu"), "eager", "runs on cuda, not on cpu"),
        (
            Device(name="cuda:0", kind="cuda", capability=(7, 5)),
            "eager",
            "needs compute capability 8.0 (bfloat16 tensor cores), cuda:0 has 7.5",
        ),
    ],
)
def test_where_it_does_not_run(device: Device, mode: str, said: str) -> None:
    assert said in str(SCHEME.refusal(device, mode))


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    card = Device(name="cuda:0", kind="cuda", capability=(9, 0), n_sm=132)

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    said = "scheme 'gemlite-int4' needs the package gemlite: pip install gemlite"
    assert SCHEME.refusal(card, "cuda-graph") == said
    fake_gemlite.install(monkeypatch, "0.5.1")
    assert SCHEME.refusal(card) == (
        "scheme 'gemlite-int4' needs gemlite >= 0.6.0, here is 0.5.1: pip install -U gemlite"
    )
    fake_gemlite.install(monkeypatch)
    for mode in ("eager", "compiled", "cuda-graph"):
        assert SCHEME.refusal(card, mode) is None


def test_what_is_missing_is_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from importlib import metadata

    from bench.doctor.host import CARD_PACKAGES, package_check

    real = metadata.version

    def without(name: str) -> str:
        if name == "gemlite":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", without)
    line = "scheme 'gemlite-int4' needs the package gemlite: pip install gemlite"
    assert main(["engines"]) == 0
    assert capsys.readouterr().out.count(line) == 1
    assert main(["engines", "-o", "json"]) == 0
    rows = {row["engine"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["graph"]["missing"]["gemlite-int4"] == line
    assert rows["llama.cpp"]["missing"] == {}
    (check,) = [package_check(*one) for one in CARD_PACKAGES]
    assert (check.state, check.advice) == ("ok", "pip install -U 'gemlite>=0.6.0'")


def test_on_a_cpu_a_run_ends_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["run", "-q", "gemlite-int4", "-d", "cpu", "--into", str(tmp_path / "r")]
    assert main(command) == 3
    assert "runs on cuda, not on cpu" in capsys.readouterr().err


def test_gemlites_own_kernels_in_tritons_interpreter(tmp_path: Path) -> None:
    """The package itself, where it is installed: its packing, and its kernel of a step's rows."""
    pytest.importorskip("triton")
    from importlib import util

    if util.find_spec("gemlite") is None:
        pytest.skip("gemlite is not installed: pip install gemlite")
    kernels("gemlite", "interpret", tmp_path)
